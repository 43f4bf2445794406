"""The synthetic-trained network with multi-crop augmentation of its synthetic images; no real image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib.core.store import ArtifactSpec
from lib.remedies.fine_tuning import LONGER, trained
from lib.remedies.registry import Models, Remedy


def remedy(
    models: Models, sets: Mapping[str, ArtifactSpec], settings: Mapping[str, Any]
) -> dict[str, Remedy]:
    """The base classifiers trained further on multi-crop views; the control on plain views."""
    return {
        "multi-crop augmentation": Remedy(
            trained(models, sets, settings, augmentation="multicrop"),
            real=0,
            changes="images",
            control=trained(models, sets, settings),
            controlled=LONGER,
        )
    }
