"""The real training images in two parts: what remedies may use, and what chooses between them. Test images have no part in it."""

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


@artifact("real-split")
def part(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """One part of the real training images: `validation`, the same share of each class, or `fit`, the rest."""

    def write(path: Path) -> None:
        wanted, whole = recipe.settings, images.load(store.make(recipe.inputs["real"]))
        held = positions(Term("validation", wanted["share"]), whole.labels, None, recipe.seed)
        chosen = (
            held if wanted["part"] == "validation" else np.setdiff1d(np.arange(len(whole)), held)
        )
        images.write(path, whole.take(chosen))

    return {"images-00000-of-00001.parquet": write}


def parts(train: ArtifactSpec, share: float, seed: int) -> tuple[ArtifactSpec, ArtifactSpec]:
    """Recipes of `fit` and `validation`; only real training images can be split."""
    if train.settings.get("split") != "train":
        raise RepairError(
            f"remedies are chosen on a part of the real training images, not of {train.settings.get('split')!r}"
        )
    return tuple(
        part({"part": name, "share": share}, compute.seed_of(seed, "validation"), real=train)
        for name in ("fit", "validation")
    )


def some(real: ImageSet, count: int, seed: int) -> ImageSet:
    """About `count` of the real images, the same number of each class; fewer lie within more, for one seed."""
    if count > len(real):
        raise RepairError(
            f"{count} real images wanted, {len(real)} are there beside the validation split: lower repair.num_real "
            "and repair.num_real_curve, or raise data.train"
        )
    return real.take(positions(Term("real", count / len(real)), real.labels, None, seed))


def clean(recipe: ArtifactSpec, validation: ArtifactSpec, through: bool = False) -> bool:
    """Whether validation images had no part in a recipe; with `through`, what a generator learnt from them does not count."""
    keys = {validation.key, validation.inputs["real"].key}

    def touched(one: ArtifactSpec) -> bool:
        if (
            one.kind == part.kind
            and one.settings["part"] == "fit"
            or through
            and one.kind in GENERATED
        ):
            return False
        return one.key in keys or any(map(touched, one.inputs.values()))

    return not touched(recipe)


def choose(
    store: Store,
    candidates: Mapping[str, list[ArtifactSpec]],
    validation: ArtifactSpec,
    device: str,
    through: bool = False,
) -> tuple[str, dict[str, dict[str, float]]]:
    """The candidate that is best on the validation split, and every candidate's accuracy there: test images cannot come here.

    None may have learnt from validation images; with `through`, the generator of its synthetic images may.
    """
    if validation.kind != part.kind or validation.settings["part"] != "validation":
        raise RepairError(
            f"a choice is made on the validation split alone, not on {validation.kind}"
        )
    seen = [
        name
        for name, classifiers in candidates.items()
        if not all(clean(one, validation, through) for one in classifiers)
    ]
    if seen:
        raise RepairError(
            f"{', '.join(seen)} learnt from validation images, so they cannot be compared on them"
        )
    found = accuracy.scores(store, dict(candidates), {"validation": validation}, device)
    shares = {name: row["validation"] for name, row in accuracy.table(found).items()}
    return max(shares, key=lambda name: shares[name]["mean"]), shares
