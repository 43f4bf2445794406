"""What a classifier trained on real images says of other image sets: a yardstick for generators, not for arms."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from safetensors.torch import load_file
from scipy import stats

from lib import compute
from lib.classifier import fit
from lib.data import checks
from lib.data.images import ImageSet
from lib.measure.accuracy import logits
from lib.store import Recipe, Store


def judge(study, data: Mapping, real: Recipe, epochs: int) -> Recipe:
    """The classifier of the real training images that judges; its seed is none of the arms'."""
    settings = {"arm": "real", "architecture": "resnet8", "stem": 4 if data["resolution"] >= 64 else 0, "width": 16, "batch": 64,
                "rate": 0.3, "smoothing": 0.1, "flip": data["flip"], "steps": fit.steps_for(data["train"], 64, epochs),
                "device": study.device} | ({"balance": True} if data.get("uneven") else {})  # or it would name the common one
    return fit.classifier(settings, compute.seed_of(study.seed, "judge"), real=real)


def believed(store: Store, classifier: Recipe, pictures: Recipe, device: str) -> np.ndarray:
    """Probability of each class (n, classes) that the judge gives each image."""
    made = store.make(logits({"device": device}, classifier=classifier, images=pictures))
    return load_file(made.path("logits.safetensors"))["logits"].double().softmax(1).numpy()


def share(hits: np.ndarray) -> dict[str, float]:
    """Share of True in (n,) as `{mean, low, high, n}`, Wilson's 95 % interval: the images vary, the judge is one."""
    low, high = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return {"mean": float(hits.mean()), "low": float(low), "high": float(high), "n": len(hits)}


def recognised(probabilities: np.ndarray, images: ImageSet) -> dict[str, dict[str, float]]:
    """Share of all images, and of each class's, that are taken for what they were meant to be: `{all, class, ...}`."""
    hits = probabilities.argmax(1) == images.labels
    return {"all": share(hits)} | {name: share(hits[images.labels == k]) for k, name in enumerate(images.classes)}


def strangest(probabilities: np.ndarray, images: ImageSet, count: int) -> np.ndarray:
    """Positions of the images that the judge is surest are of another class."""
    return np.argsort(probabilities[np.arange(len(images)), images.labels])[:count]


def variety(images: ImageSet, seed: int = 0, pairs: int = 2000) -> dict[str, float]:
    """Mean distance of two images of one class, in grey levels of 8 x 8 thumbnails, with its interval over pairs."""
    rng = np.random.default_rng(seed)
    small = checks.thumbnails(images.images)
    one, two = rng.integers(len(images), size=(2, 40 * pairs))
    alike = np.flatnonzero((images.labels[one] == images.labels[two]) & (one != two))[:pairs]
    if len(alike) < 2:
        raise ValueError(f"{len(images)} images hold no two of one class to compare; raise generation.sweep")
    apart = np.sqrt(np.square(small[one[alike]] - small[two[alike]]).mean(1))
    half = 1.96 * apart.std(ddof=1) / np.sqrt(len(apart))
    return {"mean": float(apart.mean()), "low": float(apart.mean() - half), "high": float(apart.mean() + half),
            "n": len(apart)}


def table(verdicts: Mapping[str, dict]) -> pd.DataFrame:
    """A row a class (and one for all), a column a set."""
    return pd.DataFrame([{"class": name, **{label: rows[name] for label, rows in verdicts.items()}}
                         for name in next(iter(verdicts.values()))])
