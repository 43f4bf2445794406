"""Every interval, test and verdict of the study.

Classifiers are compared on matrices (seeds, images): whether each seed's classifier is right about
each test image. Both seeds and test images are samples, so both count in an interval. The closed
form for the mean of such a two-way table is used; ratios use the crossed bootstrap (Owen 2007, "The
pigeonhole bootstrap"). What is one number a classifier varies over seeds alone, what is measured
of one set or with one model over images alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np
from scipy import stats

from lib.core.compute import seed_of


class StatsError(ValueError):
    """Data from which no interval can be computed."""


class Estimate(TypedDict):
    """A mean with its 95 % interval (low, high) and 90 % interval (low90, high90); plain JSON.

    `p`: two-sided p-value of the mean being 0, of differences. `n`: what tables print beside the
    mean: `n_seeds`, or `n_images` where one model or set was measured.
    """

    mean: float
    low: float
    high: float
    low90: float
    high90: float
    p: float | None
    n: int
    n_seeds: int | None
    n_images: int | None


def over_seeds(values: Sequence[float]) -> Estimate:
    """t-interval of one number a seed (seeds,); `p` tests that the mean is 0."""
    values = np.asarray(values, np.float64)
    _check_seeds(len(values))
    error = values.std(ddof=1) / np.sqrt(len(values))
    return _t_interval(values.mean(), error, len(values) - 1, n_seeds=len(values))


def over_images(values: Sequence[float]) -> Estimate:
    """t-interval of one number an image (images,), of one model or set."""
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        raise StatsError(f"an interval over images needs at least two; got {len(values)}")
    error = values.std(ddof=1) / np.sqrt(len(values))
    return _t_interval(values.mean(), error, len(values) - 1, n_images=len(values))


def share(flags: np.ndarray) -> Estimate:
    """Share of True among images (images,), one model or set, with Wilson's interval."""
    if not len(flags):
        raise StatsError("a share of no images has no value; check that every class has images")
    test = stats.binomtest(int(np.sum(flags)), len(flags))
    low, high = test.proportion_ci(0.95, method="wilson")
    low90, high90 = test.proportion_ci(0.90, method="wilson")
    return _estimate(np.mean(flags), low, high, low90, high90, n_images=len(flags))


def accuracy(correct: np.ndarray) -> Estimate:
    """Share correct of a matrix (seeds, images), over seeds and images."""
    correct = np.asarray(correct, np.float64)
    _check_seeds(len(correct))
    if np.ptp(correct) == 0:  # all correct, or none: what is left is the number of images
        return share(correct[0] > 0) | {"n": len(correct), "n_seeds": len(correct)}
    estimate = _two_way(correct)
    ends = {end: min(max(estimate[end], 0.0), 1.0) for end in ("low", "high", "low90", "high90")}
    return estimate | ends | {"p": None}


def difference(ours: np.ndarray, base: np.ndarray) -> Estimate:
    """ours - base, paired: matrices (seeds, images) of correct or not, or numbers (seeds,)."""
    ours, base = np.asarray(ours, np.float64), np.asarray(base, np.float64)
    if ours.shape != base.shape:
        raise StatsError("pairs need the same seeds and images on both sides; "
                         f"got {ours.shape} and {base.shape}")
    return over_seeds(ours - base) if ours.ndim == 1 else _two_way(ours - base)


def ratio(numerator: np.ndarray, denominator: np.ndarray, seed: int = 0) -> Estimate:
    """Ratio of two mean differences, matrices (seeds, images), by the crossed bootstrap.

    Refused where the denominator may be 0, by its interval or when resampled: the ratio could
    then be any number.
    """
    below = _two_way(np.asarray(denominator, np.float64))
    if below["low"] <= 0 <= below["high"]:
        raise StatsError("no ratio: the interval of the denominator contains 0")
    draws = crossed_bootstrap(np.stack([numerator, denominator]), seed=seed)
    if (draws[:, 1] * below["mean"] <= 0).any():
        raise StatsError("no ratio: resampled denominators reach 0")
    return percentiles(np.mean(numerator) / np.mean(denominator), draws[:, 0] / draws[:, 1],
                       n_seeds=below["n_seeds"], n_images=below["n_images"])


def crossed_bootstrap(matrices: np.ndarray, rounds: int = 2000, seed: int = 0) -> np.ndarray:
    """Means (rounds, m) of matrices (m, seeds, images) with the same seeds and images resampled."""
    count, seeds, images = np.shape(matrices)
    _check_seeds(seeds)
    flat = np.asarray(matrices, np.float64).reshape(count * seeds, images)
    rng, means = np.random.default_rng(seed_of(seed, "crossed bootstrap")), []
    for _ in range(rounds):
        weights = np.bincount(rng.integers(images, size=images), minlength=images) / images
        rows = (flat @ weights).reshape(count, seeds)
        means.append(rows[:, rng.integers(seeds, size=seeds)].mean(1))
    return np.array(means)


def bootstrap(samples: Sequence[np.ndarray], statistic: Callable, seed: int,
              rounds: int = 2000) -> Estimate:
    """Percentile interval of `statistic(*samples, axis)` over images, samples independent."""
    counts = [len(sample) for sample in samples]
    if min(counts) < 2:
        raise StatsError(f"an interval over images needs at least two a side; got {counts}")
    rng = np.random.default_rng(seed_of(seed, "bootstrap"))
    result = stats.bootstrap(samples, statistic, n_resamples=rounds, batch=100,
                             method="percentile", rng=rng)
    return percentiles(statistic(*samples, axis=-1), result.bootstrap_distribution,
                       n_images=counts[0])


def percentiles(mean: float, draws: np.ndarray, **counts: int) -> Estimate:
    """Percentile interval of a statistic from its bootstrap draws (rounds,)."""
    low, low90, high90, high = np.quantile(draws, [0.025, 0.05, 0.95, 0.975])
    return _estimate(mean, low, high, low90, high90, **counts)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm-adjusted p-values of one family, in the order given; None (not tested) stays None."""
    tested = [i for i, p in enumerate(p_values) if p is not None]
    adjusted, largest = list(p_values), 0.0
    for rank, i in enumerate(sorted(tested, key=lambda i: p_values[i])):
        largest = max(largest, (len(tested) - rank) * p_values[i])
        adjusted[i] = min(largest, 1.0)
    return adjusted


def verdict(difference: Estimate, margin: float = 1.0) -> str:
    """`higher`, `lower`, `equivalent` or `inconclusive`, of a difference of shares (0..1).

    `equivalent`: the 90 % interval lies within the margin in points (two one-sided tests at 5 %),
    whether or not it contains 0. Few seeds that agree exactly are discreteness, not evidence.
    """
    low, high = difference["low"], difference["high"]
    low90, high90 = difference.get("low90", low), difference.get("high90", high)
    if low == high != 0:
        return "inconclusive"
    if -margin < 100 * low90 and 100 * high90 < margin:
        return "equivalent"
    return "higher" if low > 0 else "lower" if high < 0 else "inconclusive"


def two_way_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard error of the mean of tables (..., seeds, images), and its degrees of freedom.

    The variance is that of independent seeds plus the variance component of images where that is
    positive; degrees of freedom after Satterthwaite.
    """
    k, n = values.shape[-2:]
    rows, columns = values.mean(-1, keepdims=True), values.mean(-2, keepdims=True)
    rest = values - rows - columns + values.mean((-2, -1), keepdims=True)
    ms_seeds, ms_images = n * rows.var((-2, -1), ddof=1), k * columns.var((-2, -1), ddof=1)
    ms_rest = np.square(rest).sum((-2, -1)) / ((k - 1) * (n - 1))
    total = ms_seeds + np.maximum(ms_images - ms_rest, 0)
    images = ms_images**2 / (n - 1) + ms_rest**2 / ((k - 1) * (n - 1))
    parts = ms_seeds**2 / (k - 1) + images * (ms_images > ms_rest)
    df = np.divide(total**2, parts, out=np.full_like(total, k - 1), where=parts > 0)
    return np.sqrt(total / (k * n)), df


def _two_way(values: np.ndarray) -> Estimate:
    """Interval of the mean of a table (seeds, images), both of them random."""
    seeds, images = values.shape
    _check_seeds(seeds)
    if images < 2:
        raise StatsError(f"an interval over images needs at least two; got {images}")
    error, df = two_way_error(values)
    return _t_interval(values.mean(), error, df, n_seeds=seeds, n_images=images)


def _t_interval(mean: float, error: float, df: float, **counts: int) -> Estimate:
    half, half90 = (stats.t.ppf(level, df) * error for level in (0.975, 0.95))
    p = None if mean else 1.0
    if error > 0:
        p = 2 * stats.t.sf(abs(mean) / error, df)
    return _estimate(mean, mean - half, mean + half, mean - half90, mean + half90, p, **counts)


def _estimate(mean, low, high, low90, high90, p=None, n_seeds=None, n_images=None) -> Estimate:
    numbers = {"mean": mean, "low": low, "high": high, "low90": low90, "high90": high90}
    return Estimate(**{name: float(value) for name, value in numbers.items()},
                    p=None if p is None else float(p), n=n_seeds or n_images, n_seeds=n_seeds,
                    n_images=n_images)


def _check_seeds(count: int) -> None:
    if count < 2:
        raise StatsError(f"an interval over seeds needs at least two; got {count}: "
                         "raise study.seeds")
