"""What a classifier's features of real images are like: sparsity, spread, redundancy, coding length, transfer, likeness.

Features are a stage's output after its ReLU, averaged over the map: (n, channels). The last stage's are the penultimate ones,
and the only ones of a network that is no ResNet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize
from torch import nn
from torchvision.models import ResNet

from lib.classifier.model import normal
from lib.measure.stats import over_seeds

LAYERS = ("stem", "layer1", "layer2", "layer3", "layer4")
HEAD = "head"  # its input
STEM = "maxpool"  # the stem's last part; below 128 px it passes its input on
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of the logistic regression, strongest penalty first: it wins ties
EPS2 = 0.5  # squared distortion at which features are coded
# Which way is better for use on other sets, where dense, spread and uncorrelated features do better (Sariyildiz et al. 2023).
BETTER = {"sparsity": "lower", "intra-class distance": "higher", "redundancy": "lower", "coding length": "higher",
          "coding length within classes": "higher", "transfer": "higher", "accuracy": "higher"}


class RepresentationError(ValueError):
    """Features that a measure is not defined for."""


def layers(model: nn.Module) -> tuple[str, ...]:
    """The stages of a ResNet that compute something; of any other network what its head sees."""
    if not isinstance(model, ResNet):
        return (HEAD,)
    return tuple(name for name in LAYERS if name == LAYERS[0] or not isinstance(getattr(model, name), nn.Identity))


@torch.inference_mode()
def activations(model: nn.Module, images: np.ndarray, batch: int = 500) -> dict[str, np.ndarray]:
    """Features (n, channels) after each layer, of uint8 images (n, h, w, 3), averaged over the map."""
    names, where, seen = layers(model), next(model.parameters()).device, {}
    with contextlib.ExitStack() as hooks:
        for name in names:
            hooks.enter_context(_tap(model, name, seen))
            seen[name] = []
        for chunk in torch.as_tensor(images).split(batch):
            model.eval()(normal(chunk.to(where)))
    return {name: torch.cat(seen[name]).float().cpu().numpy() for name in names}


def penultimate(model: nn.Module, images: np.ndarray, batch: int = 500) -> np.ndarray:
    """What the linear head sees (n, d) of uint8 images (n, h, w, 3)."""
    return list(activations(model, images, batch).values())[-1]


def measures(features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The five numbers of features (n, d); coding lengths in nats."""
    unit = _unit(features)
    return {"sparsity": sparsity(features), "intra-class distance": intra_class(unit, labels),
            "redundancy": redundancy(features), "coding length": coding_length(unit),
            "coding length within classes": coding_length_within(unit, labels)}


def sparsity(features: np.ndarray) -> float:
    """Share of values no larger than a hundredth of their dimension's largest."""
    size = np.abs(features)
    return float((size <= 0.01 * size.max(axis=0)).mean())


def intra_class(unit: np.ndarray, labels: np.ndarray) -> float:
    """Mean distance of two unit features (n, d) of one class, each class with the same weight."""
    alone = [int(c) for c, count in zip(*np.unique(labels, return_counts=True), strict=True) if count < 2]
    if alone:
        raise RepresentationError(f"class {alone[0]} has a single image and so no distance within it; give at least two of each")
    return float(np.mean([pdist(unit[labels == c]).mean() for c in np.unique(labels)]))


def redundancy(features: np.ndarray) -> float:
    """Mean |Pearson| of two different dimensions; constant dimensions are left out."""
    alive = features[:, np.ptp(features, axis=0) > 0].astype(np.float64)
    if alive.shape[1] < 2:
        raise RepresentationError(f"{alive.shape[1]} of {features.shape[1]} dimensions vary, so there are no two to correlate; "
                                  "the classifier has collapsed or saw one image")
    found = np.abs(np.corrcoef(alive, rowvar=False))
    return float((found.sum() - len(found)) / (len(found) * (len(found) - 1)))


def coding_length(unit: np.ndarray) -> float:
    """Nats that code unit features (n, d) up to the distortion: ½ log det(I + d/(n ε²) ZᵀZ)."""
    n, d = unit.shape
    gram = unit.T @ unit if d < n else unit @ unit.T  # both have this determinant; take the smaller
    return float(np.linalg.slogdet(np.eye(len(gram)) + d / (n * EPS2) * gram)[1] / 2)


def coding_length_within(unit: np.ndarray, labels: np.ndarray) -> float:
    """Nats that code unit features when the class is known: each class by itself, weighted by its share."""
    return sum(float(np.mean(labels == c)) * coding_length(unit[labels == c]) for c in np.unique(labels))


def transfer(features_train: np.ndarray, labels_train: np.ndarray, features_test: np.ndarray, labels_test: np.ndarray,
             seed: int) -> dict[str, float]:
    """Test accuracy of a logistic regression, and its C, chosen on a fifth of the training features."""
    split = StratifiedShuffleSplit(1, test_size=0.2, random_state=seed % 2**32)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, tol=1e-3))
    search = GridSearchCV(model, {"logisticregression__C": PENALTIES}, cv=split).fit(features_train, labels_train)
    return {"accuracy": float(search.score(features_test, labels_test)), "C": search.best_params_["logisticregression__C"]}


def probes(learn: Mapping[str, np.ndarray], labels: np.ndarray, ask: Mapping[str, np.ndarray], answers: np.ndarray,
           seed: int = 0) -> dict[str, float]:
    """Accuracy of a linear probe after each layer, from the activations of training and test images."""
    return {name: transfer(learn[name], labels, ask[name], answers, seed)["accuracy"] for name in learn}


def cka(a: np.ndarray, b: np.ndarray, debiased: bool = False) -> float:
    """Linear CKA of features (n, d) and (n, e) of the same images, in 0..1; debiased it is around 0 for unrelated ones.

    By hand: the wide-spread implementations hold n x n kernels, this one d x e (Kornblith et al. 2019).
    """
    if len(a) != len(b) or len(a) < 4:
        raise RepresentationError(f"CKA compares features of the same images, at least 4; got {len(a)} and {len(b)}")
    a, b = (x - x.mean(axis=0) for x in (np.asarray(a, np.float64), np.asarray(b, np.float64)))
    return float(_hsic(a, b, debiased) / np.sqrt(_hsic(a, a, debiased) * _hsic(b, b, debiased)))


def over(rows: Iterable[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Each name's mean with interval; one row a seed."""
    rows = list(rows)
    return {name: over_seeds([row[name] for row in rows]) for name in (rows[0] if rows else ())}


def spokes(results: Mapping[str, Mapping[str, Mapping[str, float]]], base: str = "real",
           ways: Mapping[str, str] = BETTER) -> pd.DataFrame:
    """`results[arm][axis]` as lengths of a spider plot's spokes: outward is better and the base arm has 1 everywhere.

    A spoke is 1 plus the share by which the arm is better than the base's mean (minus where worse), cut off at 0;
    `better` says which way that is. Its ends are the arm's own interval.
    """
    _check_axes(results, base, ways)
    return pd.DataFrame([{"arm": arm, "axis": axis, "better": ways[axis], **found,
                          **_spoke(found, results[base][axis]["mean"], ways[axis])}
                         for arm, axes in results.items() for axis, found in axes.items()])


def _check_axes(results: Mapping[str, Mapping], base: str, ways: Mapping[str, str]) -> None:
    """Every axis has a direction, and a positive value in the base arm."""
    for axis in dict.fromkeys(axis for axes in results.values() for axis in axes):
        if axis not in ways:
            raise RepresentationError(f"which way is better on axis {axis!r}? Say so in `ways`, as for {', '.join(ways)}")
        if results.get(base, {}).get(axis, {"mean": 0})["mean"] <= 0:
            raise RepresentationError(f"axis {axis!r} is drawn in shares of arm {base!r}, which has no value above 0 there; "
                                      "drop the axis or name another base")


def _spoke(found: Mapping[str, float], centre: float, way: str) -> dict[str, float]:
    """The spoke and its ends; an interval's upper end is the lower one where less is better."""
    sign = 1 if way == "higher" else -1
    mean, *ends = (max(0.0, 1 + sign * (found[key] / centre - 1)) for key in ("mean", "low", "high"))
    return {"spoke": mean, "spoke_low": min(ends), "spoke_high": max(ends)}


def plane(features: Sequence[np.ndarray], seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """A map of feature sets, each (n, d) to (n, 2), on the two main axes of the first; and the share of it each axis holds."""
    fitted = PCA(2, random_state=seed % 2**32).fit(features[0])
    return [fitted.transform(part) for part in features], fitted.explained_variance_ratio_


def _tap(model: nn.Module, name: str, seen: dict[str, list[torch.Tensor]]):
    """A hook that lists what comes out of a stage, averaged over the map, or what goes into the head."""
    if name == HEAD:
        linear = [part for part in model.modules() if isinstance(part, nn.Linear)]
        if not linear:
            raise RepresentationError(f"{type(model).__name__} has no linear head whose input could be measured; choose another "
                                      "training.architecture")
        return linear[-1].register_forward_pre_hook(lambda _, given: seen[name].append(given[0]))
    stage = getattr(model, STEM if name == LAYERS[0] else name)
    return stage.register_forward_hook(lambda _, given, maps: seen[name].append(maps.mean((2, 3))))


def _unit(features: np.ndarray) -> np.ndarray:
    """Rows of length 1 in float64; a row of zeros stays so."""
    if not np.isfinite(features).all():
        raise RepresentationError("features hold numbers that are not finite; the classifier's training has diverged")
    return normalize(np.asarray(features, np.float64))


def _hsic(a: np.ndarray, b: np.ndarray, debiased: bool) -> float:
    """Similarity of two kernels of centred features, up to a factor that CKA divides out."""
    n, biased = len(a), float((np.square(a.T @ b)).sum())
    if not debiased:
        return biased
    p, q = (np.square(x).sum(axis=1) for x in (a, b))  # the kernels' diagonals, which the unbiased estimate leaves out
    return biased - n / (n - 2) * float(p @ q) + float(p.sum() * q.sum()) / ((n - 1) * (n - 2))
