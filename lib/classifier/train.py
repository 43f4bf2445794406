"""Train one classifier on one arm with one seed: SGD, Nesterov, one cycle, label smoothing, the same steps for every arm."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.nn.utils import get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lib.classifier import arms, augment, stream
from lib.classifier.model import build, load_weights
from lib.classifier.stream import Shards
from lib.core import compute, progress
from lib.core import executor as schedule
from lib.core.store import Artifact, ArtifactSpec, FileWriters, Store, artifact
from lib.data.imageset import ImageSet

DEFAULTS = {  # what settings may leave out
    "architecture": "resnet18",  # resnet8, resnet18, resnet50, or any classifier of torchvision.models
    "stem": 0,  # stride of the first convolution of those ResNets; 0: by resolution
    "recipe": "standard",  # of augmentation: standard or multicrop
    "precision": "auto",  # float32, bf16 (autocast), or auto: bf16 on CUDA
    "ema": 0.0,  # of the weights that are kept; 0: the last ones
    "memory": 4000,  # megabytes of images; larger arms are read from their shards while training
    "buffer": 4096,  # images that are shuffled then
    "weight_decay": 5e-4,
    "momentum": 0.9,
    "pct_start": 0.25,
}
FACTS = {  # of a spec: key of section `training`
    "width": "base_width",
    "batch": "batch_size",
    "rate": "lr",
    "smoothing": "label_smoothing",
    "architecture": "architecture",
    "stem": "stem_stride",
    "recipe": "augmentation",
    "precision": "precision",
    "ema": "ema_decay",
    "memory": "max_ram_mb",
    "buffer": "shuffle_buffer",
    "weight_decay": "weight_decay",
    "momentum": "momentum",
    "pct_start": "pct_start",
}


class FitError(RuntimeError):
    """A training run that cannot go on: the step, and the weights of the last step at which all was well."""

    def __init__(self, text: str, step: int = 0, state: dict[str, torch.Tensor] | None = None):
        super().__init__(text)
        self.step, self.state = step, state


@artifact("classifier")
def classifier(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """Weights of one classifier; learning curve and model settings in the file's metadata."""

    def write(path: Path) -> None:
        settings = DEFAULTS | recipe.settings
        images = pictures(store, recipe, settings)
        try:
            model, curve = fit(images, settings, recipe.seed)
        except FitError as error:
            kept = store.folder(recipe) / "last-good.safetensors"
            save(error.state, kept, {"model": model_settings(images, settings), "curve": []})
            raise FitError(
                f"{error}; the weights of step {error.step} lie in {kept}", error.step
            ) from None
        save(model.state_dict(), path, {"model": model_settings(images, settings), "curve": curve})

    return {"weights.safetensors": write}


def recipes(
    training,
    study,
    steps: int,
    flip: bool,
    sets: Mapping[str, ArtifactSpec],
    sizes: Mapping[str, int] | None = None,
    budget: str = "steps",
    names: Iterable[str] | None = None,
    **changes,
) -> dict[str, list[ArtifactSpec]]:
    """For each arm its classifiers, one a seed; seed k starts every arm from the same weights and draws.

    Arms are those of the settings, or `names`; `changes` of a setting (recipe="multicrop") hold for all of them.

    `sizes` are those of the sets: with them an arm takes as many images of a set as `real` has, or `@4x` as many. Budget
    `steps` gives every arm the same `steps`, `epochs` as many passes over its images as `steps` are over `real`.
    """
    shared = {name: getattr(training, key, DEFAULTS.get(name)) for name, key in FACTS.items()} | {
        "flip": flip,
        "device": study.device,
    }
    shared |= {"balance": True} if getattr(training, "class_weights", "none") == "balanced" else {}
    base, found = (sizes or {}).get("real"), {}
    for arm in training.arms if names is None else names:
        upstream = {name: sets[name] for name in arms.names(arm, sets)}
        passes = arms.size(arm, sizes) / base if sizes else 1
        own = {
            "arm": arm,
            "base": base,
            "steps": steps if budget == "steps" else math.ceil(steps * passes),
        }
        found[arm] = [
            classifier(
                shared | changes | own, compute.seed_of(study.seed, "classifier", k), **upstream
            )
            for k in range(study.seeds)
        ]
    return found


def planned(
    training,
    study,
    steps: int,
    flip: bool,
    sets: Mapping[str, ArtifactSpec],
    sizes: Mapping[str, int],
    points: Iterable[str] = (),
) -> dict[str, list[ArtifactSpec]]:
    """All classifiers of the settings: arms and points of curves by name, then `sd, equal epochs` and, beside it, real in as many
    steps, `real, 640 steps`, and `sd, multicrop`."""
    every = functools.partial(recipes, training, study, steps, flip, sets, sizes)
    longer = every("epochs", training.equal_epoch_arms)
    beside = {seeds[0].settings["steps"] for seeds in longer.values()} - {steps}
    rivals = (
        {
            as_long("real", count): recipes(
                training, study, count, flip, sets, sizes, names=["real"]
            )["real"]
            for count in sorted(beside)
        }
        if "real" in training.arms
        else {}
    )
    others = {name: every(recipe=name) for name in training.compare_augmentations}
    return (
        every(names=dict.fromkeys([*training.arms, *points]))
        | {variant(arm): seeds for arm, seeds in longer.items()}
        | rivals
        | {
            variant(arm, name): seeds
            for name, found in others.items()
            for arm, seeds in found.items()
        }
    )


def variant(arm: str, what: str = "equal epochs") -> str:
    """The name of those of an arm's classifiers that were trained otherwise."""
    return f"{arm}, {what}"


def as_long(arm: str, steps: int) -> str:
    """The name of an arm's classifiers that were trained for as many steps."""
    return variant(arm, f"{steps:,} steps")


def made(
    store: Store, classifiers: Mapping[str, list[ArtifactSpec]]
) -> tuple[dict[str, list[ArtifactSpec]], dict[str, str]]:
    """The arms whose classifiers are all trained, and why the others are not: one arm that fails does not stop the rest."""
    errors = schedule.attempt(store, [recipe for seeds in classifiers.values() for recipe in seeds])
    for error in errors.values():
        if not isinstance(error, FitError):
            raise error
    failed = {
        arm: str(errors[recipe.key])
        for arm, seeds in classifiers.items()
        for recipe in seeds
        if recipe.key in errors
    }
    for why in failed.values():
        progress.say(f"not run: {why}")
    return {arm: seeds for arm, seeds in classifiers.items() if arm not in failed}, failed


def fit(
    images: ImageSet | Shards, settings: dict, seed: int
) -> tuple[torch.nn.Module, list[list[float]]]:
    """The trained model and its learning curve [step, loss, accuracy on the batch]."""
    settings = DEFAULTS | settings
    where, steps, rate = compute.device(settings["device"]), settings["steps"], settings["rate"]
    torch.manual_seed(compute.seed_of(seed, "weights"))
    model = (
        build(**model_settings(images, settings))
        .to(where, memory_format=torch.channels_last)
        .train()
    )
    optimiser = torch.optim.SGD(
        _groups(model, settings["weight_decay"]),
        lr=rate,
        momentum=settings["momentum"],
        nesterov=True,
        fused=where.type != "mps",
    )
    cycle = max(
        4, steps
    )  # a shorter one would have a phase of no step, by which the schedule divides
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        rate,
        cycle,
        pct_start=max(settings["pct_start"], 2 / cycle),
        cycle_momentum=False,
    )
    ema = get_ema_multi_avg_fn(settings["ema"])
    average = AveragedModel(model, multi_avg_fn=ema, use_buffers=True) if settings["ema"] else None
    draws, look, watch = (
        compute.generator(seed, "draws"),
        recipe_of(settings, model),
        Watch(steps, settings, model),
    )
    weight = class_weights(images.counts(), settings, where)
    lower = torch.autocast(where.type, torch.bfloat16, enabled=bf16(settings["precision"], where))
    with progress.track(f"fit {settings['arm']}", steps) as bar:
        for i, (pixels, labels) in enumerate(
            batches(images, settings["batch"], steps, draws, where)
        ):
            with lower:
                said = [model(view) for view in look(pixels, draws, settings["flip"])]
                loss = torch.stack(
                    [
                        F.cross_entropy(
                            logits.float(), labels, weight, label_smoothing=settings["smoothing"]
                        )
                        for logits in said
                    ]
                ).mean()
            watch.see(i, loss, said[0], labels, model)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            if average:
                average.update_parameters(model)
            bar.add(1, f"loss {watch.curve[-1][1]:.2f}")
    return (average.module if average else model).eval(), watch.curve


def class_weights(
    counts: Sequence[float], settings: Mapping, where: torch.device
) -> torch.Tensor | None:
    """Weight of each class (classes,) in the loss, so that classes of these counts weigh alike; None where none are wanted."""
    if not settings.get("balance"):
        return None
    shares = torch.as_tensor(np.asarray(counts, np.float32))
    return torch.where(shares > 0, shares.sum() / (len(shares) * shares), 0).to(where)


class Watch:
    """The learning curve, and a check that the loss is a number, without waiting for the device at every step."""

    def __init__(self, steps: int, settings: dict, model: torch.nn.Module):
        self.every, self.last, self.arm = max(1, steps // 50), steps - 1, settings["arm"]
        self.losses, self.curve, self.good = [], [], (0, copied(model))

    def see(
        self,
        i: int,
        loss: torch.Tensor,
        logits: torch.Tensor,
        labels: torch.Tensor,
        model: torch.nn.Module,
    ) -> None:
        """Step i, before its update: at every fiftieth of the way all losses since are read, and the weights kept."""
        self.losses.append(loss.detach())
        if i % self.every and i < self.last:
            return
        window = torch.stack(self.losses).tolist()
        wrong = [k for k, value in enumerate(window) if not math.isfinite(value)]
        if wrong:
            at = i - len(window) + 1 + wrong[0]
            raise FitError(
                f"arm {self.arm!r}: loss is {window[wrong[0]]} at step {at}; lower training.lr",
                *self.good,
            )
        state = copied(model)
        floats = [value for value in state.values() if value.is_floating_point()]
        if get_total_norm(floats).isfinite():  # a finite loss can hide what is about to break
            self.good = i, state
        self.losses.clear()
        if i % self.every == 0:
            hits = (logits.argmax(1) == labels).float().mean().item()
            self.curve.append([i, round(window[-1], 4), round(hits, 4)])


def copied(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights as they are now."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def recipe_of(settings: dict, model: torch.nn.Module):
    """The augmentation of the settings."""
    if settings["recipe"] == "multicrop" and hasattr(model, "image_size"):
        raise FitError(
            f"{settings['architecture']} takes images of one size only; set training.augmentation: standard"
        )
    return augment.RECIPES[settings["recipe"]]


def pictures(store: Store, recipe: ArtifactSpec, settings: dict) -> ImageSet | Shards:
    """The images of a classifier's arm: in memory where they fit, else as rows of their shards."""
    sets = {name: store.make(upstream) for name, upstream in recipe.inputs.items()}
    rows = stream.opened(
        settings["arm"], sets, recipe.seed, settings.get("base"), settings["buffer"]
    )
    if rows.megabytes > settings["memory"]:
        return rows
    loaded = {name: arms.pixels(store, upstream) for name, upstream in recipe.inputs.items()}
    return arms.assemble(settings["arm"], loaded, recipe.seed, settings.get("base"))


def batches(
    images: ImageSet | Shards, size: int, steps: int, draws: torch.Generator, where: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """`steps` batches of uint8 images (n, h, w, 3) and labels (n,) on the device."""
    if isinstance(images, Shards):
        yield from (
            (pixels.to(where), labels.to(where))
            for pixels, labels in images.batches(size, steps, draws)
        )
        return
    pixels, labels = (
        torch.from_numpy(images.images).to(where),
        torch.from_numpy(images.labels).to(where),
    )
    for index in _batches(len(images), size, steps, draws):
        index = index.to(where)
        yield pixels.index_select(0, index), labels[index]  # ten times as fast as pixels[index]


def opened(artifact: Artifact) -> tuple[torch.nn.Module, list[list[float]]]:
    """The classifier of an artifact and its learning curve."""
    path = artifact.path("weights.safetensors")
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
    return load_weights(build(**facts["model"]), path), facts["curve"]


def save(state: Mapping[str, torch.Tensor], path: Path, facts: dict) -> None:
    """Weights and what is to be known of them in one safetensors file."""
    save_file(
        {k: v.contiguous().cpu() for k, v in state.items()}, path, {"facts": json.dumps(facts)}
    )


def model_settings(images: ImageSet | Shards, settings: dict) -> dict:
    """What `build` needs."""
    size = images.size if isinstance(images, Shards) else images.images.shape[1]
    return {
        "classes": len(images.classes),
        "size": size,
        "width": settings["width"],
        "name": settings["architecture"],
        "stem": settings["stem"],
    }


def bf16(wanted: str, where: torch.device) -> bool:
    """Whether to compute in bfloat16 with float32 weights."""
    return wanted == "bf16" or (wanted == "auto" and where.type == "cuda")


def steps_for(count: int, batch: int, epochs: int) -> int:
    """Optimiser steps that `epochs` passes over `count` images take."""
    return int(np.ceil(count / batch)) * epochs


def _batches(n: int, size: int, steps: int, draws: torch.Generator) -> Iterator[torch.Tensor]:
    """`steps` batches of positions; every image once before any comes twice."""
    size = min(size, n)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < size:
            order = torch.cat([order, torch.randperm(n, generator=draws)])
        batch, order = order[:size], order[size:]
        yield batch


def _groups(model: torch.nn.Module, decay: float) -> list[dict]:
    """Weight decay for matrices and kernels, none for biases and norms."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    return [
        {"params": weights, "weight_decay": decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
