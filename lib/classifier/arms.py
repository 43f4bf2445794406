"""Arms: training sets written as sums of image sets, e.g. `real`, `0.1*real+sd`, `sd@4x`.

A name alone means as many images as `real` has, or the whole set where it is smaller; `@4x` means four times as many;
a share in front keeps that part of each class. FileWriters are nested: for one seed, `0.1*real` lies within `0.5*real`, and
`sd@2x` within `sd@4x`.
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
MOST = 1000  # times as many images as `real` has
NEAR = 6.0  # grey levels between 8 x 8 thumbnails: JPEG moves a picture by 1, a pixel's shift by 4, another scene by over 11


class ArmError(ValueError):
    """An arm that cannot be put together; the message says which part."""


@dataclass(frozen=True)
class Term:
    """One part of an arm: a share of `times` x as many images as `real` has; times None: of at most as many."""

    name: str
    share: float = 1.0
    times: float | None = None

    def wanted(self, held: int, base: int | None) -> float:
        """How many of the `held` images of its set it takes; without a base, all of them."""
        if self.times is None:
            return self.share * (held if base is None else min(held, base))
        if base is None:
            raise ArmError(
                f"{self.name}@{self.times:g}x is counted in sizes of `real`, which were not given"
            )
        if held < self.times * base:
            raise ArmError(
                f"{self.name}@{self.times:g}x needs {self.times * base:,.0f} images ({self.times:g} x {base:,}), set "
                f"{self.name!r} holds {held:,}: make more of them, or write at most {self.name}@{held / base:.3g}x"
            )
        return self.share * self.times * base


def parse(arm: str) -> list[Term]:
    """`0.1*real+sd` as [Term("real", 0.1), Term("sd")]."""
    terms = []
    for text in arm.replace(" ", "").split("+"):
        found = TERM.fullmatch(text)
        if not found:
            raise ArmError(
                f"arm {arm!r}: cannot read {text!r}; write set names joined by +, e.g. 0.1*real+sd or sd@4x"
            )
        share, times = float(found["share"] or 1), found["times"] and float(found["times"])
        if not 0 < share <= 1:
            raise ArmError(
                f"arm {arm!r}: the share {found['share']} must be above 0 and at most 1; for more images of a "
                f"set write {found['name']}@{share:g}x"
            )
        if times == 0:
            raise ArmError(f"arm {arm!r}: @0x takes nothing; leave {found['name']} out")
        if times and times > MOST:
            raise ArmError(
                f"arm {found['name']}@…x: at most {MOST:,} times as many images as `real` has"
            )
        terms.append(Term(found["name"], share, times))
    twice = {term.name for term in terms if [t.name for t in terms].count(term.name) > 1}
    if twice:
        raise ArmError(
            f"arm {arm!r}: set {min(twice)!r} stands twice; write it once, e.g. {min(twice)}@2x"
        )
    return terms


def names(arm: str, sets: Iterable[str]) -> list[str]:
    """The image sets that an arm is made of; each must exist."""
    used = [term.name for term in parse(arm)]
    for name in used:
        if name not in sets:
            close = difflib.get_close_matches(name, list(sets), n=1)
            raise ArmError(
                f"arm {arm!r}: no image set {name!r}"
                + (
                    f"; did you mean {close[0]!r}?"
                    if close
                    else f"; there are {', '.join(sorted(sets))}"
                )
            )
    return used


def size(arm: str, sizes: Mapping[str, int]) -> int:
    """About how many images an arm has, from the sizes of its sets (rounding by class may move it a little)."""
    names(arm, sizes)
    return round(sum(term.wanted(sizes[term.name], sizes.get("real")) for term in parse(arm)))


def positions(term: Term, labels: np.ndarray, base: int | None, seed: int) -> np.ndarray:
    """Which images (k,) of its set a term takes: the same part of each class, at least one image, drawn by the seed."""
    wanted = term.wanted(len(labels), base)
    if wanted >= len(labels):
        return np.arange(len(labels))
    rng, kept = np.random.default_rng(compute.seed_of(seed, term.name)), []
    for label in np.unique(labels):
        where = np.flatnonzero(labels == label)
        kept.append(rng.permutation(where)[: max(1, round(wanted / len(labels) * len(where)))])
    return np.sort(np.concatenate(kept))


def assemble(
    arm: str, sets: Mapping[str, ImageSet], seed: int, base: int | None = None
) -> ImageSet:
    """The images of an arm; `base` is the size of `real`."""
    names(arm, sets)
    parts, first = [], sets[parse(arm)[0].name]
    for term in parse(arm):
        whole = sets[term.name]
        check_complete(
            arm,
            term.name,
            whole.labels,
            (whole.classes, whole.images.shape[1]),
            (first.classes, first.images.shape[1]),
        )
        parts.append(whole.take(positions(term, whole.labels, base, seed)))
    return ImageSet(
        np.concatenate([p.images for p in parts]),
        np.concatenate([p.labels for p in parts]),
        parts[0].classes,
        np.concatenate([p.seeds for p in parts]),
        sum((p.sources for p in parts), ()),
        sum((p.prompts for p in parts), ()),
    )


def check_complete(
    arm: str, name: str, labels: np.ndarray, kind: tuple[tuple[str, ...], int], first: tuple
) -> None:
    """Stop where a set has not the classes and size (its `kind`) of the arm's first set, or no image of a class."""
    classes, size = kind
    if kind != first:
        raise ArmError(
            f"arm {arm!r}: its sets have different classes or sizes: {name!r} has {', '.join(classes)} at {size} px, "
            f"the first set {', '.join(first[0])} at {first[1]} px"
        )
    counts = np.bincount(labels, minlength=len(classes))
    missing = [c for c, n in zip(classes, counts, strict=True) if n == 0]
    if missing:
        raise ArmError(
            f"arm {arm!r}: set {name!r} has no image of class {', '.join(map(repr, missing))}; "
            "make some, or leave the set out"
        )


def report(
    arms: Iterable[str], sets: Mapping[str, ImageSet], test: ImageSet, seed: int = 0
) -> pd.DataFrame:
    """One row an arm: its size, balance, copies, and images nearly equal to a test image; a test image itself stops it."""
    rows, base = [], len(sets["real"]) if "real" in sets else None
    for arm in arms:
        whole = assemble(arm, sets, seed, base)
        checks.guard({arm: whole}, test)
        counts = whole.counts()
        rows.append(
            {
                "arm": arm,
                "images": len(whole),
                "smallest class": int(counts.min()),
                "largest class": int(counts.max()),
                "copies": checks.duplicates(whole.images),
                "near test": int((checks.nearest(whole.images, test.images) < NEAR).sum()),
            }
        )
    return pd.DataFrame(rows)
