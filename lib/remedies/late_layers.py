"""Train on synthetic images, then fine-tune the last k blocks on m real ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib.core.store import ArtifactSpec
from lib.remedies.fine_tuning import LONGER, trained
from lib.remedies.registry import Models, Remedy


def remedy(
    models: Models, sets: Mapping[str, ArtifactSpec], settings: Mapping[str, Any]
) -> dict[str, Remedy]:
    """A curve in k at m = `num_real`, and for some k one in m.

    All layers are synthetic images first and real ones last; their control takes as many further steps
    without a real image.
    """
    points = [(k, settings["num_real"]) for k in settings["unfreeze_last"]]
    curve = settings["num_real_curve"]
    points += [(k, m) for m in curve for k in settings["unfreeze_last_curve"]]
    longer = {"control": trained(models, sets, settings), "controlled": LONGER}
    return {
        label(k, m): Remedy(
            trained(models, sets, settings, k, m),
            real=m,
            changes="weights",
            k=k,
            **({} if k else longer),
        )
        for k, m in dict.fromkeys(points)
    }


def label(unfreeze: int, num_real: int) -> str:
    """`last 2 blocks, 240 real`."""
    return f"{layers(unfreeze)}, {num_real:,} real"


def layers(unfreeze: int) -> str:
    """What is fine-tuned."""
    return {0: "all layers", 1: "head alone"}.get(unfreeze, f"last {unfreeze} blocks")
