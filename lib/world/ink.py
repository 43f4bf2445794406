"""Drawings: flat tones, hatching, and pen lines along the edges of things."""

import numpy as np

from lib.world.scenes import Scene

STROKES = np.float32(22)  # hatching lines across a frame


def toned(scene: Scene, albedo, facing, seen, point, d) -> np.ndarray:
    """Colour (3, n) in three flat tones, or with the shade hatched; `facing` is the cosine to the
    sun.
    """
    lit = seen * (facing > 0.18)
    bright = 0.86 + 0.14 * (facing > 0.72)
    if scene.finish.hatch:
        bright = np.maximum(bright, np.float32(0.95))
        dark = 0.92 - 0.5 * strokes(scene, d)
    else:
        dark = np.float32(0.6) * bright
    return albedo * (dark + (bright - dark) * lit).astype(np.float32)


def strokes(scene: Scene, d) -> np.ndarray:
    """1 on slanting pen strokes laid over the frame, 0 between them, (n,)."""
    turn = scene.R.astype(np.float32)
    slant = np.float32(0.5 + scene.finish.hatch)
    weights = (turn[0] + slant * turn[1]) * (np.float32(scene.focal) * STROKES)
    phase = weights @ d
    return (phase - np.floor(phase) < 0.45).astype(np.float32)


def outlined(scene: Scene, colour, hits, fine: int) -> np.ndarray:
    """Colours (3, fine²) with the pen's lines over them."""
    line = edges(scene, hits, fine)
    line = grow(line, scene.finish.stroke * fine / 2).reshape(-1).astype(np.float32) * np.float32(
        0.9
    )
    return colour + (scene.finish.ink[:, None] - colour) * line


def edges(scene: Scene, hits, fine: int) -> np.ndarray:
    """Bool (fine, fine): where the thing met, its face, or (on one body) the depth jumps between
    neighbours.
    """
    kind = (hits.what * np.int8(8) + hits.face).reshape(fine, fine)
    depth = np.where(hits.what >= 8, hits.t, 0).reshape(fine, fine)
    line = np.zeros((fine, fine), bool)
    jump = np.float32(0.35 * scene.bodies[0].radius)
    for a, b in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        line[b] |= (kind[a] != kind[b]) | (np.abs(depth[a] - depth[b]) > jump)
    return line


def grow(line: np.ndarray, radius: float) -> np.ndarray:
    """Bool (h, w): lines thickened to about `radius` pixels on each side, square and diamond in
    turn.
    """
    for k in range(max(int(np.ceil(radius)) - 1, 0)):
        grown = line.copy()
        grown[1:] |= line[:-1]
        grown[:-1] |= line[1:]
        base = grown if k % 2 else line
        wide = grown.copy()
        wide[:, 1:] |= base[:, :-1]
        wide[:, :-1] |= base[:, 1:]
        line = wide
    return line
