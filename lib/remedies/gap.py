"""What the gap is made of, in points of accuracy on real test images, every bar paired seed by seed.

- class: by how much more of its images the classifiers trained on real images recognise;
- layer: by how much better a linear probe of real images does on their features after that layer than on
  those of the synthetic-trained; last, each network's own head, which is the gap itself;
- pixels: what statistics of real images in the first batch norm give, where little but colour and
  contrast is seen;
- geometry, attention: what keeping images with real-looking lines, or with concentrated attention, gives
  over keeping as many at random;
- fidelity, label noise: the same for images near to real ones, and for those whose class a reference
  classifier of real images confirms;
- diversity: what all synthetic images give over a random part of them, in as many steps.

These are lower bounds, each of one intervention: they overlap and need not add up to the gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lib.measure import accuracy, stats
from lib.measure.stats import Estimate
from lib.remedies.registry import Remedy

CUES, TERMS = ("pixels", "geometry", "attention"), ("fidelity", "diversity", "label noise")
HEAD = "own head"


def by_class(found: pd.DataFrame, base: str, real: str, classes: Sequence[str]) -> list[dict]:
    """How far the base is behind in each class, widest first: rows of `panel`, `part` and `points`."""
    labels = found["labels"].iloc[0]
    right = {arm: accuracy.correct(found, arm, found["set"].iloc[0]) for arm in (base, real)}
    rows = [
        {
            "panel": "class",
            "part": name,
            "points": stats.difference(right[real][:, labels == k], right[base][:, labels == k]),
        }
        for k, name in enumerate(classes)
        if (labels == k).sum() > 1
    ]
    return sorted(rows, key=lambda row: -row["points"]["mean"])


def by_layer(
    base: Mapping[str, np.ndarray], real: Mapping[str, np.ndarray], gap: Estimate
) -> list[dict]:
    """How far linear probes of the base's features are behind after each layer, and last the gap.

    `base`, `real`: matrices (seeds, images) by layer, of `probes.load_correct`.
    """
    rows = [
        {"panel": "layer", "part": layer, "points": stats.difference(real[layer], base[layer])}
        for layer in base
    ]
    return [*rows, {"panel": "layer", "part": HEAD, "points": dict(gap)}]


def by_remedy(
    gains: Mapping[str, Mapping[str, dict]], remedies: Mapping[str, Remedy]
) -> list[dict]:
    """What repairing one cue, or one term of the distribution, gives back."""
    found = {
        one.part: gains[name]["control" if one.control else "gain"]
        for name, one in remedies.items()
        if one.part
    }
    return [
        {"panel": panel, "part": name, "points": found[name]}
        for panel, names in (("cue", CUES), ("term", TERMS))
        for name in names
        if name in found
    ]
