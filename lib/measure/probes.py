"""Linear probes: what a linear classifier reads from a network's features, layer by layer.

Features are a stage's output after its ReLU, averaged over the map: (n, channels). Those of the
last stage are the penultimate features, and the only ones of a network that is no ResNet. A probe
of the penultimate features on all real training images splits a gap in accuracy into features and
final layer (`decompose`); chapters 04, 07 and 08 read the same probes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from lib.classifier import train as classifier_training
from lib.classifier.fast import FastNet
from lib.classifier.model import normal
from lib.core import compute
from lib.core.store import ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset
from lib.measure import stats
from lib.measure.stats import Estimate, StatsError

LAYERS = ("stem", "layer1", "layer2", "layer3", "layer4")
HEAD = "head"  # its input, of a network that is no ResNet
STEM = "maxpool"  # the stem's last module; below 128 px it is the identity
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of the regression; the smallest wins ties


class ProbeError(ValueError):
    """A network without features, or features that cannot be compared."""


@artifact("layer-features")
def layer_features(store: Store, spec: ArtifactSpec) -> FileWriters:
    """Features (n, channels) by layer of the first `count` images of a set, and their labels."""
    def write(path: Path) -> None:
        model = open_classifier(store, spec)
        images = imageset.load(store.make(spec.inputs["images"]))
        images = images.take(slice(spec.settings["count"]))
        features = activations(model, images.images)
        tensors = {layer: torch.from_numpy(values) for layer, values in features.items()}
        save_file(tensors | {"labels": torch.from_numpy(images.labels)}, path)
    return {"features.safetensors": write}


@artifact("linear-probes")
def linear_probes(store: Store, spec: ArtifactSpec) -> FileWriters:
    """Whether a probe after each layer, fitted on `train`, is right about each image of `test`."""
    def write(path: Path) -> None:
        model = open_classifier(store, spec)
        train, test = (imageset.load(store.make(spec.inputs[name])) for name in ("train", "test"))
        fitted_on, tested_on = activations(model, train.images), activations(model, test.images)
        layers = list(fitted_on)[-1:] if spec.settings["last_only"] else list(fitted_on)
        correct = {layer: linear_probe(fitted_on[layer], train.labels, tested_on[layer],
                                       spec.seed) == test.labels for layer in layers}
        save_file({layer: torch.from_numpy(values) for layer, values in correct.items()}, path)
    return {"correct.safetensors": write}


def open_classifier(store: Store, spec: ArtifactSpec) -> nn.Module:
    """The classifier among a spec's inputs, on the study's device."""
    model, _ = classifier_training.opened(store.make(spec.inputs["classifier"]))
    return model.to(compute.device(spec.settings["device"]))


def load_features(store: Store, spec: ArtifactSpec) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Features by layer, first to last, and labels of a `layer_features` artifact."""
    tensors = load_file(store.make(spec).path("features.safetensors"))
    arrays = {name: tensors[name].numpy() for name in (*LAYERS, HEAD) if name in tensors}
    return arrays, tensors["labels"].numpy()


def load_correct(store: Store, specs: Sequence[ArtifactSpec]) -> dict[str, np.ndarray]:
    """Matrix (seeds, images) by layer of the `linear_probes` of one training set."""
    seeds = [load_file(store.make(spec).path("correct.safetensors")) for spec in specs]
    return {layer: np.stack([seed[layer].numpy() for seed in seeds])
            for layer in (*LAYERS, HEAD) if layer in seeds[0]}


def decompose(probes: Mapping[str, np.ndarray], heads: Mapping[str, np.ndarray],
              base: str) -> dict[str, dict[str, Estimate | None]]:
    """Every training set's difference in accuracy to `base`, split into features and final layer.

    From matrices (seeds, images) of correct or not: `heads` of the networks as trained, `probes` of
    a new final layer fitted on the same real images for both. `share` is that of the features in
    the whole difference, None where that difference is not distinguishable from 0.
    """
    return {arm: _parts(heads[arm] * 1.0 - heads[base], probes[arm] * 1.0 - probes[base])
            for arm in heads if arm != base}


def _parts(gap: np.ndarray, features: np.ndarray) -> dict[str, Estimate | None]:
    try:
        share = stats.ratio(features, gap)
    except StatsError:
        share = None
    zero = np.zeros_like(gap)
    return {"gap": stats.difference(gap, zero), "features": stats.difference(features, zero),
            "final_layer": stats.difference(gap, features), "share": share}


def linear_probe(train: np.ndarray, labels: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Classes (n,) predicted for features `test` by a probe of features `train`."""
    return fit_probe(train, labels, seed).predict(test)


def fit_probe(features: np.ndarray, labels: np.ndarray, seed: int) -> GridSearchCV:
    """A logistic regression on features (n, d), its penalty chosen on a fifth of them."""
    split = StratifiedShuffleSplit(1, test_size=0.2, random_state=seed % 2**32)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, tol=1e-3))
    search = GridSearchCV(model, {"logisticregression__C": PENALTIES}, cv=split)
    return search.fit(features, labels)


def layers(model: nn.Module) -> tuple[str, ...]:
    """The stages of a ResNet or of `fast`; of any other network the head's input."""
    if not hasattr(model, LAYERS[1]):
        return (HEAD,)
    stages = {name: getattr(model, name, nn.Identity()) for name in LAYERS[1:]}
    used = (name for name, stage in stages.items() if not isinstance(stage, nn.Identity))
    return (LAYERS[0], *used)


@torch.inference_mode()
def activations(model: nn.Module, images: np.ndarray, batch: int = 500) -> dict[str, np.ndarray]:
    """Features (n, channels) after each layer of uint8 images (n, h, w, 3)."""
    names, device = layers(model), next(model.parameters()).device
    outputs: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    with contextlib.ExitStack() as hooks:
        for name in names:
            hooks.enter_context(_record(model, name, outputs[name]))
        for chunk in torch.as_tensor(images).split(batch):
            model.eval()(normal(chunk.to(device)))
    return {name: torch.cat(outputs[name]).float().cpu().numpy() for name in names}


def _record(model: nn.Module, name: str, outputs: list[torch.Tensor]):
    """A hook that appends a stage's output averaged over the map, or the input of the head."""
    if name == HEAD:
        linear = [part for part in model.modules() if isinstance(part, nn.Linear)]
        if not linear:
            raise ProbeError(f"{type(model).__name__} has no linear head whose input could be "
                             "measured; choose another training.architecture")
        return linear[-1].register_forward_pre_hook(lambda _, inputs: outputs.append(inputs[0]))
    stem = "activation" if isinstance(model, FastNet) else STEM
    stage = getattr(model, stem if name == LAYERS[0] else name)
    return stage.register_forward_hook(lambda *args: outputs.append(args[-1].mean((2, 3))))


def penultimate(model: nn.Module, images: np.ndarray, batch: int = 500) -> np.ndarray:
    """What the linear head sees (n, d) of uint8 images (n, h, w, 3)."""
    return list(activations(model, images, batch).values())[-1]


def similarity(features: Mapping[str, Sequence[Mapping[str, np.ndarray]]],
               base: str) -> dict[str, dict[str, Estimate]]:
    """CKA after each layer with the base's classifier of the same seed; the base's with its next.
    """
    others = features[base]
    rows = {arm: [{layer: cka(values, others[(k + (arm == base)) % len(others)][layer], True)
                   for layer, values in seed.items()} for k, seed in enumerate(seeds)]
            for arm, seeds in features.items()}
    return {arm: {layer: stats.over_seeds([seed[layer] for seed in seeds]) for layer in seeds[0]}
            for arm, seeds in rows.items()}


def cka(a: np.ndarray, b: np.ndarray, debiased: bool = False) -> float:
    """Linear CKA of features (n, d) and (n, e) of the same images; debiased, unrelated ones have 0.

    By hand: the common implementations hold n x n kernels, this one d x e (Kornblith et al. 2019).
    """
    if len(a) != len(b) or len(a) < 4:
        raise ProbeError("CKA compares features of the same images, at least 4; "
                         f"got {len(a)} and {len(b)}")
    a, b = (x - x.mean(axis=0) for x in (np.asarray(a, np.float64), np.asarray(b, np.float64)))
    return float(_hsic(a, b, debiased) / np.sqrt(_hsic(a, a, debiased) * _hsic(b, b, debiased)))


def _hsic(a: np.ndarray, b: np.ndarray, debiased: bool) -> float:
    """Similarity of two kernels of centred features, up to a factor that CKA divides out."""
    n, biased = len(a), float((np.square(a.T @ b)).sum())
    if not debiased:
        return biased
    p, q = (np.square(x).sum(axis=1) for x in (a, b))  # kernels' diagonals
    correction = n / (n - 2) * float(p @ q)
    return biased - correction + float(p.sum() * q.sum()) / ((n - 1) * (n - 2))
