"""The one way to make a figure, a table or a finding: it is shown, saved, and the numbers behind it lie beside it.

    figures.begin(out=Path("reports/world"), notebook="04_training")
    fig, axes = figures.figure(width="narrow")
    axes.bar(frame.arm, frame.accuracy, color=[figures.color(arm) for arm in frame.arm])
    figures.show(fig, "accuracy", "Real images win by 3 points (n = 3 seeds).", "Bars of accuracy by arm.", frame)
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from lib.report import ReportError
from lib.report import contact_sheet as sheet
from lib.report.style import HEAT, RC, WIDTHS, color, embedded, marks, palette, svg
from lib.report.tables import FORMATS, Column, Format, flat, heading, html_table, missing, refuse_nan, scroll, value

__all__ = [
    "HEAT", "abstract", "begin", "color", "contact_sheet", "figure", "finding", "marks", "palette", "say", "show", "table",
    "value",
]  # fmt: skip
ROWS_SHOWN = 40  # numbers of a figure that are folded into its caption; longer ones are only in the CSV


@dataclass
class Place:
    """Where the current notebook saves, and which names it has used (name -> cell and run that used it)."""

    out: Path | None = None
    notebook: str = ""
    used: dict[str, tuple] = field(default_factory=dict)


_place = Place()


def begin(out: str | Path, notebook: str) -> None:
    """Say once a notebook where its figures go: `<out>/figures/<notebook>_<name>.svg` and `.csv`."""
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", notebook):
        raise ReportError(f"notebook={notebook!r} is part of file names; give the notebook's stem, like '04_training'")
    _place.out, _place.notebook, _place.used = Path(out), notebook, {}
    (_place.out / "figures").mkdir(parents=True, exist_ok=True)
    plt.rcParams.update(RC)


def figure(
    rows: int = 1, cols: int = 1, width: str = "wide", height: float = 320, **options: Any
) -> tuple[Figure, Any]:
    """A figure and its axes; `width` is narrow (half a page), wide or full; `height` is in pixels."""
    if width not in WIDTHS:
        raise ReportError(f"width={width!r}; figures are {' or '.join(WIDTHS)}")
    plt.rcParams.update(RC)
    fig = Figure(figsize=(WIDTHS[width] / 96, height / 96), layout="constrained")
    return fig, fig.subplots(rows, cols, **options)


def show(fig: Figure, name: str, caption: str, alt: str, data: pd.DataFrame) -> None:
    """Save the figure and its numbers, and show it; the caption states the finding, `alt` says what is seen."""
    _check_texts(name, caption=caption, alt=alt)
    if not isinstance(data, pd.DataFrame) or data.empty:
        raise ReportError(
            f"figure {name!r}: data must be a DataFrame with the numbers that are drawn, not {type(data).__name__}"
        )
    _show_svg(svg(fig), name, caption, alt, data)


def contact_sheet(
    images,
    name: str,
    caption: str,
    alt: str,
    columns: int | None = None,
    rows: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    overlays: Sequence[Mapping | None] | None = None,
    data: pd.DataFrame | None = None,
    width: str = "full",
) -> None:
    """Pictures (n, h, w, 3) uint8 in a grid, their pixels crisp; `titles` for each picture or each column.

    `overlays`, one for each picture or None: {"mask": bool (h, w), "segments": (m, 4), "points": (k, 2)} in pixels with
    centres on whole numbers; segments and points may be a dict from a name, which the legend shows, to such an array.
    """
    _check_texts(name, caption=caption, alt=alt)
    grid = sheet.Grid.of(images, columns, rows, titles, overlays, WIDTHS[width], name)
    _show_svg(sheet.svg(grid), name, caption, alt, grid.frame() if data is None else data)


def table(
    frame: pd.DataFrame,
    name: str,
    caption: str,
    columns: Mapping[str, str] | Sequence[str] | None = None,
    formats: Mapping[str, Format] | None = None,
    note: str = "",
) -> None:
    """Save and show a table. `columns` chooses, orders and, as a dict, renames; `formats`: column -> `.1f`, function.

    A cell that is a result {mean, low, high, n} is written by `value`; a missing one is refused: say `not run: why`.
    """
    _check_texts(name, caption=caption)
    frame = frame.reset_index() if frame.index.name or frame.index.nlevels > 1 else frame
    labels = dict(columns) if isinstance(columns, Mapping) else {c: heading(c) for c in columns or frame.columns}
    _check_columns(name, frame, [*labels, *(formats or {})])
    formats = {column: how for column, how in FORMATS.items() if column in labels} | (formats or {})
    body = html_table(Column.of(frame[c], labels[c], formats.get(c), f"table {name!r}") for c in labels)
    _claim(name)
    flat(frame[list(labels)]).to_csv(_path(name, "csv"), index=False)
    note = f'<p class="note">{html.escape(note)}</p>' if note else ""
    markup = f"<figcaption>{html.escape(caption)}</figcaption>{scroll(body, 'Table: ' + caption)}{note}"
    _display(f'<figure class="table" id="table-{name}">{markup}</figure>', f"Table {name}: {caption}\n{frame}")


def finding(text: str) -> None:
    """One generated sentence or paragraph, set off as what the data say."""
    _prose(text, "finding", "Finding")


def abstract(text: str) -> None:
    """The abstract of the report, at most 150 words."""
    if len(text.split()) > 150:
        raise ReportError(f"the abstract has {len(text.split())} words; 150 at most fit the first screen")
    _prose(text, "abstract", "Abstract")


def say(text: str) -> None:
    """Generated plain text; an empty line starts a new paragraph."""
    _prose(text, "said", "")


def _check_texts(name: str, **texts: str) -> None:
    """A name that can be a file and an anchor; caption and alt text that say something."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", str(name)):
        raise ReportError(f"name={name!r} becomes a file and an anchor; use small letters, digits, - and _")
    wanted = {"alt": "say what is to be seen, for a reader who cannot see it", "caption": "state what it shows, with n"}
    for what, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise ReportError(f"{name!r} has no {what}: {wanted[what]}")
        refuse_nan(f"the {what} of {name!r}", text)


def _check_columns(name: str, frame: pd.DataFrame, wanted: Sequence[str]) -> None:
    lost = [column for column in wanted if column not in frame.columns]
    if lost:
        there = ", ".join(map(repr, frame.columns))
        raise ReportError(f"table {name!r} has no column {lost[0]!r}; its columns are {there}")
    if frame.empty:
        raise ReportError(f"table {name!r} has no rows; say in a sentence why there is nothing to show")


def _claim(name: str) -> None:
    """Reserve a name in this notebook; only the same cell, run again in Lab, may take it a second time."""
    if _place.out is None:
        raise ReportError("nobody said where figures go: call figures.begin(out, notebook) first in the notebook")
    shell = get_ipython()
    message = shell.get_parent() if hasattr(shell, "get_parent") else {}
    cell, run = message.get("metadata", {}).get("cellId"), message.get("header", {}).get("msg_id")
    before = _place.used.get(name)
    if before and (cell is None or before[0] != cell or before[1] == run):
        raise ReportError(
            f"{name!r} names two figures or tables of {_place.notebook}; give the second a name of its own"
        )
    _place.used[name] = (cell, run)


def _path(name: str, suffix: str) -> Path:
    return _place.out / "figures" / f"{_place.notebook}_{name}.{suffix}"


def _show_svg(text: str, name: str, caption: str, alt: str, data: pd.DataFrame) -> None:
    """Save and show; the size is read from the drawing so that the page does not jump while it loads."""
    url = embedded(text)
    _claim(name)
    _path(name, "svg").write_text(text, encoding="utf-8")
    flat(data).to_csv(_path(name, "csv"), index=False)
    width, height = (round(float(re.search(rf'{side}="([\d.]+)pt"', text)[1]) / 0.75) for side in ("width", "height"))
    size = next(name for name, limit in WIDTHS.items() if width <= limit or name == "full")
    least = f"min-width:{0.76 * width:.0f}px;" if size != "narrow" else ""  # small type stays legible, the box scrolls
    image = (
        f'<img src="{url}" alt="{html.escape(alt)}" width="{width}" height="{height}" '
        f'style="{least}max-width:100%;height:auto">'
    )
    image = image if size == "narrow" else scroll(image, "Figure: " + caption)
    markup = f"{image}<figcaption>{html.escape(caption)} {_folded(name, data)}</figcaption>"
    _display(f'<figure class="{size}" id="fig-{name}">{markup}</figure>', f"Figure {name}: {caption}")


def _folded(name: str, data: pd.DataFrame) -> str:
    """The numbers behind a figure as a folded table where they are few, else the file that has them."""
    file = html.escape(f"figures/{_path(name, 'csv').name}")
    if len(data) > ROWS_SHOWN or data.shape[1] > 8:
        return f'<span class="numbers">Numbers ({len(data):,} rows): {file}</span>'
    body = html_table(Column.of(("–" if missing(x) else x for x in data[c]), str(c)) for c in data)
    body = scroll(body, "Numbers of " + name)
    return f'<details class="numbers"><summary>Numbers</summary>{body}<p>{file}</p></details>'


def _prose(text: str, kind: str, label: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise ReportError(f"an empty {kind} says nothing; pass the sentence")
    refuse_nan(f"the {kind}", text)
    head = f'<span class="label">{label}</span> ' if label else ""
    paragraphs = [html.escape(part.strip()) for part in re.split(r"\n\s*\n", text) if part.strip()]
    _display(f'<div class="{kind}"><p>{head}{"</p><p>".join(paragraphs)}</p></div>', text)


def _display(markup: str, plain: str) -> None:
    display({"text/html": markup, "text/plain": plain}, raw=True)
