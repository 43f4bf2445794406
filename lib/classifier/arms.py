"""Arms: training sets written as sums of image sets, e.g. `real`, `0.1*real+sd`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

import numpy as np

from lib import compute
from lib.data import images
from lib.data.images import ImageSet
from lib.store import Recipe, Store

TERM = re.compile(r"(?:(?P<share>\d+(?:\.\d+)?)\*)?(?P<name>[a-z][a-z0-9_-]*)")


class ArmError(ValueError):
    """An arm that cannot be put together; the message says which part."""


def parse(arm: str) -> list[tuple[float, str]]:
    """`0.1*real+sd` as [(0.1, "real"), (1.0, "sd")]."""
    terms = []
    for text in arm.replace(" ", "").split("+"):
        found = TERM.fullmatch(text)
        if not found:
            raise ArmError(f"arm {arm!r}: cannot read {text!r}; write set names joined by +, e.g. 0.1*real+sd")
        share = float(found["share"] or 1)
        if not 0 < share <= 1:
            raise ArmError(f"arm {arm!r}: the share {found['share']} must be above 0 and at most 1")
        terms.append((share, found["name"]))
    return terms


def names(arm: str, sets: Iterable[str]) -> list[str]:
    """The image sets that an arm is made of; each must exist."""
    used = list(dict.fromkeys(name for _, name in parse(arm)))
    for name in used:
        if name not in sets:
            close = difflib.get_close_matches(name, list(sets), n=1)
            raise ArmError(f"arm {arm!r}: no image set {name!r}"
                           + (f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(sets))}"))
    return used


def assemble(arm: str, sets: Mapping[str, ImageSet], seed: int) -> ImageSet:
    """The images of an arm; a share keeps that part of each class, drawn by the seed."""
    parts = [_share(sets[name], share, compute.seed_of(seed, arm, name)) for share, name in parse(arm)]
    if len({part.classes for part in parts}) > 1:
        raise ArmError(f"arm {arm!r}: its sets have different classes")
    missing = [c for c, n in zip(parts[0].classes, sum(part.counts() for part in parts), strict=True) if n == 0]
    if missing:
        raise ArmError(f"arm {arm!r}: no image of class {', '.join(map(repr, missing))}")
    return ImageSet(np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts]),
                    parts[0].classes, np.concatenate([p.seeds for p in parts]),
                    sum((p.sources for p in parts), ()), sum((p.prompts for p in parts), ()))


def pixels(store: Store, recipe: Recipe) -> ImageSet:
    """The image set of a recipe."""
    return images.load(store.make(recipe))


def _share(whole: ImageSet, share: float, seed: int) -> ImageSet:
    """That share of each class, at least one image."""
    if share == 1:
        return whole
    rng, kept = np.random.default_rng(seed), []
    for label, count in enumerate(whole.counts()):
        where = np.flatnonzero(whole.labels == label)
        kept.append(rng.permutation(where)[:max(1, round(share * count))])
    return whole.take(np.sort(np.concatenate(kept)))
