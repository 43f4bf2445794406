"""The ten solids of the world: exact ray intersections, outlines and resting heights.

A solid is a tuple of parts, each convex or a torus; parts of one solid share their face normals.
Rays are float32 arrays (3, n), origins may be (3, 1), in the solid's own frame; t counts lengths of
the direction. Masks are avoided where arithmetic does: on arrays of this size numpy multiplies ten
times faster than it selects.
"""

from dataclasses import dataclass

import numpy as np

FAR = np.float32(1e6)
TINY = np.float32(1e-20)
TURN = 2 * np.pi * np.arange(24) / 24
RING = np.stack([np.cos(TURN), np.sin(TURN)], axis=1)
RISE = np.pi * (np.arange(9) / 8 - 0.5)


@dataclass(frozen=True)
class Slabs:
    """Convex polyhedron: low_k <= normal_k . x <= high_k, with its corner points (m, 3)."""

    normals: np.ndarray
    low: np.ndarray
    high: np.ndarray
    corners: np.ndarray


@dataclass(frozen=True)
class Lathe:
    """Cylinder or cone about z: radius falls from `base` at z = -half to `top` at z = +half."""

    base: float
    top: float
    half: float


@dataclass(frozen=True)
class Ball:
    """Sphere about the origin."""

    radius: float


@dataclass(frozen=True)
class Pill:
    """Capsule about z: a cylinder from -half to +half with a half ball on each end."""

    radius: float
    half: float


@dataclass(frozen=True)
class Ring:
    """Torus about z: `major` from the axis to the tube's centre, `minor` the tube's radius."""

    major: float
    minor: float


def slabs(normals, low, high, corners) -> Slabs:
    """A polyhedron from array-likes, its plane normals brought to length one."""
    normals, length = np.asarray(normals, float), np.linalg.norm(normals, axis=1)
    return Slabs(*(np.asarray(a, np.float32) for a in (
        normals / length[:, None], np.asarray(low) / length, np.asarray(high) / length, corners)))


def box(x: float, y: float, z: float) -> Slabs:
    """A box of half sides x, y, z."""
    corners = [(i * x, j * y, k * z) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]
    return slabs(np.eye(3), [-x, -y, -z], [x, y, z], corners)


def hexagonal_prism(radius: float, half: float) -> Slabs:
    """An upright prism over a regular hexagon of circumradius `radius`."""
    angle = np.pi * np.arange(3) / 3 + np.pi / 6
    normals = [(np.cos(a), np.sin(a), 0) for a in angle] + [(0, 0, 1)]
    reach = [radius * np.sqrt(3) / 2] * 3 + [half]
    corners = [(radius * np.cos(a), radius * np.sin(a), z)
               for a in np.pi * np.arange(6) / 3 for z in (-half, half)]
    return slabs(normals, [-r for r in reach], reach, corners)


def pyramid(side: float, half: float) -> Slabs:
    """A square pyramid: base of half side `side` at z = -half, apex at z = +half."""
    slope = side / (2 * half)
    normals = [(1, 0, slope), (-1, 0, slope), (0, 1, slope), (0, -1, slope), (0, 0, 1)]
    corners = [(i * side, j * side, -half) for i in (-1, 1) for j in (-1, 1)] + [(0, 0, half)]
    return slabs(normals, [-FAR] * 4 + [-half], [slope * half] * 4 + [half], corners)


def octahedron(radius: float, half: float) -> Slabs:
    """Eight faces between four corners at `radius` in the xy plane and two at z = ±half."""
    normals = [(1, i, j * radius / half) for i in (-1, 1) for j in (-1, 1)]
    corners = [
        (radius, 0, 0),
        (-radius, 0, 0),
        (0, radius, 0),
        (0, -radius, 0),
        (0, 0, half),
        (0, 0, -half),
    ]
    return slabs(normals, [-radius] * 4, [radius] * 4, corners)


def span(part, o: np.ndarray, d: np.ndarray):
    """Where rays enter and leave a convex part: near (n,), far (n,), face (n,) int8; near >= far is
    a miss.
    """
    return {Slabs: span_slabs, Lathe: span_lathe, Ball: span_ball, Pill: span_pill}[type(part)](
        part, o, d
    )


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Scalar products (n,) of columns."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def gather(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Columns `at` of (k, n) as (k, m); without numpy's range check, half the time of rows[:, at].
    """
    columns = np.empty((len(rows), at.size), rows.dtype)
    for row, column in zip(rows, columns, strict=True):
        row.take(at, out=column, mode="clip")
    return columns


def span_slabs(part: Slabs, o: np.ndarray, d: np.ndarray):
    """Clip rays by pairs of parallel planes; the face is the index of the pair entered last."""
    near = far = face = None
    for k, (n, low, high) in enumerate(zip(part.normals, part.low, part.high, strict=True)):
        inverse, start = 1 / (dot(n, d) + TINY), dot(n, o)
        a, b = (low - start) * inverse, (high - start) * inverse
        enter, leave = np.minimum(a, b), np.maximum(a, b)
        if near is None:
            near, far, face = enter, leave, np.zeros(enter.shape, np.int8)
        else:
            face = np.maximum(face, (enter > near).view(np.int8) * np.int8(k))
            near, far = np.maximum(near, enter), np.minimum(far, leave)
    return near, far, face


def roots(a: np.ndarray, b: np.ndarray, c: np.ndarray):
    """Both solutions of a t² + 2 b t + c = 0, the smaller first for a > 0; equal ones where there
    is none.
    """
    root, inverse = np.sqrt(np.maximum(b * b - a * c, 0)), 1 / (a + TINY)
    return (-b - root) * inverse, (root - b) * inverse


def span_ball(part: Ball, o: np.ndarray, d: np.ndarray):
    """The chord of a sphere."""
    near, far = roots(dot(d, d), dot(o, d), dot(o, o) - np.float32(part.radius**2))
    return near, far, np.zeros(near.shape, np.int8)


def span_lathe(part: Lathe, o: np.ndarray, d: np.ndarray):
    """The chord of a cylinder or cone: its quadric cut by two planes; face 0 is the side, 1 an end.
    """
    slope = np.float32((part.base - part.top) / (2 * part.half))
    reach = np.float32((part.base + part.top) / 2) - slope * o[2]
    a = d[0] * d[0] + d[1] * d[1] - slope * slope * (d[2] * d[2])
    b = o[0] * d[0] + o[1] * d[1] + slope * reach * d[2]
    near, far = roots(a, b, o[0] * o[0] + o[1] * o[1] - reach * reach)
    # a ray steeper than the cone is inside it before or after both roots, never between them
    if slope:
        steep, upward = a < 0, d[2] > 0
        near, far = (np.where(steep, np.where(upward, -FAR, near), near),
                     np.where(steep, np.where(upward, far, FAR), far))
    inverse = 1 / (d[2] + TINY)
    low, high = (np.float32(-part.half) - o[2]) * inverse, (np.float32(part.half) - o[2]) * inverse
    enter = np.minimum(low, high)
    return (
        np.maximum(near, enter),
        np.minimum(far, np.maximum(low, high)),
        (enter > near).view(np.int8),
    )


def span_pill(part: Pill, o: np.ndarray, d: np.ndarray):
    """The chord of a capsule: from the first to the last point of its cylinder and two balls."""
    near, far, face = span_lathe(Lathe(part.radius, part.radius, part.half), o, d)
    missed = near >= far
    near, far = np.where(missed, FAR, near), np.where(missed, -FAR, far)
    for end in (-part.half, part.half):
        moved = np.stack(np.broadcast_arrays(o[0], o[1], o[2] - np.float32(end)))
        first, last, _ = span_ball(Ball(part.radius), moved, d)
        near = np.where(first < last, np.minimum(near, first), near)
        far = np.where(first < last, np.maximum(far, last), far)
    return near, far, np.zeros_like(face)


def march(part: Ring, o: np.ndarray, d: np.ndarray, steps: int = 24) -> np.ndarray:
    """First positive t (n,) of rays with a torus, FAR where there is none.

    Only rays that cross the cylinder around it walk, by the exact distance to its surface. The few
    that graze the tube would walk for long; for them the rest of the way is sampled.
    """
    wide = part.major + part.minor
    near, far, _ = span_lathe(Lathe(wide, wide, part.minor), o, d)
    depth = np.full(near.shape, FAR, np.float32)
    rays = np.flatnonzero((near < far) & (far > 0))
    t, far = np.maximum(near[rays], np.float32(1e-4)), far[rays]
    o, d = ([row.take(rays) if row.size > 1 else row for row in a] for a in (o, d))
    slow = 1 / np.sqrt(dot(d, d))
    for step in range(steps):
        gap = ring_distance(part, o, d, t) * slow
        t = t + gap
        if step % 6 == 5:
            settled = gap < 2e-6
            depth[rays[settled]] = t[settled]
            keep = np.flatnonzero((t < far) & ~settled)
            rays, t, far = rays[keep], t[keep], far[keep]
            o, d = ([row[keep] if row.size > 1 else row for row in a] for a in (o, d))
            slow = slow[keep] if slow.size > 1 else slow
    if rays.size:
        depth[rays] = bracket(part, o, d, t, far)
    return depth


def bracket(
    part: Ring, o, d, start: np.ndarray, end: np.ndarray, samples: int = 64, halvings: int = 16
) -> np.ndarray:
    """First crossing (n,) into a torus between two t, by even samples and halving; FAR where none
    is inside.
    """
    width = (end - start) / np.float32(samples)
    places = np.arange(1, samples, dtype=np.float32)[:, None]
    inside = ring_distance(part, o, d, start + width * places) < 0
    high = start + width * (inside.argmax(axis=0) + np.float32(1))
    low = high - width
    for _ in range(halvings):
        middle = (low + high) / 2
        outside = ring_distance(part, o, d, middle) > 0
        low, high = np.where(outside, middle, low), np.where(outside, high, middle)
    return np.where(inside.any(axis=0), high, FAR)


def ring_distance(part: Ring, o, d, t: np.ndarray) -> np.ndarray:
    """Signed distance (..., n) from the points o + t d to a torus."""
    x, y, z = o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]
    across = np.sqrt(x * x + y * y) - np.float32(part.major)
    return np.sqrt(across * across + z * z) - np.float32(part.minor)


def trace(solid: tuple, o: np.ndarray, d: np.ndarray):
    """First hit of rays with a solid: t (n,), FAR on a miss, and the face met (n,) int8."""
    if isinstance(solid[0], Ring):
        t = march(solid[0], o, d)
        return t, np.zeros(t.shape, np.int8)
    best = None
    for part in solid:
        t, far, face = span(part, o, d)
        t = np.where((t < far) & (t > 0), t, FAR)
        if best is None:
            best, faces = t, face
        else:
            faces = np.where(t < best, face, faces)
            best = np.minimum(t, best)
    return best, faces


def normals(solid: tuple, face: np.ndarray, p: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Outward unit normals (3, n) at the points p (3, n) that rays along d met on a face."""
    part = solid[0]
    if isinstance(part, Slabs):
        n = gather(part.normals.T, face)
        return n * np.where(dot(n, d) > 0, np.float32(-1), np.float32(1))
    if isinstance(part, Ball):
        return p / np.float32(part.radius)
    if isinstance(part, Pill):
        bulge = p[2] - np.clip(p[2], -part.half, part.half)
        return np.stack([p[0], p[1], bulge]) / np.float32(part.radius)
    length = np.sqrt(p[0] * p[0] + p[1] * p[1]) + TINY
    if isinstance(part, Ring):
        pull = (1 - np.float32(part.major) / length) / np.float32(part.minor)
        return np.stack([p[0] * pull, p[1] * pull, p[2] / np.float32(part.minor)])
    slope = np.float32((part.base - part.top) / (2 * part.half))
    tilt, end = 1 / np.sqrt(1 + slope * slope), face.astype(np.float32)
    side = (1 - end) * tilt / length
    flat = np.where(d[2] > 0, np.float32(-1), np.float32(1))
    return np.stack([p[0] * side, p[1] * side, end * flat + (1 - end) * (slope * tilt)])


def blocks(solid: tuple, o: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Whether rays meet a solid ahead of their start: bool (n,)."""
    if isinstance(solid[0], Ring):
        return march(solid[0], o, d) < FAR
    spans = [span(part, o, d) for part in solid]
    return np.logical_or.reduce([(near < far) & (far > 0) for near, far, _ in spans])


def outline(solid: tuple) -> np.ndarray:
    """Surface points (m, 3) whose hull is the solid's, round ones to 2 % of their radius."""
    return np.concatenate([outline_part(part) for part in solid])


def outline_part(part) -> np.ndarray:
    """Corners of a polyhedron, or points on rings of a round part."""
    if isinstance(part, Slabs):
        return part.corners.astype(float)
    if isinstance(part, Lathe):
        return rims([part.base, part.top], [-part.half, part.half])
    if isinstance(part, Ring):
        return rims(part.major + part.minor * np.cos(RISE), part.minor * np.sin(RISE))
    if isinstance(part, Ball):
        return rims(part.radius * np.cos(RISE), part.radius * np.sin(RISE))
    rise, lift = np.append(RISE[:5], RISE[4:]), np.repeat([-part.half, part.half], 5)
    return rims(part.radius * np.cos(rise), part.radius * np.sin(rise) + lift)


def rims(radii, heights) -> np.ndarray:
    """24 points on each of the horizontal circles of given radii and heights, (24 k, 3)."""
    points = np.empty((len(radii), len(RING), 3))
    points[:, :, :2] = RING * np.asarray(radii)[:, None, None]
    points[:, :, 2] = np.asarray(heights)[:, None]
    return points.reshape(-1, 3)


def reach(solid: tuple, direction: np.ndarray) -> float:
    """How far the solid extends from its origin along a unit direction (3,)."""
    return max(reach_part(part, direction) for part in solid)


def reach_part(part, direction: np.ndarray) -> float:
    """The support function of one part."""
    z, flat = direction[2], np.hypot(direction[0], direction[1])
    if isinstance(part, Slabs):
        return float((part.corners @ direction).max())
    if isinstance(part, Ball):
        return part.radius
    if isinstance(part, Pill):
        return part.half * abs(z) + part.radius
    if isinstance(part, Ring):
        return part.major * flat + part.minor
    return max(part.base * flat - part.half * z, part.top * flat + part.half * z)


def radius(solid: tuple) -> float:
    """Radius of a ball about the origin that holds the solid."""
    return float(np.linalg.norm(outline(solid), axis=1).max()) * 1.0001
