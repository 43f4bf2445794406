"""What differs between two finished studies: settings, and accuracies by `verdict`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from lib.core.paths import REPORTS
from lib.measure.stats import verdict
from lib.report import tables
from lib.report.figures import template
from lib.report.page import Study, check, css, write
from lib.report.tables import Column, html_table

IGNORED = {"store", "engine", "workers", "title", "small"}  # settings that change no number


def compare(first: str, second: str, reports: Path = REPORTS) -> Path:
    """Write reports/compare-<first>-<second>.html."""
    studies = [Study(profile, reports) for profile in (first, second)]
    settings = differing(*(all_settings(study) for study in studies))
    page = template("compare.html.j2").render(
        studies=studies, css=css(), settings=as_table(settings), results=as_table(results(*studies))
    )
    check(page)
    return write(reports / f"compare-{first}-{second}.html", page)


def all_settings(study: Study) -> dict[str, Any]:
    """`training.lr`: value; settings of the study are named once."""
    shared = set.intersection(*(set(content["settings"]) for content in study.files.values()))
    return {(name if name in shared else f"{chapter[3:]}.{name}"): value
            for chapter, content in study.files.items()
            for name, value in content["settings"].items() if name not in IGNORED}


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> pd.DataFrame:
    """A row a setting that is not the same."""
    names = [name for name in first | second if first.get(name) != second.get(name)]
    return pd.DataFrame([{"setting": name, "first": shown(first, name),
                          "second": shown(second, name)} for name in names])


def shown(settings: Mapping[str, Any], name: str) -> str:
    value = settings.get(name, tables.NONE)
    return str(value) if value not in (None, [], "") else "none"


def results(first: Study, second: Study) -> pd.DataFrame:
    """A row a training set of both: accuracies and their difference, of independent runs."""
    ours, theirs = (study.results["04_training"]["accuracy"] for study in (first, second))
    return pd.DataFrame([
        {"training_set": arm, "first": ours[arm]["test"], "second": theirs[arm]["test"],
         "difference": gap, "verdict": verdict(gap)}
        for arm in ours if arm in theirs
        for gap in [independent(theirs[arm]["test"], ours[arm]["test"])]])


def independent(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """one - other, of two independent estimates: half widths add in squares."""
    mean = one["mean"] - other["mean"]
    result = {"mean": mean, "n": min(one["n"], other["n"])}
    for low, high in (("low", "high"), ("low90", "high90")):
        if low in one and low in other:
            half = math.hypot(*((part[high] - part[low]) / 2 for part in (one, other)))
            result |= {low: mean - half, high: mean + half}
    return result


def as_table(frame: pd.DataFrame) -> Markup:
    """Nothing where nothing differs."""
    if frame.empty:
        return Markup()
    how = dict.fromkeys(("first", "second", "difference"), tables.percent)
    return Markup(html_table([Column.of(values, tables.heading(name), how.get(name))
                              for name, values in frame.items()]))
