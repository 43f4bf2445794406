"""Training sets as sums of image sets, e.g. `real`, `0.1*real+sd`, `sd@4x`.

A name alone takes as many images as `real` has, or the whole set where it is smaller; `@4x` four
times as many; a share in front keeps that part of each class. Samples are nested: for one seed,
`0.1*real` lies within `0.5*real`, and `sd@2x` within `sd@4x`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lib.core import compute
from lib.data import checks
from lib.data.imageset import ImageSet

TERM = re.compile(
    r"(?:(?P<share>\d+(?:\.\d+)?)\*)?(?P<name>[a-z][a-z0-9_-]*)(?:@(?P<times>\d+(?:\.\d+)?)x)?"
)
MAX_TIMES = 1000  # times as many images as `real` has
# Grey levels between 8 x 8 thumbnails. JPEG moves an image by 1, a shift of a pixel by 4; other
# scenes are more than 11 away.
NEAR = 6.0


class ArmError(ValueError):
    """A training set that cannot be put together; the message says which part."""


@dataclass(frozen=True)
class Term:
    """A share of `times` as many images of a set as `real` has; times None: of at most as many."""

    name: str
    share: float = 1.0
    times: float | None = None

    def count(self, available: int, base: int | None) -> float:
        """How many of the available images it takes; without a base, all of them."""
        if self.times is None:
            return self.share * (available if base is None else min(available, base))
        label = f"{self.name}@{self.times:g}x"
        if base is None:
            raise ArmError(f"{label} is counted in sizes of `real`, which were not given")
        if available < self.times * base:
            raise ArmError(
                f"{label} needs {self.times * base:,.0f} images ({self.times:g} x {base:,}), set "
                f"{self.name!r} holds {available:,}: make more of them, or write at most "
                f"{self.name}@{available / base:.3g}x"
            )
        return self.share * self.times * base


def parse(arm: str) -> list[Term]:
    """`0.1*real+sd` as [Term("real", 0.1), Term("sd")]."""
    terms = [_term(arm, text) for text in arm.replace(" ", "").split("+")]
    names = [term.name for term in terms]
    for name in names:
        if names.count(name) > 1:
            raise ArmError(f"arm {arm!r}: set {name!r} stands twice; write it once, e.g. {name}@2x")
    return terms


def _term(arm: str, text: str) -> Term:
    match = TERM.fullmatch(text)
    if not match:
        raise ArmError(
            f"arm {arm!r}: cannot read {text!r}; write set names joined by +, "
            "e.g. 0.1*real+sd or sd@4x"
        )
    name, share = match["name"], float(match["share"] or 1)
    times = match["times"] and float(match["times"])
    if not 0 < share <= 1:
        raise ArmError(
            f"arm {arm!r}: the share {match['share']} must be above 0 and at most 1; "
            f"for more images of a set write {name}@{share:g}x"
        )
    if times == 0:
        raise ArmError(f"arm {arm!r}: @0x takes nothing; leave {name} out")
    if times and times > MAX_TIMES:
        raise ArmError(f"arm {name}@…x: at most {MAX_TIMES:,} times as many images as `real` has")
    return Term(name, share, times)


def names(arm: str, sets: Iterable[str]) -> list[str]:
    """The image sets that a training set is made of; each must exist."""
    used = [term.name for term in parse(arm)]
    for name in used:
        if name not in sets:
            close = difflib.get_close_matches(name, list(sets), n=1)
            there_are = f"there are {', '.join(sorted(sets))}"
            hint = f"did you mean {close[0]!r}?" if close else there_are
            raise ArmError(f"arm {arm!r}: no image set {name!r}; {hint}")
    return used


def size(arm: str, sizes: Mapping[str, int]) -> int:
    """About how many images a training set has; rounding by class may move it a little."""
    names(arm, sizes)
    return round(sum(term.count(sizes[term.name], sizes.get("real")) for term in parse(arm)))


def positions(term: Term, labels: np.ndarray, base: int | None, seed: int) -> np.ndarray:
    """Positions (k,) of a term in its set: the same share of each class, sampled by the seed."""
    count = term.count(len(labels), base)
    if count >= len(labels):
        return np.arange(len(labels))
    rng, kept = np.random.default_rng(compute.seed_of(seed, term.name)), []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        kept.append(rng.permutation(rows)[: max(1, round(count / len(labels) * len(rows)))])
    return np.sort(np.concatenate(kept))


def assemble(
    arm: str, sets: Mapping[str, ImageSet], seed: int, base: int | None = None
) -> ImageSet:
    """The images of a training set; `base` is the size of `real`."""
    names(arm, sets)
    labels = {name: images.labels for name, images in sets.items()}
    kinds = {name: (images.classes, images.images.shape[1]) for name, images in sets.items()}
    parts = [sets[name].take(rows) for name, rows in selected(arm, labels, kinds, seed, base)]
    return ImageSet(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
        parts[0].classes,
        np.concatenate([part.seeds for part in parts]),
        sum((part.sources for part in parts), ()),
        sum((part.prompts for part in parts), ()),
    )


def selected(
    arm: str, labels: Mapping[str, np.ndarray], kinds: Mapping, seed: int, base: int | None
) -> list[tuple[str, np.ndarray]]:
    """Each set of a training set and the positions it gives; `kinds` are (classes, pixels a side).

    Stops where a set lacks a class, or has not the classes and size of the first set.
    """
    terms, rows = parse(arm), []
    expected = kinds[terms[0].name]
    for term in terms:
        name, (classes, size) = term.name, kinds[term.name]
        if (classes, size) != expected:
            raise ArmError(
                f"arm {arm!r}: its sets have different classes or sizes: {name!r} has "
                f"{', '.join(classes)} at {size} px, the first set {', '.join(expected[0])} "
                f"at {expected[1]} px"
            )
        counts = np.bincount(labels[name], minlength=len(classes))
        missing = [repr(label) for label, n in zip(classes, counts, strict=True) if n == 0]
        if missing:
            raise ArmError(
                f"arm {arm!r}: set {name!r} has no image of class {', '.join(missing)}; "
                "make some, or leave the set out"
            )
        rows.append((name, positions(term, labels[name], base, seed)))
    return rows


def report(
    arms: Iterable[str], sets: Mapping[str, ImageSet], test: ImageSet, seed: int = 0
) -> pd.DataFrame:
    """A row per training set: size, balance, copies, near test images; equal ones stop it."""
    rows, base = [], len(sets["real"]) if "real" in sets else None
    for arm in arms:
        whole = assemble(arm, sets, seed, base)
        checks.guard({arm: whole}, test)
        near = checks.nearest(whole.images, test.images) < NEAR
        rows.append(
            {
                "arm": arm,
                "images": len(whole),
                "smallest class": int(whole.counts().min()),
                "largest class": int(whole.counts().max()),
                "copies": checks.duplicates(whole.images),
                "near test": int(near.sum()),
            }
        )
    return pd.DataFrame(rows)
