"""Train on synthetic images, then train the last k blocks on m real ones. The further training of every remedy is here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

from lib.classifier import train as fit
from lib.core import compute
from lib.core.store import Artifact, ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset as images
from lib.data.imageset import ImageSet
from lib.remedies import split
from lib.remedies.registry import Models, Remedy, RepairError

LONGER = "as many steps on synthetic images alone"
DEFAULTS = {"share": 1.0, "recipe": "standard"}  # of each batch that is real; augmentation


@artifact("retrained-classifier")
def retrained(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """Weights of upstream `classifier` whose last `blocks` (0: all) learnt from upstream `real`, `synthetic` or both."""

    def write(path: Path) -> None:
        wanted, artifact = DEFAULTS | recipe.settings, store.make(recipe.inputs["classifier"])
        model, _ = fit.opened(artifact)
        sets = {
            name: images.load(store.make(one))
            for name, one in recipe.inputs.items()
            if name != "classifier"
        }
        if "real" in sets:
            sets["real"] = split.some(sets["real"], wanted["real"], recipe.seed)
        curve = retrain(
            model, portions(sets, wanted["batch"], wanted["share"]), wanted, recipe.seed
        )
        fit.save(model.state_dict(), path, {"model": facts(artifact)["model"], "curve": curve})

    return {"weights.safetensors": write}


def retrain(
    model: nn.Module, sets: Sequence[tuple[ImageSet, int]], settings: Mapping[str, Any], seed: int
) -> list[list[float]]:
    """Train the last blocks in place on sets, each with its number of images a batch: SGD and one cycle; the learning curve."""
    where, steps = compute.device(settings["device"]), settings["steps"]
    thaw(model.to(where, memory_format=torch.channels_last), settings["blocks"])
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(
        weights, settings["rate"], momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings["rate"], max(4, steps), pct_start=0.5, cycle_momentum=False
    )
    weight = fit.class_weights(
        sum(count * part.counts() / len(part) for part, count in sets), settings, where
    )
    draws, look = (
        compute.generator(seed, "repair"),
        fit.recipe_of({"architecture": "this"} | dict(settings), model),
    )
    watch = fit.Watch(steps, {"arm": "repair"}, model)
    streams = [
        fit.batches(part, count, steps, compute.generator(seed, "repair", k), where)
        for k, (part, count) in enumerate(sets)
    ]
    for i, mixed in enumerate(zip(*streams, strict=True)):
        pixels, labels = (torch.cat(part) for part in zip(*mixed, strict=True))
        said = [model(view) for view in look(pixels, draws, settings["flip"])]
        loss = torch.stack(
            [
                F.cross_entropy(one, labels, weight, label_smoothing=settings["smoothing"])
                for one in said
            ]
        ).mean()
        watch.see(i, loss, said[0], labels, model)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    model.eval()
    return watch.curve


def portions(sets: Mapping[str, ImageSet], batch: int, share: float) -> list[tuple[ImageSet, int]]:
    """How many images of each set a batch takes: `share` of it is real where there are both."""
    real = round(share * batch) if len(sets) == 2 else batch
    counts = {"real": real, "synthetic": batch - real if len(sets) == 2 else batch}
    return [(part, counts[name]) for name, part in sorted(sets.items()) if counts[name]]


def thaw(model: nn.Module, last: int) -> None:
    """Only the last blocks learn (0: all); the others, with their batch statistics, stay as they are."""
    found = blocks(model)
    if last > len(found):
        raise RepairError(
            f"{last} blocks to train again, the network has {len(found)}: "
            "lower repair.unfreeze_last and repair.unfreeze_last_curve"
        )
    model.eval().requires_grad_(False)
    for module in (one for block in found[-last if last else 0 :] for one in block):
        module.train().requires_grad_(True)


def blocks(model: nn.Module) -> list[list[nn.Module]]:
    """The network from input to head: its children with weights, a batch norm together with what it follows."""
    found: list[list[nn.Module]] = []
    for child in model.children():
        if isinstance(child, nn.BatchNorm2d) and found:
            found[-1].append(child)
        elif any(True for _ in child.parameters()):
            found.append([child])
    return found


def facts(artifact: Artifact) -> dict[str, Any]:
    """What is known of a classifier's weights."""
    with safe_open(artifact.path("weights.safetensors"), "pt") as file:
        return json.loads(file.metadata()["facts"])


def trained(
    models: Models,
    sets: Mapping[str, ArtifactSpec],
    settings: Mapping[str, Any],
    blocks: int,
    real: int,
    **changes,
) -> list[ArtifactSpec]:
    """The base classifiers, one a seed, trained further on real images; also on synthetic ones where `share` says so."""
    own = {
        "steps": settings["max_train_steps"],
        "rate": settings["lr"],
        "blocks": blocks,
        "real": real,
    }
    wanted = settings["training"] | own | changes
    used = {"real": sets["real"]} if real else {}
    if wanted.get("share", 1.0) < 1 or not real:
        used["synthetic"] = sets[settings["base"]]
    return [retrained(wanted, one.seed, classifier=one, **used) for one in models[settings["base"]]]


def named(blocks: int, real: int) -> str:
    """`last 2 blocks, 240 real`."""
    return f"{layers(blocks)}, {real:,} real"


def layers(blocks: int) -> str:
    """What learns again."""
    return {0: "all layers", 1: "head alone"}.get(blocks, f"last {blocks} blocks")


def remedy(
    models: Models, sets: Mapping[str, ArtifactSpec], settings: Mapping[str, Any]
) -> dict[str, Remedy]:
    """The last k blocks on m real images: a curve in k at m = `images`, and for some k one in m.

    All layers are synthetic images first and real ones last; their control takes as many further steps without a real image.
    """
    points = [(k, settings["num_real"]) for k in settings["unfreeze_last"]] + [
        (k, m) for m in settings["num_real_curve"] for k in settings["unfreeze_last_curve"]
    ]
    longer = {"control": trained(models, sets, settings, 0, 0), "controlled": LONGER}
    return {
        named(k, m): Remedy(
            trained(models, sets, settings, k, m),
            real=m,
            changes="weights",
            k=k,
            **({} if k else longer),
        )
        for k, m in dict.fromkeys(points)
    }
