"""Cast shadows against a known light: only where outline, camera and light are known.

The truth needs no depth: a floor point that moves along the ground moves in the image along its
heading towards that direction's vanishing point (`lib.data.truth`).
"""

from __future__ import annotations

import cv2
import numpy as np

from lib.data import truth
from lib.data.imageset import ImageSet

MAX_BRIGHTNESS = 0.65  # of the floor's usual brightness, for a pixel to be shadow
MIN_SHARE = 0.004  # of the image that a shadow must cover to be measured


def errors(part: ImageSet) -> np.ndarray:
    """Angle (n,) in degrees between each image's visible cast shadow and the truth, or nan."""
    columns = [np.array(part.columns[name], float) for name in ("K", "R", "light", "horizon")]
    return np.array([error(*row) for row in zip(part.images, part.masks(), *columns, strict=True)])


def error(image: np.ndarray, mask: np.ndarray, K: np.ndarray, R: np.ndarray, light: np.ndarray,
          horizon: np.ndarray) -> float:
    """Degrees for one image (h, w, 3) with its object's mask (h, w)."""
    foot = standing(mask)
    visible = cast(image, mask, foot, horizon)
    if visible is None:
        return float("nan")
    expected = truth.heading(truth.shadow(K.reshape(3, 3), R.reshape(3, 3), light), foot)
    return float(np.degrees(np.arccos(np.clip(visible @ expected, -1, 1))))


def standing(mask: np.ndarray) -> np.ndarray:
    """The pixel (x, y) at which an object stands: the middle of the lowest tenth of its outline."""
    y, x = np.nonzero(mask)
    low = y >= np.quantile(y, 0.9)
    return np.array([x[low].mean(), y[low].mean()])


def cast(image: np.ndarray, mask: np.ndarray, foot: np.ndarray,
         horizon: np.ndarray) -> np.ndarray | None:
    """Unit direction (2,) from the foot to the dark floor beside the object; None if too little.

    Floor is what lies below the horizon; a shadow is darker than it, touches the object, and is one
    piece.
    """
    h, w = mask.shape
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    brightness = cv2.GaussianBlur(grey, (0, 0), h / 64).astype(float)
    height = np.dstack(np.meshgrid(np.arange(w), np.arange(h))) @ horizon[:2] + horizon[2]
    near = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))).astype(bool)
    floor = (height * np.sign(horizon[1]) > 0) & ~near  # the outline itself is neither
    if not floor.any():
        return None
    dark = floor & (brightness < MAX_BRIGHTNESS * np.median(brightness[floor]))
    pieces = cv2.connectedComponents((dark | near).astype(np.uint8))[1]
    shadow = dark & (pieces == pieces[mask][0])
    if shadow.mean() < MIN_SHARE:
        return None
    y, x = np.nonzero(shadow)
    step = np.array([x.mean(), y.mean()]) - foot
    return step / np.linalg.norm(step)
