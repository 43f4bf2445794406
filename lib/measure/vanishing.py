"""Line segments and vanishing points of one image; no camera is needed, no right angle assumed.

    lines = segments(image)                            # (n, 4) pixels, centres at whole numbers
    result = vanishing_points(lines, image.shape[:2])  # .points (k, 3) homogeneous, .assignment (n,)
    orthogonal(result)                                 # the three at right angles, if there are any

Written by hand: packages for this assume right angles, need a known camera, or want another OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import cv2
import numpy as np
from scipy.special import betainc

SHARP = 192  # pixels: longer sides below it are enlarged for the detector, up to half as much again
FEWEST = 10  # segments below which nothing is measured
PAIRS = 400  # candidate points from pairs of segments, for each vanishing point
LONGEST = 150  # segments that rank the candidates: short ones cost time and say little
CLOSE = 0.7  # pixels by which the ends of an explained segment may miss its point ...
NARROW, WIDE = np.sin(np.radians([0.8, 6.0]))  # ... between these two angles
HALO = 2.0  # angles around a point in which no other is sought: copies of it grow from there
MAX_LOG_NFA = -2.0  # log10 of false points expected in an image of random directions, at most
NOISE = 0.2  # pixels by which the detector misplaces an edge
FOCALS = np.geomspace(0.4, 4, 80)  # in longer sides: from 100 degrees of view to 14
RIGHT = 3.0  # degrees from a right angle that count as one


class GeometryError(ValueError):
    """Input that the geometry cannot measure."""


def to_pixels(size: tuple[int, int]) -> np.ndarray:
    """The matrix (3, 3) to pixels from frame coordinates: longer side one, origin in the middle."""
    side = max(size)
    return np.array([[side, 0, (size[1] - 1) / 2], [0, side, (size[0] - 1) / 2], [0, 0, 1.0]])


def unit(vectors: np.ndarray) -> np.ndarray:
    """The rows, each of length one."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def frame(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Homogeneous pixels (k, 3) in frame coordinates, of length one."""
    return unit(np.reshape(points, (-1, 3)) @ np.linalg.inv(to_pixels(size)).T)


@dataclass(frozen=True)
class VanishingPoints:
    """Points (k, 3) in pixels, most supported first; for each segment (m, 4) its point's row, or -1."""

    points: np.ndarray
    assignment: np.ndarray
    segments: np.ndarray
    size: tuple[int, int]

    @property
    def abstained(self) -> bool:
        """Whether there are too few segments to measure anything."""
        return len(self.segments) < FEWEST

    @property
    def support(self) -> np.ndarray:
        """Length (k,) in pixels of all segments that run to each point."""
        length = np.hypot(*(self.segments[:, 2:] - self.segments[:, :2]).T)
        return np.array([length[self.assignment == k].sum() for k in range(len(self.points))])


def grey(image: np.ndarray) -> np.ndarray:
    """An image as uint8 (h, w): from grey, RGB or RGBA, bytes or floats from 0 to 1."""
    image = np.asarray(image)
    shape, kind = image.shape, image.dtype
    if not (image.ndim == 2 or image.ndim == 3 and shape[2] in (1, 3, 4)) or 0 in shape:
        raise GeometryError(f"an image of shape {shape}: expected (h, w), (h, w, 1), (h, w, 3) or "
                            "(h, w, 4); measure the images of a batch one by one")
    if np.issubdtype(kind, np.floating):
        if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
            raise GeometryError("floats from 0 to 1 are expected; divide by 255, or pass uint8")
        image = np.round(255 * image).astype(np.uint8)
    elif kind != np.uint8:
        raise GeometryError(f"an image of {kind}: expected uint8, or floats from 0 to 1")
    if image.ndim == 3 and shape[2] > 1:
        return cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_RGB2GRAY)
    return np.ascontiguousarray(image.reshape(shape[:2]))


def segments(image: np.ndarray) -> np.ndarray:
    """Line segments (n, 4) as u0, v0, u1, v1 in pixels by LSD, the darker side always on the same hand.

    LSD smooths by resizing: its own 0.8 takes the noise from a large image, but a small one has no pixel
    to lose. It then divides by that scale alone, where u -> (u + 1/2)/scale - 1/2 is right.
    """
    pixels = grey(image)
    scale = min(max(SHARP / max(pixels.shape), 0.8), 1.5)
    lines = cv2.createLineSegmentDetector(cv2.LSD_REFINE_STD, scale).detect(pixels)[0]
    return as_segments(lines) + (1 / scale - 1) / 2


def as_segments(lines: np.ndarray | None) -> np.ndarray:
    """Segments (n, 4) float64 from what any OpenCV returns: None, (n, 4) or (n, 1, 4)."""
    lines = np.zeros((0, 4)) if lines is None else np.asarray(lines, np.float64)
    if lines.size % 4 or lines.shape[-1] != 4 or not np.isfinite(lines).all():
        raise GeometryError(f"segments of shape {lines.shape}: expected finite rows of u0, v0, u1, v1")
    return lines.reshape(-1, 4)


def vanishing_points(lines: np.ndarray, size: int | tuple[int, int], n: int = 6, seed: int = 0,
                     max_log_nfa: float = MAX_LOG_NFA) -> VanishingPoints:
    """Up to n vanishing points, one after the other while they are significant, then refined together.

    With `max_log_nfa=inf` all n come back that three segments agree on, as in a null measurement.
    """
    lines = as_segments(lines)
    size = (size, size) if np.isscalar(size) else (int(size[0]), int(size[1]))
    if n < 1 or min(size) < 1:
        raise GeometryError(f"n={n} points in an image of {size}; ask for one or more, in (height, width)")
    rng, rays, points = np.random.default_rng(seed), Rays.of(lines, size), []
    free = rays.length > 0 if len(lines) >= FEWEST else np.zeros(len(lines), bool)
    while len(points) < n and (point := best(rays.take(free), rng, max_log_nfa)) is not None:
        points.append(point)
        free &= rays.miss(point[None])[0] >= HALO * rays.slack
    if not points:
        return VanishingPoints(np.zeros((0, 3)), np.full(len(lines), -1), lines, size)
    points, assignment = together(rays, np.stack(points))
    return VanishingPoints(unit(points @ to_pixels(size).T), assignment, lines, size)


def orthogonal(result: VanishingPoints, focal: float | None = None) -> VanishingPoints | None:
    """The three points with most support that lie at right angles for one focal length, in pixels:
    the given one, or any usual one; None where no three do."""
    focals = FOCALS if focal is None else np.array([focal / max(result.size)])
    rays = unit(frame(result.points, result.size) * np.stack([focals**0, focals**0, focals], 1)[:, None])
    off = np.degrees(np.arcsin(np.abs(rays @ rays.transpose(0, 2, 1)).clip(0, 1)))  # (focals, k, k)
    for rows in sorted(combinations(range(len(result.points)), 3),
                       key=lambda rows: -result.support[list(rows)].sum()):
        if off[:, rows, np.roll(rows, 1)].max(axis=1).min() < RIGHT:
            rank = np.full(len(result.points) + 1, -1)
            rank[list(rows)] = range(3)
            return replace(result, points=result.points[list(rows)], assignment=rank[result.assignment])
    return None


@dataclass(frozen=True)
class Rays:
    """Segments in frame coordinates: middle, direction, line; length in pixels; sine that counts as none."""

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
        slack = np.clip(CLOSE / np.maximum(length, 1e-9), NARROW, WIDE)
        return cls(middle, along, line, length, slack, max(size))

    def take(self, rows: np.ndarray) -> Rays:
        """Some of the segments."""
        arrays = (self.middle, self.along, self.line, self.length, self.slack)
        return Rays(*(array[rows] for array in arrays), self.side)

    def reach(self, points: np.ndarray) -> np.ndarray:
        """|v - w m| (k, m): turns line . v into the sine of the angle; far more than the frame at infinity."""
        x, y, w = (points[:, i, None] for i in range(3))
        u, v = self.middle.T
        return np.sqrt((x - w * u) ** 2 + (y - w * v) ** 2)

    def miss(self, points: np.ndarray) -> np.ndarray:
        """Sine (k, m) of the angle between each segment and its way to each point.

        1 for a point within a length of its middle: that is a corner, not where lines vanish.
        """
        reach = self.reach(points)
        upon = reach <= np.abs(points[:, 2:]) * self.length / self.side
        return np.where(upon, 1.0, np.abs(points @ self.line.T) / np.where(upon, 1.0, reach))


def best(rays: Rays, rng: np.random.Generator, max_log_nfa: float) -> np.ndarray | None:
    """The meeting point (3,) of two segments that explains most length, refined; None if insignificant."""
    if len(rays.length) < 3:
        return None
    share = rays.length / rays.length.sum()
    first, second = rng.choice(len(share), (2, PAIRS), p=share)
    points = np.cross(rays.line[first], rays.line[second])
    points = unit(points[np.linalg.norm(points, axis=1) > 1e-9])
    for part, kept in ((rays.take(np.argsort(-rays.length)[:LONGEST]), 40), (rays, 1)):
        worth = np.maximum(0, 1 - (part.miss(points) / part.slack) ** 2) @ np.sqrt(part.length)
        points = points[np.argsort(-worth)[:kept]]
    if not len(points):
        return None
    point = refine(rays, points[0])
    near = rays.miss(point[None])[0] < rays.slack
    return point if near.sum() > 2 and log_nfa(rays, point, near) <= max_log_nfa else None


def log_nfa(rays: Rays, point: np.ndarray, near: np.ndarray) -> float:
    """log10 of the points this good that chance would make of so many segments of random direction.

    A contrario, at the most telling precision: a random segment is within an angle a of the point with
    probability 2a/pi. The nearest segment is no evidence, since points are fitted. Measured on random
    segments: a point in every tenth image.
    """
    angles = np.sort(np.arcsin(rays.miss(point[None])[0][near]))[1:] * 2 / np.pi
    m, k = len(rays.length) - 1, np.arange(1, len(angles) + 1)
    tests = min(PAIRS, (m + 1) * m / 2)
    return float(np.log10(tests * np.maximum(betainc(k, m - k + 1, angles), 1e-300)).min())


def refine(rays: Rays, point: np.ndarray, rounds: int = 5) -> np.ndarray:
    """The point (3,) with the least squared misses of the segments' ends in pixels, far ones counting less."""
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
    """Points refined on the segments nearest to each, most supported first, and those segments' rows."""
    for k in range(rounds):
        off = rays.miss(points) / rays.slack
        owner = np.where(off.min(axis=0) < 1, off.argmin(axis=0), -1)
        if k < rounds - 1:
            points = np.stack([refine(rays.take(owner == i), p, 2) for i, p in enumerate(points)])
    length = np.array([rays.length[owner == i].sum() for i in range(len(points))])
    order = np.argsort(-length, kind="stable")
    return points[order], np.append(np.argsort(order), -1)[owner]
