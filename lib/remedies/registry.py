"""Remedies: functions of (models, sets, settings), each in a file of its own and found by the name that params give.

To add one, write `lib/remedies/<name>.py` with a function `remedy` and put `<name>` into `repair.remedies` of a profile. A
whole one, `lib/remedies/long.py`, which trains the base classifiers on for twice as long without a single real image:

    from lib.remedies.late_layers import trained
    from lib.remedies.registry import Remedy

    def remedy(models, sets, settings):
        longer = trained(models, sets, settings | {"max_train_steps": 2 * settings["max_train_steps"]}, blocks=0, real=0)
        return {"twice as long": Remedy(longer, real=0, changes="weights")}

`models` holds the classifiers of every arm, one recipe a seed, `sets` the image sets with `real` for the real images that a
remedy may use, and `settings` is section `repair` with what the base classifiers' training shares under `training`. A remedy
makes nothing itself: it returns recipes, and the chapter makes, tests and pays for them. What cannot run raises RepairError.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from lib.core.store import ArtifactSpec, Store
from lib.measure import accuracy

SHARED = (
    "batch",
    "smoothing",
    "balance",
    "flip",
    "device",
)  # of the base's training, which every other keeps
Models = Mapping[str, list[ArtifactSpec]]


class RepairError(ValueError):
    """A remedy that cannot be had here; the message says why."""


@dataclass(frozen=True)
class Remedy:
    """Repaired classifiers, one a seed, each from the base classifier of that seed or with its draws."""

    classifiers: list[ArtifactSpec]
    real: int  # real images that had a part in it
    changes: Literal["images", "weights"]  # another training set or manner, or the trained network
    control: list[ArtifactSpec] = field(
        default_factory=list
    )  # the same without what is claimed to help, seed by seed
    controlled: str = "–"  # what the control is
    k: int | None = (
        None  # last blocks that learnt, 0: all, where it is a point of the curves of late layers
    )
    part: str = ""  # of the gap, which its gain (over its control, where it has one) measures
    candidate: bool = True  # whether it may be chosen on the validation split
    yardstick: bool = (
        False  # no repair, but what one must beat: never counted among those that help
    )


def context(section, study, base: ArtifactSpec) -> dict[str, Any]:
    """The settings that remedies get."""
    kept = {name: base.settings[name] for name in SHARED if name in base.settings}
    return section.model_dump() | {"training": kept, "seed": study.seed}


def planned(
    names: Iterable[str],
    models: Models,
    sets: Mapping[str, ArtifactSpec],
    settings: Mapping[str, Any],
) -> tuple[dict[str, Remedy], dict[str, str]]:
    """Every remedy of these names by what it says of itself, and why others cannot run."""
    found, missing = {}, {}
    for name in names:
        try:
            found |= find(name)(models, sets, settings)
        except RepairError as error:
            missing[name] = str(error)
    return found, missing


def find(name: str):
    """The function of a remedy."""
    known = there()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        raise ValueError(
            f"no remedy {name!r}{f'; did you mean {close[0]!r}?' if close else ''}; there are {', '.join(known)}. "
            "Correct repair.remedies in params/"
        )
    return importlib.import_module(f"lib.remedies.{name}").remedy


def there() -> list[str]:
    """Names of the remedies that exist: the files of this folder with a function `remedy`."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return [
        path.stem
        for path in files
        if "\ndef remedy(" in path.read_text(encoding="utf-8") and path != Path(__file__)
    ]


def gains(
    found: pd.DataFrame, remedies: Mapping[str, Remedy], base: str
) -> dict[str, dict[str, dict]]:
    """Of every remedy its `gain` over the base arm and, where there is one, over its `control`.

    `found` are test scores of arms named as the remedies, the base, and `control of <remedy>`.
    """
    tested = set(found["arm"])
    controls = {name: f"control of {name}" for name in remedies if f"control of {name}" in tested}
    over_base = accuracy.changes(found, dict.fromkeys(remedies, base))
    over_control = accuracy.changes(found, controls)
    return {
        name: {"gain": gain} | ({"control": over_control[name]} if name in controls else {})
        for name, gain in over_base.items()
    }


def helped(gain: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether a remedy beats the base arm beyond chance and, where it has a control, that too."""
    return all(difference["low"] > 0 for difference in gain.values())


def without(gains: Mapping[str, Any], remedies: Mapping[str, Remedy], real: int) -> Any | None:
    """The gains of as many real images without a synthetic one, where that yardstick was tried."""
    return next(
        (
            gains[name]
            for name, one in remedies.items()
            if one.yardstick and one.real == real and name in gains
        ),
        None,
    )


def repairs(gains: Mapping[str, Any], remedies: Mapping[str, Remedy]) -> dict[str, Any]:
    """The gains without those of yardsticks."""
    return {name: gain for name, gain in gains.items() if not remedies[name].yardstick}


def seconds(store: Store, remedy: Remedy, known: Iterable[ArtifactSpec]) -> float:
    """Mean seconds a seed that a remedy took beyond what was there: image sets, the base's classifiers, `known`."""
    paid, spent = {one.key for recipe in known for one in nodes(recipe)}, {}
    for recipe in remedy.classifiers:
        for one in nodes(recipe):
            if one.key not in paid:
                spent[one.key] = store.make(one).manifest["made"]["seconds"]
    return sum(spent.values()) / len(remedy.classifiers)


def nodes(recipe: ArtifactSpec) -> Iterable[ArtifactSpec]:
    """A recipe and all that lies upstream of it."""
    yield recipe
    for one in recipe.inputs.values():
        yield from nodes(one)
