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
    """What was chosen, and what every candidate scored on validation images."""

    name: str
    remedy: Remedy
    shares: dict[str, dict[str, float]]
    through: bool  # whether the base's generator had learnt from the validation images


def combination(
    store: Store,
    remedies: Mapping[str, Remedy],
    models: Models,
    sets: Mapping[str, ArtifactSpec],
    settings: Mapping[str, Any],
    validation: ArtifactSpec,
) -> Choice:
    """The best start (the base, or a remedy of its images), the best treatment of the network, and both.

    Three choices, all on validation images: two of n and one of three, instead of one of n². Where the
    base's generator learnt from those, so did that of every candidate: less than unseen.
    """
    base, device = settings["base"], settings["training"]["device"]
    through = not all(split.clean(spec, validation) for spec in models[base])
    candidates = {name: remedy for name, remedy in remedies.items() if remedy.candidate}
    candidates[base] = Remedy(models[base], 0, "images", key=RemedyKey("base", base))
    shares, best = {}, {}

    def choose(group: Mapping[str, Remedy]) -> str:
        classifiers = {name: remedy.classifiers for name, remedy in group.items()}
        name, scores = split.choose(store, classifiers, validation, device, through)
        shares.update(scores)
        return name

    for kind in ("images", "weights"):
        group = {name: item for name, item in candidates.items() if item.changes == kind}
        if group:
            best[kind] = choose(group)
    if len(best) == 2 and best["images"] != base:
        start, then = candidates[best["images"]], candidates[best["weights"]]
        both = stacked(start, then, models, sets, settings)
        candidates[both.key.label] = both
        choose({both.key.label: both})
    name = max(shares, key=lambda name: shares[name]["mean"])
    return Choice(name, candidates[name], shares, through)


def stacked(
    start: Remedy,
    then: Remedy,
    models: Models,
    sets: Mapping[str, ArtifactSpec],
    settings: Mapping[str, Any],
) -> Remedy:
    """Remedy `then` once more, on the classifiers of remedy `start` instead of the base's."""
    moved = {**models, settings["base"]: start.classifiers}
    second = planned([then.key.kind], moved, sets, settings)[0][then.key.label]
    return replace(
        second,
        real=max(second.real, start.real),  # both draw on the same real images
        control=[],
        controlled="–",
        part="",
        k=None,
        key=RemedyKey(then.key.kind, start.key.label, then.key.label),
    )
