"""Remedies: functions of (models, sets, settings), each in a file of its own, found by its name.

To add one, copy a file of this folder to `<name>.py` and put `<name>` into `repair.remedies` of a
profile. A whole one, which trains the base classifiers twice as long without a single real image:

    from lib.remedies.fine_tuning import trained
    from lib.remedies.registry import Remedy

    def remedy(models, sets, settings):
        steps = 2 * settings["min_train_steps"]
        longer = trained(models, sets, settings | {"min_train_steps": steps})
        return {"twice as long": Remedy(longer, real=0, changes="weights")}

`models` holds the classifiers of every training set, one spec per seed; `sets` the image sets, with
`real` for the real images that a remedy may use and `validation` for those that only choose;
`settings` is section `repair`, and under `training` how the base was trained. A remedy
computes nothing itself: it returns specs, and the chapter makes, tests and times them. What cannot
run raises RepairError.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lib.classifier.train import TrainConfig
from lib.core.store import ArtifactSpec, Store

Models = Mapping[str, list[ArtifactSpec]]


class RepairError(ValueError):
    """A remedy that cannot be had here; the message says why."""


@dataclass(frozen=True)
class RemedyKey:
    """The file a remedy comes from, and its name there; `then` is a second one after it."""

    kind: str  # a file of lib/remedies
    name: str
    then: str = ""

    @property
    def label(self) -> str:
        """For display alone."""
        return f"{self.name}; then {self.then}" if self.then else self.name


@dataclass(frozen=True)
class Remedy:
    """Repaired classifiers, one per seed, from the base classifier of that seed."""

    classifiers: list[ArtifactSpec]
    real: int  # real images that had a part in it
    changes: Literal["images", "weights"]  # the training images, or the trained network
    control: list[ArtifactSpec] = field(default_factory=list)  # without what is claimed to help
    k: int | None = None  # last blocks fine-tuned, 0: all, where it is a point of that curve
    part: str = ""  # of the gap, which its gain (over its control, where it has one) measures
    candidate: bool = True  # whether it may be chosen on the validation split
    role: Literal["remedy", "real only", "addition"] = "remedy"  # set to addition by `planned`
    key: RemedyKey | None = None  # set by `planned`


def context(section, study, base: ArtifactSpec) -> dict[str, Any]:
    """Section `repair`, and under `training` how the base classifiers were trained."""
    training = dataclasses.asdict(TrainConfig.of(base.settings))
    return section.model_dump() | {"training": training, "seed": study.seed}


def planned(names: Iterable[str], models: Models, sets: Mapping[str, ArtifactSpec],
            settings: Mapping[str, Any]) -> tuple[dict[str, Remedy], dict[str, str]]:
    """The remedies of these files by label, and why others cannot run.

    What uses every real training image is no repair but an addition to them, and not among the
    candidates.
    """
    remedies, missing = {}, {}
    for name in names:
        try:
            own = find(name)(models, sets, settings)
        except RepairError as error:
            missing[name] = str(error)
            continue
        for label, remedy in own.items():
            remedies[label] = replace(remedy, key=RemedyKey(name, label))
            if remedy.real >= settings["train"]:
                remedies[label] = replace(remedies[label], role="addition", candidate=False)
    return remedies, missing


def find(name: str):
    """The function of a remedy."""
    names = available()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        suggestion = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"no remedy {name!r}{suggestion}; there are {', '.join(names)}. "
            "Correct repair.remedies in params/"
        )
    return importlib.import_module(f"lib.remedies.{name}").remedy


def available() -> list[str]:
    """Names of the remedies: the files of this folder with a function `remedy`."""
    files = sorted(set(Path(__file__).parent.glob("*.py")) - {Path(__file__)})
    return [path.stem for path in files if "\ndef remedy(" in path.read_text(encoding="utf-8")]


def seconds(store: Store, remedy: Remedy, paid: Iterable[ArtifactSpec]) -> float:
    """Mean seconds per seed beyond those of artifacts that are `paid` for, such as the base."""
    keys = {part.key for spec in paid for part in nodes(spec)}
    spent = {
        part.key: store.make(part).manifest["made"]["seconds"]
        for spec in remedy.classifiers
        for part in nodes(spec)
        if part.key not in keys
    }
    return sum(spent.values()) / len(remedy.classifiers)


def nodes(spec: ArtifactSpec) -> Iterable[ArtifactSpec]:
    """A spec and all that lies upstream of it."""
    yield spec
    for upstream in spec.inputs.values():
        yield from nodes(upstream)
