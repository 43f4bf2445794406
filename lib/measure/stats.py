"""Every interval, test and verdict of the study.

Classifiers are compared on matrices (seeds, images): whether each seed's classifier is right about
each test image. Both seeds and test images are samples, so both count in an interval. The closed
form for the mean of such a two-way table is used; ratios use the crossed bootstrap (Owen 2007, "The
pigeonhole bootstrap"). What is one number a classifier varies over seeds alone, what is measured
of one set or with one model over images alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

import numpy as np
from scipy import stats

from lib.core.compute import seed_of

VERDICTS = ("higher", "lower", "equivalent", "inconclusive")


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


# one number a seed, or one number an image


def over_seeds(values: Sequence[float]) -> Estimate:
    """t-interval of one number a seed (seeds,); `p` tests that the mean is 0."""
    values = np.asarray(values, np.float64)
    _check_seeds(len(values))
    error = values.std(ddof=1) / np.sqrt(len(values))
    return _t_interval(values.mean(), error, len(values) - 1, n_seeds=len(values))


def over_images(values: Sequence[float]) -> Estimate:
    """t-interval of one number an image (images,), of one model or set; nan is left out."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    _check_images(len(values))
    error = values.std(ddof=1) / np.sqrt(len(values))
    return _t_interval(values.mean(), error, len(values) - 1, n_images=len(values))


def over_pairs(sums: np.ndarray, counts: np.ndarray) -> Estimate:
    """Mean of a value over pairs of images, from each image's sum over its pairs and their number.

    Pairs share images, so the error is that of the jackknife over images.
    """
    n, mean = len(sums), sums.sum() / counts.sum()
    _check_images(n)
    rest = counts.sum() - 2 * counts  # pairs that remain without an image
    means = np.where(rest > 0, (sums.sum() - 2 * sums) / np.maximum(rest, 1), mean)
    error = np.sqrt((n - 1) / n * np.square(means - means.mean()).sum())
    return _t_interval(mean, error, n - 1, n_images=n) | {"p": None}


def share(flags: np.ndarray) -> Estimate:
    """Share of True among images (images,), one model or set, with Wilson's interval."""
    if not len(flags):
        raise StatsError("a share of no images has no value; check that every class has images")
    test = stats.binomtest(int(np.sum(flags)), len(flags))
    low, high = test.proportion_ci(0.95, method="wilson")
    low90, high90 = test.proportion_ci(0.90, method="wilson")
    return _estimate(np.mean(flags), low, high, low90, high90, n_images=len(flags))


def auc(positives: np.ndarray, negatives: np.ndarray) -> Estimate:
    """Probability that a positive scores higher than a negative (ties: a half), by DeLong 1988."""
    m, n = len(positives), len(negatives)
    _check_images(min(m, n))
    ranks = stats.rankdata(np.concatenate([positives, negatives]))
    above = (ranks[:m] - stats.rankdata(positives)) / n  # share of negatives below each positive
    below = 1 - (ranks[m:] - stats.rankdata(negatives)) / m
    error = np.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n)
    estimate = _t_interval(above.mean(), error, min(m, n) - 1, n_images=m)
    ends = {end: min(max(estimate[end], 0.0), 1.0) for end in ("low", "high", "low90", "high90")}
    return estimate | ends | {"p": None}


# tables of seeds and images


def accuracy(correct: np.ndarray) -> Estimate:
    """Share correct of a matrix (seeds, images), over seeds and images."""
    correct = np.asarray(correct, np.float64)
    _check_seeds(len(correct))
    if np.ptp(correct) == 0:  # all correct, or none: what is left is the number of images
        return share(correct[0] > 0) | {"n": len(correct), "n_seeds": len(correct)}
    estimate = mean(correct)
    ends = {end: min(max(estimate[end], 0.0), 1.0) for end in ("low", "high", "low90", "high90")}
    return estimate | ends | {"p": None}


def mean(values: np.ndarray) -> Estimate:
    """Mean of a table (seeds, images), both of them random; images with a nan are left out."""
    values = np.asarray(values, np.float64)
    values = values[:, np.isfinite(values).all(0)]
    seeds, images = values.shape
    _check_seeds(seeds)
    _check_images(images)
    error, df = two_way_error(values)
    return _t_interval(values.mean(), error, df, n_seeds=seeds, n_images=images)


def difference(ours: np.ndarray, base: np.ndarray) -> Estimate:
    """ours - base, paired: matrices (seeds, images) of correct or not, or numbers (seeds,)."""
    ours, base = np.asarray(ours, np.float64), np.asarray(base, np.float64)
    if ours.shape != base.shape:
        raise StatsError("pairs need the same seeds and images on both sides; "
                         f"got {ours.shape} and {base.shape}")
    return over_seeds(ours - base) if ours.ndim == 1 else mean(ours - base)


def unpaired(ours: np.ndarray, base: np.ndarray) -> Estimate:
    """ours - base of the same seeds on different images: matrices (seeds, m) and (seeds, n)."""
    sides = [np.asarray(side, np.float64) for side in (ours, base)]
    sides = [side[:, np.isfinite(side).all(0)] for side in sides]
    if len(sides[0]) != len(sides[1]):
        raise StatsError(f"pairs need the same seeds on both sides; got {len(ours)}, {len(base)}")
    _check_seeds(len(sides[0]))
    _check_images(min(side.shape[1] for side in sides))
    gap = sides[0].mean(1) - sides[1].mean(1)
    parts = [_seed_variance(gap), *(_image_variance(side) for side in sides)]
    error, df = _combined(parts, len(gap) - 1)
    return _t_interval(gap.mean(), error, df, n_seeds=len(gap), n_images=sides[0].shape[1])


def ratio(numerator: np.ndarray, denominator: np.ndarray, seed: int = 0) -> Estimate:
    """Ratio of two mean differences, matrices (seeds, images), by the crossed bootstrap.

    Refused where the denominator may be 0, by its interval or when resampled: the ratio could
    then be any number.
    """
    below = mean(denominator)
    if below["low"] <= 0 <= below["high"]:
        raise StatsError("no ratio: the interval of the denominator contains 0")
    draws = crossed_bootstrap(np.stack([numerator, denominator]), seed=seed)
    if (draws[:, 1] * below["mean"] <= 0).any():
        raise StatsError("no ratio: resampled denominators reach 0")
    return percentiles(np.mean(numerator) / np.mean(denominator), draws[:, 0] / draws[:, 1],
                       n_seeds=below["n_seeds"], n_images=below["n_images"])


def two_way_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard error of the mean of tables (..., seeds, images), and its degrees of freedom.

    The variance is that of independent seeds plus the variance component of images where that is
    positive; degrees of freedom after Satterthwaite.
    """
    parts = [_seed_variance(values.mean(-1)), _image_variance(values)]
    return _combined(parts, values.shape[-2] - 1)


def _seed_variance(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variance of the mean of numbers (..., seeds), and its square over degrees of freedom."""
    seeds = means.shape[-1]
    variance = means.var(-1, ddof=1) / seeds
    return variance, variance**2 / (seeds - 1)


def _image_variance(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the choice of images adds to the variance of the mean of tables (..., seeds, images)."""
    k, n = values.shape[-2:]
    rows, columns = values.mean(-1, keepdims=True), values.mean(-2, keepdims=True)
    rest = values - rows - columns + values.mean((-2, -1), keepdims=True)
    images = columns.var((-2, -1), ddof=1) / n
    noise = np.square(rest).sum((-2, -1)) / ((k - 1) * (n - 1)) / (k * n)
    squares = images**2 / (n - 1) + noise**2 / ((k - 1) * (n - 1))
    return np.maximum(images - noise, 0), np.where(images > noise, squares, 0)


def _combined(parts: Sequence[tuple], fewest: int) -> tuple[np.ndarray, np.ndarray]:
    """Error of a sum of independent variances, and its degrees of freedom."""
    total, squares = (np.asarray(sum(values)) for values in zip(*parts, strict=True))
    df = np.divide(total**2, squares, out=np.full_like(total, fewest), where=squares > 0)
    return np.sqrt(total), df


# bootstrap


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
    _check_images(min(counts))
    rng = np.random.default_rng(seed_of(seed, "bootstrap"))
    result = stats.bootstrap(samples, statistic, n_resamples=rounds, batch=100,
                             method="percentile", rng=rng)
    return percentiles(statistic(*samples, axis=-1), result.bootstrap_distribution,
                       n_images=counts[0])


def biased_bootstrap(samples: Sequence[np.ndarray], statistic: Callable, seed: int,
                     rounds: int = 100) -> Estimate:
    """Interval of `statistic(*samples)`, samples (n, …) of images, where resampling biases it.

    Repeated images raise a distance as a smaller n would; so the spread of the draws about their
    own mean is laid around the value. It is an interval at this n.
    """
    _check_images(min(map(len, samples)))
    rng, value = np.random.default_rng(seed_of(seed, "bootstrap")), statistic(*samples)
    draws = [statistic(*(x[rng.integers(0, len(x), len(x))] for x in samples))
             for _ in range(rounds)]
    return percentiles(value, value + np.array(draws) - np.mean(draws), n_images=len(samples[0]))


def percentiles(mean: float, draws: np.ndarray, **counts: int) -> Estimate:
    """Percentile interval of a statistic from its bootstrap draws (rounds,), most finite."""
    method = "linear" if np.isfinite(draws).all() else "nearest"
    ends = np.quantile(draws, [0.025, 0.05, 0.95, 0.975], method=method)
    if not np.isfinite(ends).all():
        raise StatsError("no interval: more than 2.5 % of the resampled values have no end")
    low, low90, high90, high = ends
    return _estimate(mean, low, high, low90, high90, **counts)


def inverse(estimate: Estimate) -> Estimate:
    """1 / a value whose interval lies above 0."""
    mean, low, high, low90, high90 = (
        1 / estimate[end] for end in ("mean", "high", "low", "high90", "low90"))
    return estimate | {"mean": mean, "low": low, "high": high, "low90": low90, "high90": high90}


# families and verdicts


def family(differences: Mapping[str, Estimate], margin: float = 1.0) -> dict[str, dict]:
    """A family of tests: its differences with `verdict`, `p_holm` and `family`, their number."""
    adjusted = holm([difference["p"] for difference in differences.values()])
    tested = sum(p is not None for p in adjusted)
    return {name: {**difference, "p_holm": p, "family": tested,
                   "verdict": verdict(difference, margin)}
            for (name, difference), p in zip(differences.items(), adjusted, strict=True)}


def tally(differences: Mapping[str, Estimate]) -> dict[str, int]:
    """How many of a family have each verdict: what helps beside what hurts."""
    counts = Counter(verdict(difference) for difference in differences.values())
    return {word: counts[word] for word in VERDICTS}


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


def _check_images(count: int) -> None:
    if count < 2:
        raise StatsError(f"an interval over images needs at least two; got {count}")
