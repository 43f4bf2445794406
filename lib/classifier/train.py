"""One training loop for every classifier of the study, and the artifact that holds one.

    model = train(images, labels, TrainConfig(steps=400), seed=0)

needs no store and no settings file: uint8 images (n, h, w, 3), labels (n,), and a config. Remedies
fine-tune with the same function (`model=`, `unfreeze=`, `mixed_with=`). SGD with Nesterov momentum, one
cycle of the learning rate, label smoothing; norms and biases without weight decay.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.nn.utils import get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lib.classifier import arms, augment, stream
from lib.classifier.fast import FastNet
from lib.classifier.model import build, load_weights, normal, unfreeze_last
from lib.classifier.stream import InMemory, Shards
from lib.core import compute, precision, progress
from lib.core.store import Artifact, ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset

STREAMING = {"max_ram_mb": 4000, "shuffle_buffer": 4096}  # where settings leave them out
WHITENING_IMAGES = 5000  # from whose patches the first layer of `fast` is computed
SHORTEST_CYCLE = 4  # steps; a shorter schedule would divide by a phase of no step


class TrainingError(RuntimeError):
    """Training cannot go on; with the last step at which all was well, and its weights."""

    def __init__(self, text: str, step: int = 0, state: dict[str, torch.Tensor] | None = None):
        super().__init__(text)
        self.step, self.state = step, state


@dataclass(frozen=True)
class TrainConfig:
    """How one classifier is trained; the same names as section `training` of a profile."""

    steps: int
    architecture: str = "resnet8"
    base_width: int = 16
    stem_stride: int = 0
    batch_size: int = 64
    lr: float = 0.6
    weight_decay: float = 5e-4
    momentum: float = 0.9
    pct_start: float = 0.25
    lr_schedule: str = "one_cycle"
    label_smoothing: float = 0.1
    augmentation: str = "standard"
    flip: bool = True
    class_weights: str = "none"
    ema_decay: float = 0.0
    precision: str = "float32"  # or bfloat16, as `study.precision` decided
    device: str = "auto"

    @classmethod
    def of(cls, settings: Mapping, **changes) -> TrainConfig:
        """From a mapping that may hold more, such as an artifact's settings."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in ({**settings} | changes).items() if k in names})

    @classmethod
    def from_section(cls, training, study, **own) -> TrainConfig:
        """From sections `training` and `study` of a profile."""
        names = [field.name for field in dataclasses.fields(cls)]
        settings = {
            name: getattr(section, name)
            for section in (training, study)
            for name in names
            if hasattr(section, name)
        }
        return cls(**settings | own)


def train(
    images: np.ndarray | Shards,
    labels: np.ndarray | None,
    config: TrainConfig,
    seed: int,
    *,
    model: torch.nn.Module | None = None,
    unfreeze: int = 0,
    mixed_with: tuple[np.ndarray, np.ndarray] | None = None,
    fraction: float = 1.0,
    num_classes: int | None = None,
    name: str = "classifier",
) -> torch.nn.Module:
    """The trained model; its `history` is [step, loss, accuracy on the batch].

    A `model` is trained further, in place: its last `unfreeze` blocks (0: all). With `mixed_with`, a
    `fraction` of each batch comes from `images` and the rest from there.
    """
    device = compute.device(config.device)
    feeds = _feeds(images, labels, config, mixed_with, fraction)
    model = model or new_model(feeds[0][0], config, seed, num_classes)
    model = model.to(device, memory_format=torch.channels_last)
    unfreeze_last(model, unfreeze)
    optimizer, scheduler = _optimizer(model, config)
    average = _average(model, config.ema_decay)
    views_of, draws = _augmentation(config, model), compute.generator(seed, "draws")
    weights = class_weights(_counts(feeds, num_classes), config.class_weights, device)
    history = History(config.steps, name, model)
    with progress.track(f"train {name}", config.steps) as bar:
        for step, (pixels, targets) in enumerate(
            _batches(feeds, config.steps, draws, seed, device)
        ):
            with precision.autocast(device, config.precision):
                outputs = [model(view) for view in views_of(pixels, draws, config.flip)]
                loss = _loss(outputs, targets, weights, config.label_smoothing)
            history.record(step, loss, outputs[0], targets, model)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            if average:
                average.update_parameters(model)
            bar.add(1, f"loss {history.curve[-1][1]:.2f}")
    model = (average.module if average else model).eval()
    model.history = history.curve
    return model


def new_model(data: InMemory | Shards, config: TrainConfig, seed: int, classes: int | None):
    """The untrained network, its first weights drawn by the seed."""
    torch.manual_seed(compute.seed_of(seed, "weights"))
    classes = classes or data.num_classes
    facts = model_settings(classes, data.size, config)
    model = build(**facts)
    if isinstance(model, FastNet):
        model.prepare(normal(data.sample(WHITENING_IMAGES)))
    return model


def model_settings(classes: int, size: int, config: TrainConfig) -> dict:
    """What `build` needs."""
    return {
        "classes": classes,
        "size": size,
        "width": config.base_width,
        "name": config.architecture,
        "stem": config.stem_stride,
    }


def class_weights(counts: np.ndarray, kind: str, device: torch.device) -> torch.Tensor | None:
    """Of each class (classes,) in the loss, so that classes of these counts weigh alike."""
    if kind == "none":
        return None
    counts = torch.as_tensor(np.asarray(counts, np.float32))
    return torch.where(counts > 0, counts.sum() / (len(counts) * counts), 0).to(device)


def steps_for(count: int, batch_size: int, epochs: int) -> int:
    """Optimiser steps that `epochs` passes over `count` images take."""
    return math.ceil(count / batch_size) * epochs


def _feeds(images, labels, config, mixed_with, fraction) -> list[tuple[InMemory | Shards, int]]:
    """Each source of images with how many of a batch come from it."""
    data = images if isinstance(images, Shards) else InMemory(images, labels)
    if mixed_with is None:
        return [(data, config.batch_size)]
    share = round(fraction * config.batch_size)
    pairs = [(data, share), (InMemory(*mixed_with), config.batch_size - share)]
    return [pair for pair in pairs if pair[1]]


def _counts(feeds, num_classes: int | None) -> np.ndarray:
    """Images of each class in an average batch."""
    classes = num_classes or max(data.num_classes for data, _ in feeds)
    return sum(share * data.counts(classes) / len(data) for data, share in feeds)


def _batches(
    feeds, steps: int, draws: torch.Generator, seed: int, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of uint8 images and labels on the device; only the first feed shares its draws."""
    generators = [draws, *(compute.generator(seed, "draws", k) for k in range(1, len(feeds)))]
    streams = [
        data.batches(size, steps, generator, device)
        for (data, size), generator in zip(feeds, generators, strict=True)
    ]
    for parts in zip(*streams, strict=True):
        images, labels = zip(*parts, strict=True)
        yield (torch.cat(images), torch.cat(labels)) if len(parts) > 1 else parts[0]


def _optimizer(model: torch.nn.Module, config: TrainConfig):
    """SGD and its schedule."""
    if isinstance(model, FastNet):
        groups = model.parameter_groups(config.lr, config.weight_decay)
    else:
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
    groups = [group for group in groups if group["params"]]
    fused = compute.device(config.device).type != "mps"
    optimizer = torch.optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=fused
    )
    cycle = max(SHORTEST_CYCLE, config.steps)
    shape = {"pct_start": max(config.pct_start, 2 / cycle), "cycle_momentum": False}
    if config.lr_schedule == "triangular":
        shape |= {"anneal_strategy": "linear", "div_factor": 5, "final_div_factor": 3}
    peaks = [group.get("lr", config.lr) for group in groups]
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, cycle, **shape)


def _average(model: torch.nn.Module, decay: float) -> AveragedModel | None:
    """The moving average of the weights that is kept, where one is wanted."""
    if not decay:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def _augmentation(config: TrainConfig, model: torch.nn.Module):
    """The function from a batch to its views."""
    if config.augmentation == "multicrop" and hasattr(model, "image_size"):
        raise TrainingError(
            f"{config.architecture} takes images of one size only; "
            "set training.augmentation: standard"
        )
    return augment.AUGMENTATIONS[config.augmentation]


def _loss(outputs, targets, weights, smoothing: float) -> torch.Tensor:
    """Mean over the views."""
    losses = [
        F.cross_entropy(logits.float(), targets, weights, label_smoothing=smoothing)
        for logits in outputs
    ]
    return torch.stack(losses).mean()


class History:
    """The learning curve, and a check that the loss is finite, without waiting at every step."""

    def __init__(self, steps: int, name: str, model: torch.nn.Module):
        self.every, self.last, self.name = max(1, steps // 50), steps - 1, name
        self.losses, self.curve, self.good = [], [], (0, _copied(model))

    def record(self, step: int, loss, logits, labels, model: torch.nn.Module) -> None:
        """Before the update of a step; fifty times, all losses since are read and weights kept."""
        self.losses.append(loss.detach())
        if step % self.every and step < self.last:
            return
        losses = torch.stack(self.losses).tolist()
        self._check(step - len(losses) + 1, losses)
        state = _copied(model)
        floats = [value for value in state.values() if value.is_floating_point()]
        if get_total_norm(floats).isfinite():  # a finite loss can hide what is about to break
            self.good = step, state
        self.losses.clear()
        if step % self.every == 0:
            accuracy = (logits.argmax(1) == labels).float().mean().item()
            self.curve.append([step, round(losses[-1], 4), round(accuracy, 4)])

    def _check(self, first: int, losses: list[float]) -> None:
        """Stop at the first loss that is no number."""
        for step, loss in enumerate(losses, first):
            if not math.isfinite(loss):
                text = f"{self.name}: loss is {loss} at step {step}; lower training.lr"
                raise TrainingError(text, *self.good)


def _copied(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights as they are now."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


# the artifact


@artifact("classifier")
def classifier(store: Store, spec: ArtifactSpec) -> FileWriters:
    """One classifier of one training set: weights, and in their metadata model and history."""

    def write(path: Path) -> None:
        config = TrainConfig.of(spec.settings)
        images, labels, classes = training_set(store, spec)
        size = images.size if labels is None else images.shape[1]
        facts = {"model": model_settings(len(classes), size, config)}
        name = f"arm {spec.settings['arm']!r}"
        try:
            model = train(images, labels, config, spec.seed, num_classes=len(classes), name=name)
        except TrainingError as error:
            kept = store.folder(spec) / "last-good.safetensors"
            save(error.state, kept, facts | {"curve": []})
            text = f"{error}; the weights of step {error.step} lie in {kept}"
            raise TrainingError(text, error.step) from None
        save(model.state_dict(), path, facts | {"curve": model.history})

    return {"weights.safetensors": write}


def training_set(store: Store, spec: ArtifactSpec):
    """Images, labels, class names: in memory where they fit, else rows of shards and no labels."""
    settings, base = STREAMING | spec.settings, spec.settings.get("base")
    artifacts = {name: store.make(upstream) for name, upstream in spec.inputs.items()}
    rows = stream.opened(settings["arm"], artifacts, spec.seed, base, settings["shuffle_buffer"])
    if rows.megabytes > settings["max_ram_mb"]:
        return rows, None, rows.classes
    loaded = {name: imageset.load(found) for name, found in artifacts.items()}
    whole = arms.assemble(settings["arm"], loaded, spec.seed, base)
    return whole.images, whole.labels, whole.classes


def opened(found: Artifact) -> tuple[torch.nn.Module, list[list[float]]]:
    """The classifier of an artifact and its learning curve."""
    facts = facts_of(found)
    path = found.path("weights.safetensors")
    return load_weights(build(**facts["model"]), path), facts["curve"]


def facts_of(found: Artifact) -> dict:
    """What stands beside a classifier's weights: how to build it, its learning curve."""
    with safe_open(found.path("weights.safetensors"), "pt") as file:
        return json.loads(file.metadata()["facts"])


def save(state: Mapping[str, torch.Tensor], path: Path, facts: dict) -> None:
    """Weights and facts in one safetensors file."""
    tensors = {name: value.contiguous().cpu() for name, value in state.items()}
    save_file(tensors, path, {"facts": json.dumps(facts)})
