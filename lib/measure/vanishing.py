"""Line segments and vanishing points of one picture; no camera is needed and no right angle between them is assumed.

    lines = vanishing.segments(image)                            # (n, 4) pixels, centres at whole numbers
    found = vanishing.vanishing_points(lines, image.shape[:2])   # .points (k, 3) homogeneous, .assignment (n,)

Written by hand: packages for this assume a Manhattan world, need a known camera, or want another OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SHARP = 192  # side in pixels below which pictures are not made smaller to find their lines
FEWEST = 10  # segments below which nothing is said
LEAST = 3  # segments that a vanishing point must explain
PAIRS = 400  # candidate points drawn for each vanishing point
CLOSE = 0.7  # pixels by which the ends of an explained segment may miss its point, between these two angles
NARROW, WIDE = np.sin(np.radians([0.8, 6.0]))
NOISE = 0.2  # pixels by which the detector misplaces an edge


class GeometryError(ValueError):
    """What was asked of the geometry cannot be answered."""


@dataclass(frozen=True)
class Found:
    """Vanishing points (k, 3), k <= n, most supported first; for each segment (m, 4) its point's row, or -1."""

    points: np.ndarray
    assignment: np.ndarray
    segments: np.ndarray
    size: tuple[int, int]

    @property
    def abstained(self) -> bool:
        """Whether there were too few segments to say anything."""
        return len(self.segments) < FEWEST

    @property
    def support(self) -> np.ndarray:
        """Length (k,) in pixels of all segments that run to each point."""
        length = np.hypot(*(self.segments[:, 2:] - self.segments[:, :2]).T)
        return np.array([length[self.assignment == k].sum() for k in range(len(self.points))])


def grey(image: np.ndarray) -> np.ndarray:
    """A picture as uint8 (h, w): from grey, RGB or RGBA (alpha is ignored), bytes or floats from 0 to 1."""
    image = np.asarray(image)
    shape, kind = image.shape, image.dtype
    if not (image.ndim == 2 or image.ndim == 3 and shape[2] in (1, 3, 4)) or 0 in shape:
        raise GeometryError(f"a picture of shape {shape}: expected (h, w), (h, w, 1), (h, w, 3) or (h, w, 4); "
                            "measure the images of a batch one by one")
    if np.issubdtype(kind, np.floating):
        if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
            raise GeometryError("floats from 0 to 1 are expected of a float picture; divide by 255, or clip, or pass uint8")
        image = np.round(255 * image).astype(np.uint8)
    elif kind != np.uint8:
        raise GeometryError(f"a picture of {kind}: expected uint8, or floats from 0 to 1")
    if image.ndim == 3 and shape[2] > 1:
        return cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_RGB2GRAY)
    return np.ascontiguousarray(image.reshape(shape[:2]))


def segments(image: np.ndarray) -> np.ndarray:
    """Line segments (n, 4) as u0, v0, u1, v1 in pixels by LSD, the darker side always on the same hand.

    LSD smooths by resizing: its own 0.8 takes the noise from a large picture, but a small one has no pixel to lose.
    It then divides by that scale alone, where u -> (u + 1/2)/scale - 1/2 is right, so that 1/8 pixel is missing.
    """
    pixels = grey(image)
    scale = min(max(SHARP / max(pixels.shape), 0.8), 1.5)
    found = cv2.createLineSegmentDetector(cv2.LSD_REFINE_STD, scale).detect(pixels)[0]
    return as_segments(found) + (1 / scale - 1) / 2


def as_segments(lines: np.ndarray | None) -> np.ndarray:
    """Segments (n, 4) float64 from what any OpenCV gives: None, (n, 4) or (n, 1, 4)."""
    lines = np.zeros((0, 4)) if lines is None else np.asarray(lines, np.float64)
    if lines.size % 4 or lines.shape[-1] != 4 or not np.isfinite(lines).all():
        raise GeometryError(f"segments of shape {lines.shape}: expected finite (n, 4) rows of u0, v0, u1, v1")
    return lines.reshape(-1, 4)


def vanishing_points(lines: np.ndarray, size: int | tuple[int, int], n: int = 3, seed: int = 0) -> Found:
    """Up to n vanishing points, found one after the other and then refined together."""
    lines, size = as_segments(lines), (size, size) if np.isscalar(size) else (int(size[0]), int(size[1]))
    if n < 1 or min(size) < 1:
        raise GeometryError(f"n={n} points in a picture of {size}; ask for one or more, with size as (height, width)")
    if len(lines) < FEWEST:
        return Found(np.zeros((0, 3)), np.full(len(lines), -1), lines, size)
    rng, rays = np.random.default_rng(seed), Rays.of(lines, size)
    points, free = [], np.ones(len(lines), bool)
    while len(points) < n and (point := best(rays.take(free), rng)) is not None:
        points.append(point)
        free &= rays.miss(point[None])[0] >= rays.slack
    if not points:
        return Found(np.zeros((0, 3)), np.full(len(lines), -1), lines, size)
    points, assignment = together(rays, np.stack(points))
    points = points @ to_pixels(size).T
    return Found(points / np.linalg.norm(points, axis=1, keepdims=True), assignment, lines, size)


@dataclass(frozen=True)
class Rays:
    """Segments in frame coordinates (longer side one, origin in the middle): middle, direction, line; lengths in pixels."""

    middle: np.ndarray
    along: np.ndarray
    line: np.ndarray
    length: np.ndarray
    slack: np.ndarray
    side: int

    @classmethod
    def of(cls, lines: np.ndarray, size: tuple[int, int]) -> Rays:
        """From segments (m, 4) in pixels; one without length points nowhere and supports nothing."""
        ends = lines.reshape(-1, 2, 2)
        step = ends[:, 1] - ends[:, 0]
        length = np.hypot(*step.T)
        along = step / np.maximum(length, 1e-9)[:, None]
        middle = (ends.mean(axis=1) - (np.array(size[::-1]) - 1) / 2) / max(size)
        a, b = -along[:, 1], along[:, 0]
        line = np.stack([a, b, -(a * middle[:, 0] + b * middle[:, 1])], axis=1)
        return cls(middle, along, line, length, np.clip(CLOSE / np.maximum(length, 1e-9), NARROW, WIDE), max(size))

    def take(self, at: np.ndarray) -> Rays:
        """Some of the segments."""
        return Rays(self.middle[at], self.along[at], self.line[at], self.length[at], self.slack[at], self.side)

    def reach(self, points: np.ndarray) -> np.ndarray:
        """|v - w m| (k, m): what turns line . v into the sine of the angle; far more than the frame at infinity."""
        x, y, w = (points[:, i, None] for i in range(3))
        u, v = self.middle.T
        return np.sqrt((x - w * u) ** 2 + (y - w * v) ** 2)

    def miss(self, points: np.ndarray) -> np.ndarray:
        """Sine (k, m) of the angle between each segment and its way to each point; 1 for a point within a length of its middle.

        A point upon a segment or just beyond its end is a corner of something, not where lines vanish.
        """
        reach = self.reach(points)
        upon = reach <= np.abs(points[:, 2:]) * self.length / self.side
        return np.where(upon, 1.0, np.abs(points @ self.line.T) / np.where(upon, 1.0, reach))


def best(rays: Rays, rng: np.random.Generator) -> np.ndarray | None:
    """The meeting point (3,) of a drawn pair that explains most length, refined; None where no three segments agree."""
    if len(rays.length) < LEAST or not rays.length.any():
        return None
    share = rays.length / rays.length.sum()
    first, second = rng.choice(len(share), (2, PAIRS), p=share)
    points = np.cross(rays.line[first], rays.line[second])
    norms = np.linalg.norm(points, axis=1)
    points = points[norms > 1e-9] / norms[norms > 1e-9, None]
    if not len(points):
        return None
    worth = np.maximum(0, 1 - (rays.miss(points) / rays.slack) ** 2) @ np.sqrt(rays.length)
    point = refine(rays, points[worth.argmax()])
    return point if (rays.miss(point[None])[0] < rays.slack).sum() >= LEAST else None


def refine(rays: Rays, point: np.ndarray, rounds: int = 5) -> np.ndarray:
    """The point (3,) with the least squared misses of the segments' ends in pixels, those far off counting less."""
    for _ in range(rounds):
        reach = np.maximum(rays.reach(point[None])[0], 1e-9)
        sine, half = np.abs(rays.line @ point) / reach, rays.length / 2
        weight = half / (1 + (half * sine / NOISE) ** 2) ** 0.5 * (sine < 2 * rays.slack)
        if (weight > 0).sum() < 2:
            return point
        rows = rays.line * (weight / reach)[:, None]
        point = np.linalg.eigh(rows.T @ rows)[1][:, 0]
    return point


def together(rays: Rays, points: np.ndarray, rounds: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Points refined on the segments that are nearest to each, most supported first, and those segments' rows."""
    for k in range(rounds):
        off = rays.miss(points) / rays.slack
        owner = np.where(off.min(axis=0) < 1, off.argmin(axis=0), -1)
        if k < rounds - 1:
            points = np.stack([refine(rays.take(owner == i), point, 2) for i, point in enumerate(points)])
    length = np.array([rays.length[owner == i].sum() for i in range(len(points))])
    order = np.argsort(-length, kind="stable")
    rank = np.append(np.argsort(order), -1)
    return points[order], rank[owner]


def to_pixels(size: tuple[int, int]) -> np.ndarray:
    """The matrix (3, 3) from frame coordinates to pixels."""
    side = max(size)
    return np.array([[side, 0, (size[1] - 1) / 2], [0, side, (size[0] - 1) / 2], [0, 0, 1.0]])
