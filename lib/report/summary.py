"""What the first screen shows: the chapters' results, chosen and put side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lib.classifier import arms
from lib.data.imageset import ImageSet
from lib.report import published, tables
from lib.report.style import LABELS

CODES = {"real": "real", "sd": "text-to-image (sd)", "cd": "class-conditional (cd)",
         "di": "Diffusion Inversion (di)", "published": "published"}


def facts(results: Mapping[str, Mapping], seeds: int) -> dict[str, Any]:
    """What the text of the first screen is written from."""
    training, repair = results["04_training"], results["08_repair"]
    gaps = training["gaps"]
    replaced = {arm: gap for arm, gap in gaps.items() if not contains_real(arm)}
    return {
        "replaced": replaced,
        "added": {arm: gap for arm, gap in gaps.items() if contains_real(arm)},
        "smallest": max(replaced, key=lambda arm: replaced[arm]["mean"], default=""),
        "equal_epochs": training["equal_epochs"], "choice": repair["choice"],
        "failed": results["03_generation"].get("failed", []), "missing": repair["missing"],
        "truth": results["01_data"]["truth"], "seeds": seeds,
        "training_seconds": max((row.get("training") or 0
                                 for row in results["03_generation"]["costs"]), default=0)}


def contains_real(arm: str) -> bool:
    return any(term.name == "real" for term in arms.parse(arm))


def classes(per_class: Mapping[str, Mapping], baseline: str, count: int = 4) -> list[str]:
    """Classes from the largest to the smallest gap, evenly spaced in that order."""
    names = list(per_class[baseline])
    means = {arm: np.array([results[name]["mean"] for name in names])
             for arm, results in per_class.items()}
    others = [values for arm, values in means.items() if arm != baseline]
    order = np.argsort(np.mean(others, axis=0) - means[baseline]) if others else range(len(names))
    picked = np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)
    return [names[list(order)[k]] for k in picked]


def rows(images: Mapping[str, ImageSet], names: list[str], count: int = 2) -> list[dict]:
    """The first images of each class in each set, for `figures.overview`."""
    positions = {name: part.classes.index(name) for part in images.values() for name in names}
    return [{"label": name, "pictures": {key: list(part.images[part.first(count)[positions[name]]])
                                         for key, part in images.items()}} for name in names]


def columns(training: Mapping[str, Any], names: list[str]) -> dict[str, dict]:
    """Label, accuracy and seeds of each training set that is one image set."""
    scores = pd.DataFrame(training["scores"])
    tests = scores[(scores["set"] == "test") & (scores["metric"] == "accuracy")]
    return {name: {"label": CODES.get(name, name), "accuracy": training["accuracy"][name]["test"],
                   "seeds": tests[tests["training_set"] == name]["value"].tolist()}
            for name in names if name in training["accuracy"]}


def axis(sets: Mapping[str, Mapping]) -> list[float]:
    """Ends in % that hold every interval, in tens."""
    ends = [100 * facts["accuracy"][end] for facts in sets.values() for end in ("low", "high")]
    return [10 * math.floor(min(ends) / 10), 10 * math.ceil(max(ends) / 10)]


def key(training: Mapping[str, Any], sizes: Mapping[str, int]) -> pd.DataFrame:
    """A row a training set: images, accuracy, change, and change at equal epochs."""
    return pd.DataFrame([{
        "training_set": arm, "images": arms.size(arm, sizes), "accuracy": results["test"],
        "difference": training["gaps"].get(arm, tables.NONE),
        "equal_epochs": training["equal_epochs"].get(arm, {}).get("against_real") or tables.NONE}
        for arm, results in training["accuracy"].items()])


def best(repair: Mapping[str, Any], count: int = 7) -> pd.DataFrame:
    """The remedies that gain most, and training on the same number of real images alone."""
    gains = repair["gains"] | repair["real_only"]
    order = sorted(repair["gains"], key=lambda name: -repair["gains"][name]["mean"])[:count]
    real = repair["real_images"]
    order += [name for name in repair["real_only"]
              if real[name] == repair["choice"]["real_images"]][:1]
    return pd.DataFrame([{"remedy": name, "real_images": real[name],
                          "accuracy": repair["accuracy"][name],
                          **tables.compared(gains[name], "gain")} for name in order])


def published_drops(training: Mapping[str, Any], source: str) -> pd.DataFrame:
    """Published drops against real beside ours, of training sets that are one synthetic set."""
    accuracy = {arm: sets["test"] for arm, sets in training["accuracy"].items()}
    beside = published.compare(accuracy, training["gaps"], source)
    if beside.empty:
        return beside
    return beside[beside["training_set"].isin(LABELS) & (beside["published_drop"] != tables.NONE)]
