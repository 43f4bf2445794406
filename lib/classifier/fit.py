"""Train one classifier on one arm with one seed: SGD, Nesterov, one cycle, label smoothing, crop and flip."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from lib import compute, progress
from lib.classifier import arms
from lib.classifier.model import Classifier, load_weights, normal
from lib.data.images import ImageSet
from lib.store import Artefact, Parts, Recipe, Store, step


class FitError(RuntimeError):
    """A training run that cannot go on."""


@step(version=1)
def classifier(store: Store, recipe: Recipe) -> Parts:
    """Weights of one classifier; learning curve and model settings in the file's metadata."""
    def write(path: Path) -> None:
        images = arms.assemble(recipe.settings["arm"], {n: arms.pixels(store, r) for n, r in recipe.upstream.items()},
                               recipe.seed)
        model, curve = fit(images, recipe.settings, recipe.seed)
        facts = {"model": model_settings(images, recipe.settings), "curve": curve}
        save_file({k: v.contiguous().cpu() for k, v in model.state_dict().items()}, path, {"facts": json.dumps(facts)})
    return {"weights.safetensors": write}


def recipes(training, study, steps: int, flip: bool, sets: dict[str, Recipe]) -> dict[str, list[Recipe]]:
    """For each arm its classifiers, one a seed; seed k starts every arm from the same weights and draws."""
    shared = {name: getattr(training, name) for name in ("width", "batch", "rate", "smoothing")}
    shared |= {"steps": steps, "flip": flip, "device": study.device}
    return {arm: [classifier(shared | {"arm": arm}, compute.seed_of(study.seed, "classifier", k),
                             **{name: sets[name] for name in arms.names(arm, sets)}) for k in range(study.seeds)]
            for arm in training.arms}


def fit(images: ImageSet, settings: dict, seed: int) -> tuple[Classifier, list[list[float]]]:
    """The trained model and its learning curve [step, loss, accuracy on the batch]."""
    where = compute.device(settings["device"])
    torch.manual_seed(compute.seed_of(seed, "weights"))
    model = Classifier(**model_settings(images, settings)).to(where, memory_format=torch.channels_last).train()
    pixels, labels = torch.from_numpy(images.images).to(where), torch.from_numpy(images.labels).to(where)
    steps, rate = settings["steps"], settings["rate"]
    optimiser = torch.optim.SGD(_groups(model, 5e-4), lr=rate, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.25, cycle_momentum=False)
    draws, curve = compute.generator(seed, "draws"), []
    with progress.track(f"fit {settings['arm']}", steps) as bar:
        for i, index in enumerate(_batches(len(images), settings["batch"], steps, draws)):
            x = augment(normal(pixels[index.to(where)]), draws, settings["flip"])
            logits = model(x)
            loss = F.cross_entropy(logits, labels[index.to(where)], label_smoothing=settings["smoothing"])
            if not torch.isfinite(loss):
                raise FitError(f"arm {settings['arm']!r}: loss is {loss.item()} at step {i}; lower training.rate")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            if i % max(1, steps // 50) == 0:
                hits = (logits.argmax(1) == labels[index.to(where)]).float().mean().item()
                curve.append([i, round(loss.item(), 4), round(hits, 4)])
            bar.add(1, f"loss {curve[-1][1]:.2f}")
    return model.eval(), curve


def opened(artefact: Artefact) -> tuple[Classifier, list[list[float]]]:
    """The classifier of an artefact and its learning curve."""
    from safetensors import safe_open

    path = artefact.path("weights.safetensors")
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
    return load_weights(Classifier(**facts["model"]), path), facts["curve"]


def model_settings(images: ImageSet, settings: dict) -> dict:
    return {"classes": len(images.classes), "size": images.images.shape[1], "width": settings["width"]}


def augment(x: torch.Tensor, draws: torch.Generator, flip: bool) -> torch.Tensor:
    """Shift each image (n, 3, h, w) by up to an eighth of its side, edges repeated, and flip half of them."""
    n, _, h, w = x.shape
    reach = h // 8
    padded = F.pad(x, (reach,) * 4, mode="replicate")
    dy, dx = torch.randint(0, 2 * reach + 1, (2, n), generator=draws)
    flipped = torch.rand(n, generator=draws) < (0.5 if flip else 0.0)
    rows = dy[:, None] + torch.arange(h)
    cols = dx[:, None] + torch.where(flipped[:, None], torch.arange(w - 1, -1, -1), torch.arange(w))
    index = (torch.arange(n)[:, None, None], rows[:, :, None], cols[:, None, :])
    picked = padded.permute(0, 2, 3, 1)[tuple(i.to(x.device) for i in index)]
    return picked.permute(0, 3, 1, 2)


def _batches(n: int, size: int, steps: int, draws: torch.Generator):
    """`steps` batches of positions; every image once before any comes twice."""
    size = min(size, n)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < size:
            order = torch.cat([order, torch.randperm(n, generator=draws)])
        batch, order = order[:size], order[size:]
        yield batch


def _groups(model: torch.nn.Module, decay: float) -> list[dict]:
    """Weight decay for matrices and kernels, none for biases and norms."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    return [{"params": weights, "weight_decay": decay},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0}]


def steps_for(count: int, batch: int, epochs: int) -> int:
    """Optimiser steps that `epochs` passes over `count` images take."""
    return int(np.ceil(count / batch)) * epochs
