"""The shipped model's training images: web scenes with captions and masks, rendered once."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lib import world
from lib.core import progress

FIRST = 1_000_000_000  # the scenes' seeds start here, far from those of any study
SHARD = 500  # scenes per file
# what a model confuses longest
HARD = ("cube", "hexagonal prism", "cube", "hexagonal prism", "cylinder")


@dataclass(frozen=True)
class Pool:
    """Images (n, size, size, 3) uint8 and masks (n, size, size) bool of the objects."""

    images: torch.Tensor
    masks: torch.Tensor
    labels: list[int]
    captions: list[str]

    def __add__(self, other: Pool) -> Pool:
        return Pool(torch.cat([self.images, other.images]), torch.cat([self.masks, other.masks]),
                    self.labels + other.labels, self.captions + other.captions)


def render(folder: Path, first: int, scenes: int, size: int, workers: int,
           classes: tuple[str, ...] = ()) -> None:
    """Render the missing shards of scenes with seeds from `first` on, of these classes in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = tuple(world.CLASSES.index(name) for name in classes)
    jobs = [(shard_file(folder, index), range(first + at, first + at + SHARD), size, labels)
            for index, at in enumerate(range(0, scenes, SHARD))
            if not shard_file(folder, index).is_file()]
    if not jobs:
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context) as processes:
        shards = processes.map(render_shard, *zip(*jobs, strict=True))
        for _ in progress.each(f"render {folder.name} scenes", shards, len(jobs)):
            pass


def render_shard(path: Path, seeds: range, size: int, labels: tuple[int, ...]) -> None:
    """One file of scenes with their captions; it appears at once or not at all."""
    scenes = [world.scene(seed, "web", labels[seed % len(labels)] if labels else None)
              for seed in seeds]
    rendered = zip(*(world.render(scene, size) for scene in scenes), strict=True)
    images, masks = (torch.from_numpy(np.stack(part)).contiguous() for part in rendered)
    facts = {"labels": json.dumps([scene.label for scene in scenes]),
             "captions": json.dumps([scene.caption() for scene in scenes])}
    partial = path.with_suffix(".partial")
    save_file({"images": images, "masks": masks}, partial, metadata=facts)
    os.replace(partial, path)


def load(folder: Path, scenes: int) -> Pool:
    """The first scenes of a rendered folder."""
    images, masks, labels, captions = [], [], [], []
    for index in range(-(-scenes // SHARD)):
        with safe_open(shard_file(folder, index), "pt") as shard:
            images.append(shard.get_tensor("images"))
            masks.append(shard.get_tensor("masks"))
            labels += json.loads(shard.metadata()["labels"])
            captions += json.loads(shard.metadata()["captions"])
    return Pool(torch.cat(images)[:scenes], torch.cat(masks)[:scenes], labels[:scenes],
                captions[:scenes])


def shard_file(folder: Path, index: int) -> Path:
    return folder / f"scenes-{index:04}.safetensors"
