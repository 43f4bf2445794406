"""Batch-norm statistics from unlabelled real images; no weight moves."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from lib.classifier import train as fit
from lib.classifier.model import normal
from lib.core import compute
from lib.core.store import ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset as images
from lib.remedies import split
from lib.remedies.late_layers import facts
from lib.remedies.registry import Models, Remedy, RepairError


@artifact("recalibrated-classifier")
def recalibrated(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """Weights of upstream `classifier` whose `norms` (first or all) have the statistics of `real` images of upstream `real`."""

    def write(path: Path) -> None:
        wanted, artifact = recipe.settings, store.make(recipe.inputs["classifier"])
        model, curve = fit.opened(artifact)
        model = model.to(compute.device(wanted["device"]))
        real = split.some(
            images.load(store.make(recipe.inputs["real"])), wanted["real"], recipe.seed
        )
        recalibrate(model, torch.from_numpy(real.images), wanted["norms"])
        fit.save(model.state_dict(), path, {"model": facts(artifact)["model"], "curve": curve})

    return {"weights.safetensors": write}


def recalibrate(model: nn.Module, pixels: torch.Tensor, which: str, batch: int = 100) -> None:
    """Give the first or all batch norms the mean and variance that these images (n, h, w, 3) uint8 have there, in place."""
    measured = copy.deepcopy(
        model
    )  # all batch norms measure together, each on the corrected output of those before it
    if not norms(measured):
        raise RepairError(f"{type(model).__name__} has no batch norm to recalibrate")
    update_bn(
        [normal(chunk.contiguous()) for chunk in pixels.split(batch)],
        measured,
        next(model.parameters()).device,
    )
    pairs = list(zip(norms(model), norms(measured), strict=True))
    for old, new in pairs[:1] if which == "first" else pairs:
        old.load_state_dict(new.state_dict())
    model.eval()


def norms(model: nn.Module) -> list[nn.Module]:
    """The batch norms, from input to head."""
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def remedy(
    models: Models, sets: Mapping[str, ArtifactSpec], settings: Mapping[str, Any]
) -> dict[str, Remedy]:
    """Statistics of the first batch norm alone, which sees little but colour and contrast, and of all."""

    def made(which: str) -> list[ArtifactSpec]:
        wanted = {
            "norms": which,
            "real": settings["num_real"],
            "device": settings["training"]["device"],
        }
        return [
            recalibrated(wanted, one.seed, classifier=one, real=sets["real"])
            for one in models[settings["base"]]
        ]

    return {
        f"{which} batch norm{'s' * (which == 'all')}, {settings['num_real']:,} unlabelled": Remedy(
            made(which),
            real=settings["num_real"],
            changes="weights",
            part="pixels" if which == "first" else "",
        )
        for which in ("first", "all")
    }
