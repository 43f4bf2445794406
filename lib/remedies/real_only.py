"""The baseline: the same real images without a single synthetic one, from the base's first weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib.core.store import ArtifactSpec
from lib.remedies.fine_tuning import trained
from lib.remedies.registry import Models, Remedy

FIRST = "synthetic images first"


def remedy(
    models: Models, sets: Mapping[str, ArtifactSpec], settings: Mapping[str, Any]
) -> dict[str, Remedy]:
    """At every m of the remedies: no repair, but what a repair must beat.

    Steps on real images, learning rates to choose from and images are those of a remedy of the same m.
    The control has seen the base's synthetic images before: all layers of late_layers.
    """
    return {
        f"no synthetic image, {m:,} real": Remedy(
            trained(models, sets, settings, num_real=m, from_scratch=True),
            real=m,
            changes="images",
            candidate=False,
            baseline=True,
            control=trained(models, sets, settings, num_real=m),
            controlled=FIRST,
        )
        for m in sorted({settings["num_real"], *settings["num_real_curve"]})
    }
