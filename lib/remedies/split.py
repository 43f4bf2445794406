"""The real training images in two parts: what remedies may use, and what chooses between them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lib.classifier.arms import Term, positions
from lib.core import compute
from lib.core.store import ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset as images
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
LR_CHOICE = "learning-rate-choice"  # looks at validation images, but trains on none


@artifact("real-split")
def part(store: Store, spec: ArtifactSpec) -> FileWriters:
    """Real training images: `validation`, the same share of each class, or `fit`, the rest."""

    def write(path: Path) -> None:
        settings, whole = spec.settings, images.load(store.make(spec.inputs["real"]))
        term = Term("validation", settings["share"])
        validation = positions(term, whole.labels, None, spec.seed)
        fit = np.setdiff1d(np.arange(len(whole)), validation)
        images.write(path, whole.take(validation if settings["part"] == "validation" else fit))

    return {"images-00000-of-00001.parquet": write}


def parts(train: ArtifactSpec, share: float, seed: int) -> tuple[ArtifactSpec, ArtifactSpec]:
    """Specs of `fit` and `validation`; only real training images can be split."""
    if train.settings.get("split") != "train":
        split = train.settings.get("split")
        raise RepairError(
            f"remedies are chosen on a part of the real training images, not of {split!r}"
        )
    return tuple(
        part({"part": name, "share": share}, compute.seed_of(seed, "validation"), real=train)
        for name in ("fit", "validation")
    )


def some(real: ImageSet, count: int, seed: int) -> ImageSet:
    """About `count` images, the same number of each class; fewer lie within more, for one seed."""
    if count > len(real):
        raise RepairError(
            f"{count} real images wanted, {len(real)} are there beside the validation split: "
            "lower repair.num_real and repair.num_real_curve, or raise data.train"
        )
    return real.take(positions(Term("real", count / len(real)), real.labels, None, seed))


def clean(spec: ArtifactSpec, validation: ArtifactSpec, through: bool = False) -> bool:
    """Whether nothing learnt from validation images; with `through`, generators may have.

    A learning rate that was chosen by accuracy on them is no learning.
    """
    keys = {validation.key, validation.inputs["real"].key}

    def touched(spec: ArtifactSpec) -> bool:
        if spec.kind == part.kind and spec.settings["part"] == "fit":
            return False
        if through and spec.kind in GENERATED:
            return False
        inputs = {**spec.inputs}
        if spec.kind == LR_CHOICE:
            del inputs["validation"]
        return spec.key in keys or any(map(touched, inputs.values()))

    return not touched(spec)


def choose(
    store: Store,
    candidates: Mapping[str, list[ArtifactSpec]],
    validation: ArtifactSpec,
    device: str,
    through: bool = False,
) -> tuple[str, dict[str, dict[str, float]]]:
    """The candidate that is best on validation images, and every candidate's accuracy there.

    None may have learnt from them; with `through`, the generator of its synthetic images may.
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
