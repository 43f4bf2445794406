"""Further training of classifiers, for every remedy and for the real-only baseline.

All of them get the same number of optimiser steps for the same number of real images, and choose their
learning rate from the same list on validation images, once, with the first seed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib.classifier.model import predict
from lib.classifier.train import (
    TrainConfig,
    TrainingError,
    facts_of,
    model_settings,
    opened,
    save,
    train,
)
from lib.core.store import ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset
from lib.data.imageset import ImageSet
from lib.remedies import split
from lib.remedies.registry import Models, RepairError

LONGER = "as many steps on synthetic images alone"


@artifact("fine-tuned-classifier")
def fine_tuned(store: Store, spec: ArtifactSpec) -> FileWriters:
    """Weights after training on input `real`, `synthetic` or both, from input `classifier` where given."""

    def write(path: Path) -> None:
        model, facts = _trained(store, spec, _chosen_lr(store, spec))
        save(model.state_dict(), path, {"model": facts, "curve": model.history})

    return {"weights.safetensors": write}


@artifact("learning-rate-choice")
def lr_choice(store: Store, spec: ArtifactSpec) -> FileWriters:
    """Accuracy on input `validation` after training with each learning rate, and the best of them."""

    def write(path: Path) -> None:
        validation = imageset.load(store.make(spec.inputs["validation"]))
        images, accuracy = torch.from_numpy(validation.images), {}
        for lr in spec.settings["lrs"]:
            try:
                model, _ = _trained(store, spec, lr)
            except TrainingError:  # too high a rate: it cannot be the best
                accuracy[lr] = 0.0
                continue
            predicted = predict(model, images).argmax(1).numpy()
            accuracy[lr] = float((predicted == validation.labels).mean())
        best = max(accuracy, key=accuracy.get)
        if not accuracy[best]:
            raise RepairError(f"no learning rate of repair.lrs trains: {accuracy}; lower them")
        text = json.dumps({"lr": best, "accuracy": accuracy})
        path.write_text(text, encoding="utf-8")

    return {"lr.json": write}


def _chosen_lr(store: Store, spec: ArtifactSpec) -> float:
    """From input `lr` where there was a choice."""
    if "lr" not in spec.inputs:
        return spec.settings["lr"]
    path = store.make(spec.inputs["lr"]).path("lr.json")
    return json.loads(path.read_text(encoding="utf-8"))["lr"]


def _trained(store: Store, spec: ArtifactSpec, lr: float) -> tuple[nn.Module, dict]:
    """The model and what builds it."""
    settings, config = spec.settings, TrainConfig.of(spec.settings, lr=lr)
    sets = {
        name: imageset.load(store.make(spec.inputs[name]))
        for name in ("real", "synthetic")
        if name in spec.inputs
    }
    if "real" in sets:
        sets["real"] = split.some(sets["real"], settings["num_real"], spec.seed)
    first, *rest = sets.values()
    model, facts = None, model_settings(len(first.classes), first.images.shape[1], config)
    if "classifier" in spec.inputs:
        found = store.make(spec.inputs["classifier"])
        model, facts = opened(found)[0], facts_of(found)["model"]
    return fine_tune(model, first, config, spec.seed, rest, settings), facts


def fine_tune(
    model: nn.Module | None,
    images: ImageSet,
    config: TrainConfig,
    seed: int,
    others: Sequence[ImageSet] = (),
    settings: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The model trained on images, or on batches of which `others` are a part."""
    settings = settings or {}
    return train(
        images.images,
        images.labels,
        config,
        seed,
        model=model,
        unfreeze=settings.get("unfreeze", 0),
        mixed_with=(others[0].images, others[0].labels) if others else None,
        fraction=settings.get("fraction", 1.0),
        num_classes=len(images.classes),
        name="fine-tuning",
    )


def train_steps(settings: Mapping[str, Any], num_real: int) -> int:
    """`epochs` passes over so many real images, and never fewer than `min_train_steps`."""
    batches = math.ceil(num_real / settings["training"]["batch_size"])
    return max(settings["min_train_steps"], settings["epochs"] * batches)


def trained(
    models: Models,
    sets: Mapping[str, ArtifactSpec],
    settings: Mapping[str, Any],
    unfreeze: int = 0,
    num_real: int = 0,
    fraction: float = 1.0,
    synthetic: Sequence[ArtifactSpec] = (),
    from_scratch: bool = False,
    **changes,
) -> list[ArtifactSpec]:
    """The base classifiers, one per seed, trained further on `num_real` real images.

    With no real image, or a `fraction` below 1 of each batch, synthetic images come in: the base's, or
    for each seed its own of `synthetic`. `from_scratch` starts from first weights instead.
    """
    _check_count(num_real, settings)
    base = models[settings["base"]]
    steps = train_steps(settings, num_real or settings["num_real"])
    own = {"unfreeze": unfreeze, "num_real": num_real, "fraction": fraction, "steps": steps}
    own = settings["training"] | own | changes
    if not synthetic and (fraction < 1 or not num_real):
        synthetic = [sets[settings["base"]]] * len(base)

    def inputs(k: int) -> dict[str, ArtifactSpec]:
        start = {} if from_scratch else {"classifier": base[k]}
        real = {"real": sets["real"]} if num_real else {}
        return start | real | ({"synthetic": synthetic[k]} if synthetic else {})

    choice, lrs = {}, settings["lrs"]
    if len(lrs) > 1:
        options = own | {"lrs": lrs}
        validation = sets["validation"]
        choice["lr"] = lr_choice(options, base[0].seed, validation=validation, **inputs(0))
    else:
        own |= {"lr": lrs[0]}
    return [fine_tuned(own, spec.seed, **inputs(k), **choice) for k, spec in enumerate(base)]


def _check_count(num_real: int, settings: Mapping[str, Any]) -> None:
    """Stop where more real images are asked for than there are."""
    if num_real > settings["fit"]:
        raise RepairError(
            f"{num_real} real images wanted, {settings['fit']} are there beside the validation split: "
            "lower repair.num_real and repair.num_real_curve, or raise data.train"
        )
