"""Real and synthetic images together: in which ratio, and which of them last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib.core.store import ArtifactSpec
from lib.remedies.late_layers import LONGER, trained
from lib.remedies.registry import Models, Remedy


def remedy(
    models: Models, sets: Mapping[str, ArtifactSpec], settings: Mapping[str, Any]
) -> dict[str, Remedy]:
    """Synthetic images first, then the whole network on batches with a share of real ones; and mixed from the start.

    Real ones alone at the end are among the late layers, as all of them. Mixed from the start is the arm `real+<base>`
    where chapter 04 has one; it learnt from every real image, so it cannot be chosen on some of them.
    """
    base, m = settings["base"], settings["num_real"]
    control = trained(models, sets, settings, 0, 0)
    found = {
        f"all layers, {100 * share:.0f} % of batches real, {m:,} real": Remedy(
            trained(models, sets, settings, 0, m, share=share),
            real=m,
            changes="weights",
            control=control,
            controlled=LONGER,
        )
        for share in settings["real_batch_fractions"]
    }
    if f"real+{base}" in models:
        found["mixed from the start, all real"] = Remedy(
            models[f"real+{base}"], real=settings["train"], changes="images", candidate=False
        )
    return found
