"""The real training images in two parts: what remedies may use, and what chooses between them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lib.classifier.arms import Term, positions
from lib.core import compute
from lib.core.store import ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset
from lib.data.imageset import ImageSet
from lib.measure import accuracy
from lib.remedies.registry import RepairError

GENERATED = {
    "prompted-images",
    "class-conditional-model",
    "class-conditional-images",
    "embeddings",
    "identification",
    "inverted-images",
    "inversion-paths",
}  # kinds that come from a generator
CHOICE = "fine-tuning-choice"  # looks at validation images, but trains on none


@artifact("real-split")
def part(store: Store, spec: ArtifactSpec) -> FileWriters:
    """Real training images: `validation`, the same share of each class, or `fit`, the rest."""

    def write(path: Path) -> None:
        settings, whole = spec.settings, imageset.load(store.make(spec.inputs["real"]))
        rows = positions(Term("validation", settings["share"]), whole.labels, None, spec.seed)
        if settings["part"] == "fit":
            rows = np.setdiff1d(np.arange(len(whole)), rows)
        imageset.write(path, whole.take(rows))

    return {"images-00000-of-00001.parquet": write}


def parts(train: ArtifactSpec, share: float, seed: int) -> tuple[ArtifactSpec, ArtifactSpec]:
    """Specs of `fit` and `validation`; only real training images can be split."""
    name = train.settings.get("split")
    if name != "train":
        raise RepairError(
            f"remedies are chosen on a part of the real training images, not of {name!r}"
        )
    seed = compute.seed_of(seed, "validation")
    fit, validation = (
        part({"part": name, "share": share}, seed, real=train) for name in ("fit", "validation")
    )
    return fit, validation


def some(real: ImageSet, count: int, seed: int) -> ImageSet:
    """About `count` images, the same number of each class; fewer lie within more, for one seed."""
    if count > len(real):
        raise RepairError(
            f"{count} real images are more than the {len(real)} beside the validation split: "
            "lower repair.num_real and repair.num_real_curve, or raise data.train"
        )
    return real.take(positions(Term("real", count / len(real)), real.labels, None, seed))


def clean(spec: ArtifactSpec, validation: ArtifactSpec, through: bool = False) -> bool:
    """Whether nothing was trained on validation images; with `through`, generators may have been.

    Learning rate and steps chosen by accuracy on them are no training.
    """
    keys = {validation.key, validation.inputs["real"].key}

    def touched(spec: ArtifactSpec) -> bool:
        if spec.kind == part.kind and spec.settings["part"] == "fit":
            return False
        if through and spec.kind in GENERATED:
            return False
        skipped = {"validation"} if spec.kind == CHOICE else set()
        inputs = [upstream for name, upstream in spec.inputs.items() if name not in skipped]
        return spec.key in keys or any(map(touched, inputs))

    return not touched(spec)


def choose(store: Store, candidates: Mapping[str, list[ArtifactSpec]], validation: ArtifactSpec,
           device: str, through: bool = False) -> tuple[str, dict[str, dict[str, float]]]:
    """The candidate that is best on validation images, and every candidate's accuracy there.

    None may have been trained on them; with `through`, the generator of its images may.
    """
    if validation.kind != part.kind or validation.settings["part"] != "validation":
        raise RepairError(
            f"a choice is made on the validation split alone, not on {validation.kind}"
        )
    seen = [
        name
        for name, classifiers in candidates.items()
        if not all(clean(spec, validation, through) for spec in classifiers)
    ]
    if seen:
        raise RepairError(
            f"{', '.join(seen)} learnt from validation images, so they cannot be compared on them"
        )
    scores = accuracy.scores(store, dict(candidates), {"validation": validation}, device)
    shares = {name: row["validation"] for name, row in accuracy.table(scores).items()}
    return max(shares, key=lambda name: shares[name]["mean"]), shares
