"""What rendered scenes know of themselves, as lines that can be drawn onto the images."""

from __future__ import annotations

import numpy as np

from lib.data.imageset import ImageSet

NEEDED = {"mask", "K", "R", "vanishing_points", "horizon", "light"}


def has_truth(images: ImageSet) -> bool:
    """Whether the set carries camera, light and masks."""
    return set(images.columns) >= NEEDED


def overlays(images: ImageSet, index: list[int]) -> list[dict]:
    """Of each image its mask, and segments (m, 4): axes, horizon, where shadows fall."""
    part, size = images.take(index), images.images.shape[1]
    names = sorted(NEEDED - {"mask"})
    truths = zip(*(part.columns[name] for name in names), strict=True)
    return [
        {
            "mask": mask,
            "segments": _segments(dict(zip(names, map(np.array, truth), strict=True)), mask, size),
        }
        for mask, truth in zip(part.masks(), truths, strict=True)
    ]


def foot(mask: np.ndarray) -> np.ndarray:
    """The pixel (u, v) in the middle of a mask's lowest row; the centre of an empty one."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return (np.array(mask.shape[::-1]) - 1) / 2
    return np.array([np.flatnonzero(mask[rows[-1]]).mean(), rows[-1]])


def heading(vanishing: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Unit vector in which a pixel moves when its point moves along a direction.

    `vanishing` (3,) is that direction's vanishing point. A point at depth z moved by e goes from
    `at` to at + e (v - at w) / z; nothing is divided, so infinity is no case.
    """
    step = vanishing[:2] - at * vanishing[2]
    return step / np.linalg.norm(step)


def shadow(K: np.ndarray, R: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Vanishing point (3,) of the direction on the floor in which shadows fall."""
    return K @ R @ np.array([-light[0], -light[1], 0.0])


def _segments(truth: dict[str, np.ndarray], mask: np.ndarray, size: int) -> dict[str, np.ndarray]:
    base, reach = foot(mask), 0.3 * size
    points = truth["vanishing_points"].reshape(3, 3)
    fall = shadow(truth["K"].reshape(3, 3), truth["R"].reshape(3, 3), truth["light"])

    def towards(point: np.ndarray) -> np.ndarray:
        return np.concatenate([base, base + reach * heading(point, base)])

    a, b, c = truth["horizon"]
    left, right = 0.0, size - 1.0
    return {
        "to the vanishing points": np.array([towards(point) for point in points]),
        "shadow falls": towards(fall),
        "horizon": np.array([[left, -(c + a * left) / b, right, -(c + a * right) / b]]),
    }
