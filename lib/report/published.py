"""Published results beside those of the study: drops against real are compared, accuracies only on
the same data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lib.report import ReportError
from lib.report.tables import NONE

FILE = Path(__file__).with_name("published.yaml")


def load(path: Path = FILE) -> dict[str, dict[str, Any]]:
    """Every source by its short name; each says title, classifier and protocol."""
    sources = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, facts in sources.items():
        missing = {"title", "classifier", "protocol"} - set(facts)
        if missing:
            raise ReportError(
                f"published source {name!r} does not say {', '.join(sorted(missing))}."
                f"\n{path}: {name}"
            )
    return sources


def nearest(dataset: str, path: Path = FILE) -> str:
    """The data set itself where there are published results on it, else the one that most are on.
    """
    counts = Counter(on for facts in load(path).values() for on in facts.get("accuracy", {}))
    return dataset if dataset in counts else counts.most_common(1)[0][0]


def compare(accuracy: Mapping[str, Mapping], drops: Mapping[str, Mapping], dataset: str,
            path: Path = FILE) -> pd.DataFrame:
    """One row a published accuracy of a training set that the study has, in %, with both drops in
    points.

    `our_accuracy` stands there only where both were measured on the same data.
    """
    on, rows = nearest(dataset, path), []
    for name, facts in load(path).items():
        published = facts.get("accuracy", {}).get(on, {})
        for arm, value in published.items():
            if arm in accuracy:
                rows.append(
                    {
                        "source": name,
                        "data": on,
                        "training_set": arm,
                        "published": value,
                        "generator": facts.get("setting", {}).get(arm, NONE),
                        "published_drop": _drop(arm, published),
                        "our_drop": drops.get(arm, NONE),
                        "our_accuracy": accuracy[arm] if on == dataset else NONE,
                    }
                )
    return pd.DataFrame(rows)


def protocols(rows: pd.DataFrame, path: Path = FILE) -> pd.DataFrame:
    """One row a source of `compare`: title, classifier, and what differs in its protocol."""
    sources = load(path)
    return pd.DataFrame([{"source": name, **{key: " ".join(sources[name][key].split())
                          for key in ("title", "classifier", "protocol")}}
                         for name in dict.fromkeys(rows["source"])])


def _drop(arm: str, published: Mapping[str, float]) -> float | str:
    """Points behind the same source's own real row."""
    real = published.get("real")
    return NONE if real is None or arm == "real" else round(published[arm] - real, 2)
