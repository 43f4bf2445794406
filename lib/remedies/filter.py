"""Keep the synthetic images that score best; each filter beside a random one that keeps as many of each class."""

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
from lib.data import imageset as images
from lib.data.imageset import ImageSet
from lib.measure import geometry, vanishing
from lib.measure import gradcam as attention
from lib.measure.probes import penultimate
from lib.remedies.fine_tuning import trained
from lib.remedies.registry import Models, Remedy

RANDOM = "a random filter of the same size"
NEIGHBOURS = 5  # real images whose mean distance is the density's inverse


def agreement(
    synthetic: ImageSet, reference: torch.nn.Module, real: ImageSet, seed: int
) -> np.ndarray:
    """Probability (n,) that a classifier of real images gives to the class that was asked for."""
    believed = predict(reference, torch.from_numpy(synthetic.images)).double().softmax(1).numpy()
    return believed[np.arange(len(synthetic)), synthetic.labels]


def focus(synthetic: ImageSet, reference: torch.nn.Module, real: ImageSet, seed: int) -> np.ndarray:
    """Concentration (n,) of that classifier's attention to the class that was asked for: the map's Gini coefficient."""
    return np.nan_to_num(
        attention.focus(attention.maps(reference, synthetic.images, synthetic.labels))["gini"],
        nan=-1.0,
    )


def lines(synthetic: ImageSet, reference: torch.nn.Module, real: ImageSet, seed: int) -> np.ndarray:
    """Probability (n,) of being real by lines alone, of a probe that did not see the image; a third as many are real."""
    few = real.take(slice(max(10, len(synthetic) // 3)))
    rows = pd.DataFrame([_drawn(image, seed) for part in (synthetic, few) for image in part.images])
    return geometry.probe(rows, np.repeat([0, 1], [len(synthetic), len(few)]), seed % 2**32)[
        : len(synthetic)
    ]


def _drawn(image: np.ndarray, seed: int) -> dict[str, float]:
    """What one picture's lines say: chapter 06's measures with one vanishing point and no null, five times as fast."""
    found = vanishing.vanishing_points(
        vanishing.segments(image), image.shape[:2], n=1, seed=seed, max_log_nfa=np.inf
    )
    across, down = np.abs(
        found.segments.reshape(-1, 2, 2)[:, 1] - found.segments.reshape(-1, 2, 2)[:, 0]
    ).T
    length, slope = np.hypot(across, down), np.degrees(np.arctan2(down, across))
    share = lambda near: length[near].sum() / max(length.sum(), 1e-9)  # noqa: E731
    return {
        "segments": len(length),
        "length": length.sum(),
        "longest": length.max(initial=0),
        "level": share(slope < 10),
        "upright": share(slope > 80),
        "explained": geometry.explained(found),
        "straight": geometry.straightness(found.segments),
    }


def density(
    synthetic: ImageSet, reference: torch.nn.Module, real: ImageSet, seed: int
) -> np.ndarray:
    """Nearness (n,) to real images of the class asked for: minus the mean distance to five, in that classifier's features."""
    ours, theirs, found = (
        penultimate(reference, synthetic.images),
        penultimate(reference, real.images),
        np.zeros(len(synthetic)),
    )
    for label in np.unique(synthetic.labels):
        near, mine = theirs[real.labels == label], synthetic.labels == label
        search = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(near))).fit(near)
        found[mine] = -search.kneighbors(ours[mine])[0].mean(1)
    return found


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
    """The `keep` share of each class of upstream `images` that scores best `by` one of SCORES, or at random."""

    def write(path: Path) -> None:
        wanted, whole = spec.settings, images.load(store.make(spec.inputs["images"]))
        images.write(
            path, whole.take(best(scores(store, spec, whole), whole.labels, wanted["keep"]))
        )

    return {"images-00000-of-00001.parquet": write}


def scores(store: Store, spec: ArtifactSpec, whole: ImageSet) -> np.ndarray:
    """Of every image (n,); higher is kept."""
    by, seed = spec.settings["by"], spec.seed
    if by == "random":
        return np.random.default_rng(seed).random(len(whole))
    reference = opened(store.make(spec.inputs["reference"]))[0]
    reference = reference.to(compute.device(spec.settings["device"]))
    return SCORES[by](whole, reference, images.load(store.make(spec.inputs["real"])), seed)


def best(scores: np.ndarray, labels: np.ndarray, keep: float) -> np.ndarray:
    """Positions, in order, of the share of each class that scores highest, at least one."""
    found = []
    for label in np.unique(labels):
        where = np.flatnonzero(labels == label)
        found.append(
            where[np.argsort(-scores[where], kind="stable")][: max(1, round(keep * len(where)))]
        )
    return np.sort(np.concatenate(found))


def sets_of(
    sets: Mapping[str, ArtifactSpec], reference: ArtifactSpec, settings: Mapping[str, Any]
) -> dict[str, ArtifactSpec]:
    """The kept set of each filter."""
    wanted = {"keep": settings["keep_fraction"], "device": settings["training"]["device"]}
    return {
        by: kept(
            wanted | {"by": by},
            settings["seed"],
            images=sets[settings["base"]],
            reference=reference,
            real=sets["real"],
        )
        for by in SCORES
    }


def remedy(
    models: Models, sets: Mapping[str, ArtifactSpec], settings: Mapping[str, Any]
) -> dict[str, Remedy]:
    """The base classifiers trained further on what a filter keeps, or on as many at random."""
    base, keep = settings["base"], settings["keep_fraction"]
    chance = [
        kept({"keep": keep, "by": "random"}, spec.seed, images=sets[base]) for spec in models[base]
    ]
    random = trained(models, sets, settings, synthetic=chance)
    common = {"changes": "images", "control": random, "controlled": RANDOM}
    filters = {
        f"filter by {by}": Remedy(
            trained(models, sets, settings, synthetic=[images] * len(chance)),
            real=settings["fit"],
            part=PARTS[by],
            **common,
        )
        for by, images in sets_of(sets, models["reference"][0], settings).items()
    }
    longer = Remedy(trained(models, sets, settings), real=0, part="diversity", **common)
    return filters | {"all images, more steps": longer}


def thrown(
    store: Store, filters: Mapping[str, ArtifactSpec], whole: ImageSet
) -> dict[str, tuple[ImageSet, ImageSet]]:
    """For each filter one image of each class that it keeps and one that it throws away."""
    found = {}
    for by, recipe in filters.items():
        stays = np.isin(whole.seeds, images.load(store.make(recipe)).seeds)
        found[by] = tuple(
            part.take(part.first(1).ravel()) for part in (whole.take(stays), whole.take(~stays))
        )
    return found
