"""Chapter 05's artifacts and tables: maps of classifiers on image sets, kept, measured and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from lib.classifier import train as fit
from lib.core import compute
from lib.core.store import ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset as images
from lib.data.imageset import ImageSet
from lib.measure import gradcam as attention

MEASURES = ("focus", "spread", "intensity")
REMOVED = (20, 50, 80)  # percent of the pixels that ROAD takes away; each costs a sparse solve an image


@artifact("gradcam-maps")
def attended(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """Raw maps (n, H, W) of the true class and logits (n, classes) of one classifier on the first images of a set."""
    def write(path: Path) -> None:
        model, part = opened(store, recipe)
        maps, logits = attention.explain(model, part.images, part.labels)
        save_file({"maps": torch.from_numpy(maps), "logits": torch.from_numpy(logits)}, path)
    return {"maps.safetensors": write}


@artifact("gradcam-checks")
def trusted(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """How far the maps can be trusted: ROAD (n,) and the rank correlation (n,) with those of random weights."""
    def write(path: Path) -> None:
        model, part = opened(store, recipe)
        maps = attention.maps(model, part.images, part.labels)
        found = {"road": attention.road(model, part.images, part.labels, maps, recipe.seed, REMOVED),
                 "sanity": attention.sanity(model, part.images, part.labels, recipe.seed)}
        save_file({name: torch.from_numpy(np.asarray(values, np.float64)) for name, values in found.items()}, path)
    return {"trust.safetensors": write}


def opened(store: Store, recipe: ArtifactSpec) -> tuple[torch.nn.Module, ImageSet]:
    """The classifier and the first `count` images that a recipe names."""
    model, _ = fit.opened(store.make(recipe.inputs["classifier"]))
    part = images.load(store.make(recipe.inputs["images"]))
    return model.to(compute.device(recipe.settings["device"])), part.take(slice(recipe.settings["count"]))


def recipe(kind, classifier: ArtifactSpec, pictures: ArtifactSpec, count: int, study) -> ArtifactSpec:
    """`kind` is `attended` or `trusted`."""
    return kind({"count": count, "device": study.device}, study.seed, classifier=classifier, images=pictures)


def loaded(store: Store, wanted: ArtifactSpec) -> dict[str, np.ndarray]:
    """The arrays of either artifact."""
    return {name: value.numpy() for name, value in load_file(store.make(wanted).files[0]).items()}


def measured(found: Sequence[Mapping[str, np.ndarray]], part: ImageSet, reference: np.ndarray | None = None) -> pd.DataFrame:
    """A row an image: focus, spread and intensity of the true class, the poster's three, and whether it was recognised.

    Means over several classifiers of one arm, if several; `reference` (n, classes) are the logits whose deviation is the
    unit of intensity.
    """
    masks = part.masks() if "mask" in part.columns else None
    tables = []
    for one in found:
        columns = attention.statistics(one["maps"], one["logits"], part.labels, masks, part.images.shape[1:3], reference)
        columns["focus"] = columns["focus_gini"] if masks is None else columns["focus_mass"]
        columns["right"] = (columns["predicted"] == part.labels).astype(float)
        tables.append(pd.DataFrame({name: values for name, values in columns.items() if name != "predicted"}))
    return sum(tables) / len(tables)


def differences(tables: Mapping[str, pd.DataFrame], base: str, seed: int, pairs: bool) -> list[dict]:
    """For each table but the base and each measure: its mean and the difference to the base, bootstrapped over images."""
    return [{"of": name, "measure": measure, "mean": float(table[measure].mean()), "base": float(tables[base][measure].mean()),
             "difference": attention.compare(table[measure], tables[base][measure], seed, pairs)}
            for name, table in tables.items() if name != base for measure in MEASURES]


def paired(part: ImageSet, own: Sequence[Mapping], real: ImageSet, sources: Sequence[Mapping], unit: np.ndarray,
           seed: int) -> list[dict]:
    """Each inverted image against the real one it came from: differences as above, outlines left out on both sides."""
    where = {name: i for i, name in enumerate(real.sources)}
    kept = [k for k, name in enumerate(part.sources) if name in where]
    tables = {"drawn": measured(own, part, unit), "source": measured(sources, replace(real, columns={}), unit)}
    tables["drawn"] = tables["drawn"].iloc[kept].reset_index(drop=True)
    tables["source"] = tables["source"].iloc[[where[part.sources[k]] for k in kept]].reset_index(drop=True)
    return differences(tables, "source", seed, pairs=True)


def disagreements(ours: np.ndarray, base: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Positions where the base is right and the other wrong, the base's surest first: logits (n, classes) of both."""
    margin = base[np.arange(len(labels)), labels] - np.where(np.eye(base.shape[1], dtype=bool)[labels], -np.inf, base).max(1)
    where = np.flatnonzero((base.argmax(1) == labels) & (ours.argmax(1) != labels))
    return where[np.argsort(-margin[where])][:count]


def by_arm(recipes: Mapping[str, ArtifactSpec]) -> dict[str, list[ArtifactSpec]]:
    """The classifiers that chapter 04 named `arm-seed`, by arm."""
    found: dict[str, list[ArtifactSpec]] = {}
    for name, one in recipes.items():
        found.setdefault(name.rsplit("-", 1)[0], []).append(one)
    return found


def average(values: Sequence[float], seed: int) -> dict[str, float]:
    """Mean of one value an image as {mean, low, high, n}, bootstrapped over images; what is not a number is left out."""
    kept = np.asarray(values, np.float64)
    kept = kept[np.isfinite(kept)]
    rng = np.random.default_rng(compute.seed_of(seed, "average"))
    means = kept[rng.integers(len(kept), size=(1000, len(kept)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(kept.mean()), "low": float(low), "high": float(high), "n": len(kept)}


def heat(part: ImageSet, maps: Sequence[np.ndarray], index: int) -> np.ndarray:
    """Several classifiers' maps over the image at this position, uint8 (k, h, w, 3), on one colour scale."""
    stack = np.stack([one[index] for one in maps])
    return attention.overlay(np.repeat(part.images[index][None], len(stack), 0), stack)
