"""Line segments and vanishing points of one image; no camera is needed, no right angle assumed.

    lines = segments(image)                            # (n, 4) pixels, centres at whole numbers
    result = vanishing_points(lines, image.shape[:2])  # .points (k, 3), .assignment (n,)
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
LARGE = 416  # pixels: longer sides above it are reduced to it, by 0.6 at most, below it by 0.8
FEWEST = 10  # segments below which nothing is measured
PAIRS = 400  # candidate points from pairs of segments, for each vanishing point
LONGEST = 150  # segments that rank the candidates: short ones cost time and say little
CLOSE = 0.7  # pixels by which the ends of an explained segment may miss its point ...
NARROW, WIDE = np.sin(np.radians([0.8, 6.0]))  # ... between these two angles
HALO = 2.0  # angles around a point in which no other is sought: copies of it grow from there
MAX_LOG_NFA = -2.0  # log10 of false points expected in an image of random directions, at most
TINY, SMALL = 128, 340  # longer sides below which three points come back, significant or not:
UNTESTED, UNEXPLAINED = 3, (1 / 3, 5 / 6)  # always; or while this much length is unexplained
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
    """Points (k, 3) in pixels, most supported first; each segment's (m, 4) point's row, or -1."""

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


def segments(image: np.ndarray, scale: float | None = None) -> np.ndarray:
    """Line segments (n, 4) as u0, v0, u1, v1 in pixels by LSD, the darker side always on the same
    hand.

    LSD smooths by resizing, which takes the noise and half of the time from a large image, but a
    small one has no pixel to lose; `scale` overrides that. It then divides by the scale alone,
    where u -> (u + 1/2)/scale - 1/2 is right.
    """
    pixels = grey(image)
    side = max(pixels.shape)
    scale = scale or float(np.clip(LARGE / side, 0.6, max(0.8, min(SHARP / side, 1.5))))
    lines = cv2.createLineSegmentDetector(cv2.LSD_REFINE_STD, scale).detect(pixels)[0]
    return as_segments(lines) + (1 / scale - 1) / 2


def as_segments(lines: np.ndarray | None) -> np.ndarray:
    """Segments (n, 4) float64 from what any OpenCV returns: None, (n, 4) or (n, 1, 4)."""
    lines = np.zeros((0, 4)) if lines is None else np.asarray(lines, np.float64)
    if lines.size % 4 or lines.shape[-1] != 4 or not np.isfinite(lines).all():
        raise GeometryError(f"segments of shape {lines.shape}: "
                            "expected finite rows of u0, v0, u1, v1")
    return lines.reshape(-1, 4)


def vanishing_points(lines: np.ndarray, size: int | tuple[int, int], n: int = 6, seed: int = 0,
                     max_log_nfa: float = MAX_LOG_NFA, halo: float | None = None
                     ) -> VanishingPoints:
    """Up to n vanishing points, one after the other while they are significant, then refined
    together; a small image may keep insignificant ones, see `limit`.

    With `max_log_nfa=inf` all n come back that three segments agree on, as in a null measurement.
    The `halo` is 1 in tiny images, where short segments have wide angles already.
    """
    lines = as_segments(lines)
    size = (size, size) if np.isscalar(size) else (int(size[0]), int(size[1]))
    if n < 1 or min(size) < 1:
        raise GeometryError(f"n={n} points in an image of {size}; "
                            "ask for one or more, in (height, width)")
    rng, rays, points = np.random.default_rng(seed), Rays.of(lines, size), []
    halo = halo or (HALO if rays.side >= TINY else 1.0)
    free = (rays.length > 0) & (len(lines) >= FEWEST)
    while len(points) < n:
        share = rays.length[free].sum() / max(rays.length.sum(), 1e-9)
        point = best(rays.take(free), rng, max(max_log_nfa, limit(rays.side, len(points), share)))
        if point is None:
            break
        points.append(point)
        free &= rays.sines(point[None])[0] >= halo * rays.slack
    if not points:
        return VanishingPoints(np.zeros((0, 3)), np.full(len(lines), -1), lines, size)
    points, assignment = together(rays, np.stack(points))
    return VanishingPoints(unit(points @ to_pixels(size).T), assignment, lines, size)


def limit(side: int, count: int, unexplained: float) -> float:
    """The log NFA up to which an image of this side that has `count` points keeps another.

    The segments of small images are too short and few for evidence, and dropping all that chance
    could explain would lose up to half of the directions. Chance explains an eighth of the length.
    """
    few = count < UNTESTED and UNEXPLAINED[0] < unexplained < UNEXPLAINED[1] and side < SMALL
    return np.inf if few or side < TINY and count < UNTESTED else -np.inf


def orthogonal(result: VanishingPoints, focal: float | None = None) -> VanishingPoints | None:
    """The three points with most support that lie at right angles for one focal length, in pixels:
    the given one, or any usual one; None where no three do."""
    focals = FOCALS if focal is None else np.array([focal / max(result.size)])
    scale = np.stack([focals**0, focals**0, focals], axis=1)
    rays = unit(frame(result.points, result.size) * scale[:, None])
    off = np.degrees(np.arcsin(np.abs(rays @ rays.transpose(0, 2, 1)).clip(0, 1)))
    for rows in sorted(combinations(range(len(result.points)), 3),
                       key=lambda rows: -result.support[list(rows)].sum()):
        if off[:, rows, np.roll(rows, 1)].max(axis=1).min() < RIGHT:  # (focals, k, k)
            rank = np.full(len(result.points) + 1, -1)
            rank[list(rows)] = range(3)
            return replace(result, points=result.points[list(rows)],
                           assignment=rank[result.assignment])
    return None


@dataclass(frozen=True)
class Rays:
    """Segments in frame coordinates: lines (m, 3), the moments (m, 4) of their middles, length in
    pixels; the sine below which a segment runs to a point."""

    line: np.ndarray
    moments: np.ndarray
    length: np.ndarray
    slack: np.ndarray
    side: int

    @classmethod
    def of(cls, lines: np.ndarray, size: tuple[int, int]) -> Rays:
        """From segments (m, 4) in pixels; one without length points nowhere, supports nothing."""
        ends = lines.reshape(-1, 2, 2)
        step = ends[:, 1] - ends[:, 0]
        length = np.hypot(*step.T)
        a, b = (step[:, ::-1] * (-1, 1) / np.maximum(length, 1e-9)[:, None]).T
        u, v = ((ends.mean(axis=1) - (np.array(size[::-1]) - 1) / 2) / max(size)).T
        slack = np.clip(CLOSE / np.maximum(length, 1e-9), NARROW, WIDE)
        moments = np.stack([u**0, u, v, u**2 + v**2], axis=1)
        return cls(np.stack([a, b, -(a * u + b * v)], axis=1), moments, length, slack, max(size))

    def take(self, rows: np.ndarray) -> Rays:
        """Some of the segments."""
        arrays = (self.line, self.moments, self.length, self.slack)
        return Rays(*(array[rows] for array in arrays), self.side)

    def reach_squared(self, points: np.ndarray) -> np.ndarray:
        """|v - w m|^2 (k, m) from each segment's middle m to each point (v, w): (line . point)^2
        over it is the squared sine of the angle between them; huge at infinity."""
        x, y, w = points.T
        powers = np.array([x * x + y * y, -2 * w * x, -2 * w * y, w * w])
        return np.maximum(powers.T @ self.moments.T, 1e-18)

    def sines_squared(self, points: np.ndarray) -> np.ndarray:
        """Squared sine (k, m) of the angle between each segment and its way to each point.

        1 for a point within a length of its middle: that is a corner, not where lines vanish.
        """
        reach, squares = self.reach_squared(points), points @ self.line.T
        squares *= squares
        squares /= reach
        np.copyto(squares, 1, where=reach <= points[:, 2:] ** 2 * (self.length / self.side) ** 2)
        return squares

    def sines(self, points: np.ndarray) -> np.ndarray:
        """The sines (k, m) themselves."""
        return np.sqrt(self.sines_squared(points))


def best(rays: Rays, rng: np.random.Generator, max_log_nfa: float) -> np.ndarray | None:
    """The meeting point (3,) of two segments that explains most length, refined; None if
    insignificant."""
    if len(rays.length) < 3:
        return None
    first, second = rng.choice(len(rays.length), (2, PAIRS), p=rays.length / rays.length.sum())
    points = np.cross(rays.line[first], rays.line[second])
    points = unit(points[np.linalg.norm(points, axis=1) > 1e-9])
    longest = rays.take(np.argsort(-rays.length)[:LONGEST])
    for part, kept in ((longest, 40), (rays, 1)):
        misses = part.sines_squared(points)
        misses /= part.slack**2
        worth = (1 - np.minimum(misses, 1, out=misses)) @ np.sqrt(part.length)
        points = points[np.argsort(-worth)[:kept]]
    if not len(points):
        return None
    point = refine(rays, points, 5)
    sines = rays.sines(point)[0]
    near = np.sort(sines[sines < rays.slack])
    significant = len(near) > 2 and log_nfa(near, len(sines)) <= max_log_nfa
    return point[0] if significant else None


def log_nfa(sines: np.ndarray, m: int) -> float:
    """log10 of the points this good that chance would make of m segments of random direction.

    A contrario, at the most telling precision: a random segment is within an angle a of the point
    with probability 2a/pi. The nearest segment is no evidence, since points are fitted. Measured on
    random segments: a point in every fifth image.
    """
    angles, k = np.arcsin(sines[1:]) * 2 / np.pi, np.arange(1, len(sines))
    tests = min(PAIRS, m * (m - 1) / 2)
    return float(np.log10(tests * np.maximum(betainc(k, m - k, angles), 1e-300)).min())


def refine(rays: Rays, points: np.ndarray, rounds: int, own: np.ndarray | bool = True
           ) -> np.ndarray:
    """Points (k, 3) with the least squared misses of the ends of their `own` segments (k, m) in
    pixels, far ones counting less."""
    half, outer = rays.length / 2, (rays.line[:, :, None] * rays.line[:, None]).reshape(-1, 9)
    for _ in range(rounds):
        reach = rays.reach_squared(points)
        squares = (points @ rays.line.T) ** 2 / reach
        weight = half**2 / (1 + (half / NOISE) ** 2 * squares)
        weight *= own & (squares < 4 * rays.slack**2)
        fitted = np.linalg.eigh(((weight / reach) @ outer).reshape(-1, 3, 3))[1][:, :, 0]
        points = np.where((weight > 0).sum(axis=1, keepdims=True) > 1, fitted, points)
    return points


def together(rays: Rays, points: np.ndarray, rounds: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Points refined on the segments nearest to each, most supported first; the segments' rows."""
    rows = np.arange(len(points))[:, None]
    for k in range(rounds):
        off = rays.sines(points) / rays.slack
        owner = np.where(off.min(axis=0) < 1, off.argmin(axis=0), -1)
        if k < rounds - 1:
            points = refine(rays, points, 2, owner == rows)
    length = (owner == rows) @ rays.length
    order = np.argsort(-length, kind="stable")
    return points[order], np.append(np.argsort(order), -1)[owner]
