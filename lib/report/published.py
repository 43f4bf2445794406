"""Published figures beside ours: the difference where both looked at the same images, and in words what differs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lib.report import ReportError

Result = Mapping[str, float]  # mean, low, high, n, in 0..1
FILE = Path(__file__).with_name("published.yaml")


def load(path: Path = FILE) -> dict[str, dict[str, Any]]:
    """Every source by its short name; each says title, classifier and protocol."""
    sources = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, facts in sources.items():
        missing = {"title", "classifier", "protocol"} - set(facts)
        if missing:
            raise ReportError(f"published source {name!r} does not say {', '.join(sorted(missing))}.\n{path}: {name}")
    return sources


def beside(ours: Mapping[str, Result], dataset: str, on: str | None = None, path: Path = FILE) -> pd.DataFrame:
    """One row a published accuracy on `on` (our data set unless another is named): theirs in %, ours, the difference, words.

    Of another data set no difference is drawn; what can be set beside ours then is each source's own gap to its real row.
    """
    rows, on = [], on or dataset
    for name, facts in load(path).items():
        for arm, value in facts.get("accuracy", {}).get(on, {}).items():
            real = facts["accuracy"][on].get("real")
            rows.append({"source": name, "title": facts["title"], "classifier": facts["classifier"], "arm": arm,
                         "published": value, "published gap": None if real is None or arm == "real" else round(value - real, 2),
                         **_compared(value, ours.get(arm), dataset, on), "protocol": facts["protocol"]})
    return pd.DataFrame(rows)


def poster(instead: str, path: Path = FILE) -> str:
    """One paragraph: what in the poster's table cannot be repeated, and what was done here instead."""
    facts = load(path)["poster"]
    return (f"The table of “{facts['title']}” cannot be repeated as it was made: {' '.join(facts['protocol'].split())}. "
            f"Here instead every classifier is tested on the same unseen real images, and every row is the mean of several seeds "
            f"with its interval and its paired difference to real: {instead}")


def _compared(value: float, ours: Result | None, dataset: str, on: str) -> dict[str, Any]:
    """Ours, the difference in points, and the verdict; where there is nothing to compare, why."""
    if on != dataset:
        why = f"not run: published on {on}, this study is on {dataset}"
        return {"ours": why, "difference": why, "verdict": why}
    if ours is None:
        why = "not run: no such arm in this study"
        return {"ours": why, "difference": why, "verdict": why}
    difference = {k: 100 * ours[k] - value for k in ("mean", "low", "high")} | {"n": ours["n"]}
    inside = difference["low"] <= 0 <= difference["high"]
    verdict = "within our interval" if inside else "ours is higher" if difference["low"] > 0 else "ours is lower"
    return {"ours": dict(ours), "difference": difference, "verdict": verdict}
