"""The best combination of remedies, chosen on validation images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lib.core.store import ArtifactSpec, Store
from lib.remedies import split
from lib.remedies.registry import Models, Remedy, RemedyKey, planned


@dataclass(frozen=True)
class Choice:
    """What was chosen, and the accuracy of every candidate on validation images."""

    name: str
    remedy: Remedy
    shares: dict[str, dict[str, float]]
    through: bool  # whether the base's generator was trained on validation images


def combination(store: Store, remedies: Mapping[str, Remedy], models: Models,
                sets: Mapping[str, ArtifactSpec], settings: Mapping[str, Any],
                validation: ArtifactSpec) -> Choice:
    """The best start (the base, or a remedy of its images), the best change of weights, and both.

    Three choices, two of n and one of three, instead of one of n². Where the base's generator was
    trained on validation images, so was that of every candidate.
    """
    base, device = settings["base"], settings["training"]["device"]
    through = not all(split.clean(spec, validation) for spec in models[base])
    candidates = {name: remedy for name, remedy in remedies.items() if remedy.candidate}
    candidates[base] = Remedy(models[base], 0, "images", key=RemedyKey("base", base))
    shares, best = {}, {}

    def choose(names: list[str]) -> str:
        classifiers = {name: candidates[name].classifiers for name in names}
        name, scores = split.choose(store, classifiers, validation, device, through)
        shares.update(scores)
        return name

    for kind in ("images", "weights"):
        names = [name for name, remedy in candidates.items() if remedy.changes == kind]
        if names:
            best[kind] = choose(names)
    if len(best) == 2 and best["images"] != base:
        start, then = candidates[best["images"]], candidates[best["weights"]]
        both = stacked(start, then, models, sets, settings)
        candidates[both.key.label] = both
        choose([both.key.label])
    name = max(shares, key=lambda name: shares[name]["mean"])
    return Choice(name, candidates[name], shares, through)


def stacked(start: Remedy, then: Remedy, models: Models, sets: Mapping[str, ArtifactSpec],
            settings: Mapping[str, Any]) -> Remedy:
    """Remedy `then` on the classifiers of remedy `start` instead of the base's."""
    moved = {**models, settings["base"]: start.classifiers}
    second = planned([then.key.kind], moved, sets, settings)[0][then.key.label]
    key = RemedyKey(then.key.kind, start.key.label, then.key.label)
    real = max(second.real, start.real)  # both sample the same real images
    return replace(second, real=real, control=[], part="", k=None, key=key)
