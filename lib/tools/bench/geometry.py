"""Median vanishing-point error on world images of 256 px against RANSAC in a Manhattan world; images a second.

The reference is given the camera and right angles between the points, both true of every scene; ours is given
neither. Then the horizon of streets at 640 px: ours, the middle line, and the line through the two best points.
"""

import os
import time

import numpy as np

from lib import world
from lib.core import compute
from lib.core.workers import processes
from lib.measure import geometry, vanishing
from lib.tools.bench import streets

SCENES, SIZE, TRIES, STREETS = 24, 256, 600, 24


def run() -> dict:
    """The same segments for both; rounds taken in turn, the best of each counts."""
    scenes = [world.scene(compute.seed_of("bench", "geometry", k)) for k in range(SCENES)]
    images = [world.render(scene, SIZE)[0] for scene in scenes]
    cores = os.cpu_count()
    processes(cores)
    list(processes(cores).map(ours, images))  # start the processes
    rounds = [(timed(ours, images, None, cores), timed(manhattan, images, scenes, cores)) for _ in range(3)]
    errors = [np.concatenate([geometry.vp_error(points, scene.vanishing_points(SIZE)[geometry.visible_axes(scene)], scene.K(SIZE))
                              for points, scene in zip(rounds[0][i][1], scenes, strict=True)]) for i in (0, 1)]
    mine, theirs = (float(np.median(each)) for each in errors)
    same = all(np.array_equal(a, b) for r in rounds for a, b in zip(rounds[0][0][1], r[0][1], strict=True))
    speed = [round(SCENES / min(r[i][0] for r in rounds), 1) for i in (0, 1)]
    return {"unit": "degrees", "ours": round(mine, 3), "reference": round(theirs, 3),
            "ratio": round(theirs / mine, 2), "equal": same,
            "axes": len(errors[0]), "images/s": speed[0], "reference images/s": speed[1],
            "cores": cores} | horizons()


def horizons() -> dict:
    """Areas under the curve of horizon errors on streets, in %, and images a second on one core."""
    scenes = [streets.street(k) for k in range(STREETS)]
    seconds, results = min((on_one_core(scenes) for _ in range(3)), key=lambda run: run[0])
    asked = [streets.three_points(scene.image) for scene in scenes]
    lines = {"ours": [geometry.horizon(r.points, r.size, r.support) for r in results],
             "two points": list(map(streets.two_points, asked)),
             "middle": [np.array([0, 1, -(r.size[0] - 1) / 2]) for r in results]}
    errors = {f"horizon area, {name}": streets.area(list(map(streets.height_error, values, scenes)))
              for name, values in lines.items()}
    return {name: round(value, 1) for name, value in errors.items()} | {
        "images/s of 640 px on one core": round(STREETS / seconds, 1)}


def on_one_core(scenes: list) -> tuple[float, list[vanishing.VanishingPoints]]:
    """Seconds of processor time from images to horizons, and the vanishing points."""
    with geometry.one_core():
        started = time.process_time()
        results = [vanishing.vanishing_points(vanishing.segments(s.image), s.image.shape[:2]) for s in scenes]
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
    """Points (3, 3): the rotation, from two lines to one point and a third line to the next, that explains most length."""
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
        off = np.abs(turned @ normals.T) / np.maximum(np.linalg.norm(np.cross(turned[:, None], middle[None]), axis=2), 1e-9)
        explained = length[(off < np.sin(np.radians(2))).any(axis=0)].sum()
        if explained > best and np.linalg.norm(turned, axis=1).min() > 0.99:
            best, axes = explained, turned
    return polished(axes, normals, length) @ K.T


def polished(axes: np.ndarray, normals: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) after each axis has taken the least-squares direction of its lines, and right angles again."""
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
