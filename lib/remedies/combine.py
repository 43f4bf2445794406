"""The best combination: another training set or manner, then another treatment of the network, chosen on validation images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lib.core.store import ArtifactSpec, Store
from lib.remedies import split
from lib.remedies.registry import Models, Remedy, planned


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
    """The best start (the base, or a remedy of its images), the best treatment of the network, and both after each other.

    Three choices, all on validation images: two of n and one of three, instead of one of n². Where the base's generator has
    seen those, so has that of every candidate, and what they are compared by is less than unseen.
    """
    base, device = settings["base"], settings["training"]["device"]
    through = not all(split.clean(one, validation) for one in models[base])
    allowed = {name: one for name, one in remedies.items() if one.candidate}
    allowed[base] = Remedy(models[base], real=0, changes="images")
    shares, best = {}, {}
    for kind in ("images", "weights"):
        group = {name: one.classifiers for name, one in allowed.items() if one.changes == kind}
        if group:
            best[kind], found = split.choose(store, group, validation, device, through)
            shares |= found
    if len(best) == 2 and best["images"] != base:
        both = stacked(allowed, best["images"], best["weights"], models, sets, settings)
        allowed |= both
        shares |= split.choose(
            store,
            {name: one.classifiers for name, one in both.items()},
            validation,
            device,
            through,
        )[1]
    name = max(shares, key=lambda name: shares[name]["mean"])
    return Choice(name, allowed[name], shares, through)


def stacked(
    allowed: Mapping[str, Remedy],
    start: str,
    then: str,
    models: Models,
    sets: Mapping[str, ArtifactSpec],
    settings: Mapping[str, Any],
) -> dict[str, Remedy]:
    """Remedy `then` once more, on the classifiers of remedy `start` instead of the base's."""
    moved = {**models, settings["base"]: allowed[start].classifiers}
    second = planned(settings["remedies"], moved, sets, settings)[0][then]
    real = max(second.real, allowed[start].real)  # both draw on the same real images
    return {
        f"{start}; then {then}": replace(
            second, real=real, control=[], controlled="–", part="", k=None
        )
    }
