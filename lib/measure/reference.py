"""The reference classifier: trained on real images, it looks at synthetic ones.

One serves every chapter: its predictions (03), its features (07), its filters (08). It never sees
the validation images by which chapter 08 chooses, nor a test image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from lib.classifier.train import TrainConfig, classifier, steps_for
from lib.core import compute
from lib.core.store import ArtifactSpec, Store
from lib.data.checks import thumbnails
from lib.data.imageset import ImageSet
from lib.measure import stats
from lib.measure.accuracy import load_logits
from lib.measure.stats import Estimate


def reference_classifier(training, study, data: Mapping, real: ArtifactSpec,
                         epochs: int) -> ArtifactSpec:
    """A classifier of real images under the `reference_*` settings, with a seed of its own."""
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


def probabilities(store: Store, reference: ArtifactSpec, images: ArtifactSpec,
                  device: str) -> np.ndarray:
    """Probability of each class (n, classes) of each image."""
    logits = load_logits(store, reference, images, device).astype(np.float64)
    values = np.exp(logits - logits.max(1, keepdims=True))
    return values / values.sum(1, keepdims=True)


def by_class(probabilities: np.ndarray, images: ImageSet) -> dict[str, Estimate]:
    """Share of all images, and of each class's, that are predicted as the intended class."""
    correct = probabilities.argmax(1) == images.labels
    return {"all": stats.share(correct)} | {
        name: stats.share(correct[images.labels == k]) for k, name in enumerate(images.classes)}


def failed(accuracy: Mapping[str, Mapping], num_classes: int, real: str = "real test") -> list[str]:
    """Sets that are recognised no better than by chance, where real images are.

    `accuracy` is `by_class` of each set; the lower end of its 95 % interval counts.
    """
    above = {name: rows["all"]["low"] > 1 / num_classes for name, rows in accuracy.items()}
    return [name for name, better in above.items() if not better] if above[real] else []


def least_probable(probabilities: np.ndarray, images: ImageSet, count: int) -> np.ndarray:
    """Positions of the images with the lowest probability of their class."""
    return np.argsort(probabilities[np.arange(len(images)), images.labels])[:count]


def variety(images: ImageSet) -> Estimate:
    """Mean distance of two images of one class, in grey levels of 8 x 8 thumbnails."""
    pixels = thumbnails(images.images)
    sums, pairs = np.zeros(len(images)), np.zeros(len(images))
    for label in np.unique(images.labels):
        own = np.flatnonzero(images.labels == label)
        sums[own] = (cdist(pixels[own], pixels[own]) / np.sqrt(pixels.shape[1])).sum(1)
        pairs[own] = len(own) - 1
    if not pairs.any():
        raise ValueError(f"{len(images)} images hold no two of one class to compare; "
                         "raise generation.sweep_num_images")
    return stats.over_pairs(sums, pairs)


def shift(images: ImageSet, others: ImageSet) -> float:
    """Mean distance of images at the same positions, from the same noise, in those grey levels."""
    ours, theirs = (thumbnails(part.images) for part in (images, others))
    return float(np.sqrt(np.square(ours - theirs).mean(1)).mean())


def sweep(store: Store, reference: ArtifactSpec, points: Mapping[tuple, ArtifactSpec],
          sets: Mapping[tuple, ImageSet], device: str) -> list[dict]:
    """A row a point (prompt, guidance scale); the first is in use, and the others' base.

    `difference` in accuracy of the reference classifier is paired, since images at the same
    position start from the same noise; all differences are one family of tests.
    """
    correct = {key: probabilities(store, reference, spec, device).argmax(1) == sets[key].labels
               for key, spec in points.items()}
    used = next(iter(points), None)
    differences = stats.family({key: stats.over_images(values * 1.0 - correct[used])
                                for key, values in correct.items() if key != used})
    return [{"prompt": key[0], "guidance": key[1], "recognised": stats.share(correct[key]),
             "variety": variety(images), "shift": shift(images, sets[used]),
             "difference": differences.get(key)} for key, images in sets.items()]


def table(results: Mapping[str, Mapping[str, Estimate]]) -> pd.DataFrame:
    """A row a class (and one for all), a column a set."""
    return pd.DataFrame(results).rename_axis("class").reset_index()
