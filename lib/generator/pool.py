"""The shipped model's training pictures: web scenes and their captions, rendered once, shard by shard."""

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

from lib import progress
from lib.data import world

FIRST = 1_000_000_000  # the scenes' seeds start here, far from those of any study
SHARD = 500  # scenes in one file


@dataclass(frozen=True)
class Pool:
    """Pictures (n, size, size, 3) uint8 with what is in them and what is said of them."""

    images: torch.Tensor
    labels: list[int]
    captions: list[str]


def render(folder: Path, scenes: int, size: int, workers: int) -> None:
    """Render the shards that are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [index for index in range(-(-scenes // SHARD)) if not shard_file(folder, index).is_file()]
    if not missing:
        return
    jobs = [(folder, index, size) for index in missing]
    with concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as processes:
        for _ in progress.each("render web scenes", processes.map(render_shard, jobs), len(jobs)):
            pass


def render_shard(job: tuple[Path, int, int]) -> None:
    """One file of scenes with their captions; it appears at once or not at all."""
    folder, index, size = job
    scenes = [world.scene(FIRST + index * SHARD + i, style="web") for i in range(SHARD)]
    images = torch.from_numpy(np.stack([world.render(scene, size)[0] for scene in scenes]))
    told = {"labels": json.dumps([scene.label for scene in scenes]),
            "captions": json.dumps([scene.caption() for scene in scenes])}
    partial = shard_file(folder, index).with_suffix(".partial")
    save_file({"images": images.contiguous()}, partial, metadata=told)
    os.replace(partial, shard_file(folder, index))


def load(folder: Path, scenes: int) -> Pool:
    """The first scenes of a rendered pool."""
    images, labels, captions = [], [], []
    for index in range(-(-scenes // SHARD)):
        with safe_open(shard_file(folder, index), "pt") as shard:
            images.append(shard.get_tensor("images"))
            labels += json.loads(shard.metadata()["labels"])
            captions += json.loads(shard.metadata()["captions"])
    return Pool(torch.cat(images)[:scenes], labels[:scenes], captions[:scenes])


def shard_file(folder: Path, index: int) -> Path:
    """Where one shard lies."""
    return folder / f"web-{index:04}.safetensors"
