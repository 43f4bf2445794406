"""Chapter 06's artifacts: line statistics of image sets, and the calibration on known cameras."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from lib.core import workers
from lib.core.store import ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset as images
from lib.measure import geometry


@artifact("image-geometry")
def lines(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """A row for each of the first `count` images of a set."""
    def write(path: Path) -> None:
        part = images.load(store.make(recipe.inputs["images"])).take(
            slice(recipe.settings["count"])
        )
        pictures = part.native() if recipe.settings.get("native") else part.images
        geometry.features(pictures, recipe.seed, workers.cores()).to_parquet(path)
    return {"lines.parquet": write}


@artifact("geometry-calibration")
def calibration(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """A row a size: errors against known cameras."""
    def write(path: Path) -> None:
        geometry.calibrate(recipe.settings["sizes"], recipe.settings["scenes"], recipe.seed,
                           workers=workers.cores()).to_parquet(path)
    return {"calibration.parquet": write}


def table(store: Store, wanted: ArtifactSpec) -> pd.DataFrame:
    """The table of either artifact."""
    return pd.read_parquet(store.make(wanted).files[0])


def measured_size(parts: Iterable[images.ImageSet], native: bool) -> int:
    """The smallest longer side, in pixels, at which images of these sets are measured."""
    pictures = [part.take(slice(1)).native()[0] if native else part.images[0] for part in parts]
    return min(max(picture.shape[:2]) for picture in pictures)
