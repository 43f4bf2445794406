"""The rendered world: ray-cast pictures of ten solids whose class, mask, camera and light are
known.

    scene = world.scene(7)                      # all random draws; the class is 7 % 10
    image, mask = world.render(scene, size=64)  # uint8 (64, 64, 3), bool (64, 64)

One image at a time in float32, so that a picture is bitwise the same in any batch, order or
process.
"""

import functools
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from lib.world import ink, shading, shapes
from lib.world.looks import SHIFTS, STYLES
from lib.world.scenes import CLASSES, Body, Scene, extent, scene

__all__ = ["CLASSES", "SHIFTS", "STYLES", "Scene", "draw_many", "render", "render_many", "scene"]

SKY, FLOOR, WALL, BODY = 0, 1, 2, 8  # what a ray met: walls count up from WALL, bodies from BODY
HORIZON = np.float32(3000)  # floor further away than this is drawn as sky


@dataclass(frozen=True)
class Rays:
    """One ray a sub-pixel: directions (3, n) of depth one, their lengths (n,), and the directions
    (3, k) to the sun.

    With soft shadows k is antialias², and cell (n,) says which one a ray takes; with hard ones cell
    is None.
    """

    d: np.ndarray
    length: np.ndarray
    suns: np.ndarray
    cell: np.ndarray | None
    fine: int


@dataclass(frozen=True)
class Hits:
    """What each ray met first: its code, its face and t, each (n,)."""

    what: np.ndarray
    face: np.ndarray
    t: np.ndarray


def render(scene: Scene, size: int = 64, antialias: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """The picture uint8 (size, size, 3) and the main object's visible mask bool (size, size).

    Every pixel is the mean of antialias x antialias rays, in linear light; the mask holds pixels at
    least half covered.
    """
    view = rays(scene, size, antialias)
    hits = cast(scene, view)
    colour = np.empty_like(view.d)
    for code in range(BODY + len(scene.bodies)):
        at = np.flatnonzero(hits.what == code)
        if at.size:
            for channel, values in zip(colour, shade(scene, view, hits, code, at), strict=True):
                channel[at] = values
    if scene.finish.ink is not None:
        colour = ink.outlined(scene, colour, hits, view.fine)
    image = shading.finish(scene, shrink(colour, size, antialias))
    mask = shrink((hits.what == BODY).astype(np.float32)[None], size, antialias)[0] >= 0.5
    return image, mask


def draw_many(
    seeds: Sequence[int],
    style: str = "photo",
    size: int = 64,
    antialias: int = 2,
    pool: Executor | None = None,
) -> tuple[list[Scene], np.ndarray, np.ndarray]:
    """Scenes, images uint8 (n, size, size, 3) and masks bool (n, size, size).

    The processes of `pool` render them side by side; the result is the same.
    """
    jobs = [(int(seed), style, size, antialias) for seed in seeds]
    chunk = max(1, min(64, len(jobs) // 8))
    apply = map if pool is None else functools.partial(pool.map, chunksize=chunk)
    scenes = []
    images = np.empty((len(jobs), size, size, 3), np.uint8)
    masks = np.empty((len(jobs), size, size), bool)
    for i, (drawn_scene, image, mask) in enumerate(apply(draw_one, jobs)):
        scenes.append(drawn_scene)
        images[i], masks[i] = image, mask
    return scenes, images, masks


def render_many(
    seeds: Sequence[int],
    style: str = "photo",
    size: int = 64,
    antialias: int = 2,
    pool: Executor | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks of `draw_many`."""
    return draw_many(seeds, style, size, antialias, pool)[1:]


def draw_one(job: tuple[int, str, int, int]) -> tuple[Scene, np.ndarray, np.ndarray]:
    """A job of `draw_many`: (seed, style, size, antialias)."""
    seed, style, size, antialias = job
    drawn = scene(seed, style)
    return drawn, *render(drawn, size, antialias)


def rays(scene: Scene, size: int, antialias: int) -> Rays:
    """The rays of a size x size image, antialias x antialias evenly spread in each pixel."""
    fine = size * antialias
    step = sub_pixels(fine) / np.float32(scene.focal)
    right, down, ahead = scene.R.astype(np.float32)[:, :, None, None]
    d = (right * step + (down * step[:, None] + ahead)).reshape(3, -1)
    square = step * step
    length = np.sqrt(square + (square[:, None] + 1)).ravel()
    suns = shading.suns(scene, antialias)
    return Rays(d, length, suns, cells(fine, antialias) if suns.shape[1] > 1 else None, fine)


def sub_pixels(fine: int) -> np.ndarray:
    """Centres (fine,) of equal steps across the frame, measured from its middle."""
    return (np.arange(fine, dtype=np.float32) + np.float32(0.5)) / np.float32(fine) - np.float32(
        0.5
    )


@functools.lru_cache(maxsize=4)
def cells(fine: int, antialias: int) -> np.ndarray:
    """Which of its pixel's antialias² cells each sub-pixel is, int8 (fine²,)."""
    at = np.arange(fine) % antialias
    return (at[:, None] * antialias + at).ravel().astype(np.int8)


def cast(scene: Scene, view: Rays) -> Hits:
    """Nearest hits of all rays: floor, then walls, then bodies."""
    eye, d = scene.eye.astype(np.float32), view.d
    t = np.minimum(eye[2] / np.maximum(-d[2], np.float32(1e-6)), shapes.FAR)
    what = (t < HORIZON).astype(np.int8)
    face = np.zeros_like(what)
    for k, wall in enumerate(scene.walls):
        side = np.float32(np.sign(wall.offset))
        ahead = np.maximum(side * d[wall.axis], np.float32(1e-6))
        reach = (np.float32(abs(wall.offset)) - side * eye[wall.axis]) / ahead
        met = (reach < t) & (reach * d[2] < np.float32(wall.height) - eye[2])
        np.copyto(t, reach, where=met)
        np.copyto(what, np.int8(WALL + k), where=met)
    hits = Hits(what, face, t)
    for k, body in enumerate(scene.bodies):
        cast_body(scene, body, BODY + k, view, hits)
    return hits


def cast_body(scene: Scene, body: Body, code: int, view: Rays, hits: Hits) -> None:
    """Write a body's hits over what lies behind them, in place."""
    low, high = extent(body, scene.R, scene.focal, scene.eye)
    slack = 0.03 * (high - low)
    x0, y0 = np.floor((low - slack) * view.fine).clip(0, view.fine).astype(int)
    x1, y1 = np.ceil((high + slack) * view.fine).clip(0, view.fine).astype(int)
    if x0 == x1 or y0 == y1:
        return
    at = np.s_[y0:y1, x0:x1]
    t, what, face = (a.reshape(view.fine, view.fine)[at] for a in (hits.t, hits.what, hits.face))
    turn = body.turn.T.astype(np.float32)
    start = (body.turn.T @ (scene.eye - body.centre)).astype(np.float32)[:, None]
    ahead = turn @ view.d.reshape(3, view.fine, view.fine)[:, y0:y1, x0:x1].reshape(3, -1)
    reach, met_face = (a.reshape(t.shape) for a in shapes.trace(body.solid, start, ahead))
    won = reach < t
    np.copyto(what, np.int8(code), where=won)
    np.copyto(face, met_face, where=won)
    np.minimum(t, reach, out=t)


def shade(scene: Scene, view: Rays, hits: Hits, code: int, at: np.ndarray) -> np.ndarray:
    """Linear colour (3, n) of the rays `at`, which all met the same thing."""
    d = shapes.gather(view.d, at)
    length = view.length.take(at, mode="clip")
    if code == SKY:
        return shading.sky(scene, d, length)
    t = hits.t.take(at, mode="clip")
    point = scene.eye.astype(np.float32)[:, None] + t * d
    cell = None if view.cell is None else view.cell.take(at)
    if code < BODY:
        surface = scene.floor if code == FLOOR else scene.walls[code - WALL]
        return shading.surface(scene, surface, point, d, length, t, view.suns, cell)
    return shading.body(scene, code - BODY, point, d, length, hits.face.take(at), view.suns, cell)


def shrink(fine: np.ndarray, size: int, antialias: int) -> np.ndarray:
    """Block means (c, size, size) of sub-pixels (c, n)."""
    blocks = fine.reshape(-1, size, antialias, size, antialias)
    rows = sum(blocks[:, :, k] for k in range(antialias))
    return sum(rows[..., k] for k in range(antialias)) * np.float32(1 / antialias**2)
