"""The yardstick: the same real images without a single synthetic one, trained from the base's first weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lib.core.store import ArtifactSpec
from lib.remedies import late_layers
from lib.remedies.registry import Models, Remedy, RepairError

FIRST = "synthetic images first"


def remedy(
    models: Models, sets: Mapping[str, ArtifactSpec], settings: Mapping[str, Any]
) -> dict[str, Remedy]:
    """Classifiers of m real images alone, for every m of the remedies: no repair, but what one must beat.

    The control has seen the base's synthetic images before the same real ones, in as many steps: all layers of late_layers.
    """
    counts = sorted({settings["num_real"], *settings["num_real_curve"]})
    return {
        f"no synthetic image, {m:,} real": Remedy(
            trained(models, sets, settings, m),
            real=m,
            changes="images",
            candidate=False,
            yardstick=True,
            control=late_layers.trained(models, sets, settings, 0, m),
            controlled=FIRST,
        )
        for m in counts
    }


def trained(
    models: Models, sets: Mapping[str, ArtifactSpec], settings: Mapping[str, Any], count: int
) -> list[ArtifactSpec]:
    """As the base classifiers, in the steps of one and of its repair together, on the real images that a remedy of m draws."""
    if count > settings["fit"]:
        raise RepairError(
            f"{count} real images wanted, {settings['fit']} are there beside the validation split: lower "
            "repair.num_real and repair.num_real_curve, or raise data.train"
        )
    own = {"arm": f"{count / settings['fit']:.10f}*real", "base": settings["fit"]}
    return [
        replace(
            one,
            settings=one.settings
            | own
            | {"steps": one.settings["steps"] + settings["max_train_steps"]},
            inputs={"real": sets["real"]},
        )
        for one in models[settings["base"]]
    ]
