"""The shipped model's training pictures: web scenes, their captions and where the object is, rendered once, shard by shard."""

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
SHARD = 500  # scenes in one file
HARD = ("cube", "hexagonal prism", "cube", "hexagonal prism", "cylinder")  # what a model takes for one another longest


@dataclass(frozen=True)
class Pool:
    """Pictures (n, size, size, 3) uint8, the object's masks (n, size, size) bool, what is in them and what is said of them."""

    images: torch.Tensor
    masks: torch.Tensor
    labels: list[int]
    captions: list[str]

    def __add__(self, other: Pool) -> Pool:
        return Pool(torch.cat([self.images, other.images]), torch.cat([self.masks, other.masks]),
                    self.labels + other.labels, self.captions + other.captions)


def render(folder: Path, first: int, scenes: int, size: int, workers: int, classes: tuple[str, ...] = ()) -> None:
    """Render the shards that are missing of scenes with seeds from `first` on, their classes drawn or in this order."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = tuple(world.CLASSES.index(name) for name in classes)
    jobs = [(folder, index, range(first + at, first + at + SHARD), size, labels)
            for index, at in enumerate(range(0, scenes, SHARD)) if not shard_file(folder, index).is_file()]
    if not jobs:
        return
    with concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as processes:
        for _ in progress.each(f"render {folder.name} scenes", processes.map(render_shard, jobs), len(jobs)):
            pass


def render_shard(job: tuple[Path, int, range, int, tuple[int, ...]]) -> None:
    """One file of scenes with their captions; it appears at once or not at all."""
    folder, index, seeds, size, labels = job
    scenes = [world.scene(seed, "web", labels[seed % len(labels)] if labels else None) for seed in seeds]
    images, masks = (torch.from_numpy(np.stack(part)) for part in zip(*(world.render(one, size) for one in scenes), strict=True))
    told = {"labels": json.dumps([one.label for one in scenes]), "captions": json.dumps([one.caption() for one in scenes])}
    partial = shard_file(folder, index).with_suffix(".partial")
    save_file({"images": images.contiguous(), "masks": masks.contiguous()}, partial, metadata=told)
    os.replace(partial, shard_file(folder, index))


def load(folder: Path, scenes: int) -> Pool:
    """The first scenes of a rendered folder."""
    images, masks, labels, captions = [], [], [], []
    for index in range(-(-scenes // SHARD)):
        with safe_open(shard_file(folder, index), "pt") as shard:
            images.append(shard.get_tensor("images"))
            masks.append(shard.get_tensor("masks"))
            labels += json.loads(shard.metadata()["labels"])
            captions += json.loads(shard.metadata()["captions"])
    return Pool(torch.cat(images)[:scenes], torch.cat(masks)[:scenes], labels[:scenes], captions[:scenes])


def shard_file(folder: Path, index: int) -> Path:
    """Where one shard lies."""
    return folder / f"scenes-{index:04}.safetensors"
