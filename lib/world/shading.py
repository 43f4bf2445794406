"""Colour of what a ray met: paint, sun, shadow, sky, highlights, and what the camera adds.

Points and directions are float32 (3, n) in the world's frame; colours are linear light (3, n).
"""

import numpy as np

from lib.world import ink, shapes, textures
from lib.world.looks import STYLES
from lib.world.scenes import Body, Scene, Surface
from lib.world.shapes import dot

NUDGE = np.float32(2e-3)  # shadow rays start this far off the surface
LAMPLIGHT = np.array([[1.0], [0.72], [0.42]], np.float32)


def surface(scene: Scene, what: Surface, point, d, length, t, suns, cell) -> np.ndarray:
    """Colour of floor or wall points."""
    normal = np.zeros((3, 1), np.float32)
    normal[what.axis] = 1 if what.axis == 2 else -np.sign(what.offset)
    facing = max(float(normal[:, 0] @ scene.light), 0.0)
    albedo = paint_surface(scene, what, point, np.abs(d[what.axis]) / length, t)
    seen = unshadowed(scene, point, suns, cell, None)
    if scene.finish.ink is not None:
        return ink.toned(scene, albedo, np.float32(facing), seen, point, d)
    floor = what.axis == 2
    colour = radiance(
        scene, albedo, np.float32(facing), normal[2], seen, contact(scene, point) if floor else 1
    )
    if scene.lighting.lamp.any():
        colour += albedo * lamplight(scene, point, normal)
    if floor:
        away = np.maximum(np.sqrt(point[0] * point[0] + point[1] * point[1]) - 4, 0)
        haze = 1 - np.exp(np.float32(-scene.lighting.haze) * away)
        colour += (scene.lighting.horizon[:, None] - colour) * haze
    return colour


def body(scene: Scene, index: int, point, d, length, face, suns, cell) -> np.ndarray:
    """Colour of points on a body, worked out in the body's own frame."""
    obj = scene.bodies[index]
    turn = obj.turn.T.astype(np.float32)
    own, ray = turn @ (point - obj.centre.astype(np.float32)[:, None]), turn @ d
    normal = shapes.normals(obj.solid, face, own, ray)
    sun, up = turn @ scene.light.astype(np.float32), turn[:, 2]
    facing = np.maximum(dot(normal, sun), 0)
    albedo = paint_body(obj, own)
    seen = unshadowed(scene, point + NUDGE * (turn.T @ normal), suns, cell, index) * (facing > 0)
    if scene.finish.ink is not None:
        return ink.toned(scene, albedo, facing, seen, point, d)
    ground = 0.6 + 0.4 * np.minimum(point[2] / np.float32(0.8 * obj.radius), 1)
    colour = radiance(scene, albedo, facing, dot(normal, up), seen, ground)
    if scene.lighting.lamp.any():
        colour += albedo * lamplight(scene, point, turn.T @ normal)
    if obj.gloss > 0.03:
        colour += highlights(scene, obj.gloss, normal, ray / -length, sun, seen)
    return colour


def paint_surface(scene: Scene, what: Surface, point, tilt, t) -> np.ndarray:
    """Reflectance of floor or wall points; the pattern fades where a unit is few pixels wide at 64
    px.
    """
    across = {2: (0, 1), 1: (0, 2), 0: (1, 2)}[what.axis]
    unit = np.float32(what.unit)
    u, v = (point[a] * (1 / unit) + np.float32(p) for a, p in zip(across, what.phase, strict=True))
    mix, seam = textures.PATTERNS[what.pattern](u, v)
    wide = np.float32(64 * scene.focal) * unit * np.sqrt(tilt) / t
    fade = np.clip((wide - 3) * np.float32(1 / 9), 0, 1)
    first, second, line = what.paints[:, :, None]
    colour = first + (second - first) * (np.float32(0.5) + (mix - np.float32(0.5)) * fade)
    if seam is not None:
        colour += (line - colour) * (seam * fade)
    if what.mottle:
        colour *= 1 + np.float32(what.mottle) * fade * (
            textures.worn(3.1 * u, 3.1 * v) - np.float32(0.5)
        )
    return colour


def paint_body(obj: Body, own: np.ndarray) -> np.ndarray:
    """Reflectance of a body at points (3, n) of its frame."""
    first, second = obj.paints[:, :, None]
    if obj.material == "plain" or not obj.grain:
        return first
    mix = textures.material(obj.material, *own * np.float32(1 / obj.radius))
    return first + (second - first) * (np.float32(obj.grain) * mix)


def radiance(scene: Scene, albedo, facing, up, seen, open_sky) -> np.ndarray:
    """Light reflected towards the eye: sky from above, floor's bounce from below, the sun where it
    is seen.
    """
    light = scene.lighting
    high = 0.5 + 0.5 * up
    bounce = scene.floor.paints[0] * (0.45 * light.ambient.max())
    ambient = bounce[:, None] + (light.ambient - bounce)[:, None] * high
    return albedo * (ambient * open_sky + light.sun[:, None] * (facing * seen))


def sky(scene: Scene, d, length) -> np.ndarray:
    """The sky's colour: a gradient from horizon to zenith, with clouds."""
    light = scene.lighting
    height = np.clip(d[2] / length, 0, 1)
    colour = light.horizon[:, None] + (light.zenith - light.horizon)[:, None] * np.sqrt(height)
    if light.clouds > 0.15:
        far = 1 / (length * (height + np.float32(0.12)))
        cover = np.clip(
            (textures.worn(d[0] * far + 20, d[1] * far + 20) - np.float32(0.5)) * 4, 0, 1
        )
        colour += (light.horizon.max() * np.float32(1.1) - colour) * (
            cover * np.float32(light.clouds)
        )
    return colour


def suns(scene: Scene, antialias: int) -> np.ndarray:
    """Directions (3, k) to the sun: one, or where shadows are soft one for each cell of a pixel."""
    middle = scene.light.astype(np.float32)
    if scene.lighting.soft < 0.008 or antialias == 1:
        return middle[:, None]
    flat, tall = beside(middle)
    step = ((np.arange(antialias) + 0.5) / antialias - 0.5) * 2 * scene.lighting.soft
    spread = (
        middle[:, None, None] + flat[:, None, None] * step[:, None] + tall[:, None, None] * step
    )
    return spread.reshape(3, -1).astype(np.float32)


def beside(direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors across a direction that is not vertical, float32 (3,) each."""
    x, y, z = direction
    long = float(np.hypot(x, y))
    flat, tall = np.array([-y, x, 0]) / long, np.array([-x * z, -y * z, long**2]) / long
    return flat.astype(np.float32), tall.astype(np.float32)


def unshadowed(scene: Scene, point, suns, cell, index: int | None) -> np.ndarray:
    """1 where the sun is seen from a point and 0 where a body hides it, float32 (n,); `index`: the
    body they are on.
    """
    seen = np.ones(point.shape[1], np.float32)
    axes = beside(scene.light)
    across = [dot(axis, point) for axis in axes]
    for k, obj in enumerate(scene.bodies):
        if k == index and len(obj.solid) == 1 and not isinstance(obj.solid[0], shapes.Ring):
            continue  # a convex body casts no shadow on its own lit side
        x, y = (a - np.float32(axis @ obj.centre) for a, axis in zip(across, axes, strict=True))
        at = np.flatnonzero(x * x + y * y < np.float32((obj.radius + 5 * scene.lighting.soft) ** 2))
        if at.size:
            turn = obj.turn.T.astype(np.float32)
            start = turn @ (shapes.gather(point, at) - obj.centre.astype(np.float32)[:, None])
            sun = turn @ suns
            sun = sun if cell is None else shapes.gather(sun, cell[at])
            seen[at] *= ~shapes.blocks(obj.solid, start, sun)
    return seen


def contact(scene: Scene, point) -> np.ndarray:
    """How much of the sky floor points beside a body still see, (n,)."""
    open_sky = np.float32(1)
    for obj in scene.bodies:
        x, y = point[0] - np.float32(obj.centre[0]), point[1] - np.float32(obj.centre[1])
        away = np.sqrt(x * x + y * y) * np.float32(3 / obj.radius) - np.float32(1.5)
        open_sky = open_sky * (1 - np.float32(0.5) * np.exp(-np.maximum(away, 0)))
    return open_sky


def lamplight(scene: Scene, point, normal) -> np.ndarray:
    """Warm light of a lamp without shadows, falling with the square of the distance."""
    away = scene.lighting.lamp[:, None] - point
    square = dot(away, away)
    return LAMPLIGHT * (
        np.maximum(dot(away, normal), 0) / (np.sqrt(square) * (np.float32(0.5) + square))
    )


def highlights(scene: Scene, gloss: float, normal, view, sun, seen) -> np.ndarray:
    """What a glossy body mirrors: the sun as a spot and, at grazing angles, the sky."""
    half = sun[:, None] + view
    across = np.maximum(dot(normal, half) / np.sqrt(dot(half, half)), 0)
    spot = across ** np.float32(20 + 60 * gloss) * seen * np.float32(0.9 * gloss)
    graze = 1 - np.maximum(dot(normal, view), 0)
    rim = graze * graze * graze * graze * np.float32(0.35 * gloss)
    return scene.lighting.sun[:, None] * spot + scene.lighting.horizon[:, None] * rim


def finish(scene: Scene, colour: np.ndarray) -> np.ndarray:
    """Exposure, tint, vignette, saturation, tone curve and noise: linear (3, s, s) to uint8 (s, s,
    3).
    """
    how, size = scene.finish, colour.shape[1]
    at = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size) - np.float32(0.5)
    dark = 1 - np.float32(2 * how.vignette) * (at[:, None] ** 2 + at**2)
    colour = colour * (how.tint[:, None, None] * np.float32(how.exposure)) * dark
    grey = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]
    colour = np.clip(grey + (colour - grey) * np.float32(how.saturation), 0, 1)
    shown = colour ** np.float32(1 / 2.2)
    rng = np.random.default_rng([scene.seed, STYLES.index(scene.style), size])
    shown += np.float32(how.noise) * grain(rng, shown.shape)
    levels = np.clip(shown * 255 + np.float32(0.5), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))


def grain(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    """Noise of mean 0 and deviation 1: sums of four random bytes, near normal at a quarter of its
    cost.
    """
    count = int(np.prod(shape))
    total = (
        np.frombuffer(rng.bytes(4 * count), np.uint8).reshape(4, *shape).sum(axis=0, dtype=np.int16)
    )
    return (total - np.float32(510)) * np.float32(1 / np.sqrt((256**2 - 1) / 3))
