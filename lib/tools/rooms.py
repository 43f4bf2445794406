"""Rooms, corridors and wire frames of exactly known vanishing points: kinds of scenes on which no
constant of the estimator was tuned."""

from __future__ import annotations

import cv2
import numpy as np

from lib.tools.streets import Street, camera

KINDS = ("room", "corridor", "wireframe")
FINE, NEAR = 3, 0.1  # pixels a side that are averaged into one; metres before the camera cut off


def room(kind: str, seed: int, size: tuple[int, int] = (480, 640)) -> Street:
    """The scene of a kind and seed at size (height, width), its level directions and zenith."""
    rng = np.random.default_rng([seed, KINDS.index(kind), 47])
    K, R, _ = camera(rng, size)
    half = rng.uniform((2, 1.3, 2), (4, 1.8, 4))
    if kind == "corridor":
        turn = rng.normal(0, 0.3) - np.arctan2(R[0, 2], R[2, 2])  # looks along it
        half, R = half * (0.6, 0.9, 3), R @ cv2.Rodrigues(np.array([0, turn, 0]))[0]
    shift = -rng.uniform(-0.5, 0.5, 3) * half * (1, 0.3, 0.3) @ R.T
    if kind == "wireframe":  # a frame seen from outside by a camera that is held in any way
        R, shift = np.linalg.qr(rng.normal(size=(3, 3)))[0], np.array([0, 0, rng.uniform(6, 9)])
    image = np.full((FINE * size[0], FINE * size[1], 3), rng.uniform(140, 230, 3))
    for quad in quads(kind, half, rng):
        draw(image, quad @ R.T + shift, K, rng, filled=kind != "wireframe")
    image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    image = cv2.GaussianBlur(image, (0, 0), 0.6) + rng.normal(0, rng.uniform(1, 5), image.shape)
    return Street(image.clip(0, 255).astype(np.uint8), K, R[:, [0, 2]].T, -R[:, 1])


def quads(kind: str, half: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Rectangles (4, 3) of a box: faces cut into tiles, and doors, pictures or lamps on them."""
    pieces = []
    for axis in range(3):
        for side in (-1, 1):
            u, v = (np.eye(3)[i] * half[i] for i in range(3) if i != axis)
            middle, cells = np.eye(3)[axis] * side * half[axis], rng.integers(2, 7, 2)
            for i, j in np.ndindex(*cells):
                at = (2 * np.array([i, j]) + 1) / cells - 1
                centre = middle + at[0] * u + at[1] * v
                for part in (1.0, rng.uniform(0.3, 0.8))[:1 + (rng.random() < 0.6)]:
                    a, b = u / cells[0] * part, v / cells[1] * part
                    pieces.append(centre + np.array([-a - b, a - b, a + b, b - a]))
    return pieces


def draw(image: np.ndarray, quad: np.ndarray, K: np.ndarray, rng: np.random.Generator,
         filled: bool) -> None:
    """A rectangle (4, 3) in the camera's axes, as far as it lies in front: filled, with its edges.
    """
    colour = tuple(rng.uniform(60, 220) * rng.uniform(0.85, 1.0, 3))
    corners = []
    for a, b in zip(quad, np.roll(quad, -1, axis=0), strict=True):
        ahead = a[2] > NEAR, b[2] > NEAR
        corners += [a] if ahead[0] else []
        corners += [a + (b - a) * (NEAR - a[2]) / (b[2] - a[2])] if ahead[0] != ahead[1] else []
    if len(corners) < 3:
        return
    places = np.array(corners) @ K.T
    places = (places[:, :2] / places[:, 2:] + 0.5) * FINE - 0.5
    places = np.round(16 * places.clip(-5e4, 5e4)).astype(np.int32)
    if filled:
        cv2.fillConvexPoly(image, places, colour, cv2.LINE_AA, 4)
    dark = tuple(0.6 * value for value in colour)
    cv2.polylines(image, [places], True, dark, FINE, cv2.LINE_AA, 4)
