"""One training loop for every classifier of the study, and the artifact that holds one.

    model = train(images, labels, TrainConfig(steps=400), seed=0)

needs no store and no settings file: uint8 images (n, h, w, 3), labels (n,), and a config. Remedies
fine-tune with the same function (`model=`, `unfreeze=`, `mixed_with=`). SGD with Nesterov momentum,
one cycle of the learning rate, label smoothing; norms and biases without weight decay.
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
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import get_total_norm
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lib.classifier import augment, on_disk
from lib.classifier.fast import FastNet
from lib.classifier.model import build, load_weights, normal, unfreeze_last
from lib.classifier.on_disk import OnDisk
from lib.core import compute, precision, progress
from lib.core.store import Artifact, ArtifactSpec, FileWriters, Store, artifact

MAX_RAM_MB = 4000  # of images, where settings leave it out
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
    precision: str = "float32"  # as `study.precision` decided
    device: str = "auto"

    @classmethod
    def of(cls, settings: Mapping, **changes) -> TrainConfig:
        """From a mapping that may hold more, such as an artifact's settings."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in ({**settings} | changes).items() if k in names})

    @classmethod
    def from_section(cls, training, study, **changes) -> TrainConfig:
        """From sections `training` and `study` of a profile."""
        return cls.of({**vars(study), **vars(training)}, **changes)


def train(images: np.ndarray | OnDisk, labels: np.ndarray, config: TrainConfig, seed: int, *,
          model: nn.Module | None = None, unfreeze: int = 0,
          mixed_with: tuple[np.ndarray, np.ndarray] | None = None, fraction: float = 1.0,
          num_classes: int | None = None, name: str = "classifier") -> nn.Module:
    """The trained model; its `history` is [step, loss, accuracy on the batch].

    A `model` is trained further, in place: its last `unfreeze` blocks (0: all). With `mixed_with`,
    a `fraction` of each batch comes from `images` and the rest from there.
    """
    device, draws = compute.device(config.device), compute.generator(seed, "draws")
    feeds = make_feeds(images, labels, config, device, mixed_with, fraction)
    classes = num_classes or max(feed.num_classes for feed in feeds)
    model = model or new_model(feeds[0], config, seed, classes)
    model = model.to(device, memory_format=precision.memory_format(config.precision))
    unfreeze_last(model, unfreeze)
    optimizer, scheduler = make_optimizer(model, config)
    average = weight_average(model, config.ema_decay)
    augmented, weights = augmentation(config, model), class_weights(feeds, classes, config)
    history = History(config.steps, name, model)
    with progress.track(f"train {name}", config.steps) as bar:
        for step, (pixels, targets) in enumerate(batches(feeds, config.steps, draws, seed)):
            with precision.autocast(device, config.precision):
                logits = [model(view) for view in augmented(pixels, draws, config.flip)]
                loss = mean_loss(logits, targets, weights, config.label_smoothing)
            history.record(step, loss, logits[0], targets, model)
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


class Feed:
    """One source of batches: uint8 images (n, h, w, 3) and labels (n,), on the training device."""

    def __init__(self, images: np.ndarray | OnDisk, labels: np.ndarray, batch_size: int, device):
        if images.dtype not in (np.uint8, torch.uint8) or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(
                f"training needs uint8 RGB images (n, h, w, 3), not {images.dtype} "
                f"{tuple(images.shape)}; grey images (n, h, w) become RGB by "
                "np.repeat(grey[..., None], 3, axis=3)"
            )
        if not len(images) or len(labels) != len(images):
            raise ValueError(
                f"{len(images)} images and {len(labels)} labels: give each image its class, "
                "and at least one image"
            )
        self.labels = torch.as_tensor(labels).long().to(device)
        in_memory = not isinstance(images, OnDisk)
        self.images = torch.as_tensor(images).to(device) if in_memory else images
        self.batch_size, self.device = min(batch_size, len(images)), device

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""
        return int(self.labels.max()) + 1

    def take(self, index: torch.Tensor) -> torch.Tensor:
        """The images at these positions, on the device."""
        if isinstance(self.images, OnDisk):
            return torch.from_numpy(self.images[index.numpy()]).to(self.device)
        # ten times as fast as images[index]
        return self.images.index_select(0, index.to(self.device))

    def batches(self, steps: int, draws: torch.Generator) -> Iterator[tuple[torch.Tensor, ...]]:
        """`steps` batches of images and labels; every image once before any comes twice."""
        order = torch.empty(0, dtype=torch.long)
        for _ in range(steps):
            if len(order) < self.batch_size:
                order = torch.cat([order, torch.randperm(len(self), generator=draws)])
            index, order = order[: self.batch_size], order[self.batch_size :]
            yield self.take(index), self.labels[index.to(self.device)]


def make_feeds(images, labels, config, device, mixed_with=None, fraction=1.0) -> list[Feed]:
    """Each source of images with its share of a batch."""
    if mixed_with is None:
        return [Feed(images, labels, config.batch_size, device)]
    share = round(fraction * config.batch_size)
    sources = [(images, labels, share), (*mixed_with, config.batch_size - share)]
    return [Feed(*source, device) for source in sources if source[2]]


def batches(feeds: list[Feed], steps: int, draws: torch.Generator, seed: int):
    """Batches of images and labels; only the first feed shares its draws with augmentation."""
    generators = [draws, *(compute.generator(seed, "draws", k) for k in range(1, len(feeds)))]
    streams = [feed.batches(steps, rng) for feed, rng in zip(feeds, generators, strict=True)]
    for parts in zip(*streams, strict=True):
        yield parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))


def new_model(feed: Feed, config: TrainConfig, seed: int, classes: int) -> nn.Module:
    """The untrained network, its first weights drawn by the seed."""
    torch.manual_seed(compute.seed_of(seed, "weights"))
    model = build(**model_settings(classes, feed.images.shape[1], config))
    if isinstance(model, FastNet):
        rows = torch.arange(len(feed))[:: max(1, len(feed) // WHITENING_IMAGES)]
        model.prepare(normal(feed.take(rows[:WHITENING_IMAGES]).cpu()))
    return model


def model_settings(classes: int, size: int, config: TrainConfig) -> dict:
    """What `build` needs."""
    own = {"width": config.base_width, "name": config.architecture, "stem": config.stem_stride}
    return {"classes": classes, "size": size} | own


def class_weights(feeds: list[Feed], classes: int, config: TrainConfig) -> torch.Tensor | None:
    """Weight of each class (classes,) in the loss, so that all classes of a batch weigh alike."""
    if config.class_weights == "none":
        return None
    totals = [torch.bincount(feed.labels, minlength=classes).double() for feed in feeds]
    parts = [feed.batch_size * n / len(feed) for feed, n in zip(feeds, totals, strict=True)]
    counts = sum(parts).float()
    return torch.where(counts > 0, counts.sum() / (len(counts) * counts), 0)


def steps_for(count: int, batch_size: int, epochs: int) -> int:
    """Optimiser steps that `epochs` passes over `count` images take."""
    return math.ceil(count / batch_size) * epochs


def make_optimizer(model: nn.Module, config: TrainConfig):
    """SGD and its schedule."""
    if isinstance(model, FastNet):
        groups = model.parameter_groups(config.lr, config.weight_decay)
    else:
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
    optimizer = torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
        fused=compute.device(config.device).type != "mps",
    )
    cycle = max(SHORTEST_CYCLE, config.steps)
    shape = {"pct_start": max(config.pct_start, 2 / cycle), "cycle_momentum": False}
    if config.lr_schedule == "triangular":
        shape |= {"anneal_strategy": "linear", "div_factor": 5, "final_div_factor": 3}
    peaks = [group["lr"] for group in optimizer.param_groups]
    return optimizer, OneCycleLR(optimizer, peaks, cycle, **shape)


def weight_average(model: nn.Module, decay: float) -> AveragedModel | None:
    """The moving average of the weights that is kept, where there is one."""
    if not decay:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def augmentation(config: TrainConfig, model: nn.Module):
    """The function from a batch to its views."""
    if config.augmentation == "multicrop" and hasattr(model, "image_size"):
        raise TrainingError(
            f"{config.architecture} takes images of one size only; "
            "set training.augmentation: standard"
        )
    return augment.AUGMENTATIONS[config.augmentation]


def mean_loss(logits, targets, weights, smoothing: float) -> torch.Tensor:
    """Mean cross-entropy over the views."""
    options = {"weight": weights, "label_smoothing": smoothing}
    return torch.stack([F.cross_entropy(x.float(), targets, **options) for x in logits]).mean()


class History:
    """The learning curve, and a check that the loss is finite, without waiting at every step."""

    def __init__(self, steps: int, name: str, model: nn.Module):
        self.every, self.last, self.name = max(1, steps // 50), steps - 1, name
        self.losses, self.curve, self.good = [], [], (0, _copied(model))

    def record(self, step: int, loss, logits, labels, model: nn.Module) -> None:
        """Before the update of a step; fifty times, all losses since are read and weights kept."""
        self.losses.append(loss.detach())
        if step % self.every and step < self.last:
            return
        losses, state = torch.stack(self.losses).tolist(), _copied(model)
        for earlier, value in enumerate(losses, step - len(losses) + 1):
            if not math.isfinite(value):
                text = f"{self.name}: loss is {value} at step {earlier}; lower training.lr"
                raise TrainingError(text, *self.good)
        floats = [value for value in state.values() if value.is_floating_point()]
        if get_total_norm(floats).isfinite():  # a finite loss can hide what is about to break
            self.good = step, state
        self.losses.clear()
        if step % self.every == 0:
            accuracy = (logits.argmax(1) == labels).float().mean().item()
            self.curve.append([step, round(losses[-1], 4), round(accuracy, 4)])


def _copied(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights as they are now."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


# the artifact


@artifact("classifier")
def classifier(store: Store, spec: ArtifactSpec) -> FileWriters:
    """One classifier of one training set: weights, and in their metadata model and history."""

    def write(path: Path) -> None:
        config = TrainConfig.of(spec.settings)
        images, labels, classes = training_set(store, spec)
        facts = {"model": model_settings(len(classes), images.shape[1], config)}
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
    """Images, labels, class names; images on disk where they would take more than `max_ram_mb`."""
    settings = {"max_ram_mb": MAX_RAM_MB, "base": None} | spec.settings
    arm, base, limit = (settings[name] for name in ("arm", "base", "max_ram_mb"))
    artifacts = {name: store.make(upstream) for name, upstream in spec.inputs.items()}
    return on_disk.training_set(arm, artifacts, spec.seed, base, limit, store.root)


def opened(stored: Artifact) -> tuple[nn.Module, list[list[float]]]:
    """The classifier of an artifact and its learning curve."""
    facts = facts_of(stored)
    path = stored.path("weights.safetensors")
    return load_weights(build(**facts["model"]), path), facts["curve"]


def facts_of(stored: Artifact) -> dict:
    """What stands beside a classifier's weights: how to build it, its learning curve."""
    with safe_open(stored.path("weights.safetensors"), "pt") as file:
        return json.loads(file.metadata()["facts"])


def save(state: Mapping[str, torch.Tensor], path: Path, facts: dict) -> None:
    """Weights and facts in one safetensors file."""
    tensors = {name: value.contiguous().cpu() for name, value in state.items()}
    save_file(tensors, path, {"facts": json.dumps(facts)})
