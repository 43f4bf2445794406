"""Rendered scenes without end, with their truth: masks, camera, light."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lib import world
from lib.core import workers
from lib.core.compute import seed_of
from lib.data.imageset import ImageSet, picture
from lib.data.source import Source, SourceOptions

POOL_FROM = 200  # scenes from which on starting worker processes pays


def open_source(options: SourceOptions) -> Source:
    """Labels go round, so that every split is balanced."""
    styles = {"train": "photo", "test": "photo"} | {f"shift-{s}": s for s in world.SHIFTS}

    def read(split: str, positions: Sequence[int]) -> ImageSet:
        seeds = [scene_seed(options.seed, split, i) for i in positions]
        return rendered(seeds, styles[split], options.size)

    def labels(split: str, count: int) -> np.ndarray:
        return np.arange(count) % len(world.CLASSES)

    return Source(tuple(world.CLASSES), dict.fromkeys(styles, 10**9), read, labels)


def scene_seed(seed: int, split: str, position: int) -> int:
    """Its last digit is the label."""
    return seed_of(seed, "world", split, position) // 10 * 10 + position % 10


def rendered(seeds: Sequence[int], style: str, size: int) -> ImageSet:
    """The scenes of these seeds as an image set with a column for each truth."""
    count = workers.cores() if len(seeds) >= POOL_FROM else 1
    pool = workers.processes(count) if count > 1 else None
    scenes, images, masks = world.draw_many(seeds, style, size, pool=pool)
    return ImageSet(
        images,
        np.array([scene.label for scene in scenes], np.int64),
        tuple(world.CLASSES),
        np.array(seeds, np.int64),
        tuple(f"world/{style}/{seed}" for seed in seeds),
        tuple(scene.caption() for scene in scenes),
        truth(scenes, masks, size),
    )


def truth(scenes: Sequence[world.Scene], masks: np.ndarray, size: int) -> dict[str, list]:
    """What is known of each scene, as columns."""
    return {
        "mask": [picture(m, f"{s.seed}-mask.png") for m, s in zip(masks, scenes, strict=True)],
        "K": [s.K(size).ravel().tolist() for s in scenes],
        "R": [s.R.ravel().tolist() for s in scenes],
        "vanishing_points": [np.ravel(s.vanishing_points(size)).tolist() for s in scenes],
        "horizon": [np.ravel(s.horizon(size)).tolist() for s in scenes],
        "light": [np.ravel(s.light).tolist() for s in scenes],
        "style": [s.style for s in scenes],
        "colour": [s.bodies[0].colour for s in scenes],
        "material": [s.bodies[0].material for s in scenes],
        "floor": [s.floor.pattern for s in scenes],
    }
