"""Keep the synthetic images that score best; each filter beside a random one of the same size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.neighbors import NearestNeighbors

from lib.classifier.model import predict
from lib.classifier.train import opened
from lib.core import compute
from lib.core.store import ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset
from lib.data.imageset import ImageSet
from lib.measure import attention, geometry, gradcam, vanishing
from lib.measure.probes import penultimate
from lib.remedies.fine_tuning import trained
from lib.remedies.registry import Remedy

NEAREST_K = 5  # real images whose mean distance is the density's inverse


def agreement(synthetic: ImageSet, reference: torch.nn.Module, real, seed) -> np.ndarray:
    """Probability (n,) of the intended class under a classifier of real images."""
    logits = predict(reference, torch.from_numpy(synthetic.images)).double()
    return logits.softmax(1).numpy()[np.arange(len(synthetic)), synthetic.labels]


def focus(synthetic: ImageSet, reference: torch.nn.Module, real, seed) -> np.ndarray:
    """Gini coefficient (n,) of that classifier's Grad-CAM map of the intended class."""
    maps = gradcam.maps(reference, synthetic.images, synthetic.labels)
    return np.nan_to_num(attention.gini(maps), nan=-1.0)


def lines(synthetic: ImageSet, reference, real: ImageSet, seed: int) -> np.ndarray:
    """Probability (n,) of being real by lines alone, of a probe that did not see the image."""
    few = real.take(slice(max(10, len(synthetic) // 3)))  # a third as many are real
    measures = [line_measures(image, seed) for part in (synthetic, few) for image in part.images]
    is_real = np.repeat([0, 1], [len(synthetic), len(few)])
    return geometry.probe(pd.DataFrame(measures), is_real, seed % 2**32)[: len(synthetic)]


def line_measures(image: np.ndarray, seed: int) -> dict[str, float]:
    """Chapter 06's measures with one vanishing point and no null, five times as fast."""
    points = vanishing.vanishing_points(
        vanishing.segments(image), image.shape[:2], n=1, seed=seed, max_log_nfa=np.inf
    )
    ends = points.segments.reshape(-1, 2, 2)
    across, down = np.abs(ends[:, 1] - ends[:, 0]).T
    length, slope = np.hypot(across, down), np.degrees(np.arctan2(down, across))
    total = max(length.sum(), 1e-9)
    return {
        "segments": len(length),
        "length": length.sum(),
        "longest": length.max(initial=0),
        "level": length[slope < 10].sum() / total,
        "upright": length[slope > 80].sum() / total,
        "explained": geometry.explained(points),
        "straight": geometry.straightness(points.segments),
    }


def density(synthetic: ImageSet, reference: torch.nn.Module, real: ImageSet, seed) -> np.ndarray:
    """Minus the mean distance (n,) to five real images of the class in the reference's features."""
    ours, theirs = (penultimate(reference, part.images) for part in (synthetic, real))
    nearness = np.zeros(len(synthetic))
    for label in np.unique(synthetic.labels):
        near, own = theirs[real.labels == label], synthetic.labels == label
        search = NearestNeighbors(n_neighbors=min(NEAREST_K, len(near))).fit(near)
        nearness[own] = -search.kneighbors(ours[own])[0].mean(1)
    return nearness


SCORES: dict[str, Callable[..., np.ndarray]] = {
    "agreement": agreement,
    "focus": focus,
    "geometry": lines,
    "density": density,
}
PARTS = {
    "agreement": "label noise",
    "focus": "attention",
    "geometry": "geometry",
    "density": "fidelity",
}  # of the gap


@artifact("filtered-images")
def kept(store: Store, spec: ArtifactSpec) -> FileWriters:
    """The `keep` share of each class of input `images`, the best `by` SCORES or at random."""

    def write(path: Path) -> None:
        whole = imageset.load(store.make(spec.inputs["images"]))
        rows = best(scores(store, spec, whole), whole.labels, spec.settings["keep"])
        imageset.write(path, whole.take(rows))

    return {"images-00000-of-00001.parquet": write}


def scores(store: Store, spec: ArtifactSpec, whole: ImageSet) -> np.ndarray:
    """Of every image (n,); higher is kept."""
    by, seed = spec.settings["by"], spec.seed
    if by == "random":
        return np.random.default_rng(seed).random(len(whole))
    reference = opened(store.make(spec.inputs["reference"]))[0]
    reference = reference.to(compute.device(spec.settings["device"]))
    return SCORES[by](whole, reference, imageset.load(store.make(spec.inputs["real"])), seed)


def best(scores: np.ndarray, labels: np.ndarray, keep: float) -> np.ndarray:
    """Positions, in order, of the share of each class that scores highest, at least one."""
    kept_rows = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        ranked = rows[np.argsort(-scores[rows], kind="stable")]
        kept_rows.append(ranked[: max(1, round(keep * len(rows)))])
    return np.sort(np.concatenate(kept_rows))


def sets_of(
    sets: Mapping[str, ArtifactSpec], reference: ArtifactSpec, settings: Mapping[str, Any]
) -> dict[str, ArtifactSpec]:
    """The kept set of each filter."""
    shared = {"keep": settings["keep_fraction"], "device": settings["training"]["device"]}
    inputs = {"images": sets[settings["base"]], "reference": reference, "real": sets["real"]}
    return {by: kept(shared | {"by": by}, settings["seed"], **inputs) for by in SCORES}


def remedy(models, sets, settings) -> dict[str, Remedy]:
    """The base classifiers trained further on what a filter keeps, or on as many at random."""
    base, images = models[settings["base"]], sets[settings["base"]]
    chance = {"keep": settings["keep_fraction"], "by": "random"}
    control = trained(
        models, sets, settings, synthetic=[kept(chance, spec.seed, images=images) for spec in base]
    )

    def row(real: int, part: str, synthetic=()) -> Remedy:
        specs = trained(models, sets, settings, synthetic=synthetic)
        return Remedy(specs, real=real, changes="images", control=control, part=part)

    kept_sets = sets_of(sets, models["reference"][0], settings)
    return {
        f"filter by {by}": row(settings["fit"], PARTS[by], [part] * len(base))
        for by, part in kept_sets.items()
    } | {"all images, more steps": row(0, "diversity")}


def thrown(
    store: Store, filters: Mapping[str, ArtifactSpec], whole: ImageSet
) -> dict[str, tuple[ImageSet, ImageSet]]:
    """For each filter one image of each class that it keeps and one that it rejects."""
    examples = {}
    for by, spec in filters.items():
        stays = np.isin(whole.seeds, imageset.load(store.make(spec)).seeds)
        pair = whole.take(stays), whole.take(~stays)
        examples[by] = tuple(part.take(part.first(1).ravel()) for part in pair)
    return examples
