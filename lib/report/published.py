"""Published figures beside ours: the difference where both looked at the same images, and in words what differs."""

from __future__ import annotations

from collections import Counter
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

    Of another data set no difference is drawn, since it would be one of images; what stands beside ours then is each side's
    own gap to its own real row.
    """
    rows, on = [], on or dataset
    for name, facts in load(path).items():
        for arm, value in facts.get("accuracy", {}).get(on, {}).items():
            rows.append({"source": name, "title": facts["title"], "classifier": facts["classifier"], "arm": arm,
                         "published": value, "published gap": _gap(value, facts["accuracy"][on].get("real"), arm),
                         **_compared(value, ours.get(arm), dataset, on), "protocol": facts["protocol"]})
    return pd.DataFrame(rows)


def nearest(dataset: str, path: Path = FILE) -> str:
    """Our data set where there are published figures on it, else the one that most of them are on."""
    counts = Counter(on for facts in load(path).values() for on in facts.get("accuracy", {}))
    return dataset if dataset in counts else counts.most_common(1)[0][0]


def protocols(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a source of `beside`: its title, classifier and what differs in its protocol."""
    return rows.drop_duplicates("source")[["source", "title", "classifier", "protocol"]]


def poster(instead: str, path: Path = FILE) -> str:
    """One paragraph: what in the poster's table cannot be repeated, and what was done here instead."""
    facts = load(path)["poster"]
    return (f"The table of “{facts['title']}” cannot be repeated as it was made: {' '.join(facts['protocol'].split())}. "
            f"Here instead every classifier is tested on the same unseen real images, and every row is the mean of several seeds "
            f"with its interval and its paired difference to real: {instead}")


def _gap(value: float, real: float | None, arm: str) -> float | str:
    """What a source's arm lacks to its own real row, in points."""
    return "–" if real is None or arm == "real" else round(value - real, 2)


def _compared(value: float, ours: Result | None, dataset: str, on: str) -> dict[str, Any]:
    """Ours, the difference in points, and the verdict; where there is nothing to compare, why."""
    if ours is None:
        return dict.fromkeys(("ours", "difference", "verdict"), "not run: no such arm in this study")
    if on != dataset:
        return {"ours": dict(ours), "difference": "–", "verdict": f"another data set: {on}, ours is {dataset}"}
    difference = {k: 100 * ours[k] - value for k in ("mean", "low", "high")} | {"n": ours["n"]}
    inside = difference["low"] <= 0 <= difference["high"]
    verdict = "within our interval" if inside else "ours is higher" if difference["low"] > 0 else "ours is lower"
    return {"ours": dict(ours), "difference": difference, "verdict": verdict}
