"""Streets of textured walls whose camera, directions and horizon are known exactly: for the bench
of vanishing points and its tests. Walls stand along the street, across it and at angles of their
own; gables, trees, a road and noise add lines that belong to no level direction."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from lib.measure.vanishing import VanishingPoints, frame, segments, to_pixels, vanishing_points

UP = np.array([0.0, -1.0, 0.0])  # the camera's axes: right, down, ahead
NEAR = 0.5  # metres in front of the camera at which walls are cut off
FINE = 2  # pixels a side that are averaged into one


@dataclass(frozen=True)
class Street:
    """An image (h, w, 3), its camera K, the rays (k, 3) of its level directions and the ray (3,)
    upwards.
    """

    image: np.ndarray
    K: np.ndarray
    level: np.ndarray
    up: np.ndarray

    @property
    def horizon(self) -> np.ndarray:
        """The line (3,) in pixels, its normal of length one."""
        line = np.linalg.solve(self.K.T, self.up)
        return line / np.hypot(*line[:2])

    @property
    def points(self) -> np.ndarray:
        """Homogeneous vanishing points (k + 1, 3) of the level directions, then the zenith."""
        return np.vstack([self.level, self.up]) @ self.K.T


def windows(rng: np.random.Generator, floors: int, bays: int, fine: int = 32) -> np.ndarray:
    """A texture: a grid of windows, each with a frame, bars and a grey of its own, and a ledge a
    floor.
    """
    image = rng.uniform(90, 210, 3) + rng.normal(0, 6, (floors * fine, bays * fine, 1))
    frame, ledge, bars = rng.uniform(150, 240), rng.uniform(0.6, 1), rng.random() < 0.7
    left, top = rng.integers(4, 10), rng.integers(4, 9)
    for y in range(0, floors * fine, fine):
        image[y + fine - 3:y + fine] *= ledge
        for x in range(0, bays * fine, fine):
            image[y + top:y + fine - 7, x + left:x + fine - left] = frame
            inner = image[y + top + 1:y + fine - 8, x + left + 1:x + fine - left - 1]
            inner[:] = rng.uniform(20, 120)
            if bars:
                inner[:, inner.shape[1] // 2] = inner[len(inner) // 2] = frame
    return image.clip(0, 255).astype(np.float32)


def gable(texture: np.ndarray, slope: float) -> np.ndarray:
    """Which texels (h, w) stay under a pointed roof."""
    h, w = texture.shape[:2]
    u, v = np.meshgrid(np.abs(np.arange(w) - w / 2), np.arange(h))
    return (v > slope * u).astype(np.float32)


def road(rng: np.random.Generator, half: float, length: float) -> np.ndarray:
    """A texture of the ground, 16 texels a metre: kerbs and lane marks along it, joints of the
    pavement across.
    """
    h, w = round(16 * length), round(32 * half)
    image = np.full((h, w, 3), rng.uniform(70, 130), np.float32) + rng.normal(0, 8, (h, w, 1))
    kerb, step = w // 5, rng.integers(12, 30)
    image[:, :kerb] += 40
    image[:, -kerb:] += 40
    for y in range(0, h, step):
        image[y, :kerb] = image[y, -kerb:] = 60
    for y in range(0, h, 96):
        image[y:y + 48, w // 2 - 1:w // 2 + 2] = 230
    return image.clip(0, 255)


def lots(rng: np.random.Generator) -> tuple[list, list, float]:
    """Walls as (corner, direction, width, height), the nearest last; turns of their level
    directions; half the street's width in metres."""
    walls, half, turns = [], rng.uniform(5, 12), [0.0]
    sides = [-1, 1] if rng.random() < 0.6 else [rng.choice([-1, 1])]
    for side in sides:
        z, gap = rng.uniform(-30, 0), rng.uniform(0, 12)
        while z < 60:
            width, height = rng.uniform(7, 18), rng.uniform(5, 18)
            # its far end away from the street
            turn = -side * rng.uniform(0, 0.8) if rng.random() < 0.2 else 0.0
            along, across = (np.array([np.sin(a), 0, np.cos(a)]) for a in (turn, turn + np.pi / 2))
            corner = np.array([side * half, 0, z])
            walls += [
                (corner, along, width, height),
                (corner, side * across, rng.uniform(5, 9), height),
            ]
            turns.append(turn)
            z += width * along[2] + rng.choice([0.0, gap])
    if rng.random() < 0.5:
        end = np.array([-20.0, 0, rng.uniform(40, 70)])
        walls.append((end, np.array([1.0, 0, 0]), 40.0, rng.uniform(8, 18)))
    walls.sort(key=lambda wall: -np.linalg.norm(wall[0] + wall[1] * wall[2] / 2))
    return walls, turns, half


def camera(
    rng: np.random.Generator, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K, R and the eye of somebody who stands in the street and holds a camera almost upright."""
    height, width = size
    focal = max(size) * np.exp(rng.uniform(np.log(0.7), np.log(1.5)))
    yaw, pitch, roll = np.radians(
        [rng.uniform(-80, 80), rng.normal(3, 5), np.clip(rng.normal(0, 1.5), -4, 4)]
    )
    turns = [
        cv2.Rodrigues(angle * np.eye(3)[axis])[0]
        for axis, angle in ((2, roll), (0, -pitch), (1, yaw))
    ]
    K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    # away from the side it looks to
    eye = np.array([np.sign(yaw) * rng.uniform(0, 4), -rng.uniform(1.4, 3), 0])
    return K, turns[0] @ turns[1] @ turns[2], eye


def street(seed: int, size: tuple[int, int] = (480, 640)) -> Street:
    """The street of a seed at size (height, width)."""
    rng = np.random.default_rng([seed, 31])
    (height, width), (K, R, eye), (walls, turns, half) = size, camera(rng, size), lots(rng)
    shade = np.linspace(1, 0.8, FINE * height)[:, None, None]
    image = np.tile(shade * (170, 200, 235), (1, FINE * width, 1)).astype(np.float32)
    ground = road(rng, half, 100)
    paint(
        image,
        ground,
        np.ones(ground.shape[:2], np.float32),
        K @ R,
        np.array([-half, 0, 70.0]) - eye,
        np.array([2 * half, 0, 0]),
        np.array([0, 0, -100.0]),
    )
    roofs, slope = rng.uniform(0, 0.7), rng.uniform(0.4, 1)
    for corner, along, wide, high in walls:
        texture = windows(rng, max(2, round(high / 3.2)), max(2, round(wide / 2.5)))
        shown = np.ones(texture.shape[:2], np.float32)
        if rng.random() < roofs:
            shown = gable(texture, slope)
        texture = texture * rng.uniform(0.6, 1.1)
        paint(image, texture, shown, K @ R, corner + UP * high - eye, along * wide, -UP * high)
    for _ in range(rng.integers(0, 10)):
        tree(image, rng)
    for _ in range(rng.integers(0, 8)):
        wire(image, rng)
    image = cv2.GaussianBlur(
        cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), (0, 0), 0.6
    )
    image = (image + rng.normal(0, rng.uniform(2, 8), image.shape)).clip(0, 255).astype(np.uint8)
    coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    level = np.unique(
        np.round([[np.sin(a + b), 0, np.cos(a + b)] for a in turns for b in (0, np.pi / 2)], 9),
        axis=0,
    )
    return Street(cv2.imdecode(coded, cv2.IMREAD_COLOR), K, level @ R.T, R @ UP)


def paint(
    image: np.ndarray,
    texture: np.ndarray,
    shown: np.ndarray,
    camera: np.ndarray,
    corner: np.ndarray,
    across: np.ndarray,
    down: np.ndarray,
) -> None:
    """A texture over the rectangle corner + s across + t down, as far as it lies in front of the
    camera.
    """
    h, w = texture.shape[:2]
    depth = camera[2] @ np.stack([corner, corner + across, corner + down, corner + across + down]).T
    along = np.linspace(0, 1, w)
    ahead = (
        np.minimum(
            depth[0] + along * (depth[1] - depth[0]), depth[2] + along * (depth[3] - depth[2])
        )
        > NEAR
    )
    if across[2] == 0 and down[2]:  # the ground runs away from the camera in its rows
        rows = depth[0] + np.linspace(0, 1, h) * (depth[2] - depth[0])
        keep = (rows > NEAR) & (depth[1] + np.linspace(0, 1, h) * (depth[3] - depth[1]) > NEAR)
        texture, shown = texture[keep], shown[keep]
        down, h_kept = down * keep.mean(), keep.sum()
        h, ahead = h_kept, np.ones(w, bool)
    if ahead.sum() < 2 or h < 2:
        return
    first, kept = int(ahead.argmax()), int(ahead.sum())
    texture, shown = texture[:, first:first + kept], shown[:, first:first + kept]
    grown = np.array([[FINE, 0, (FINE - 1) / 2], [0, FINE, (FINE - 1) / 2], [0, 0, 1]]) @ camera
    H = grown @ np.stack([across / w, down / h, corner + across * first / w], axis=1)
    size = image.shape[1::-1]
    cover = cv2.warpPerspective(shown, H, size, flags=cv2.INTER_NEAREST) > 0
    image[cover] = cv2.warpPerspective(texture, H, size, flags=cv2.INTER_LINEAR)[cover]


def tree(image: np.ndarray, rng: np.random.Generator) -> None:
    """A crown of short strokes in every direction."""
    h, w = image.shape[:2]
    centre, reach = rng.uniform((0, 0.35 * h), (w, 0.7 * h)), rng.uniform(0.05, 0.14) * w
    for _ in range(250):
        start = centre + rng.normal(0, reach / 2, 2)
        stop = start + rng.normal(0, reach / 8, 2)
        colour = rng.uniform((20, 50, 15), (90, 140, 70))
        cv2.line(
            image,
            *(tuple(int(v) for v in p) for p in (start, stop)),
            tuple(map(float, colour)),
            int(rng.integers(2, 9)),
        )


def wire(image: np.ndarray, rng: np.random.Generator) -> None:
    """A thin dark line from edge to edge, level to nothing: a cable, or a pole that leans."""
    h, w = image.shape[:2]
    start, stop = (int(v) for v in rng.uniform(0, 0.8 * h, 2))
    cv2.line(image, (0, start), (w, stop), (40.0, 40.0, 45.0), int(rng.integers(1, 4)), cv2.LINE_AA)


def height_error(line: np.ndarray | None, street: Street) -> float:
    """The largest distance between a horizon and the true one at the sides of the image, in image
    heights.
    """
    if line is None or abs(line[1]) < 1e-9:
        return float("inf")
    ends = np.array([0, street.image.shape[1] - 1.0])
    ours, true = (-(a * ends + c) / b for a, b, c in (line, street.horizon))
    return float(np.abs(ours - true).max() / len(street.image))


def area(errors: list[float], most: float = 0.25) -> float:
    """Area under the curve of errors up to a quarter of the height, in %: 100 where all are 0."""
    return float(100 * np.mean(np.maximum(0, 1 - np.array(errors) / most)))


def three_points(image: np.ndarray) -> VanishingPoints:
    """The earlier rule, a reference: three points, significant or not, at LSD's own scale."""
    lines = segments(image, 0.8)
    return vanishing_points(lines, image.shape[:2], 3, max_log_nfa=np.inf, halo=1)


def two_points(result: VanishingPoints) -> np.ndarray | None:
    """The earlier rule, a reference: the line through the two best points that are not upright, or
    through one at a right angle to the upright one; a level point with a third of the zenith's
    support counts."""
    seen, support = frame(result.points, result.size), result.support
    upright = np.abs(seen[:, 1]) > np.hypot(seen[:, 0], 1.2 * seen[:, 2])
    level, zenith = seen[~upright], seen[upright]
    if len(level) > 1 and len(zenith) and support[~upright][1] < support[upright][0] / 3:
        level = level[:1]
    if not len(level) or len(level) == 1 and not len(zenith):
        return None
    other = level[1] if len(level) > 1 else [-zenith[0][1], zenith[0][0], 0.0]
    line = np.linalg.inv(to_pixels(result.size)).T @ np.cross(level[0], other)
    return line / max(np.hypot(*line[:2]), 1e-12)
