"""All random draws of a scene, and its exact camera geometry: a scene is a function of seed, style
and label alone.

The world is right-handed with z up and the floor at z = 0; its x and y axes are those of floor and
walls. Camera coordinates: x right, y down, z forward. Frame coordinates run from 0 to 1 across the
square image.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from lib.world import captions, looks, shapes, textures
from lib.world.looks import LOOKS, STYLES, Look

CLASSES = (
    "sphere",
    "cube",
    "cylinder",
    "cone",
    "torus",
    "pyramid",
    "capsule",
    "hexagonal prism",
    "octahedron",
    "cross",
)
FILL = (0.61, 0.75)  # root of the area of the object's bounding box, in frame sides
LONGEST = 0.9  # the longer side of that box
HIDDEN = 0.22  # most of that box another object's box may cover


@dataclass(frozen=True)
class Body:
    """A solid turned by `turn` (3, 3) and moved to `centre` (3,), with outline `points` (m, 3) in
    the world.
    """

    name: str
    solid: tuple
    turn: np.ndarray
    centre: np.ndarray
    radius: float
    points: np.ndarray
    colour: str
    paints: np.ndarray
    material: str
    grain: float
    gloss: float


@dataclass(frozen=True)
class Surface:
    """A floor or a wall: z = offset (axis 2), or x or y = offset up to a height, with its pattern
    and paints (3, 3).
    """

    axis: int
    offset: float
    height: float
    pattern: str
    paints: np.ndarray
    unit: float
    phase: np.ndarray
    mottle: float


@dataclass(frozen=True)
class Light:
    """Direction (3,) towards the sun, its colour, the sky's two colours (linear), and how soft
    shadows are.
    """

    direction: np.ndarray
    sun: np.ndarray
    ambient: np.ndarray
    horizon: np.ndarray
    zenith: np.ndarray
    clouds: float
    haze: float
    soft: float
    lamp: np.ndarray


@dataclass(frozen=True)
class Finish:
    """What the camera or the hand adds: exposure, noise, vignette, saturation, tint, and ink for
    drawings.
    """

    exposure: float
    noise: float
    vignette: float
    saturation: float
    tint: np.ndarray
    ink: np.ndarray | None
    stroke: float
    hatch: float


@dataclass(frozen=True)
class Scene:
    """Everything `render` needs and everything that is true of the picture."""

    seed: int
    style: str
    label: int
    look: str
    focal: float
    R: np.ndarray
    eye: np.ndarray
    bodies: tuple[Body, ...]
    floor: Surface
    walls: tuple[Surface, ...]
    lighting: Light
    finish: Finish

    @property
    def name(self) -> str:
        """The class's name."""
        return CLASSES[self.label]

    @property
    def light(self) -> np.ndarray:
        """Unit vector (3,) from the scene towards the sun, in world coordinates."""
        return self.lighting.direction

    def K(self, size: int) -> np.ndarray:
        """Pinhole matrix (3, 3) in pixels of a size x size image, pixel centres at whole numbers.
        """
        return np.array(
            [
                [self.focal * size, 0, (size - 1) / 2],
                [0, self.focal * size, (size - 1) / 2],
                [0, 0, 1],
            ]
        )

    def vanishing_points(self, size: int) -> np.ndarray:
        """Homogeneous pixels (3, 3): row k is the vanishing point of world axis k, the last value 0
        at infinity.
        """
        return (self.K(size) @ self.R).T

    def horizon(self, size: int) -> np.ndarray:
        """The floor's vanishing line (3,): l .

        (u, v, 1) = 0, in pixels, its normal of length one.
        """
        line = np.linalg.solve(self.K(size).T, self.R @ [0.0, 0.0, 1.0])
        return line / np.hypot(line[0], line[1])

    def project(self, points: np.ndarray, size: int) -> np.ndarray:
        """Pixels (n, 2) of world points (n, 3)."""
        at = (points - self.eye) @ self.R.T @ self.K(size).T
        return at[:, :2] / at[:, 2:]

    def caption(self) -> str:
        """The scene in words; the same at every call."""
        return captions.caption(self)


def scene(seed: int, style: str = "photo", label: int | None = None) -> Scene:
    """Draw a scene.

    `photo`, `night`, `drawing`, `render` and `textures` share the layout of a seed; `web` does not.
    """
    check(seed, style, label)
    label = int(seed) % len(CLASSES) if label is None else int(label)
    stream = 1 + STYLES.index(style)
    layout = np.random.default_rng([seed, label, stream if style == "web" else 0])
    paint = np.random.default_rng([seed, label, stream, 1])
    name = pick(paint, looks.WEB_MIX) if style == "web" else style
    look = LOOKS[name]
    view = LOOKS["photo"] if style != "web" else look
    yaw, pitch, R, focal = draw_camera(layout, view)
    main = place(CLASSES[label], layout, yaw, pitch, 1.0)
    eye = stand(main, R, focal, layout)
    forward = R[2, :2]
    walls = draw_walls(layout, view, forward)
    others = draw_others(layout, CLASSES[label], (yaw, pitch), main, walls, R, focal, eye)
    lighting = draw_light(layout, paint, look, yaw, walls)
    floor, walls, bodies = dress(paint, look, (main, *others), walls)
    return Scene(
        int(seed),
        style,
        label,
        name,
        focal,
        R,
        eye,
        bodies,
        floor,
        walls,
        lighting,
        draw_finish(paint, look),
    )


def check(seed: int, style: str, label: int | None) -> None:
    """Raise with what was expected."""
    if isinstance(seed, bool) or int(seed) != seed or seed < 0:
        raise ValueError(f"a scene's seed is a whole number from 0 up, not {seed!r}")
    if style not in STYLES:
        raise ValueError(f"there is no style {style!r}; choose one of {', '.join(STYLES)}")
    if label is not None and not 0 <= label < len(CLASSES):
        raise ValueError(
            f"label {label!r} is not one of the {len(CLASSES)} classes; "
            f"give 0 to {len(CLASSES) - 1}"
        )


def pick(rng: np.random.Generator, options):
    """One of the options, each as likely."""
    return options[rng.integers(len(options))]


def draw_camera(rng: np.random.Generator, look: Look) -> tuple[float, float, np.ndarray, float]:
    """Yaw and pitch (radians), world-to-camera rotation (3, 3) and focal length in frame sides."""
    yaw, pitch = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(*look.pitch))
    roll = np.radians(np.clip(rng.normal(), -2, 2) * look.roll)
    ahead = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    down = np.array([np.cos(yaw) * ahead[2], np.sin(yaw) * ahead[2], -np.cos(pitch)])
    level = np.stack([right, down, ahead])
    spin = about(2, roll)
    return yaw, pitch, spin @ level, float(np.exp(rng.uniform(*np.log(look.focal))))


def about(axis: int, angle: float) -> np.ndarray:
    """Rotation (3, 3) about a coordinate axis."""
    c, s = np.cos(angle), np.sin(angle)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    turn = np.eye(3)
    turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
    return turn


def build(name: str, rng: np.random.Generator) -> tuple:
    """A solid of the class with its own proportions."""
    a, b = rng.uniform(), rng.uniform()
    return {"sphere": lambda: (shapes.Ball(1.0),),
            "cube": lambda: (shapes.box(1, 1, 1),),
            "cylinder": lambda: (shapes.Lathe(1.0, 1.0, 0.75 + 0.6 * a),),
            "cone": lambda: (shapes.Lathe(1.0, 0.0, 0.95 + 0.4 * a),),
            "torus": lambda: (shapes.Ring(1.0, 0.3 + 0.13 * a),),
            "pyramid": lambda: (shapes.pyramid(1.0, 0.75 + 0.35 * a),),
            "capsule": lambda: (shapes.Pill(1.0, 0.75 + 0.4 * a),),
            "hexagonal prism": lambda: (shapes.hexagonal_prism(1.0, 0.45 + 0.35 * a),),
            "octahedron": lambda: (shapes.octahedron(1.0, 0.9 + 0.2 * a),),
            "cross": lambda: cross(0.3 + 0.08 * a, 0.26 + 0.12 * b)}[name]()


def cross(bar: float, deep: float) -> tuple:
    """A plus sign of two bars, `deep` thick along y."""
    return shapes.box(1, deep, bar), shapes.box(bar, deep, 1)


def pose(name: str, rng: np.random.Generator, yaw: float, pitch: float) -> np.ndarray:
    """A rotation (3, 3) at which the class can be told from the others, given where the camera
    looks.

    What is told by its top or its hole is laid down or stood up when a low camera would not see it.
    """
    low = pitch < np.radians(20)
    side, lean = pick(rng, (-1, 1)), rng.uniform()
    facing = about(2, yaw + np.pi / 2)  # the object's y axis towards the camera
    turned = {"cube": (20, 70), "pyramid": (10, 32), "cross": (0, 40), "hexagonal prism": (0, 14)}
    free = facing @ about(2, side * np.radians(rng.uniform(*turned.get(name, (0, 360)))))
    if name == "cylinder" and lean < 0.35 or name == "hexagonal prism" and (lean < 0.3 or low):
        end_on = facing @ about(2, side * np.radians(rng.uniform(20, 55)))
        return end_on @ about(0, np.pi / 2)
    if name == "capsule":
        tilt = np.pi / 2 if lean < 0.45 else np.radians(rng.uniform(0, 35)) * (lean < 0.75)
        return facing @ about(2, side * np.radians(rng.uniform(35, 90))) @ about(0, tilt)
    if name == "torus" and (lean < 0.5 or low):
        upright = np.pi / 2 - (lean < 0.25) * np.radians(rng.uniform(15, 45))
        return facing @ about(2, side * np.radians(rng.uniform(0, 45))) @ about(0, upright)
    if name == "octahedron":
        return (
            facing
            @ about(0, np.radians(rng.uniform(8, 24)))
            @ about(2, np.radians(rng.uniform(0, 90)))
        )
    return free


def place(name: str, rng: np.random.Generator, yaw: float, pitch: float, size: float) -> Body:
    """An unpainted object that rests on the floor's origin, its bounding ball of radius `size`."""
    solid, turn = build(name, rng), pose(name, rng, yaw, pitch)
    solid = resize(solid, size / shapes.radius(solid))
    height = shapes.reach(solid, turn.T @ [0.0, 0.0, -1.0])
    centre = np.array([0.0, 0.0, height])
    points = shapes.outline(solid) @ turn.T + centre
    return Body(name, solid, turn, centre, size, points, "", np.zeros((2, 3)), "", 0.0, 0.0)


def resize(solid: tuple, factor: float) -> tuple:
    """The solid with all lengths times `factor`."""
    scaled = []
    for part in solid:
        if isinstance(part, shapes.Slabs):
            sizes = (np.float32(factor) * a for a in (part.low, part.high, part.corners))
            scaled.append(shapes.Slabs(part.normals, *sizes))
        else:
            scaled.append(type(part)(*(factor * v for v in vars(part).values())))
    return tuple(scaled)


def extent(body: Body, R: np.ndarray, focal: float, eye: np.ndarray) -> np.ndarray:
    """Bounding box (2, 2) of the body's projection in frame coordinates: lower and upper corner."""
    at = (body.points - eye) @ R.T
    at = 0.5 + focal * at[:, :2] / at[:, 2:]
    return np.stack([at.min(axis=0), at.max(axis=0)])


def stand(main: Body, R: np.ndarray, focal: float, rng: np.random.Generator) -> np.ndarray:
    """The eye (3,) from which the main object has its drawn size and place in the frame."""
    fill = rng.uniform(*FILL)
    target = 0.5 + rng.uniform(-0.07, 0.07, 2)
    aim, far = target.copy(), 2 * focal / fill * main.radius
    for _ in range(5):
        eye = main.centre - far * (R.T @ [*(aim - 0.5) / focal, 1.0])
        low, high = extent(main, R, focal, eye)
        wide, tall = high - low
        far *= max(np.sqrt(wide * tall) / fill, wide / LONGEST, tall / LONGEST)
        aim = aim + target - (low + high) / 2
    return eye


def draw_walls(rng: np.random.Generator, look: Look, forward: np.ndarray) -> tuple[Surface, ...]:
    """No, one or two unpainted walls behind the object, across the world's x and y axes."""
    count = int(np.searchsorted(np.cumsum(look.walls), rng.uniform()))
    axes = np.argsort(-np.abs(forward))[:count]
    away, height = rng.uniform(1.3, 3.2, 2), rng.uniform(2.2, 6.0)
    offsets = [float(np.sign(forward[k]) * away[k]) for k in axes]
    return tuple(Surface(int(k), offset, height, "", np.zeros((3, 3)), 1.0, np.zeros(2), 0.0)
                 for k, offset in zip(axes, offsets, strict=True))


def draw_others(
    rng: np.random.Generator,
    name: str,
    view: tuple,
    main: Body,
    walls: tuple,
    R: np.ndarray,
    focal: float,
    eye: np.ndarray,
) -> list[Body]:
    """0 to 2 smaller objects of other classes that stand free and leave most of the main object in
    view.
    """
    placed, box, others = [], extent(main, R, focal, eye), [c for c in CLASSES if c != name]
    for _ in range(pick(rng, (0, 0, 0, 0, 1, 1, 1, 2, 2))):
        size = rng.uniform(0.22, 0.42)
        other = place(pick(rng, others), rng, *view, size)
        for angle, away in zip(rng.uniform(0, 2 * np.pi, 8), rng.uniform(1.1, 2.4, 8), strict=True):
            at = np.array([away * np.cos(angle), away * np.sin(angle), 0.0])
            if free(other, at, (main, *placed), walls) and in_view(
                other, at, main, box, R, focal, eye
            ):
                placed.append(moved(other, at))
                break
    return placed


def moved(body: Body, by: np.ndarray) -> Body:
    """The body shifted by a vector (3,)."""
    return dataclasses.replace(body, centre=body.centre + by, points=body.points + by)


def free(other: Body, at: np.ndarray, bodies: tuple, walls: tuple) -> bool:
    """Whether a body moved to `at` touches no other and no wall."""
    if any(np.sign(w.offset) * at[w.axis] > abs(w.offset) - other.radius for w in walls):
        return False
    return all(np.hypot(*(at - b.centre)[:2]) > 0.9 * b.radius + other.radius for b in bodies)


def in_view(other: Body, at: np.ndarray, main: Body, box: np.ndarray, R: np.ndarray, focal: float,
            eye: np.ndarray) -> bool:
    """Whether a body moved to `at` shows in the frame, smaller than the main one, and hides little
    of it.
    """
    away = R[2] @ (at + other.centre - eye)
    if away < 1.5 * other.radius:
        return False
    low, high = extent(other, R, focal, eye - at)
    inside = (np.minimum(high, 1) - np.maximum(low, 0)).min()
    width, height = np.maximum(np.minimum(high, box[1]) - np.maximum(low, box[0]), 0)
    covered = width * height / ((box[1, 0] - box[0, 0]) * (box[1, 1] - box[0, 1]))
    before = away < R[2] @ (main.centre - eye)
    return inside > 0.08 and (high - low).max() < 0.42 and not (before and covered > HIDDEN)


def draw_light(
    layout: np.random.Generator, paint: np.random.Generator, look: Look, yaw: float, walls: tuple
) -> Light:
    """A sun beside or before the object that no wall hides, and a sky."""
    rise = np.radians(paint.uniform(*look.sun_height))
    turns = np.radians(layout.uniform(30, 115, 12)) * (2 * layout.integers(0, 2, 12) - 1)
    for turn in [*turns, 0.0]:
        flat = np.array([np.cos(yaw + np.pi + turn), np.sin(yaw + np.pi + turn)])
        if all(flat[w.axis] * -np.sign(w.offset) > 0.25 for w in walls):
            break
    direction = np.array([*np.cos(rise) * flat, np.sin(rise)])
    sun = np.asarray(pick(paint, look.sun)) * paint.uniform(*look.sun_power)
    horizon, zenith = (looks.linear(looks.jitter(paint, c, 0.03)) for c in pick(paint, look.skies))
    blue = zenith / max(float(zenith.max()), 0.05)
    ambient = paint.uniform(*look.sky_power) * (0.7 + 0.3 * blue)
    lamp = (
        np.array([*paint.uniform(-1, 1, 2), paint.uniform(1.6, 2.6)]) if look.lamp else np.zeros(3)
    )
    values = (paint.uniform(*r) for r in (look.clouds, look.haze, look.soft))
    return Light(
        direction,
        *(np.float32(a) for a in (sun, ambient, horizon, zenith)),
        *values,
        np.float32(lamp),
    )


def dress(rng: np.random.Generator, look: Look, bodies: tuple, walls: tuple):
    """Paint floor, walls and objects so that the main object stands out from what is behind it."""
    pattern = pick(rng, look.floors)
    bases = (
        looks.WOOD
        if pattern == "planks" and look.floor_colours is looks.STONE
        else look.floor_colours
    )
    base = looks.jitter(rng, pick(rng, bases), 0.05)
    floor = Surface(2, 0.0, 0.0, pattern, scheme(rng, look, pattern, base), rng.uniform(0.75, 1.25),
                    rng.uniform(0, 32, 2), look.mottle)
    painted = []
    for wall in walls:
        kind = pick(rng, textures.WALLS)
        wall_base = looks.unlike(rng, look.wall_colours, base, 40)
        painted.append(
            Surface(
                wall.axis,
                wall.offset,
                wall.height,
                kind,
                scheme(rng, look, kind, wall_base, 0.6),
                rng.uniform(0.8, 1.4),
                rng.uniform(0, 32, 2),
                look.mottle,
            )
        )
    dressed = tuple(paint_body(rng, look, body, base) for body in bodies)
    return floor, tuple(painted), dressed


def scheme(
    rng: np.random.Generator, look: Look, pattern: str, base: np.ndarray, calm: float = 1.0
) -> np.ndarray:
    """Three linear colours (3, 3) of a surface: base, second and seam."""
    strength = calm * rng.uniform(*look.contrast)
    two_tone = pattern in ("checker", "stripes", *textures.NEW_FLOORS)
    shade = 1 - (0.75 if two_tone else 0.4) * strength
    second = looks.jitter(rng, base * shade, 0.04)
    return looks.linear([base, second, base * (1 - 0.75 * strength)])


def paint_body(rng: np.random.Generator, look: Look, body: Body, floor: np.ndarray) -> Body:
    """The body in one of the palette's colours that differs from the floor's."""
    names = list(look.palette)
    order = [names[i] for i in rng.permutation(len(names))]
    colour = next(c for c in order if np.square(np.asarray(look.palette[c]) - floor).sum() > 75**2)
    first = looks.jitter(rng, look.palette[colour])
    second = looks.jitter(rng, first * pick(rng, (0.45, 0.55, 1.5)), 0.05)
    kind, grain = pick(rng, look.materials), rng.uniform(*look.grain)
    if kind == "banded":
        grain = max(grain, 0.35)
    paints = looks.linear([first, second])
    return dataclasses.replace(body, colour=colour, paints=paints, material=kind, grain=grain,
                               gloss=rng.uniform(*look.gloss))


def draw_finish(rng: np.random.Generator, look: Look) -> Finish:
    """Exposure, noise, vignette and, for drawings, the pen."""
    exposure, noise, vignette, saturation = (
        rng.uniform(*r) for r in (look.exposure, look.noise, look.vignette, look.saturation)
    )
    pens = ((24, 22, 26), (24, 22, 26), (70, 66, 70), (60, 42, 30), (30, 40, 90))
    ink = looks.linear(pick(rng, pens)) if look.ink else None
    hatch = rng.uniform(0, 1) if look.ink and rng.uniform() < 0.4 else 0.0
    return Finish(
        exposure,
        noise,
        vignette,
        saturation,
        np.float32(look.tint),
        ink,
        rng.uniform(0.012, 0.022),
        hatch,
    )
