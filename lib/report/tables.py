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

from lib.measure.stats import verdict
from lib.report import ReportError
from lib.report.style import LABELS

FORMULA = re.compile(r"\s*[=+@|%]|\s*-(?![\d.])")
Format = str | Callable[[Any], str] | None
# letters from which a cell keeps some width on a narrow screen, more width everywhere
SOME, LONG = 18, 40
NONE = "–"  # there is nothing to say in this cell
HEADINGS = {"training_set": "Trained on", "p": "p (adjusted)"}


@dataclass(frozen=True)
class Column:
    """A column of finished text; one of numbers is set to the right."""

    label: str
    texts: list[str]
    numeric: bool

    @classmethod
    def of(
        cls, values: Iterable, label: str, how: Format = None, where: str = "the table"
    ) -> Column:
        """Write each value; numeric where all are numbers or results, but for those that say that
        there is none.
        """
        values = list(values)
        texts = [cell(x, how, f"{where}, column {label!r}, row {i}") for i, x in enumerate(values)]
        there = [
            x
            for x, text in zip(values, texts, strict=True)
            if not text.startswith("not run") and text != NONE
        ]
        numeric = bool(there) and all(
            isinstance(x, (Real, Mapping)) and not isinstance(x, bool) for x in there
        )
        return cls(label, texts, numeric)


def value(result: Mapping[str, Any], digits: int = 1, scale: float = 1.0, unit: str = "") -> str:
    """`81.3 ± 0.4` from {mean, low, high, n}; a skew interval is written out: `81.3 [80.9, 82.1]`.
    """
    mean, low, high = _parts(result, scale)
    if low is None:
        return minus(f"{mean:.{digits}f}{unit} (one run)")
    down, up = mean - low, high - mean
    if abs(up - down) <= 0.1 * (up + down):
        return minus(f"{mean:.{digits}f}{unit} ± {(up + down) / 2:.{digits}f}")
    return minus(f"{mean:.{digits}f}{unit} [{low:.{digits}f}, {high:.{digits}f}]")


def percent(result: Mapping[str, Any] | Real) -> str:
    """A share in %, or a difference of shares in points."""
    return value(result, scale=100) if isinstance(result, Mapping) else minus(f"{100 * result:.1f}")


def p_value(p: Real) -> str:
    """`0.032`, and `< 0.001` below."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def comparison(accuracy: Mapping[str, Mapping], differences: Mapping[str, Mapping]) -> pd.DataFrame:
    """One row a training set: accuracy, difference to the baseline, adjusted p, verdict."""
    rows = []
    for name, result in accuracy.items():
        row = {"training_set": name, "accuracy": result}
        rows.append(row | compared(differences.get(name), "difference"))
    return pd.DataFrame(rows)


def tidy(scores: pd.DataFrame) -> list[dict]:
    """Rows of training_set, seed, set, metric and value, from scores with one column a metric."""
    keys = ["arm", "seed", "set"]
    metrics = [name for name in scores.select_dtypes("number") if name not in keys]
    return scores.melt(keys, metrics, var_name="metric").rename(
        columns={"arm": "training_set"}).to_dict("records")


def wide(rows: list[dict]) -> pd.DataFrame:
    """The frame that `tidy` was made from, one column a metric."""
    frame = pd.DataFrame(rows).rename(columns={"training_set": "arm"})
    return frame.pivot_table("value", ["arm", "seed", "set"], "metric").reset_index()


def legend(frame: pd.DataFrame) -> str:
    """`sd: text-to-image samples.` for each training set of a frame that is one image set."""
    names = [name for name in frame["training_set"] if name in LABELS]
    return "; ".join(f"{name}: {LABELS[name]}" for name in names) + "."


def compared(difference: Mapping | None, name: str) -> dict[str, Any]:
    """The cells of a difference: itself, p adjusted for its family where it is known, verdict."""
    if difference is None:
        return {name: NONE, "p": NONE, "verdict": NONE}
    p = difference.get("p_holm", difference.get("p"))
    return {name: difference, "p": NONE if p is None else p, "verdict": verdict(difference)}


def heading(name: str) -> str:
    """`Real images` for a column `real_images`."""
    return HEADINGS.get(
        name, str(name).replace("_", " ")[:1].upper() + str(name).replace("_", " ")[1:]
    )


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
    """A real minus sign before each number, not before the exponent of one or inside a word, and
    none before a zero.
    """
    text = re.sub(r"(?<![\w.])-(0(?:\.0+)?)(?![.\d])", r"\1", text)
    return re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", text)


def missing(x: Any) -> bool:
    return x is None or x is pd.NA or x is pd.NaT or (isinstance(x, Real) and not math.isfinite(x))


def refuse_nan(what: str, text: str) -> None:
    """Stop at a missing number; a class may be called nan."""
    if re.search(r"(\b(is|was|by|than|at) |[±=\[(~] ?)nan\b|\bnan( ?%| ?±| points|[.)\]])", text):
        raise ReportError(
            f"{what} says 'nan': {text!r}; a number is missing in the result it was made from"
        )


FORMATS = {"accuracy": percent, "difference": percent, "gain": percent, "p": p_value}  # unless told


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
        "".join(
            _td(text, c.numeric, "td" if i else "th", "" if i else "row")
            for i, (text, c) in enumerate(pairs)
        )
        for pairs in (
            list(zip(texts, columns, strict=True))
            for texts in zip(*(c.texts for c in columns), strict=True)
        )
    ]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def flat(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of results split into mean, low, high and n, so that a CSV holds numbers."""
    parts = {}
    for name in frame:
        if not any(isinstance(x, Mapping) for x in frame[name]):
            parts[name] = frame[name]
            continue
        for key in ("mean", "low", "high", "n"):
            parts[f"{name}_{key}"] = [
                x.get(key) if isinstance(x, Mapping) else x for x in frame[name]
            ]
    return pd.DataFrame({name: [_inert(x) for x in column] for name, column in parts.items()})


def _inert(x: Any) -> Any:
    """No formula: a spreadsheet runs text that begins like one, and a class may be called so."""
    return f"'{x}" if isinstance(x, str) and FORMULA.match(x) else x


def _parts(result: Mapping[str, Any], scale: float) -> tuple[float, float | None, float | None]:
    """Mean, low and high; a single run (n = 1) may lack the interval, nothing else may lack
    anything.
    """
    n = result.get("n")
    if not {"mean", "low", "high"} <= set(result) or not isinstance(n, Real) or n < 1:
        raise ReportError(f"a result needs mean, low, high and n >= 1; got {dict(result)}")
    mean, low, high = (None if missing(result[key]) else float(result[key]) * scale
                       for key in ("mean", "low", "high"))
    if mean is None or ((low is None or high is None) and n > 1):
        raise ReportError(
            f"a result over n = {n} needs a finite mean, low and high; got {dict(result)}"
        )
    if low is None or high is None:
        return mean, None, None
    if not low - 1e-9 <= mean <= high + 1e-9:
        raise ReportError(f"the mean of a result lies within its interval; got {dict(result)}")
    return mean, low, high


def _td(text: str, numeric: bool, tag: str, scope: str) -> str:
    wide = "long" if len(text) > LONG else "some" if len(text) > SOME and scope != "col" else ""
    kind = "not-run" if text.startswith("not run") else "num" if numeric else wide
    attributes = (f' scope="{scope}"' if scope else "") + (f' class="{kind}"' if kind else "")
    return f"<{tag}{attributes}>{html.escape(text)}</{tag}>"
