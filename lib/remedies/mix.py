"""Real and synthetic images together: in which ratio, and which of them last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib.core.store import ArtifactSpec
from lib.remedies.fine_tuning import LONGER, trained
from lib.remedies.registry import Models, Remedy


def remedy(
    models: Models, sets: Mapping[str, ArtifactSpec], settings: Mapping[str, Any]
) -> dict[str, Remedy]:
    """Synthetic images first, then all layers on batches with a share of real ones; and mixed at once.

    Mixed from the start is the training set `real+<base>` where chapter 04 has one; it learnt from every
    real image, so it cannot be chosen on some of them.
    """
    base, m = settings["base"], settings["num_real"]
    control = trained(models, sets, settings)
    remedies = {
        f"all layers, {100 * fraction:.0f} % of batches real, {m:,} real": Remedy(
            trained(models, sets, settings, num_real=m, fraction=fraction),
            real=m,
            changes="weights",
            control=control,
            controlled=LONGER,
        )
        for fraction in settings["real_batch_fractions"]
    }
    if f"real+{base}" in models:
        remedies["mixed from the start, all real"] = Remedy(
            models[f"real+{base}"], real=settings["train"], changes="images", candidate=False
        )
    return remedies
