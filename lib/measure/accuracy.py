"""Accuracy with interval and n: the statistics of every table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from scipy import stats

from lib import compute, progress
from lib.classifier import fit
from lib.classifier.model import predict
from lib.data import images
from lib.store import Parts, Recipe, Store, step


def interval(values: Sequence[float], level: float = 0.95) -> dict[str, float]:
    """Mean of n values with its t-interval, as `{mean, low, high, n}`."""
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        raise ValueError("an interval needs at least two values; run more seeds (study.seeds)")
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    mean = float(values.mean())
    return {"mean": mean, "low": mean - float(half), "high": mean + float(half), "n": len(values)}


def paired(ours: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """Difference ours - base, seed by seed, with interval and two-sided p."""
    difference = np.asarray(ours, np.float64) - np.asarray(base, np.float64)
    return interval(difference) | {"p": float(stats.ttest_1samp(difference, 0).pvalue) if difference.std() > 0
                                   else float(difference[0] == 0)}


def per_class(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Share of right answers in each class (classes,); nan where a class has no image."""
    right, total = np.zeros(classes), np.bincount(labels, minlength=classes)
    np.add.at(right, labels, predicted == labels)
    return np.divide(right, total, out=np.full(classes, np.nan), where=total > 0)


def confusion(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Share of each true class (row) that went to each predicted class (column); rows sum to 1."""
    counts = np.zeros((classes, classes))
    np.add.at(counts, (labels, predicted), 1)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


@step(version=1)
def logits(store: Store, recipe: Recipe) -> Parts:
    """What one classifier says of one image set: logits (n, classes)."""
    def write(path: Path) -> None:
        model, _ = fit.opened(store.make(recipe.upstream["classifier"]))
        pixels = torch.from_numpy(images.load(store.make(recipe.upstream["images"])).images)
        save_file({"logits": predict(model.to(compute.device(recipe.settings["device"])), pixels)}, path)
    return {"logits.safetensors": write}


def answers(store: Store, classifier: Recipe, pictures: Recipe, device: str) -> np.ndarray:
    """The predicted classes (n,) of an image set."""
    made = store.make(logits({"device": device}, classifier=classifier, images=pictures))
    return load_file(made.path("logits.safetensors"))["logits"].argmax(1).numpy()


def scores(store: Store, classifiers: dict[str, list[Recipe]], sets: dict[str, Recipe], device: str) -> pd.DataFrame:
    """One row an arm, seed and set: its accuracy, and the share of each class that was right."""
    loaded = {name: images.load(store.make(recipe)) for name, recipe in sets.items()}
    rows = []
    every = [(arm, seed, name) for arm, seeds in classifiers.items() for seed in range(len(seeds)) for name in sets]
    for arm, seed, name in progress.each("test", every):
        truth = loaded[name]
        said = answers(store, classifiers[arm][seed], sets[name], device)
        rows.append({"arm": arm, "seed": seed, "set": name, "accuracy": float((said == truth.labels).mean()),
                     "per_class": per_class(said, truth.labels, len(truth.classes)),
                     "confusion": confusion(said, truth.labels, len(truth.classes))})
    return pd.DataFrame(rows)


def table(found: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Accuracy of each arm on each set as mean with interval over the seeds: `table[arm][set]`."""
    return {arm: {name: interval(rows["accuracy"]) for name, rows in part.groupby("set", sort=False)}
            for arm, part in found.groupby("arm", sort=False)}


def by_class(found: pd.DataFrame, name: str, classes: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Share of each class that was right on one set, as mean with interval over the seeds: `by_class[arm][class]`."""
    return {arm: {c: interval([row[k] for row in rows["per_class"]]) for k, c in enumerate(classes)}
            for arm, rows in found[found["set"] == name].groupby("arm", sort=False)}
