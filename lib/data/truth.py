"""What a source knows of its images, as lines that can be drawn onto them."""

from __future__ import annotations

import numpy as np

from lib.data.imageset import ImageSet

NEEDED = {"mask", "K", "R", "vanishing_points", "horizon", "light"}


def known(images: ImageSet) -> bool:
    """Whether the set carries camera, light and masks."""
    return set(images.columns) >= NEEDED


def overlays(images: ImageSet, index: list[int]) -> list[dict]:
    """For each image its mask and segments (m, 4): towards the vanishing points, the horizon, where shadows fall."""
    masks, size = images.take(index).masks(), images.images.shape[1]
    return [{"mask": mask, "segments": _segments({name: np.array(images.columns[name][i]) for name in NEEDED - {"mask"}},
                                                 foot(mask), size)} for i, mask in zip(index, masks, strict=True)]


def foot(mask: np.ndarray) -> np.ndarray:
    """The pixel (u, v) in the middle of the lowest row of a mask (h, w); the frame's centre for an empty one."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return (np.array(mask.shape[::-1]) - 1) / 2
    return np.array([np.flatnonzero(mask[rows[-1]]).mean(), rows[-1]])


def heading(vanishing: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Unit vector in which a pixel moves when its point moves along a direction with that vanishing point (3,).

    A point at depth z moved by e goes from `at` to at + e (v - at w) / z; nothing is divided, so infinity is no case.
    """
    step = vanishing[:2] - at * vanishing[2]
    return step / np.linalg.norm(step)


def shadow(K: np.ndarray, R: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Vanishing point (3,) of the direction on the floor in which shadows fall."""
    return K @ R @ np.array([-light[0], -light[1], 0.0])


def _segments(truth: dict[str, np.ndarray], at: np.ndarray, size: int) -> dict[str, np.ndarray]:
    points, reach = truth["vanishing_points"].reshape(3, 3), 0.3 * size
    axes = [np.concatenate([at, at + reach * heading(point, at)]) for point in points]
    fall = shadow(truth["K"].reshape(3, 3), truth["R"].reshape(3, 3), truth["light"])
    a, b, c = truth["horizon"]
    ends = np.array([0.0, size - 1.0])
    level = np.array([[ends[0], -(c + a * ends[0]) / b, ends[1], -(c + a * ends[1]) / b]])
    return {"to the vanishing points": np.array(axes), "shadow falls": np.concatenate([at, at + reach * heading(fall, at)]),
            "horizon": level}
