"""Contact sheets: pictures in a grid, drawn as one embedded picture with vector labels and overlays
on top.
"""

from __future__ import annotations

import base64
import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.patheffects import withStroke
from PIL import Image

from lib.report import ReportError, style

# bytes of PNG that are worth exact pixels; larger sheets become JPEG without colour subsampling
SMALL = 60_000
EDGE = "#010101"  # dark in both themes, as pictures are the same in both
LARGEST = 170  # pixels of the page that one picture gets at most
LETTER, LINE = 6.6, 15  # pixels of the page a letter and a line of labels take


@dataclass(frozen=True)
class Grid:
    """Pictures with their place and labels, and how they are scaled: `zoom` page pixels for one of
    theirs.
    """

    images: np.ndarray
    columns: int
    rows: list[str]
    titles: list[str]
    overlays: list[Mapping | None]
    zoom: float
    gap: int  # pixels of the pictures
    label: int  # pixels of the page

    @classmethod
    def of(cls, images, columns, rows, titles, overlays, width: int, name: str) -> Grid:
        """Check what was given, and choose the largest whole zoom that fits `width`."""
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not len(images):
            raise ReportError(
                f"sheet {name!r} needs images (n, h, w, 3) uint8, n >= 1; "
                f"got {images.shape} {images.dtype}"
            )
        columns = columns or (-(-len(images) // len(rows)) if rows else min(len(images), 8))
        count = -(-len(images) // columns)
        for what, given, fits in (
            ("rows", rows, (count,)),
            ("titles", titles, (len(images), columns)),
            ("overlays", overlays, (len(images),)),
        ):
            if given is not None and len(given) not in fits:
                there = f"{len(images)} images in {columns} columns"
                raise ReportError(
                    f"sheet {name!r}: {len(given)} {what} for {there}; expected {fits[0]}"
                )
        longest = max((len(line) for row in rows or [] for line in _wrap(row, 20)), default=0)
        label = min(150, 12 + round(LETTER * longest)) if rows else 0
        zoom = min((width - label) / columns - 4, LARGEST) / images.shape[2]
        zoom = float(int(zoom)) if zoom >= 2 else 1.5 if zoom >= 1.5 else min(zoom, 1.0)
        return cls(
            images,
            columns,
            [str(r) for r in rows or []],
            [str(t) for t in titles or []],
            list(overlays or [None] * len(images)),
            zoom,
            max(1, round(4 / zoom)),
            label,
        )

    @property
    def cell(self) -> tuple[int, int]:
        """Height and width of a picture."""
        return self.images.shape[1], self.images.shape[2]

    def lines(self, text: str) -> list[str]:
        """A title broken to the width of a picture, three lines at most."""
        letters = max(4, int((self.cell[1] + self.gap) * self.zoom / LETTER))
        lines = _wrap(text, letters)
        return (
            lines if len(lines) <= 3 else [*lines[:2], lines[2][: letters - 1].rstrip(" ,") + "…"]
        )

    @property
    def heads(self) -> tuple[int, int]:
        """Room above the first row and above each later one for titles, in pixels of the pictures.
        """
        room = max((len(self.lines(title)) for title in self.titles), default=0) * LINE + 5 * bool(
            self.titles
        )
        above = int(np.ceil(room / self.zoom))
        return above, (above if len(self.titles) == len(self.images) else 0)

    def corner(self, i: int) -> tuple[int, int]:
        """Left and top of picture i, in pixels of the pictures."""
        row, column = divmod(i, self.columns)
        first, later = self.heads
        return column * (self.cell[1] + self.gap), first + row * (self.cell[0] + self.gap + later)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the whole, in pixels of the pictures."""
        height, width = self.cell
        return self.columns * (width + self.gap) - self.gap, self.corner(len(self.images) - 1)[
            1
        ] + height

    def frame(self) -> pd.DataFrame:
        """Row, column, label and title of each picture."""
        place = [divmod(i, self.columns) for i in range(len(self.images))]
        titles = [
            self.titles[c if len(self.titles) == self.columns else i] if self.titles else ""
            for i, (_, c) in enumerate(place)
        ]
        return pd.DataFrame(
            {
                "row": [r for r, _ in place],
                "column": [c for _, c in place],
                "label": [self.rows[r] if self.rows else "" for r, _ in place],
                "title": titles,
            }
        )


def data_url(image: np.ndarray) -> str:
    """One picture (h, w, 3) uint8 as a JPEG that a page holds itself."""
    packed = io.BytesIO()
    Image.fromarray(image).save(packed, "JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode()


def svg(grid: Grid) -> str:
    """The sheet as SVG text in the house style."""
    names = _names(grid.overlays)
    width, height = grid.size
    legend = LINE * 1.9 / grid.zoom if names else 0
    left = grid.label / grid.zoom
    fig = Figure(
        figsize=((width + left) * grid.zoom / 96, (height + legend) * grid.zoom / 96),
        facecolor=style.color("paper"),
        layout="none",
    )
    axes = fig.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    _pictures(axes, grid)
    axes.set(xlim=(-0.5 - left, width - 0.5), ylim=(height + legend - 0.5, -0.5))
    _labels(axes, grid)
    for i, overlay in enumerate(grid.overlays):
        _overlay(axes, grid.corner(i), grid.cell, overlay or {}, names)
    if names:
        _legend(axes, names, left / (width + left))
    return _smaller(style.svg(fig), crisp=grid.zoom >= 1)


def _pictures(axes, grid: Grid) -> None:
    """All pictures as one, cut to their frames so that the gaps show the paper."""
    width, height = grid.size
    whole = np.zeros((height, width, 3), np.uint8)
    frames = []
    for i, image in enumerate(grid.images):
        x, y = grid.corner(i)
        whole[y : y + grid.cell[0], x : x + grid.cell[1]] = image
        frames.append(
            Outline(
                np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]) * grid.cell[::-1]
                + (x - 0.5, y - 0.5),
                closed=True,
            )
        )
    drawn = axes.imshow(whole, interpolation="none", aspect="auto")
    drawn.set_clip_path(Outline.make_compound_path(*frames), axes.transData)


def _labels(axes, grid: Grid) -> None:
    """Row labels at the left, titles above their picture or column."""
    height, width = grid.cell
    for r, text in enumerate(grid.rows):
        y = grid.corner(r * grid.columns)[1] + height / 2
        lines = _wrap(text, 20)
        # each its own text: the reader's font has another width than the one measured here
        for k, line in enumerate(lines):
            lower = (k - (len(lines) - 1) / 2) * LINE / grid.zoom
            axes.text(-0.5 - 8 / grid.zoom, y + lower, line, ha="right", va="center", fontsize=9.5)
    for i, text in enumerate(grid.titles):
        x, y = grid.corner(i)
        axes.text(
            x - 0.5,
            y - 5 / grid.zoom,
            "\n".join(grid.lines(text)),
            ha="left",
            va="bottom",
            fontsize=9,
            linespacing=1.15,
        )


def _legend(axes, names: Mapping[str, str], left: float) -> None:
    """One line under the pictures; the bright colours get a dark edge as they have on the pictures.
    """
    edge = [withStroke(linewidth=5, foreground=EDGE, alpha=0.55)]
    handles = [Line2D([], [], color=color, lw=3, path_effects=edge) for color in names.values()]
    axes.legend(
        handles,
        names,
        loc="lower left",
        bbox_to_anchor=(left, 0),
        ncols=len(names),
        borderpad=0,
        borderaxespad=0,
        handlelength=1.2,
        columnspacing=1.4,
        fontsize=9.5,
        labelcolor=style.color("ink"),
    )


def _overlay(axes, corner, cell, overlay: Mapping, names: Mapping[str, str]) -> None:
    """Mask outline, segments and points of one picture, cut at its frame."""
    x, y = corner
    frame = Rectangle((x - 0.5, y - 0.5), cell[1], cell[0], transform=axes.transData)
    halo = [withStroke(linewidth=3.4, foreground=EDGE, alpha=0.55)]
    if overlay.get("mask") is not None:
        _strokes(axes, _border(overlay["mask"]) + (x, y), frame, names["mask"], 1.6, [])
    for name, segments in _named(overlay.get("segments"), "segments").items():
        lines = np.asarray(segments, float).reshape(-1, 2, 2) + (x, y)
        _strokes(axes, lines, frame, names[name], 1.8, halo)
    for name, points in _named(overlay.get("points"), "points").items():
        places = np.asarray(points, float).reshape(-1, 2) + (x, y)
        axes.scatter(
            *places.T, s=26, color=names[name], edgecolor=EDGE, linewidth=0.9, zorder=4
        ).set_clip_path(frame)


def _strokes(
    axes, lines: np.ndarray, frame: Rectangle, color: str, width: float, effects: list
) -> None:
    """Line segments (k, 2, 2) as one path, a tenth of the size of k lines."""
    path = Outline(lines.reshape(-1, 2), [Outline.MOVETO, Outline.LINETO] * len(lines))
    drawn = PathPatch(
        path, fill=False, edgecolor=color, linewidth=width, capstyle="round", path_effects=effects
    )
    axes.add_artist(drawn)
    drawn.set_clip_path(frame)


def _border(mask: np.ndarray) -> np.ndarray:
    """Edges (k, 2, 2) between pixels in the mask and pixels out of it, along the pixels' own sides.
    """
    padded = np.pad(np.asarray(mask, bool), 1)
    y, x = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])
    v, u = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])
    upright = np.stack([np.stack([x - 0.5, y - 0.5], 1), np.stack([x - 0.5, y + 0.5], 1)], 1)
    level = np.stack([np.stack([u - 0.5, v - 0.5], 1), np.stack([u + 0.5, v - 0.5], 1)], 1)
    return np.concatenate([upright, level])


def _named(given, name: str) -> dict:
    """A bare array gets the name of its kind."""
    return {} if given is None else dict(given) if isinstance(given, Mapping) else {name: given}


def _names(overlays: Sequence[Mapping | None]) -> dict[str, str]:
    """A colour for each name in the overlays, in order of appearance; chosen to be seen on any
    picture.
    """
    known = {"mask", "segments", "points"}
    found: dict[str, str] = {}
    bright = [color for key, color in style.PICTURE.items() if key != "mask"]
    for overlay in overlays:
        if unknown := sorted(set(overlay or {}) - known):
            raise ReportError(
                f"overlay {unknown[0]!r} is not known; overlays have {', '.join(sorted(known))}"
            )
        for kind in overlay or {}:
            for name in ["mask"] if kind == "mask" else _named(overlay[kind], kind):
                found.setdefault(
                    name,
                    style.PICTURE["mask"]
                    if name == "mask"
                    else bright[len(set(found) - {"mask"}) % len(bright)],
                )
    return found


def _wrap(text: str, letters: int) -> list[str]:
    """Lines of at most so many letters; a longer word ends in an ellipsis."""
    words = [
        word if len(word) <= letters else word[: letters - 1] + "…" for word in str(text).split()
    ]
    return textwrap.wrap(" ".join(words), letters) or [""]


def _smaller(text: str, crisp: bool) -> str:
    """Replace a large PNG inside the SVG by JPEG; let pictures that are shown smaller than they are
    be smoothed.
    """
    if not crisp:
        text = text.replace(
            "image-rendering:crisp-edges;image-rendering:pixelated", "image-rendering:auto"
        )
    found = re.search(r"data:image/png;base64,([^\"]+)", text)
    png = base64.b64decode(found[1])
    if len(png) <= SMALL:
        return text
    packed = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(
        packed, "JPEG", quality=80, subsampling=0, optimize=True
    )
    return text.replace(
        found[0], "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode()
    )
