"""Remedies: functions of (models, sets, settings), each in a file of its own, found by its name.

To add one, write `lib/remedies/<name>.py` with a function `remedy` and put `<name>` into
`repair.remedies` of a profile. A whole one, `lib/remedies/long.py`, trains the base classifiers twice as
long without a single real image:

    from lib.remedies.fine_tuning import trained
    from lib.remedies.registry import Remedy

    def remedy(models, sets, settings):
        longer = trained(models, sets, settings | {"epochs": 2 * settings["epochs"]})
        return {"twice as long": Remedy(longer, real=0, changes="weights")}

`models` holds the classifiers of every training set, one spec per seed; `sets` the image sets, with
`real` for the real images that a remedy may use and `validation` for those that only choose; `settings`
is section `repair` with what the base classifiers' training was under `training`. A remedy computes
nothing itself: it returns specs, and the chapter makes, tests and times them. What cannot run raises
RepairError.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from lib.classifier.train import TrainConfig
from lib.core.store import ArtifactSpec, Store
from lib.measure import accuracy

Models = Mapping[str, list[ArtifactSpec]]


class RepairError(ValueError):
    """A remedy that cannot be had here; the message says why."""


@dataclass(frozen=True)
class RemedyKey:
    """What a remedy is: the file it comes from, and its name there; `then` is a second one after it."""

    kind: str  # a file of lib/remedies
    name: str
    then: str = ""

    @property
    def label(self) -> str:
        """For display alone."""
        return f"{self.name}; then {self.then}" if self.then else self.name


@dataclass(frozen=True)
class Remedy:
    """Repaired classifiers, one per seed, from the base classifier of that seed or with its draws."""

    classifiers: list[ArtifactSpec]
    real: int  # real images that had a part in it
    changes: Literal["images", "weights"]  # another training set or manner, or the trained network
    control: list[ArtifactSpec] = field(default_factory=list)  # without what is claimed to help
    controlled: str = "–"  # what the control is
    k: int | None = None  # last blocks fine-tuned, 0: all, where it is a point of that curve
    part: str = ""  # of the gap, which its gain (over its control, where it has one) measures
    candidate: bool = True  # whether it may be chosen on the validation split
    baseline: bool = False  # no repair, but what one must beat
    key: RemedyKey | None = None  # set by `planned`


def context(section, study, base: ArtifactSpec) -> dict[str, Any]:
    """Section `repair`, and under `training` how the base classifiers were trained."""
    training = dataclasses.asdict(TrainConfig.of(base.settings))
    return section.model_dump() | {"training": training, "seed": study.seed}


def planned(
    names: Iterable[str],
    models: Models,
    sets: Mapping[str, ArtifactSpec],
    settings: Mapping[str, Any],
) -> tuple[dict[str, Remedy], dict[str, str]]:
    """The remedies of these files by label, and why others cannot run."""
    remedies, missing = {}, {}
    for name in names:
        try:
            own = find(name)(models, sets, settings)
        except RepairError as error:
            missing[name] = str(error)
            continue
        for label, remedy in own.items():
            remedies[label] = replace(remedy, key=RemedyKey(name, label))
    return remedies, missing


def find(name: str):
    """The function of a remedy."""
    names = there()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        suggestion = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"no remedy {name!r}{suggestion}; there are {', '.join(names)}. "
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
    """Whether a remedy beats the base and, where it has a control, that too, beyond chance."""
    return all(difference["low"] > 0 for difference in gain.values())


def without(gains: Mapping[str, Any], remedies: Mapping[str, Remedy], real: int) -> Any | None:
    """The gains of the real-only baseline with as many real images, where it was tried."""
    for name, remedy in remedies.items():
        if remedy.baseline and remedy.real == real and name in gains:
            return gains[name]
    return None


def seconds(store: Store, remedy: Remedy, known: Iterable[ArtifactSpec]) -> float:
    """Mean seconds per seed beyond what was there: image sets, base classifiers, `known`."""
    paid, spent = {part.key for spec in known for part in nodes(spec)}, {}
    for part in (part for spec in remedy.classifiers for part in nodes(spec)):
        if part.key not in paid:
            spent[part.key] = store.make(part).manifest["made"]["seconds"]
    return sum(spent.values()) / len(remedy.classifiers)


def nodes(spec: ArtifactSpec) -> Iterable[ArtifactSpec]:
    """A spec and all that lies upstream of it."""
    yield spec
    for upstream in spec.inputs.values():
        yield from nodes(upstream)
