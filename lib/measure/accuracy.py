"""Accuracy with interval and n: the statistics of every table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from scipy import stats
from sklearn.metrics import roc_auc_score

from lib.classifier import train as fit
from lib.classifier.model import predict
from lib.core import compute, progress
from lib.core import executor as schedule
from lib.core.store import ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset as images

NAMES = ("accuracy", "balanced", "auroc", "top5", "ece")  # what `measures` can find
TOP5 = 20  # classes from which on the right one among the first five is worth a number


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


def against(found: pd.DataFrame, base: str = "real", name: str = "test", what: str = "accuracy") -> dict[str, dict]:
    """Of every other arm its paired difference to `base` on one set, with interval, p and verdict."""
    tested = {arm: rows.set_index("seed")[what] for arm, rows in found[found["set"] == name].groupby("arm", sort=False)}
    differences = {arm: paired(values.loc[tested[base].index], tested[base]) for arm, values in tested.items() if arm != base}
    return {arm: difference | {"verdict": verdict(difference, base)} for arm, difference in differences.items()}


def changes(found: pd.DataFrame, variants: Mapping[str, str]) -> dict[str, dict]:
    """Of every variant `{name: arm}` its paired difference to the arm itself, with interval, p and verdict."""
    return {name: against(found[found["arm"].isin([name, arm])], arm)[name] for name, arm in variants.items()}


def verdict(difference: Mapping[str, float], base: str = "real") -> str:
    """What a paired difference says in words; nothing is called equal because it was not told apart."""
    low, high = 100 * difference["low"], 100 * difference["high"]
    if low == high == 0:
        return f"the same as {base}"
    if low > 0 or high < 0:
        return f"{'better' if low > 0 else 'worse'} than {base}"
    ends = f"between {low:+.1f} and {high:+.1f} points".replace("-", "\N{MINUS SIGN}")
    return f"not told apart from {base}: {ends}"


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


def calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int = 10) -> tuple[float, np.ndarray]:
    """Expected calibration error, and for each bin of confidence (bins, 3): mean confidence, share right, images.

    Equal-width bins on the top class, as in Guo et al. 2017; an empty bin has nan, nan, 0.
    """
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels
    which = np.minimum((sure * bins).astype(int), bins - 1)
    count = np.bincount(which, minlength=bins)
    mean = [np.divide(np.bincount(which, values, bins), count, out=np.full(bins, np.nan), where=count > 0)
            for values in (sure, right)]
    gap = np.abs(mean[1] - mean[0]) * count / len(labels)
    return float(np.nansum(gap)), np.column_stack([*mean, count])


def measures(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Every number that one classifier's logits (n, classes) give on one set; shares in 0..1."""
    n, classes = logits.shape
    probabilities = torch.from_numpy(logits).double().softmax(1).numpy()
    shares = per_class(logits.argmax(1), labels, classes)
    found = {"accuracy": float((logits.argmax(1) == labels).mean()), "ece": calibration(probabilities, labels)[0]}
    if classes >= TOP5:
        found["top5"] = float((np.argpartition(-logits, 5, axis=1)[:, :5] == labels[:, None]).any(1).mean())
    if classes == 2:
        found["balanced"] = float(np.nanmean(shares))
        found["auroc"] = float(roc_auc_score(labels, probabilities[:, 1])) if len(set(labels.tolist())) == 2 else float("nan")
    return found


@artifact("predictions")
def logits(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """What one classifier says of one image set: logits (n, classes)."""
    def write(path: Path) -> None:
        model, _ = fit.opened(store.make(recipe.inputs["classifier"]))
        pixels = torch.from_numpy(images.load(store.make(recipe.inputs["images"])).images)
        save_file({"logits": predict(model.to(compute.device(recipe.settings["device"])), pixels)}, path)
    return {"logits.safetensors": write}


def said(store: Store, classifier: ArtifactSpec, pictures: ArtifactSpec, device: str) -> np.ndarray:
    """Logits (n, classes) that a classifier gives an image set."""
    made = store.make(logits({"device": device}, classifier=classifier, images=pictures))
    return load_file(made.path("logits.safetensors"))["logits"].numpy()


def scores(store: Store, classifiers: dict[str, list[ArtifactSpec]], sets: dict[str, ArtifactSpec], device: str) -> pd.DataFrame:
    """One row an arm, seed and set: its `measures`, share right by class, confusion, and reliability bins."""
    schedule.make(store, [logits({"device": device}, classifier=classifier, images=recipe)
                          for seeds in classifiers.values() for classifier in seeds for recipe in sets.values()])
    truth = {name: images.load(store.make(recipe)).labels for name, recipe in sets.items()}
    rows = []
    every = [(arm, seed, name) for arm, seeds in classifiers.items() for seed in range(len(seeds)) for name in sets]
    for arm, seed, name in progress.each("test", every):
        given, labels = said(store, classifiers[arm][seed], sets[name], device), truth[name]
        predicted, classes = given.argmax(1), given.shape[1]
        sure = torch.from_numpy(given).double().softmax(1).numpy()
        rows.append({"arm": arm, "seed": seed, "set": name, **measures(given, labels),
                     "per_class": per_class(predicted, labels, classes), "confusion": confusion(predicted, labels, classes),
                     "reliability": calibration(sure, labels)[1]})
    return pd.DataFrame(rows)


def table(found: pd.DataFrame, what: str = "accuracy") -> dict[str, dict[str, dict[str, float]]]:
    """One measure of each arm on each set as mean with interval over the seeds: `table[arm][set]`."""
    return {arm: {name: interval(rows[what]) for name, rows in part.groupby("set", sort=False)}
            for arm, part in found.groupby("arm", sort=False)}


def by_class(found: pd.DataFrame, name: str, classes: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Share of each class that was right on one set, as mean with interval over the seeds: `by_class[arm][class]`."""
    return {arm: {c: interval([row[k] for row in rows["per_class"]]) for k, c in enumerate(classes)}
            for arm, rows in found[found["set"] == name].groupby("arm", sort=False)}


def reliability(found: pd.DataFrame, name: str = "test") -> pd.DataFrame:
    """For a plot: one row an arm and bin with confidence, share right and images, pooled over the seeds."""
    rows = []
    for arm, part in found[found["set"] == name].groupby("arm", sort=False):
        stacked = np.stack(list(part["reliability"]))
        weight = stacked[..., 2]
        total = weight.sum(0)
        for k in np.flatnonzero(total):
            sure, right = (np.nansum(stacked[:, k, j] * weight[:, k]) / total[k] for j in (0, 1))
            rows.append({"arm": arm, "confidence": sure, "right": right, "images": int(total[k])})
    return pd.DataFrame(rows)
