"""Cast shadows against a known light: only where outline, camera and light are known, so in the rendered world.

The truth needs no depth. A floor point that moves along the ground direction g projects to a pixel p that moves along
a - c p, where K R g = (a, c): the tangent of the shadow where the object stands.
"""

from __future__ import annotations

import cv2
import numpy as np

from lib.data.imageset import ImageSet

DARK = 0.65  # of the floor's usual brightness, below which a pixel may be shadow
LEAST = 0.004  # share of the picture that a shadow must cover to be judged


def errors(part: ImageSet) -> np.ndarray:
    """Angle (n,) in degrees between each image's cast shadow, as it is seen, and the truth; NaN where none is seen."""
    known = [np.array(part.columns[name], float) for name in ("K", "R", "light", "horizon")]
    return np.array([error(*each) for each in zip(part.images, part.masks(), *known, strict=True)])


def error(image: np.ndarray, mask: np.ndarray, K: np.ndarray, R: np.ndarray, light: np.ndarray, horizon: np.ndarray) -> float:
    """Degrees for one picture (h, w, 3) with its object's mask (h, w)."""
    foot = standing(mask)
    seen = cast(image, mask, foot, horizon)
    if seen is None:
        return float("nan")
    true = tangent(foot, K.reshape(3, 3), R.reshape(3, 3), light)
    return float(np.degrees(np.arccos(np.clip(seen @ true, -1, 1))))


def tangent(foot: np.ndarray, K: np.ndarray, R: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Unit direction (2,) in the picture that a shadow takes at pixel `foot` on the floor, under a sun towards `light`."""
    moved = K @ R @ np.array([-light[0], -light[1], 0.0])
    way = moved[:2] - moved[2] * foot
    return way / np.linalg.norm(way)


def standing(mask: np.ndarray) -> np.ndarray:
    """The pixel (x, y) at which an object stands: the middle of the lowest tenth of its outline."""
    y, x = np.nonzero(mask)
    low = y >= np.quantile(y, 0.9)
    return np.array([x[low].mean(), y[low].mean()])


def cast(image: np.ndarray, mask: np.ndarray, foot: np.ndarray, horizon: np.ndarray) -> np.ndarray | None:
    """Unit direction (2,) from the foot to the dark floor beside the object, None where there is too little of it.

    Floor is what lies below the horizon; a shadow is darker than the floor, touches the object, and is one piece.
    """
    h, w = mask.shape
    light = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), h / 64).astype(float)
    below = (np.dstack(np.meshgrid(np.arange(w), np.arange(h))) @ horizon[:2] + horizon[2]) * np.sign(horizon[1]) > 0
    near = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))).astype(bool)  # the outline itself is neither
    floor = below & ~near
    if not floor.any():
        return None
    dark = floor & (light < DARK * np.median(light[floor]))
    pieces = cv2.connectedComponents((dark | near).astype(np.uint8))[1]
    shadow = dark & (pieces == pieces[mask][0])
    if shadow.mean() < LEAST:
        return None
    y, x = np.nonzero(shadow)
    way = np.array([x.mean(), y.mean()]) - foot
    return way / np.linalg.norm(way)
