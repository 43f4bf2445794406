"""Batch-norm statistics from unlabelled real images; no weight moves."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from lib.classifier.model import normal
from lib.classifier.train import facts_of, opened, save
from lib.core import compute
from lib.core.store import ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset
from lib.remedies import split
from lib.remedies.registry import Remedy, RepairError


@artifact("recalibrated-classifier")
def recalibrated(store: Store, spec: ArtifactSpec) -> FileWriters:
    """Input `classifier` whose `norms` (first or all) have the statistics of input `real`."""

    def write(path: Path) -> None:
        settings, base = spec.settings, store.make(spec.inputs["classifier"])
        model = opened(base)[0].to(compute.device(settings["device"]))
        real = imageset.load(store.make(spec.inputs["real"]))
        chosen = split.some(real, settings["num_real"], spec.seed)
        recalibrate(model, torch.from_numpy(chosen.images), settings["norms"])
        save(model.state_dict(), path, facts_of(base))

    return {"weights.safetensors": write}


def recalibrate(model: nn.Module, pixels: torch.Tensor, which: str, batch: int = 100) -> None:
    """Give the first or all batch norms the statistics of images (n, h, w, 3) uint8, in place."""
    measured = copy.deepcopy(model)  # all norms measure together, each behind the corrected ones
    if not norms(measured):
        raise RepairError(f"{type(model).__name__} has no batch norm to recalibrate")
    chunks = [normal(chunk.contiguous()) for chunk in pixels.split(batch)]
    update_bn(chunks, measured, next(model.parameters()).device)
    pairs = list(zip(norms(model), norms(measured), strict=True))
    for old, new in pairs[:1] if which == "first" else pairs:
        old.load_state_dict(new.state_dict())
    model.eval()


def norms(model: nn.Module) -> list[nn.Module]:
    """The batch norms, from input to head."""
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def remedy(models, sets, settings) -> dict[str, Remedy]:
    """Statistics of the first batch norm, which sees little but colour and contrast, and of all."""
    count, real = settings["num_real"], sets["real"]
    shared = {"num_real": count, "device": settings["training"]["device"]}

    def specs(which: str) -> list[ArtifactSpec]:
        own, base = shared | {"norms": which}, models[settings["base"]]
        return [recalibrated(own, spec.seed, classifier=spec, real=real) for spec in base]

    first = Remedy(specs("first"), real=count, changes="weights", part="pixels")
    every = Remedy(specs("all"), real=count, changes="weights")
    return {
        f"first batch norm, {count:,} unlabelled": first,
        f"all batch norms, {count:,} unlabelled": every,
    }
