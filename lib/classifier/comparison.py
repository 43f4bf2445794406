"""Which classifiers a study compares: each training set and its variants, one spec per seed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lib.classifier import arms
from lib.classifier.train import MAX_RAM_MB, TrainConfig, TrainingError, classifier
from lib.core import compute, executor, progress
from lib.core.store import ArtifactSpec, Store


@dataclass(frozen=True)
class ArmKey:
    """One training set and how it was trained where that differs from the rest."""

    arm: str
    equal_epochs: bool = False
    steps: int = 0  # 0: as all
    augmentation: str = ""  # "": as all

    @property
    def label(self) -> str:
        """`sd`, `sd, equal epochs`, `real, 640 steps`, `sd, multicrop`; for display alone."""
        steps = f"{self.steps:,} steps" if self.steps else ""
        epochs = "equal epochs" if self.equal_epochs else ""
        return ", ".join(part for part in (self.arm, epochs, steps, self.augmentation) if part)


def specs_of(training, study, steps: int, flip: bool, sets: Mapping[str, ArtifactSpec],
             sizes: Mapping[str, int] | None = None, equal_epochs: bool = False,
             names: Iterable[str] | None = None, **changes) -> dict[str, list[ArtifactSpec]]:
    """By training set (of the section, or `names`) one spec per seed; seed k starts all alike.

    With the `sizes` of the sets a training set takes as many images of each as `real` has, or `@4x`
    as many. All take `steps`; with `equal_epochs`, as many passes over their images as `real` gets.
    """
    config = dataclasses.asdict(
        TrainConfig.from_section(training, study, steps=steps, flip=flip, **changes)
    )
    base, specs = (sizes or {}).get("real"), {}
    config |= {"base": base, "max_ram_mb": getattr(training, "max_ram_mb", MAX_RAM_MB)}
    for arm in training.arms if names is None else names:
        passes = arms.size(arm, sizes) / base if sizes else 1
        own_steps = math.ceil(steps * passes) if equal_epochs else steps
        own = config | {"arm": arm, "steps": own_steps}
        inputs = {name: sets[name] for name in arms.names(arm, sets)}
        specs[arm] = [
            classifier(own, compute.seed_of(study.seed, "classifier", k), **inputs)
            for k in range(study.seeds)
        ]
    return specs


def planned(training, study, steps: int, flip: bool, sets: Mapping[str, ArtifactSpec],
            sizes: Mapping[str, int],
            points: Iterable[str] = ()) -> dict[ArmKey, list[ArtifactSpec]]:
    """All classifiers of the settings, each once: training sets and `points` of curves, then those
    at equal epochs with `real` in as many steps beside them, then other augmentations."""
    common = (training, study, steps, flip, sets, sizes)
    names = dict.fromkeys([*training.arms, *points])
    keys = {ArmKey(arm): specs for arm, specs in specs_of(*common, names=names).items()}
    longer = specs_of(*common, equal_epochs=True, names=training.equal_epoch_arms)
    keys |= {ArmKey(arm, equal_epochs=True): specs for arm, specs in longer.items()}
    if "real" in training.arms:
        for count in sorted({specs[0].settings["steps"] for specs in longer.values()} - {steps}):
            real = specs_of(training, study, count, flip, sets, sizes, names=["real"])
            keys[ArmKey("real", steps=count)] = real["real"]
    for name in training.compare_augmentations:
        others = specs_of(*common, augmentation=name)
        keys |= {ArmKey(arm, augmentation=name): specs for arm, specs in others.items()}
    return keys


def make_all(
    store: Store, classifiers: Mapping[ArmKey, list[ArtifactSpec]]
) -> tuple[dict, dict[ArmKey, str]]:
    """What could be trained, and why the rest was not: one failure does not stop the others."""
    errors = executor.attempt(store, [spec for seeds in classifiers.values() for spec in seeds])
    for error in errors.values():
        if not isinstance(error, TrainingError):
            raise error
    failed = {
        key: str(errors[spec.key])
        for key, seeds in classifiers.items()
        for spec in seeds
        if spec.key in errors
    }
    for reason in failed.values():
        progress.say(f"not run: {reason}")
    return {key: seeds for key, seeds in classifiers.items() if key not in failed}, failed
