"""What a classifier trained on real images says of other image sets: a yardstick for generators, not for arms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pandas as pd
from safetensors.torch import load_file
from scipy import stats
from scipy.spatial.distance import cdist

from lib.classifier.train import TrainConfig, classifier, steps_for
from lib.core import compute
from lib.core.store import ArtifactSpec, Store
from lib.data import checks
from lib.data.imageset import ImageSet
from lib.measure.accuracy import logits


def reference_classifier(training, study, data: Mapping, real: ArtifactSpec, epochs: int) -> ArtifactSpec:
    """A classifier of the real training images under the `reference_*` settings; its seed is none of the others'."""
    batch_size = training.reference_batch_size
    schedule = {"lr_schedule": "one_cycle", "augmentation": "standard"}
    if training.reference_architecture == "fast":
        schedule = {"lr_schedule": "triangular", "augmentation": "reflect"}
    config = TrainConfig.from_section(
        training, study, architecture=training.reference_architecture,
        stem_stride=training.reference_stem_stride, base_width=training.reference_base_width,
        batch_size=batch_size, lr=training.reference_lr, ema_decay=0.0, flip=data["flip"],
        class_weights="balanced" if data.get("uneven") else "none",
        steps=steps_for(data["train"], batch_size, epochs), **schedule)
    settings = asdict(config) | {"arm": "real", "base": None, "max_ram_mb": training.max_ram_mb}
    return classifier(settings, compute.seed_of(study.seed, "judge"), real=real)


def believed(store: Store, classifier: ArtifactSpec, pictures: ArtifactSpec, device: str) -> np.ndarray:
    """Probability of each class (n, classes) that the judge gives each image."""
    made = store.make(logits({"device": device}, classifier=classifier, images=pictures))
    return load_file(made.path("logits.safetensors"))["logits"].double().softmax(1).numpy()


def share(right: np.ndarray) -> dict[str, float]:
    """Share of True in (n,) as `{mean, low, high, n}`, Wilson's 95 % interval: the images vary, the judge is one."""
    low, high = stats.binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return {"mean": float(right.mean()), "low": float(low), "high": float(high), "n": len(right)}


def hits(probabilities: np.ndarray, images: ImageSet) -> np.ndarray:
    """Of each image (n,) whether it is taken for what it was meant to be."""
    return probabilities.argmax(1) == images.labels


def recognised(probabilities: np.ndarray, images: ImageSet) -> dict[str, dict[str, float]]:
    """Share of all images, and of each class's, that are taken for what they were meant to be: `{all, class, ...}`."""
    right = hits(probabilities, images)
    return {"all": share(right)} | {name: share(right[images.labels == k]) for k, name in enumerate(images.classes)}


def failed(accuracy: Mapping[str, Mapping], num_classes: int, real: str = "real test") -> list[str]:
    """Sets of which the classifier recognises no more than by chance, where it does recognise real images.

    `accuracy` is `recognised` of each set; the lower end of its 95 % interval counts.
    """
    above = {name: rows["all"]["low"] > 1 / num_classes for name, rows in accuracy.items()}
    return [name for name, better in above.items() if not better] if above[real] else []


def strangest(probabilities: np.ndarray, images: ImageSet, count: int) -> np.ndarray:
    """Positions of the images that the judge is surest are of another class."""
    return np.argsort(probabilities[np.arange(len(images)), images.labels])[:count]


def variety(images: ImageSet) -> dict[str, float]:
    """Mean distance of all pairs of one class, in grey levels of 8 x 8 thumbnails; its interval is a jackknife over images."""
    small, apart, pairs = checks.thumbnails(images.images), np.zeros(len(images)), np.zeros(len(images))
    for label in np.unique(images.labels):  # of each image, the sum of its distances, and to how many
        own = np.flatnonzero(images.labels == label)
        apart[own] = (cdist(small[own], small[own]) / np.sqrt(small.shape[1])).sum(1)
        pairs[own] = len(own) - 1
    if not pairs.any():
        raise ValueError(f"{len(images)} images hold no two of one class to compare; raise generation.sweep_num_images")
    mean, left = apart.sum() / pairs.sum(), pairs.sum() - 2 * pairs
    without = np.where(left > 0, (apart.sum() - 2 * apart) / np.maximum(left, 1), apart.sum() / pairs.sum())
    half = 1.96 * np.sqrt((len(images) - 1) / len(images) * np.square(without - without.mean()).sum())
    return {"mean": float(mean), "low": float(mean - half), "high": float(mean + half), "n": len(images)}


def moved(images: ImageSet, others: ImageSet) -> float:
    """Mean distance of images at the same positions, in grey levels of 8 x 8 thumbnails: what other words do to one noise."""
    one, two = (checks.thumbnails(part.images) for part in (images, others))
    return float(np.sqrt(np.square(one - two).mean(1)).mean())


def apart(right: np.ndarray, others: np.ndarray) -> float:
    """Exact McNemar p of two sets whose images (n,) were drawn from the same noise: whether one is recognised more."""
    gained, lost = int((right & ~others).sum()), int((others & ~right).sum())
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def sweep(store: Store, judge: ArtifactSpec, points: Mapping[tuple, ArtifactSpec], sets: Mapping[tuple, ImageSet],
          device: str) -> list[dict]:
    """A row a point (recipe, guidance), the first of which is in use: what the judge recognises, how much images of a class vary,
    and against the first from the same noise McNemar's p and the grey levels by which images differ."""
    right = {key: hits(believed(store, judge, recipe, device), sets[key]) for key, recipe in points.items()}
    used = next(iter(points), None)
    return [{"recipe": key[0], "guidance": key[1], "recognised": share(right[key]), "variety": variety(part),
             "p": apart(right[key], right[used]), "moved": moved(part, sets[used])} for key, part in sets.items()]


def table(verdicts: Mapping[str, dict]) -> pd.DataFrame:
    """A row a class (and one for all), a column a set."""
    return pd.DataFrame([{"class": name, **{label: rows[name] for label, rows in verdicts.items()}}
                         for name in next(iter(verdicts.values()))])
