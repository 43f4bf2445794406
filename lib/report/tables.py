"""Numbers as text, written the same way everywhere, and tables of them."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import pandas as pd

from lib.report import ReportError

FORMULA = re.compile(r"\s*[=+@|%]|\s*-(?![\d.])")
Format = str | Callable[[Any], str] | None
SOME, LONG = 18, 40  # letters from which a cell keeps some width on a narrow screen, more width everywhere
NONE = "–"  # there is nothing to say in this cell


@dataclass(frozen=True)
class Column:
    """A column of finished text; one of numbers is set to the right."""

    label: str
    texts: list[str]
    numeric: bool

    @classmethod
    def of(cls, values: Iterable, label: str, how: Format = None, where: str = "the table") -> Column:
        """Write each value; numeric where all are numbers or results, but for those that say that there is none."""
        values = list(values)
        texts = [cell(x, how, f"{where}, column {label!r}, row {i}") for i, x in enumerate(values)]
        there = [x for x, text in zip(values, texts, strict=True) if not text.startswith("not run") and text != NONE]
        numeric = bool(there) and all(isinstance(x, (Real, Mapping)) and not isinstance(x, bool) for x in there)
        return cls(label, texts, numeric)


def value(result: Mapping[str, Any], digits: int = 1, scale: float = 1.0, unit: str = "") -> str:
    """`81.3 ± 0.4 (n = 3)` from {mean, low, high, n}; a skew interval is written out: `81.3 [80.9, 82.1] (n = 3)`."""
    mean, low, high, n = _parts(result, scale)
    if low is None:
        return minus(f"{mean:.{digits}f}{unit} (n = {n:,}, no interval)")
    down, up = mean - low, high - mean
    if abs(up - down) <= 0.1 * (up + down):
        return minus(f"{mean:.{digits}f}{unit} ± {(up + down) / 2:.{digits}f} (n = {n:,})")
    return minus(f"{mean:.{digits}f}{unit} [{low:.{digits}f}, {high:.{digits}f}] (n = {n:,})")


def three(result: Mapping[str, Any]) -> str:
    """A result with three digits, or fewer where it is large."""
    return value(result, digits=1 if abs(result.get("mean") or 0) >= 5 else 3)


def number(x: Real) -> str:
    """A bare number at a readable length: 12,345 · 123.4 · 1.234 · 1.2e-05."""
    if isinstance(x, bool):
        return "yes" if x else "no"
    if float(x).is_integer():
        return minus(f"{int(x):,}")
    size = abs(float(x))
    how = ",.0f" if size >= 1000 else ".1f" if size >= 10 else ".3f" if size >= 0.001 else ".1e"
    return minus(format(x, how))


def minus(text: str) -> str:
    """A real minus sign before each number, not before the exponent of one or inside a word, and none before a zero."""
    text = re.sub(r"(?<![\w.])-(0(?:\.0+)?)(?![.\d])", r"\1", text)
    return re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", text)


def missing(x: Any) -> bool:
    return x is None or x is pd.NA or x is pd.NaT or (isinstance(x, Real) and not math.isfinite(x))


def refuse_nan(what: str, text: str) -> None:
    """Stop at a missing number; a class may be called nan."""
    if re.search(r"(\b(is|was|by|than|at) |[±=\[(~] ?)nan\b|\bnan( ?%| ?±| points|[.)\]])", text):
        raise ReportError(f"{what} says 'nan': {text!r}; a number is missing in the result it was made from")


def cell(x: Any, how: Format, where: str) -> str:
    """The text of one cell; a result goes through `value`, numbers through `how` or `number`."""
    if missing(x):
        raise ReportError(f"{where} is missing ({x!r}); write the number or 'not run: why'")
    if callable(how) and not isinstance(x, str):
        return str(how(x))
    if isinstance(x, Mapping):
        return three(x)
    if isinstance(x, Real):
        return minus(format(x, how)) if how else number(x)
    refuse_nan(where, str(x))
    return str(x)


def html_table(columns: Iterable[Column]) -> str:
    """Escaped; the first column heads its row."""
    columns = list(columns)
    head = "".join(_td(c.label, c.numeric, "th", "col") for c in columns)
    rows = [
        "".join(_td(text, c.numeric, "td" if i else "th", "" if i else "row") for i, (text, c) in enumerate(pairs))
        for pairs in (list(zip(texts, columns, strict=True)) for texts in zip(*(c.texts for c in columns), strict=True))
    ]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody></table>"


def scroll(inner: str, label: str) -> str:
    """A box that scrolls sideways by itself, reachable with the keyboard."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{html.escape(label)}">{inner}</div>'


def flat(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of results split into mean, low, high and n, so that a CSV holds numbers."""
    parts = {}
    for name in frame:
        if not any(isinstance(x, Mapping) for x in frame[name]):
            parts[name] = frame[name]
            continue
        for key in ("mean", "low", "high", "n"):
            parts[f"{name}_{key}"] = [x.get(key) if isinstance(x, Mapping) else x for x in frame[name]]
    return pd.DataFrame({name: [_inert(x) for x in column] for name, column in parts.items()})


def _inert(x: Any) -> Any:
    """No formula: a spreadsheet runs text that begins like one, and a class may be called so."""
    return f"'{x}" if isinstance(x, str) and FORMULA.match(x) else x


def _parts(result: Mapping[str, Any], scale: float) -> tuple[float, float | None, float | None, int]:
    """Mean, low, high and n; a single run (n = 1) may lack the interval, nothing else may lack anything."""
    n = result.get("n")
    if not {"mean", "low", "high"} <= set(result) or not isinstance(n, Real) or n < 1:
        raise ReportError(f"a result needs mean, low, high and n >= 1, or it is not a result; got {dict(result)}")
    mean, low, high = (None if missing(result[key]) else float(result[key]) * scale for key in ("mean", "low", "high"))
    if mean is None or ((low is None or high is None) and n > 1):
        raise ReportError(f"a result over n = {n} needs a finite mean, low and high; got {dict(result)}")
    if low is None or high is None:
        return mean, None, None, n
    if not low - 1e-9 <= mean <= high + 1e-9:
        raise ReportError(f"the mean of a result lies within its interval; got {dict(result)}")
    return mean, low, high, n


def _td(text: str, numeric: bool, tag: str, scope: str) -> str:
    wide = "long" if len(text) > LONG else "some" if len(text) > SOME and scope != "col" else ""
    kind = "not-run" if text.startswith("not run") else "num" if numeric else wide
    attributes = (f' scope="{scope}"' if scope else "") + (f' class="{kind}"' if kind else "")
    return f"<{tag}{attributes}>{html.escape(text)}</{tag}>"
