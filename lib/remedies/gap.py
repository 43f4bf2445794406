"""The gap by class, in points of accuracy on real test images, paired by seed."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lib.measure import accuracy, stats
from lib.measure.stats import Estimate


def by_class(
    scores: pd.DataFrame, base: str, real: str, classes: Sequence[str]
) -> dict[str, Estimate]:
    """How far the base is behind in each class that has two images or more, widest first."""
    labels, test = scores["labels"].iloc[0], scores["set"].iloc[0]
    correct = {arm: accuracy.correct(scores, arm, test) for arm in (base, real)}
    points = {
        name: stats.difference(correct[real][:, labels == k], correct[base][:, labels == k])
        for k, name in enumerate(classes)
        if (labels == k).sum() > 1
    }
    return dict(sorted(points.items(), key=lambda item: -item[1]["mean"]))
