"""Chapter 06's artefacts: what the lines of image sets say, and the calibration that says from which size to believe it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lib import workers
from lib.data import images
from lib.measure import geometry
from lib.store import Parts, Recipe, Store, step


@step(version=2)
def lines(store: Store, recipe: Recipe) -> Parts:
    """A row for each of the first `count` images of a set."""
    def write(path: Path) -> None:
        part = images.load(store.make(recipe.upstream["images"])).take(slice(recipe.settings["count"]))
        pictures = part.native() if recipe.settings.get("native") else part.images
        geometry.features(pictures, recipe.seed, workers.cores()).to_parquet(path)
    return {"lines.parquet": write}


@step(version=2)
def calibration(store: Store, recipe: Recipe) -> Parts:
    """A row a size: errors against known cameras."""
    def write(path: Path) -> None:
        geometry.calibrate(recipe.settings["sizes"], recipe.settings["scenes"], recipe.seed,
                           workers=workers.cores()).to_parquet(path)
    return {"calibration.parquet": write}


def table(store: Store, wanted: Recipe) -> pd.DataFrame:
    """The table of either artefact."""
    return pd.read_parquet(store.make(wanted).files[0])
