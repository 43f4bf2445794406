"""Procedural surfaces: floor and wall patterns, object materials and the noise they share.

Every function takes flat float32 coordinate arrays (n,) and returns weights in [0, 1], so that
colours, light and resolution stay the renderer's business.
"""

import numpy as np

RANDOM = np.random.default_rng(20230901).random((64, 64), dtype=np.float32)
TABLE = np.random.default_rng(20230902).random(256, dtype=np.float32)

FLOORS = ("tiles", "planks", "checker", "stripes")
NEW_FLOORS = ("hexagons", "dots", "zigzag", "patches")
WALLS = ("plain", "bricks", "panels", "tiles")
MATERIALS = ("plain", "speckled", "grained", "banded", "marbled")
NEW_MATERIALS = ("dotted", "zebra", "chequered", "camouflage")


def lookup(table: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear values of a periodic square table with a power of two of entries a side."""
    side = len(table)
    left, low = np.floor(x), np.floor(y)
    fx, fy = x - left, y - low
    i, j = left.astype(np.intp) & (side - 1), low.astype(np.intp) & (side - 1)
    flat, right = table.ravel(), (i + 1) & (side - 1)
    row, up = j * side, ((j + 1) & (side - 1)) * side
    below, above, east, north = (
        flat.take(at, mode="clip") for at in (row + i, up + i, row + right, up + right)
    )
    below += (east - below) * fx
    above += (north - above) * fx
    return below + (above - below) * fy


def smoothed(table: np.ndarray, factor: int) -> np.ndarray:
    """A periodic table drawn out `factor` times with smooth steps between its values."""
    steps = np.arange(len(table) * factor, dtype=np.float32) / np.float32(factor)
    eased = np.floor(steps) + (steps % 1) ** 2 * (3 - 2 * (steps % 1))
    y, x = np.meshgrid(eased, eased, indexing="ij")
    return lookup(table, x.ravel(), y.ravel()).reshape(x.shape)


NOISE = smoothed(RANDOM[:32, :32].copy(), 8)
WORN = 0.67 * NOISE + 0.33 * smoothed(RANDOM, 4)


def noise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Smooth value noise in [0, 1], one feature a unit, period 32."""
    return lookup(NOISE, x * 8, y * 8)


def worn(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Noise with finer noise upon it, in [0, 1], period 32."""
    return lookup(WORN, x * 8, y * 8)


def scatter(i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """A fixed pseudo-random number in [0, 1) for each cell (i, j)."""
    i, j = i.astype(np.intp), j.astype(np.intp)
    return TABLE.take((57 * i + (131 + 6 * i) * j) & 255, mode="clip")


def seams(x: np.ndarray, y: np.ndarray, width: float) -> np.ndarray:
    """1 on the borders of unit cells and 0 inside, from cell coordinates in [0, 1]."""
    edge = np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y))
    return np.clip(np.float32(1.5) - edge / np.float32(width / 2), 0, 1)


def tiles(u, v):
    """Square tiles, each a little different, with seams."""
    i, j = np.floor(u), np.floor(v)
    return scatter(i, j), seams(u - i, v - j, 0.06)


def checker(u, v):
    """Squares of two colours in turn."""
    return ((np.floor(u) + np.floor(v)).astype(np.int32) & 1).astype(np.float32), None


def stripes(u, v):
    """Bands of two colours along the first axis."""
    return (np.floor(2 * v).astype(np.int32) & 1).astype(np.float32), None


def boards(u, v, length: float, shift: float, width: float):
    """Rows of boards `length` units long and half a unit wide, each row moved by `shift` or at
    random if 0.
    """
    j = np.floor(2 * v)
    along = u / np.float32(length) + (j * np.float32(shift) if shift else scatter(j, 0 * j))
    i = np.floor(along)
    across, along = 2 * v - j, along - i
    edge = np.minimum(
        np.minimum(across, 1 - across), np.minimum(along, 1 - along) * np.float32(2 * length)
    )
    return scatter(i, j), np.clip(np.float32(1.5) - edge / np.float32(width / 2), 0, 1)


def planks(u, v):
    """Long boards with staggered ends and grain along them."""
    mix, line = boards(u, v, 3.0, 0, 0.1)
    grain = noise(u * 1.5 + 17 * mix, v * 24)
    return 0.6 * mix + 0.4 * grain, line


def bricks(u, v):
    """Courses of bricks in running bond."""
    return boards(u, v, 1.0, 0.5, 0.14)


def panels(u, v):
    """Broad upright panels."""
    i = np.floor(u)
    edge = np.minimum(u - i, 1 - (u - i))
    return scatter(i, 0 * i), np.clip(np.float32(1.5) - edge / np.float32(0.03), 0, 1)


def plain(u, v):
    """Plaster: faint large blotches."""
    return noise(u * 1.3, v * 1.3), None


def hexagons(u, v):
    """A honeycomb, each cell a little different."""
    x, y = 1.4 * u, 1.4 * v / np.float32(np.sqrt(3))
    best, cell = None, None
    for shift in (0.0, 0.5):
        i, j = np.floor(x - shift + 0.5), np.floor(y - shift + 0.5)
        dx, dy = np.abs(x - shift - i), np.abs(y - shift - j) * np.float32(np.sqrt(3))
        far = np.maximum(dx, 0.5 * dx + np.float32(0.866) * dy)
        best, cell = (far, scatter(i, j)) if best is None else (
            np.minimum(far, best), np.where(far < best, scatter(i + 40, j), cell))
    return cell, np.clip((best - 0.44) / 0.04, 0, 1)


def dots(u, v):
    """Round dots in a staggered grid."""
    j = np.floor(1.6 * v)
    x, y = 1.6 * u + j / 2, 1.6 * v - j
    x = x - np.floor(x)
    away = (x - 0.5) ** 2 + (y - 0.5) ** 2
    return np.clip((0.105 - away) / 0.02, 0, 1), None


def zigzag(u, v):
    """Chevron bands."""
    fold = np.abs(u - 2 * np.floor(u / 2) - 1)
    return (np.floor(2 * v + fold).astype(np.int32) & 1).astype(np.float32), None


def patches(u, v):
    """Irregular blotches, as lichen or worn paint."""
    return np.clip((worn(1.7 * u, 1.7 * v) - 0.47) / 0.05, 0, 1), None


PATTERNS = {f.__name__: f for f in (tiles, checker, stripes, planks, bricks, panels, plain,
                                    hexagons, dots, zigzag, patches)}


def speckled(x, y, z):
    """Fine spots."""
    return noise(9 * x + 5 * z + 30, 9 * y - 4 * z + 30) ** 2


def grained(x, y, z):
    """Wood: wavy rings."""
    return 0.5 + 0.5 * np.sin(14 * (z * 0.3 + x + 0.5 * noise(2 * x + y, 2 * z)))


def banded(x, y, z):
    """Level bands."""
    return (np.sin(9 * z) > 0.3).astype(np.float32)


def marbled(x, y, z):
    """Thin veins."""
    vein = np.abs(np.sin(4 * (x + y * 0.6 + z * 0.8) + 5 * noise(2 * x + z, 2 * y - z)))
    return np.clip(1 - 2.5 * vein, 0, 1)


def dotted(x, y, z):
    """Round spots in all three directions."""
    return np.clip(10 * (np.sin(9 * x) * np.sin(9 * y + 1) * np.sin(9 * z + 2)) - 1, 0, 1)


def zebra(x, y, z):
    """Wavy stripes."""
    return np.clip(4 * np.sin(8 * z + 6 * noise(1.5 * x + 8, 1.5 * y + z)) + 0.5, 0, 1)


def chequered(x, y, z):
    """Small cubes of two colours."""
    odd = np.floor(3 * x + 0.5) + np.floor(3 * y + 0.5) + np.floor(3 * z + 0.5)
    return (odd.astype(np.int32) & 1).astype(np.float32)


def camouflage(x, y, z):
    """Irregular patches."""
    return np.clip((noise(3 * x + 2 * z + 20, 3 * y - 2 * z) - 0.5) / 0.06, 0, 1)


SOLIDS = {
    f.__name__: f
    for f in (speckled, grained, banded, marbled, dotted, zebra, chequered, camouflage)
}


def material(kind: str, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Weight (n,) of a body's second colour at points of its own frame, its radius one."""
    return SOLIDS[kind](x, y, z)
