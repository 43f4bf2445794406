"""What the gap is made of, in points of accuracy on real test images, every bar paired seed by seed.

- class: by how much more of its images the classifiers trained on real images recognise;
- layer: by how much a linear probe of real images reads more from their features after that layer than from those of the
  synthetic-trained; after the last comes each network's own head, which is the gap itself;
- pixels: what statistics of real images in the first batch norm give back, where little but colour and contrast is seen;
- geometry, attention: what keeping images with real-looking lines, or with concentrated attention, gives back over keeping
  as many at random;
- fidelity, label noise: the same for images near to real ones, and for those whose class a real-trained judge confirms;
- diversity: what all synthetic images give over a random part of them, in as many steps.

These are lower bounds, each of one intervention: they overlap and need not add up to the gap.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from lib.classifier import train as fit
from lib.core import compute
from lib.core.store import ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset as images
from lib.measure import accuracy, representation, stats
from lib.remedies.registry import Remedy

CUES, TERMS = ("pixels", "geometry", "attention"), ("fidelity", "diversity", "label noise")
HEAD = "own head"


@artifact("gap-probes")
def probed(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """Accuracy on upstream `test` of linear probes of upstream `real` images after each layer, and of the network's own head."""

    def write(path: Path) -> None:
        model, _ = fit.opened(store.make(recipe.inputs["classifier"]))
        model = model.to(compute.device(recipe.settings["device"]))
        real, test = (images.load(store.make(recipe.inputs[name])) for name in ("real", "test"))
        learn, ask = (representation.activations(model, part.images) for part in (real, test))
        path.write_text(
            json.dumps(representation.probes(learn, real.labels, ask, test.labels, recipe.seed)),
            encoding="utf-8",
        )

    return {"layers.json": write}


def probes(
    classifiers: Sequence[ArtifactSpec], real: ArtifactSpec, test: ArtifactSpec, study
) -> list[ArtifactSpec]:
    """The probes of one arm, one recipe a seed."""
    return [
        probed({"device": study.device}, study.seed, classifier=one, real=real, test=test)
        for one in classifiers
    ]


def by_class(found: pd.DataFrame, base: str, real: str, classes: Sequence[str]) -> list[dict]:
    """How far the base is behind in each class, widest first: rows of `panel`, `part` and `points`."""
    labels = found["labels"].iloc[0]
    right = {arm: accuracy.correct(found, arm, found["set"].iloc[0]) for arm in (base, real)}
    rows = [
        {
            "panel": "class",
            "part": name,
            "points": stats.difference(right[real][:, labels == k], right[base][:, labels == k]),
        }
        for k, name in enumerate(classes)
        if (labels == k).sum() > 1
    ]
    return sorted(rows, key=lambda row: -row["points"]["mean"])


def by_layer(
    store: Store,
    ours: Sequence[ArtifactSpec],
    theirs: Sequence[ArtifactSpec],
    whole: Mapping[str, float],
) -> list[dict]:
    """How far the base's features are behind after each layer, and last its own head, by which it is the `whole` gap behind."""
    base, real = (
        [
            json.loads(store.make(one).path("layers.json").read_text(encoding="utf-8"))
            for one in seeds
        ]
        for seeds in (ours, theirs)
    )
    rows = [
        {
            "panel": "layer",
            "part": name,
            "points": stats.difference([one[name] for one in real], [one[name] for one in base]),
        }
        for name in base[0]
    ]
    return [*rows, {"panel": "layer", "part": HEAD, "points": dict(whole)}]


def by_remedy(
    gains: Mapping[str, Mapping[str, dict]], remedies: Mapping[str, Remedy]
) -> list[dict]:
    """What repairing one cue, or one term of the distribution, gives back."""
    found = {
        one.part: gains[name]["control" if one.control else "gain"]
        for name, one in remedies.items()
        if one.part
    }
    return [
        {"panel": panel, "part": name, "points": found[name]}
        for panel, names in (("cue", CUES), ("term", TERMS))
        for name in names
        if name in found
    ]
