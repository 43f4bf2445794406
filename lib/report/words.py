"""Sentences that the data choose, so that no finding can contradict the figure above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lib.measure.reference import share
from lib.report.figures import value

Result = Mapping[str, float]  # mean, low, high, n
def percent(result: Result) -> str:
    """`81.3 % ± 0.4 (n = 3)`."""
    return value(result, scale=100, unit=" %")


def listed(names: Sequence[str]) -> str:
    """`sd, cd and di`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def memory(near: np.ndarray, usual: np.ndarray, copies: int) -> str:
    """Whether synthetic images come too near to training images: distances (n,) of theirs and of real test images."""
    edge, middle = np.quantile(usual, [0.01, 0.5])
    ours, theirs = ([share(values < end) for end in (edge, middle)] for values in (near, usual))
    twins = f"{copies} synthetic images equal another" if copies else "no synthetic image comes twice"
    return (f"{percent(ours[0])} of the synthetic images lie nearer to a training image than 99 % of the real test images do "
            f"({edge:.1f} grey levels; 1 % would be chance), {percent(ours[1])} nearer than half of them: "
            f"{handed(*ours, *theirs)}; {twins}.")


def handed(tail: Result, half: Result, usual: Result, middle: Result) -> str:
    """Whether training images were handed back: shares nearer to one than all but 1 %, and than half, of real images, and
    the same of real images themselves."""
    if tail["low"] > max(0.01, usual["high"]):
        return "more than chance, look at the closest pairs before believing the arms"
    if half["low"] > max(0.5, middle["high"]):
        return ("no image stands out, but the set as a whole lies nearer to training images than unseen real ones do, as "
                "smoother images would, or copies in part")
    return "no sign that training images were handed back"
