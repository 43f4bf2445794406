"""The one way to make a figure, a table or a text: it is shown, and what the page needs is saved.

    figures.begin(out=Path("reports/world"), notebook="04_training")
    fig, axes = figures.figure(width="narrow")
    axes.bar(frame.arm, frame.accuracy, color=[figures.color(arm) for arm in frame.arm])
    figures.show(fig, "accuracy", "Accuracy by training set. Bars: mean of three seeds.",
                 "Bars of accuracy by training set.", frame)

A caption is a headline (its first sentence, at most 12 words) and at most 30 words on how to read
the figure. Beside `figures/04_training_accuracy.svg` and `.csv` lies `.json`, which the page reads.
"""

from __future__ import annotations

import functools
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.pyplot as plt
import pandas as pd
from IPython import get_ipython
from IPython.display import display
from markupsafe import Markup
from matplotlib.figure import Figure

from lib.report import ReportError
from lib.report import contact_sheet as sheet
from lib.report.style import HEAT, RC, WIDTHS, adaptive, color, embedded, marks, palette, svg
from lib.report.tables import (
    FORMATS,
    Column,
    Format,
    flat,
    heading,
    html_table,
    refuse_nan,
    value,
)

__all__ = [
    "HEAT", "begin", "color", "contact_sheet", "figure", "flat", "marks", "overview", "palette",
    "say", "show", "table", "value",
]  # fmt: skip
HEADLINE, READING = 12, 30  # words of a caption


@dataclass
class Place:
    """Where the current notebook saves; the names it has used -> the cell and the run that did."""

    out: Path | None = None
    notebook: str = ""
    used: dict[str, tuple] = field(default_factory=dict)


_place = Place()


def begin(out: str | Path, notebook: str) -> None:
    """Say once a notebook where its figures go: `<out>/figures/<notebook>_<name>.*`."""
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", notebook):
        raise ReportError(f"notebook={notebook!r} is part of file names; give the notebook's stem, "
                          "like '04_training'")
    _place.out, _place.notebook, _place.used = Path(out), notebook, {}
    (_place.out / "figures").mkdir(parents=True, exist_ok=True)
    plt.rcParams.update(RC)


def figure(rows: int = 1, cols: int = 1, width: str = "wide", height: float = 320,
           **options: Any) -> tuple[Figure, Any]:
    """A figure and its axes; `width` is narrow (half a page), wide or full; `height` in pixels."""
    if width not in WIDTHS:
        raise ReportError(f"width={width!r}; figures are {' or '.join(WIDTHS)}")
    plt.rcParams.update(RC)
    fig = Figure(figsize=(WIDTHS[width] / 96, height / 96), layout="constrained")
    return fig, fig.subplots(rows, cols, **options)


def show(fig: Figure, name: str, caption: str, alt: str, data: pd.DataFrame) -> None:
    """Save the figure and its numbers, and show it; `alt` says what is seen."""
    if not isinstance(data, pd.DataFrame) or data.empty:
        raise ReportError(f"figure {name!r}: data must be a DataFrame with the numbers that are "
                          f"drawn, not {type(data).__name__}")
    _show_svg(svg(fig), name, caption, alt, data)


def contact_sheet(images, name: str, caption: str, alt: str, columns: int | None = None,
                  rows: Sequence[str] | None = None, titles: Sequence[str] | None = None,
                  overlays: Sequence[Mapping | None] | None = None,
                  data: pd.DataFrame | None = None, width: str = "full") -> None:
    """Pictures (n, h, w, 3) uint8 in a grid, pixels crisp; `titles` per picture or per column.

    `overlays`, one a picture or None: {"mask": bool (h, w), "segments": (m, 4), "points": (k, 2)}
    in pixels, centres on whole numbers; segments and points may be a dict from a name, which the
    legend shows, to such an array.
    """
    grid = sheet.Grid.of(images, columns, rows, titles, overlays, WIDTHS[width], name)
    _show_svg(sheet.svg(grid), name, caption, alt, grid.frame() if data is None else data)


def table(frame: pd.DataFrame, name: str, caption: str,
          columns: Mapping[str, str] | Sequence[str] | None = None,
          formats: Mapping[str, Format] | None = None, note: str = "") -> None:
    """Save and show a table. `columns` chooses, orders and, as a dict, renames.

    `formats`: column -> `.1f` or a function. A cell that is a result {mean, low, high, n} is
    written by `value`; a missing one is refused: say `not run: why`.
    """
    frame = frame.reset_index() if frame.index.name or frame.index.nlevels > 1 else frame
    labels = dict(columns) if isinstance(columns, Mapping) else {
        column: heading(column) for column in columns or frame.columns}
    _check_columns(name, frame, [*labels, *(formats or {})])
    formats = {column: how for column, how in FORMATS.items() if column in labels} | (formats or {})
    body = html_table(Column.of(frame[c], labels[c], formats.get(c), f"table {name!r}")
                      for c in labels)
    _save(name, "table", caption, body, flat(frame[list(labels)]), note=note)


def overview(rows: Sequence[Mapping], sets: Mapping[str, Mapping], name: str, caption: str,
             axis: Sequence[float]) -> None:
    """Pictures and accuracy of each training set: a column a set, a row a class, dots below.

    `rows`: {label, pictures: {set: [images]}}; `sets`: {label, accuracy, seeds}; `axis`: its ends
    and the ticks between, in %.
    """
    body = template("overview.html.j2").render(
        sets=sets, axis=axis, colors={key: adaptive(key) for key in sets},
        rows=[{**row, "pictures": {key: [sheet.data_url(image) for image in pictures]
                                   for key, pictures in row["pictures"].items()}}
              for row in rows])
    frame = pd.DataFrame([{"training_set": key, **facts} for key, facts in sets.items()])
    _save(name, "figure", caption, body, flat(frame[["training_set", "accuracy"]]), size="full")


def say(text: str) -> None:
    """Generated plain text; an empty line starts a new paragraph."""
    if not isinstance(text, str) or not text.strip():
        raise ReportError("an empty text says nothing; pass the sentence")
    refuse_nan("the text", text)
    paragraphs = [html.escape(part.strip()) for part in re.split(r"\n\s*\n", text) if part.strip()]
    show_html(f'<div class="said"><p>{"</p><p>".join(paragraphs)}</p></div>', text, text=True)


def show_html(markup: str, plain: str, **report: Any) -> None:
    """Display markup; `report` tells the page what it is."""
    display({"text/html": markup, "text/plain": plain}, metadata={"report": report}, raw=True)


@functools.cache
def template(name: str) -> jinja2.Template:
    """A template of `lib/report/template`, strict and escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lib.report", "template"), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(name)


def markup(record: Mapping, prefix: str = "", number: str = "", csv: str = "") -> Markup:
    """A saved figure or table as HTML; the page gives it a number, links and its numbers as CSV."""
    return Markup(template("figure.html.j2").render(
        record | {"body": Markup(record["body"])}, prefix=prefix, number=number, csv=csv))


def _show_svg(text: str, name: str, caption: str, alt: str, data: pd.DataFrame) -> None:
    """Its size is read from the drawing so that the page does not jump while it loads."""
    width, height = (round(float(re.search(rf'{side}="([\d.]+)pt"', text)[1]) / 0.75)
                     for side in ("width", "height"))
    if not str(alt).strip():
        raise ReportError(f"{name!r} has no alt: say what is to be seen, for a reader who cannot "
                          "see it")
    size = next((key for key, limit in WIDTHS.items() if width <= limit), "full")
    body = (f'<img src="{embedded(text)}" alt="{html.escape(alt)}" width="{width}" '
            f'height="{height}">')
    _save(name, "figure", caption, body, flat(data), size=size)
    _path(name, "svg").write_text(text, encoding="utf-8")


def _save(name: str, kind: str, caption: str, body: str, data: pd.DataFrame, size: str = "",
          note: str = "") -> None:
    """Check, save and show."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", str(name)):
        raise ReportError(f"name={name!r} becomes a file and an anchor; "
                          "use small letters, digits, - and _")
    headline, reading = split_caption(name, caption)
    _claim(name)
    record = {"kind": kind, "name": name, "headline": headline, "reading": reading, "body": body,
              "size": size, "note": note}
    _path(name, "json").write_text(json.dumps(record), encoding="utf-8")
    data.to_csv(_path(name, "csv"), index=False)
    show_html(markup(record), f"{kind.capitalize()} {name}: {caption}", name=name)


def split_caption(name: str, caption: str) -> tuple[str, str]:
    """The headline, which is the first sentence, and how to read what is shown."""
    if not isinstance(caption, str) or not caption.strip():
        raise ReportError(f"{name!r} has no caption: state what it shows")
    refuse_nan(f"the caption of {name!r}", caption)
    headline, _, reading = caption.strip().partition(". ")
    for part, limit, what in ((headline, HEADLINE, "headline (its first sentence)"),
                              (reading, READING, "caption after the headline")):
        if len(part.split()) > limit:
            raise ReportError(f"the {what} of {name!r} has {len(part.split())} words, at most "
                              f"{limit} are read: {part!r}")
    return headline.rstrip(".") + ".", reading


def _check_columns(name: str, frame: pd.DataFrame, columns: Sequence[str]) -> None:
    lost = [column for column in columns if column not in frame.columns]
    if lost:
        there = ", ".join(map(repr, frame.columns))
        raise ReportError(f"table {name!r} has no column {lost[0]!r}; its columns are {there}")
    if frame.empty:
        raise ReportError(f"table {name!r} has no rows; say in a sentence why there is nothing")


def _claim(name: str) -> None:
    """Reserve a name in this notebook; only the same cell, run again in Lab, may take it twice."""
    if _place.out is None:
        raise ReportError("nobody said where figures go: call figures.begin(out, notebook) first")
    shell = get_ipython()
    message = shell.get_parent() if hasattr(shell, "get_parent") else {}
    cell = message.get("metadata", {}).get("cellId")
    run = message.get("header", {}).get("msg_id")
    before = _place.used.get(name)
    if before and (cell is None or before[0] != cell or before[1] == run):
        raise ReportError(f"{name!r} names two figures or tables of {_place.notebook}; "
                          "give the second a name of its own")
    _place.used[name] = (cell, run)


def _path(name: str, suffix: str) -> Path:
    return _place.out / "figures" / f"{_place.notebook}_{name}.{suffix}"
