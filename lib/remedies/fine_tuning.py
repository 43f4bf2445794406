"""Further training of classifiers, for every remedy and for the real-only baseline.

All of them choose learning rate and epochs from the same lists by accuracy on validation images,
once, with the first seed: longer and longer, until accuracy there stops rising. An epoch is a pass
over the real images, so for the same number of them all have the same steps to choose from.
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
from lib.remedies import split
from lib.remedies.registry import Models, RepairError


@artifact("fine-tuned-classifier")
def fine_tuned(store: Store, spec: ArtifactSpec) -> FileWriters:
    """Weights after training on input `real`, `synthetic` or both, from input `classifier`."""

    def write(path: Path) -> None:
        chosen = {}
        if "choice" in spec.inputs:
            text = store.make(spec.inputs["choice"]).path("choice.json").read_text(encoding="utf-8")
            chosen = json.loads(text)["chosen"]
        model, facts = fine_tune(store, spec, **chosen)
        save(model.state_dict(), path, {"model": facts, "curve": model.history})

    return {"weights.safetensors": write}


@artifact("fine-tuning-choice")
def choice(store: Store, spec: ArtifactSpec) -> FileWriters:
    """Steps and learning rate by accuracy on input `validation`, and what every trial had there."""

    def write(path: Path) -> None:
        trials = []
        for steps in spec.settings["step_counts"]:
            before = max((row["accuracy"] for row in trials), default=0.0)
            own = [accuracy_after(store, spec, lr, steps) for lr in spec.settings["lrs"]]
            trials += own
            if max(row["accuracy"] for row in own) <= before:
                break
        best = max(trials, key=lambda row: row["accuracy"])
        if not best["accuracy"]:
            raise RepairError(f"no learning rate of repair.lrs trains: {trials}; lower them")
        chosen = {"lr": best["lr"], "steps": best["steps"]}
        path.write_text(json.dumps({"chosen": chosen, "trials": trials}), encoding="utf-8")

    return {"choice.json": write}


def accuracy_after(store: Store, spec: ArtifactSpec, lr: float, steps: int) -> dict[str, float]:
    """Accuracy on input `validation` after training with this learning rate for so many steps."""
    validation, accuracy = imageset.load(store.make(spec.inputs["validation"])), 0.0
    try:
        model, _ = fine_tune(store, spec, lr=lr, steps=steps)
        predicted = predict(model, torch.from_numpy(validation.images)).argmax(1).numpy()
        accuracy = float((predicted == validation.labels).mean())
    except TrainingError:  # too high a rate: it cannot be the best
        pass
    return {"lr": lr, "steps": steps, "accuracy": accuracy}


def fine_tune(store: Store, spec: ArtifactSpec, **changes) -> tuple[nn.Module, dict]:
    """The model of a spec, and what builds it."""
    settings, config = spec.settings, TrainConfig.of(spec.settings, **changes)
    names = [name for name in ("real", "synthetic") if name in spec.inputs]
    sets = {name: imageset.load(store.make(spec.inputs[name])) for name in names}
    if "real" in sets:
        sets["real"] = split.some(sets["real"], settings["num_real"], spec.seed)
    first, *others = sets.values()
    model, facts = None, model_settings(len(first.classes), first.images.shape[1], config)
    if "classifier" in spec.inputs:
        base = store.make(spec.inputs["classifier"])
        model, facts = opened(base)[0], facts_of(base)["model"]
    model = train(
        first.images,
        first.labels,
        config,
        spec.seed,
        model=model,
        unfreeze=settings["unfreeze"],
        mixed_with=(others[0].images, others[0].labels) if others else None,
        fraction=settings["fraction"],
        num_classes=len(first.classes),
        name="fine-tuning",
    )
    return model, facts


def step_counts(settings: Mapping[str, Any], num_real: int) -> list[int]:
    """Steps of each number of epochs over so many real images, none below `min_train_steps`."""
    batches = math.ceil(num_real / settings["training"]["batch_size"])
    steps = [max(settings["min_train_steps"], epochs * batches) for epochs in settings["epochs"]]
    return sorted(set(steps))


def trained(models: Models, sets: Mapping[str, ArtifactSpec], settings: Mapping[str, Any],
            unfreeze: int = 0, num_real: int = 0, fraction: float = 1.0,
            synthetic: Sequence[ArtifactSpec] = (), from_scratch: bool = False,
            **changes) -> list[ArtifactSpec]:
    """The base classifiers, one per seed, trained further on `num_real` real images.

    With no real image, or a `fraction` below 1 of each batch, synthetic images come in: the base's,
    or for each seed its own of `synthetic`. `from_scratch` starts from first weights instead.
    """
    if num_real > settings["fit"]:
        raise RepairError(
            f"{num_real} real images are more than the {settings['fit']} beside the validation "
            "split: lower repair.num_real and repair.num_real_curve, or raise data.train"
        )
    base = models[settings["base"]]
    steps, lrs = step_counts(settings, num_real or settings["num_real"]), settings["lrs"]
    own = {"unfreeze": unfreeze, "num_real": num_real, "fraction": fraction}
    own = settings["training"] | own | changes
    if not synthetic and (fraction < 1 or not num_real):
        synthetic = [sets[settings["base"]]] * len(base)

    def inputs(k: int) -> dict[str, ArtifactSpec]:
        start = {} if from_scratch else {"classifier": base[k]}
        real = {"real": sets["real"]} if num_real else {}
        return start | real | ({"synthetic": synthetic[k]} if synthetic else {})

    own |= {"lr": max(lrs), "steps": max(steps)}  # with a choice, the most that it may be
    chosen = {}
    if len(steps) * len(lrs) > 1:
        trials, validation = own | {"lrs": lrs, "step_counts": steps}, sets["validation"]
        trials["steps"] = sum(steps) * len(lrs)  # what `make plan` counts, at most
        chosen = {"choice": choice(trials, base[0].seed, validation=validation, **inputs(0))}
    return [fine_tuned(own, spec.seed, **inputs(k), **chosen) for k, spec in enumerate(base)]
