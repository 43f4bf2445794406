"""The words of a scene: a caption drawn from its seed, true of what is in the picture."""

import numpy as np

MEDIA = {"photo": ("a photo of", "a photograph of", "a picture of"),
         "night": ("a photo of", "a photograph of"),
         "textures": ("a photo of", "a photograph of"),
         "stock": ("a photo of", "a stock photo of", "a bright photo of"),
         "vintage": ("a photo of", "an old photo of", "a vintage photograph of"),
         "drawing": ("a drawing of", "an illustration of", "a sketch of"),
         "render": ("a 3d render of", "a rendering of", "a computer graphic of")}
FLOORS = {
    "tiles": ("tiled floor", "tile floor"),
    "planks": ("wooden floor", "plank floor"),
    "checker": ("checkered floor", "checkerboard floor"),
    "stripes": ("striped floor",),
    "plain": ("plain floor", "plain background"),
    "hexagons": ("honeycomb floor",),
    "dots": ("dotted floor",),
    "zigzag": ("zigzag floor",),
    "patches": ("mottled floor",),
}
WALLS = {
    "plain": "plain wall",
    "bricks": "brick wall",
    "panels": "panelled wall",
    "tiles": "tiled wall",
}


def article(words: str) -> str:
    """The words with `a` or `an` before them."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def caption(scene) -> str:
    """One sentence: medium, object, and most of the time its colour and floor, at times walls,
    light or company.
    """
    rng = np.random.default_rng([scene.seed, scene.label, 77])
    odds = rng.uniform(size=6)
    main = scene.bodies[0]
    thing = f"{main.colour} {main.name}" if odds[0] < 0.8 else main.name
    media = MEDIA[scene.look]
    words = f"{media[0] if odds[1] < 0.6 else media[rng.integers(len(media))]} {article(thing)}"
    if odds[2] < 0.7:
        floors = FLOORS[scene.floor.pattern]
        floor = floors[rng.integers(len(floors))]
        words += f" on {article(floor)}"
    if scene.walls and odds[3] < 0.4:
        words += (f" in front of {article(WALLS[scene.walls[0].pattern])}" if len(scene.walls) == 1
                  else " in the corner of a room")
    if len(scene.bodies) > 1 and odds[4] < 0.3:
        words += f" with {article(scene.bodies[1].colour + ' ' + scene.bodies[1].name)} beside it"
    if scene.look == "night":
        return words + " at night"
    return words + extra(scene, rng) if odds[5] < 0.2 else words


def extra(scene, rng: np.random.Generator) -> str:
    """A remark on the light."""
    low = scene.light[2] < np.sin(np.radians(38))
    return str(rng.choice([", casting a long shadow" if low else ", casting a short shadow",
                           ", in low sunlight" if low else ", lit from above"]))
