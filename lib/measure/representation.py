"""Scalar measures of a classifier's features (n, d): sparsity, spread, redundancy, coding length.

In published work, features that are dense, spread and uncorrelated serve other tasks better
(Sariyildiz et al. 2023); that is no law.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.spatial.distance import pdist
from sklearn.preprocessing import normalize

from lib.measure import stats
from lib.measure.stats import Estimate

EPS2 = 0.5  # squared distortion at which features are coded


class RepresentationError(ValueError):
    """Features that a measure is not defined for."""


def tables(seeds: Mapping[str, Sequence[Mapping[str, float]]],
           base: str) -> tuple[dict[str, dict[str, Estimate]], dict[str, dict[str, Estimate]]]:
    """Means over seeds, and differences to the base paired by seed: `[arm][measure]` of both.

    All differences are one family of tests.
    """
    values = {arm: {name: np.array([row[name] for row in rows]) for name in rows[0]}
              for arm, rows in seeds.items()}
    means = {arm: {name: stats.over_seeds(numbers) for name, numbers in row.items()}
             for arm, row in values.items()}
    pairs = [(arm, name) for arm in values if arm != base for name in values[arm]]
    family = stats.family({(arm, name): stats.difference(values[arm][name], values[base][name])
                           for arm, name in pairs})
    return means, {arm: {name: family[arm, name] for name in values[arm]}
                   for arm in values if arm != base}


def measures(features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The five numbers of features (n, d); coding lengths in nats."""
    unit = _unit(features)
    return {"sparsity": sparsity(features), "intra-class distance": intra_class(unit, labels),
            "redundancy": redundancy(features), "coding length": coding_length(unit),
            "coding length within classes": coding_length_within(unit, labels)}


def sparsity(features: np.ndarray) -> float:
    """Share of values no larger than a hundredth of their dimension's largest."""
    size = np.abs(features)
    return float((size <= 0.01 * size.max(axis=0)).mean())


def intra_class(unit: np.ndarray, labels: np.ndarray) -> float:
    """Mean distance of two unit features (n, d) of one class, averaged over classes."""
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise RepresentationError(f"class {classes[counts.argmin()]} has a single image and so no "
                                  "distance within it; give at least two of each")
    return float(np.mean([pdist(unit[labels == c]).mean() for c in classes]))


def redundancy(features: np.ndarray) -> float:
    """Mean |Pearson| of two different dimensions; constant dimensions are left out."""
    alive = features[:, np.ptp(features, axis=0) > 0].astype(np.float64)
    if alive.shape[1] < 2:
        raise RepresentationError(f"{alive.shape[1]} of {features.shape[1]} dimensions vary, so "
                                  "there are no two to correlate; the classifier has collapsed")
    size = np.abs(np.corrcoef(alive, rowvar=False))
    return float((size.sum() - len(size)) / (len(size) * (len(size) - 1)))


def coding_length(unit: np.ndarray) -> float:
    """Nats that code unit features (n, d) up to the distortion: ½ log det(I + d/(n ε²) ZᵀZ)."""
    n, d = unit.shape
    gram = unit.T @ unit if d < n else unit @ unit.T  # of the same determinant
    return float(np.linalg.slogdet(np.eye(len(gram)) + d / (n * EPS2) * gram)[1] / 2)


def coding_length_within(unit: np.ndarray, labels: np.ndarray) -> float:
    """Nats that code unit features when the class is known, each class weighted by its share."""
    return sum(float(np.mean(labels == c)) * coding_length(unit[labels == c])
               for c in np.unique(labels))


def _unit(features: np.ndarray) -> np.ndarray:
    """Rows of length 1 in float64; a row of zeros stays so."""
    if not np.isfinite(features).all():
        raise RepresentationError("features hold numbers that are not finite; "
                                  "the classifier's training has diverged")
    return normalize(np.asarray(features, np.float64))
