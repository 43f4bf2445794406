"""What a scene is made of and lit by: palettes and the range each look draws its surfaces and light
from.

Colours are written in sRGB bytes, as a paint program shows them, and used in linear light.
"""

from dataclasses import dataclass

import numpy as np

from lib.world import textures

STYLES = ("photo", "web", "drawing", "render", "night", "textures")
SHIFTS = ("night", "drawing", "textures")
WEB_MIX = ("drawing", "render", "stock", "vintage")

NATURAL = {
    "red": (172, 52, 44),
    "orange": (208, 120, 48),
    "yellow": (214, 180, 70),
    "green": (74, 128, 66),
    "teal": (46, 130, 128),
    "blue": (58, 92, 158),
    "purple": (112, 72, 136),
    "pink": (206, 128, 142),
    "brown": (122, 82, 52),
    "white": (226, 222, 212),
    "gray": (136, 136, 134),
}
BRIGHT = {
    "red": (240, 24, 30),
    "orange": (255, 130, 0),
    "yellow": (255, 222, 0),
    "green": (20, 190, 50),
    "teal": (0, 200, 190),
    "blue": (20, 70, 245),
    "purple": (150, 30, 220),
    "pink": (255, 80, 170),
    "brown": (140, 70, 20),
    "white": (250, 250, 250),
    "gray": (140, 144, 150),
}
PENCIL = {
    "red": (226, 74, 62),
    "orange": (244, 156, 74),
    "yellow": (250, 216, 92),
    "green": (112, 184, 96),
    "teal": (92, 190, 184),
    "blue": (92, 138, 218),
    "purple": (160, 112, 200),
    "pink": (246, 152, 180),
    "brown": (166, 118, 80),
    "white": (250, 248, 242),
    "gray": (164, 164, 166),
}
STONE = (
    (168, 162, 150),
    (190, 174, 146),
    (158, 106, 80),
    (120, 122, 124),
    (204, 198, 184),
    (134, 140, 128),
)
WOOD = ((156, 112, 70), (126, 88, 58), (184, 146, 100), (108, 82, 66))
PASTEL = (
    (214, 220, 236),
    (240, 228, 210),
    (216, 236, 220),
    (244, 218, 224),
    (228, 228, 230),
    (250, 240, 200),
)
PAPER = ((250, 247, 238), (244, 240, 226), (252, 252, 252), (240, 244, 248))
GAUDY = (
    (206, 120, 96),
    (110, 146, 190),
    (224, 198, 120),
    (130, 168, 136),
    (176, 140, 186),
    (226, 226, 230),
)
FADED = ((206, 178, 138), (178, 148, 120), (160, 164, 140), (196, 160, 150), (140, 130, 120))


@dataclass(frozen=True)
class Look:
    """Ranges one look draws from; angles in degrees, focal length in frame sides, light in linear
    units.
    """

    palette: dict
    floors: tuple = textures.FLOORS
    floor_colours: tuple = STONE
    materials: tuple = textures.MATERIALS
    wall_colours: tuple = PASTEL
    walls: tuple = (0.45, 0.3, 0.25)
    pitch: tuple = (13, 34)
    focal: tuple = (0.85, 1.7)
    roll: float = 2.0
    contrast: tuple = (0.35, 0.8)
    mottle: float = 0.35
    grain: tuple = (0.1, 0.3)
    gloss: tuple = (0.0, 0.35)
    sun: tuple = ((1.0, 0.95, 0.86), (1.0, 0.88, 0.72), (0.95, 0.96, 1.0))
    sun_power: tuple = (0.95, 1.25)
    sky_power: tuple = (0.4, 0.6)
    sun_height: tuple = (30, 62)
    soft: tuple = (0.0, 0.035)
    skies: tuple = (((206, 216, 224), (96, 142, 198)), ((222, 222, 220), (170, 180, 190)),
                    ((232, 216, 196), (120, 150, 190)), ((196, 210, 222), (70, 116, 180)))
    clouds: tuple = (0.0, 0.8)
    haze: tuple = (0.02, 0.06)
    exposure: tuple = (0.88, 1.12)
    noise: tuple = (0.010, 0.026)
    vignette: tuple = (0.05, 0.3)
    saturation: tuple = (0.85, 1.0)
    tint: tuple = (1.0, 1.0, 1.0)
    ink: bool = False
    lamp: bool = False


LOOKS = {
    "photo": Look(NATURAL),
    "drawing": Look(
        PENCIL,
        floor_colours=PAPER,
        materials=("plain",),
        wall_colours=PAPER,
        contrast=(0.25, 0.5),
        mottle=0.0,
        grain=(0.0, 0.0),
        gloss=(0.0, 0.0),
        soft=(0.0, 0.0),
        clouds=(0.0, 0.0),
        skies=(((250, 247, 238), (250, 247, 238)), ((236, 244, 250), (206, 228, 244))),
        haze=(0.0, 0.02),
        noise=(0.006, 0.014),
        vignette=(0.0, 0.05),
        saturation=(0.9, 1.1),
        ink=True,
    ),
    "render": Look(
        BRIGHT,
        floors=("plain", "checker", "tiles", "stripes"),
        floor_colours=PASTEL + ((70, 130, 200), (240, 200, 80)),
        materials=("plain", "plain", "banded"),
        walls=(0.7, 0.2, 0.1),
        pitch=(12, 38),
        focal=(0.8, 2.0),
        roll=0.0,
        contrast=(0.2, 0.6),
        mottle=0.0,
        grain=(0.0, 0.0),
        gloss=(0.5, 1.0),
        sun=((1.0, 1.0, 1.0), (1.0, 0.97, 0.94)),
        sun_height=(40, 75),
        sky_power=(0.5, 0.65),
        skies=(
            ((250, 250, 252), (226, 230, 240)),
            ((214, 226, 250), (120, 160, 240)),
            ((60, 64, 76), (20, 22, 30)),
            ((250, 226, 214), (240, 190, 200)),
        ),
        clouds=(0.0, 0.0),
        noise=(0.0, 0.003),
        vignette=(0.0, 0.1),
        saturation=(1.05, 1.25),
    ),
    "stock": Look(
        BRIGHT,
        floor_colours=WOOD + STONE + GAUDY[:2],
        wall_colours=PASTEL + GAUDY,
        pitch=(12, 36),
        focal=(0.8, 1.9),
        roll=3.0,
        contrast=(0.3, 0.7),
        sun_height=(22, 75),
        sun_power=(1.0, 1.3),
        sky_power=(0.35, 0.55),
        gloss=(0.1, 0.5),
        skies=(((200, 226, 250), (30, 110, 230)), ((255, 214, 170), (90, 120, 210))),
        exposure=(0.9, 1.12),
        noise=(0.002, 0.01),
        saturation=(1.05, 1.25),
    ),
    "vintage": Look(
        NATURAL,
        floor_colours=FADED,
        wall_colours=FADED,
        pitch=(12, 36),
        focal=(0.8, 1.9),
        roll=3.0,
        sun_height=(24, 55),
        sun=((1.0, 0.78, 0.52), (1.0, 0.86, 0.66)),
        sky_power=(0.45, 0.7),
        skies=(((246, 214, 160), (190, 170, 140)), ((240, 180, 130), (150, 130, 150))),
        noise=(0.012, 0.026),
        vignette=(0.3, 0.6),
        saturation=(0.6, 0.85),
        tint=(1.12, 1.0, 0.76),
    ),
    "night": Look(
        NATURAL,
        sun=((0.55, 0.68, 1.0), (0.62, 0.7, 0.95)),
        sun_power=(0.2, 0.32),
        sky_power=(0.06, 0.11),
        skies=(((34, 42, 66), (8, 10, 24)), ((52, 48, 64), (14, 14, 30))),
        clouds=(0.0, 0.3),
        noise=(0.02, 0.04),
        vignette=(0.2, 0.5),
        saturation=(0.6, 0.85),
        lamp=True,
    ),
    "textures": Look(
        NATURAL,
        floors=textures.NEW_FLOORS,
        materials=textures.NEW_MATERIALS,
        wall_colours=STONE,
        contrast=(0.6, 1.0),
        grain=(0.55, 0.9),
    ),
}


def linear(colour) -> np.ndarray:
    """Linear light (..., 3) float32 of sRGB byte triples."""
    return (np.asarray(colour, np.float32) / 255) ** np.float32(2.2)


def jitter(rng: np.random.Generator, colour, amount: float = 0.06) -> np.ndarray:
    """A colour (3,) near the given one: lightness and each channel moved a little, in sRGB bytes.
    """
    moved = np.asarray(colour, float) * (1 + amount * rng.normal()) + 255 * amount / 3 * rng.normal(
        size=3
    )
    return np.minimum(np.maximum(moved, 8), 252)


def unlike(rng: np.random.Generator, colours, other, apart: float = 60.0) -> np.ndarray:
    """One of `colours`, jittered, at least `apart` bytes from `other` if any is, else the furthest.
    """
    drawn = [jitter(rng, colours[i]) for i in rng.permutation(len(colours))]
    far = [float(np.linalg.norm(c - other)) for c in drawn]
    return next(
        (c for c, away in zip(drawn, far, strict=True) if away >= apart), drawn[int(np.argmax(far))]
    )
