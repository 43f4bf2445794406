"""What the generator of a training set had seen of the study's real images.

Open: none of them. Closed: these alone. Between them lie generators that were trained elsewhere and
then fine-tuned on these images, or inverted at them. Mixing the cases is why published numbers
disagree. `held_out` makes images that a classifier of a set has not seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from lib.classifier import arms
from lib.core.compute import seed_of
from lib.core.store import ArtifactSpec

OPEN, CLOSED = "open", "closed"
TUNED, TARGETS = "open prior, closed fine-tuning", "open prior, closed targets"
NO_GENERATOR = "–"


def of_set(spec: ArtifactSpec) -> str:
    """Of one synthetic set."""
    generator = spec.inputs.get("generator")
    own = generator is not None and "real" in generator.inputs
    if own and generator.settings["start"] == "scratch":
        return CLOSED
    if "embeddings" in spec.inputs:
        return TARGETS
    return TUNED if own else OPEN


def of_arm(arm: str, sets: Mapping[str, ArtifactSpec]) -> str:
    """Of a training set: that of its synthetic parts, each once."""
    parts = [of_set(sets[name]) for name in arms.names(arm, sets) if name != "real"]
    return "; ".join(dict.fromkeys(parts)) or NO_GENERATOR


def held_out(spec: ArtifactSpec, count: int) -> ArtifactSpec:
    """Further images of the same generator, from other seeds."""
    return dataclasses.replace(spec, seed=seed_of(spec.seed, "held out"),
                               settings=spec.settings | {"count": count})
