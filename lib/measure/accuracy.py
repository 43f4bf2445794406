"""Predictions of classifiers on image sets, and the tables of accuracy made from them.

`scores` is a tidy frame, a row a training set (arm), seed and image set, with whether each image
was recognised (`correct`), from which every interval over seeds and test images follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from scipy.special import softmax
from sklearn.metrics import confusion_matrix, recall_score, roc_auc_score, top_k_accuracy_score

from lib.classifier import train as classifier_training
from lib.classifier.model import predict
from lib.core import compute, executor, progress
from lib.core.store import ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset
from lib.measure import stats
from lib.measure.stats import Estimate

METRICS = ("accuracy", "balanced", "auroc", "top5", "ece")  # what `metrics` can hold
TOP5_CLASSES = 20  # from this number of classes on, top-5 accuracy is measured


@artifact("predictions")
def logits(store: Store, spec: ArtifactSpec) -> FileWriters:
    """Logits (n, classes) of one classifier on one image set."""
    def write(path: Path) -> None:
        model, _ = classifier_training.opened(store.make(spec.inputs["classifier"]))
        pixels = torch.from_numpy(imageset.load(store.make(spec.inputs["images"])).images)
        model = model.to(compute.device(spec.settings["device"]))
        save_file({"logits": predict(model, pixels)}, path)
    return {"logits.safetensors": write}


def load_logits(store: Store, classifier: ArtifactSpec, images: ArtifactSpec,
                device: str) -> np.ndarray:
    """Logits (n, classes) of a classifier on an image set, from the store or computed."""
    spec = logits({"device": device}, classifier=classifier, images=images)
    return load_file(store.make(spec).path("logits.safetensors"))["logits"].numpy()


def folders(store: Store, classifiers: Mapping[str, Sequence[ArtifactSpec]], images: ArtifactSpec,
            device: str) -> dict[str, list[str]]:
    """Where in the store the logits of each training set's classifiers lie, one folder a seed."""
    return {arm: [store.folder(logits({"device": device}, classifier=spec, images=images))
                  .relative_to(store.root).as_posix() for spec in seeds]
            for arm, seeds in classifiers.items()}


def metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Scalar metrics of one classifier's logits (n, classes) on one set; shares in 0..1."""
    classes, probabilities = logits.shape[1], softmax(logits.astype(np.float64), axis=1)
    predicted = logits.argmax(1)
    values = {"accuracy": (predicted == labels).mean(),
              "ece": calibration(probabilities, labels)[0]}
    if classes >= TOP5_CLASSES:
        values["top5"] = top_k_accuracy_score(labels, logits, k=5, labels=range(classes))
    if classes == 2:
        recall = recall_score(labels, predicted, labels=[0, 1], average=None, zero_division=np.nan)
        values["balanced"] = np.nanmean(recall)
        both = len(np.unique(labels)) == 2
        values["auroc"] = roc_auc_score(labels, probabilities[:, 1]) if both else np.nan
    return {name: float(value) for name, value in values.items()}


def calibration(probabilities: np.ndarray, labels: np.ndarray,
                bins: int = 10) -> tuple[float, np.ndarray]:
    """Expected calibration error (Guo et al. 2017), and of each bin of confidence (bins, 3): mean
    confidence, accuracy, number of images; an empty bin has nan, nan, 0."""
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(which, minlength=bins)
    sums = [np.bincount(which, values, bins) for values in (confidence, correct)]
    means = np.divide(sums, count, out=np.full((2, bins), np.nan), where=count > 0)
    error = np.nansum(np.abs(means[1] - means[0]) * count) / len(labels)
    return float(error), np.column_stack([*means, count])


def scores(store: Store, classifiers: Mapping[str, Sequence[ArtifactSpec]],
           sets: Mapping[str, ArtifactSpec], device: str) -> pd.DataFrame:
    """A row a training set, seed and image set: metrics, per-image results, confusion, bins."""
    specs = [logits({"device": device}, classifier=classifier, images=images)
             for seeds in classifiers.values() for classifier in seeds for images in sets.values()]
    executor.make(store, specs)
    labels = {name: imageset.load(store.make(spec)).labels for name, spec in sets.items()}
    keys = [(arm, seed, name) for arm, seeds in classifiers.items()
            for seed in range(len(seeds)) for name in sets]
    rows = [{"arm": arm, "seed": seed, "set": name,
             **score(load_logits(store, classifiers[arm][seed], sets[name], device), labels[name])}
            for arm, seed, name in progress.each("test", keys)]
    return pd.DataFrame(rows)


def score(logits: np.ndarray, labels: np.ndarray) -> dict:
    """What a row of `scores` holds of one classifier on one set."""
    predicted, classes = logits.argmax(1), range(logits.shape[1])
    confusion = confusion_matrix(labels, predicted, labels=classes, normalize="true")
    probabilities = softmax(logits.astype(np.float64), axis=1)
    return {**metrics(logits, labels), "correct": predicted == labels, "labels": labels,
            "confusion": confusion, "reliability": calibration(probabilities, labels)[1]}


def correct(scores: pd.DataFrame, arm: str, name: str = "test") -> np.ndarray:
    """Matrix (seeds, images) of correct or not of one training set on one image set."""
    rows = scores[(scores["arm"] == arm) & (scores["set"] == name)]
    return np.stack(rows.sort_values("seed")["correct"].to_list())


def table(scores: pd.DataFrame, metric: str = "accuracy") -> dict[str, dict[str, Estimate]]:
    """`table[arm][set]`: accuracy over seeds and images, any other metric over seeds."""
    return {arm: {name: _estimate(rows, metric) for name, rows in part.groupby("set", sort=False)}
            for arm, part in scores.groupby("arm", sort=False)}


def _estimate(rows: pd.DataFrame, metric: str) -> Estimate:
    if metric == "accuracy":
        return stats.accuracy(np.stack(rows["correct"].to_list()))
    return stats.over_seeds(rows[metric])


def against(scores: pd.DataFrame, base: str = "real", name: str = "test") -> dict[str, Estimate]:
    """Every other training set's difference in accuracy to `base`, with Holm-adjusted p."""
    arms = [arm for arm in scores["arm"].unique() if arm != base]
    return changes(scores, dict.fromkeys(arms, base), name)


def changes(scores: pd.DataFrame, pairs: Mapping[str, str],
            name: str = "test") -> dict[str, Estimate]:
    """Difference in accuracy of each arm to its own base, `{arm: base}`; one family of tests."""
    return stats.family({arm: stats.difference(correct(scores, arm, name),
                                               correct(scores, base, name))
                         for arm, base in pairs.items()})


def held_out(store: Store, scores: pd.DataFrame, classifiers: Mapping[str, Sequence[ArtifactSpec]],
             sets: Mapping[str, ArtifactSpec], device: str) -> dict[str, dict[str, Estimate]]:
    """Accuracy of each set's classifiers on unseen images of that set, beside real ones."""
    matrices = {arm: correct(_scores_of(store, arm, classifiers[arm], sets[arm], device), arm)
                for arm in sets if arm in classifiers}
    falls = stats.family({arm: stats.unpaired(correct(scores, arm), own)
                          for arm, own in matrices.items()})
    return {arm: {"own": stats.accuracy(own), "real": stats.accuracy(correct(scores, arm)),
                  "difference": falls[arm]} for arm, own in matrices.items()}


def _scores_of(store: Store, arm: str, seeds: Sequence[ArtifactSpec], images: ArtifactSpec,
               device: str) -> pd.DataFrame:
    return scores(store, {arm: seeds}, {"test": images}, device)


def by_class(scores: pd.DataFrame, name: str,
             classes: Sequence[str]) -> dict[str, dict[str, Estimate]]:
    """`by_class[arm][class]`: accuracy on each class of at least two images."""
    labels = scores[scores["set"] == name]["labels"].iloc[0]
    several = [k for k in range(len(classes)) if (labels == k).sum() > 1]
    return {arm: {classes[k]: stats.accuracy(correct(scores, arm, name)[:, labels == k])
                  for k in several} for arm in scores["arm"].unique()}


def reliability(scores: pd.DataFrame, name: str = "test") -> pd.DataFrame:
    """For a plot: a row an arm and bin, with confidence and accuracy pooled over the seeds."""
    rows = []
    for arm, part in scores[scores["set"] == name].groupby("arm", sort=False):
        bins = np.stack(part["reliability"].to_list())
        weight = bins[..., 2]
        total = weight.sum(0)
        for k in np.flatnonzero(total):
            confidence, right = np.nansum(bins[:, k, :2] * weight[:, k, None], axis=0) / total[k]
            rows.append({"arm": arm, "confidence": confidence, "right": right,
                         "images": int(total[k])})
    return pd.DataFrame(rows)
