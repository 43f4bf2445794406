"""Median vanishing-point error on world images of 256 px against RANSAC in a Manhattan world;
images a second.

The reference is given the camera and right angles between the points, both true of every scene;
ours is given neither. Then streets of seeds on which nothing was tuned: the horizon by the rule in
use, by the middle line and by the earlier rule, and images a second of processor time; and rooms,
corridors and wire frames: the share of directions found within five degrees, beside the earlier
rule.
"""

import os
import time

import numpy as np

from lib import world
from lib.core import compute
from lib.core.workers import processes
from lib.measure import geometry, stats, vanishing
from lib.tools import rooms, streets

SCENES, SIZE, TRIES = 24, 256, 600
FRESH, STREETS = 7000, 24  # first seed and number of the streets and rooms


def run() -> dict:
    """The same segments for both; rounds taken in turn, the best of each counts."""
    scenes = [world.scene(compute.seed_of("bench", "geometry", k)) for k in range(SCENES)]
    images = [world.render(scene, SIZE)[0] for scene in scenes]
    cores = os.cpu_count()
    processes(cores)
    list(processes(cores).map(ours, images))  # start the processes
    rounds = [
        (timed(ours, images, None, cores), timed(manhattan, images, scenes, cores))
        for _ in range(3)
    ]
    errors = [
        np.concatenate(
            [
                geometry.vp_error(
                    points,
                    scene.vanishing_points(SIZE)[geometry.visible_axes(scene)],
                    scene.K(SIZE),
                )
                for points, scene in zip(rounds[0][i][1], scenes, strict=True)
            ]
        )
        for i in (0, 1)
    ]
    mine, theirs = (float(np.median(each)) for each in errors)
    same = all(
        np.array_equal(a, b) for r in rounds for a, b in zip(rounds[0][0][1], r[0][1], strict=True)
    )
    speed = [round(SCENES / min(r[i][0] for r in rounds), 1) for i in (0, 1)]
    return {"unit": "degrees", "ours": round(mine, 3), "reference": round(theirs, 3),
            "ratio": round(theirs / mine, 2), "equal": same,
            "axes": len(errors[0]), "images/s": speed[0], "reference images/s": speed[1],
            "cores": cores} | horizons(640) | horizons(320) | directions()


def horizons(size: int) -> dict:
    """Areas under the curve of horizon errors on streets, in %, and images a second of one core."""
    scenes = [streets.street(FRESH + k, (size * 3 // 4, size)) for k in range(STREETS)]
    seconds, results = min((on_one_core(scenes) for _ in range(3)), key=lambda run: run[0])
    earlier = [streets.three_points(scene.image) for scene in scenes]
    lines = {"ours": [geometry.horizon(r.points, r.size, r.support) for r in results],
             "earlier rule": list(map(streets.two_points, earlier)),
             "middle": [np.array([0, 1, -(r.size[0] - 1) / 2]) for r in results]}
    areas = {f"horizon area at {size} px, {name}":
             round(streets.area(list(map(streets.height_error, values, scenes))), 1)
             for name, values in lines.items()}
    return areas | {f"images/s of {size} px on one core": round(STREETS / seconds, 1)}


def directions(sizes: tuple[int, ...] = (64, 128, 320)) -> dict:
    """For each kind and size: shares of directions within 5 degrees, ours and the earlier rule's,
    and the interval of their paired difference over images."""
    table = {}
    for kind in rooms.KINDS:
        for size in sizes:
            scenes = [rooms.room(kind, FRESH + k, (size * 3 // 4, size)) for k in range(STREETS)]
            shares = np.array([[(geometry.vp_error(find(s.image).points, s.points, s.K) < 5).mean()
                                for find in (significant, streets.three_points)] for s in scenes])
            change = stats.over_images(shares[:, 0] - shares[:, 1])
            ours, earlier = shares.mean(axis=0)
            table[f"{kind} {size} px"] = {
                "ours": round(ours, 3), "earlier": round(earlier, 3), "n": STREETS,
                "difference": [round(change[end], 3) for end in ("mean", "low", "high")]}
    return {"within 5 degrees": table}


def significant(image: np.ndarray) -> vanishing.VanishingPoints:
    """The points of the rule in use."""
    return vanishing.vanishing_points(vanishing.segments(image), image.shape[:2])


def on_one_core(scenes: list) -> tuple[float, list[vanishing.VanishingPoints]]:
    """Seconds of processor time from images to horizons, and the vanishing points."""
    with geometry.one_core():
        started = time.process_time()
        results = [significant(scene.image) for scene in scenes]
        for result in results:
            geometry.horizon(result.points, result.size, result.support)
        return time.process_time() - started, results


def timed(find, images: list, scenes: list | None, cores: int) -> tuple[float, list[np.ndarray]]:
    """Seconds from pictures to vanishing points, and the points."""
    started = time.perf_counter()
    points = list(processes(cores).map(find, images, *([scenes] if scenes else [])))
    return time.perf_counter() - started, points


def ours(image: np.ndarray) -> np.ndarray:
    """Points (k, 3) of one picture."""
    return vanishing.vanishing_points(vanishing.segments(image), SIZE).points


def manhattan(image: np.ndarray, scene: world.Scene) -> np.ndarray:
    """Points (3, 3): the rotation, from two lines to one point and a third line to the next, that
    explains most length.
    """
    lines, K, rng = vanishing.segments(image), scene.K(SIZE), np.random.default_rng(0)
    ends = np.stack([lines[:, :2], lines[:, 2:]])
    rays = np.concatenate([ends, np.ones((*ends.shape[:2], 1))], axis=2) @ np.linalg.inv(K).T
    normals = np.cross(*rays)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    length, middle = np.hypot(*(ends[1] - ends[0]).T), rays.sum(axis=0) / 2
    best, axes = -1.0, np.eye(3)
    for i, j, k in rng.choice(len(lines), (TRIES, 3), p=length / length.sum()):
        first = unit(np.cross(normals[i], normals[j]))
        second = unit(np.cross(normals[k], first))
        turned = np.stack([first, second, np.cross(first, second)])
        off = np.abs(turned @ normals.T) / np.maximum(
            np.linalg.norm(np.cross(turned[:, None], middle[None]), axis=2), 1e-9
        )
        explained = length[(off < np.sin(np.radians(2))).any(axis=0)].sum()
        if explained > best and np.linalg.norm(turned, axis=1).min() > 0.99:
            best, axes = explained, turned
    return polished(axes, normals, length) @ K.T


def polished(axes: np.ndarray, normals: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) after each axis has taken the least-squares direction of its lines, and
    right angles again.
    """
    for _ in range(3):
        owner, off = np.abs(axes @ normals.T).argmin(axis=0), np.abs(axes @ normals.T).min(axis=0)
        for k in range(3):
            rows = (normals * length[:, None])[(owner == k) & (off < np.sin(np.radians(2)))]
            if len(rows) > 2:
                found = np.linalg.eigh(rows.T @ rows)[1][:, 0]
                axes[k] = found * np.sign(found @ axes[k])
        left, _, right = np.linalg.svd(axes)
        axes = left @ right
    return axes


def unit(v: np.ndarray) -> np.ndarray:
    """v with length one; a zero vector as it is."""
    return v / max(np.linalg.norm(v), 1e-12)
