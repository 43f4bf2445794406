"""How near a set of synthetic images comes to real ones, in features (n, d) of one network.

Both sides have the same number of images: the larger set is thinned by the seed, since every
measure here moves with n. Below MIN_IMAGES there is no result. What is measured depends on the
network, so its name stands in every result: only those of the published FID (`inception`) and of
`dinov2` were made to judge images; the reference classifier only knows its own classes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn.metrics import pairwise_distances_chunked

from lib.core.compute import seed_of
from lib.core.store import ArtifactSpec, FileWriters, Store, artifact, write_json
from lib.data.checks import nearest_neighbours
from lib.measure import features, stats
from lib.measure.features import FeatureError
from lib.measure.stats import Estimate

OTHER_REAL = "other real images"  # the comparison that any set can at best reach
MIN_IMAGES = 50  # a side
SIZES = 15  # numbers of images through which FD∞ is drawn
CHUNK_MB = 64  # of distances worked on at a time
TIE = 1 - 1e-9  # a distance below a radius by less than rounding is not below it


class SetDistanceError(ValueError):
    """Features that a measure is not defined for."""


@artifact("set-distance")
def comparison(store: Store, spec: ArtifactSpec) -> FileWriters:
    """`measures` of `count` images of a set, after the first `skip`, against as many real ones."""
    def write(path: Path) -> None:
        config, count, skip = spec.settings, spec.settings["count"], spec.settings["skip"]
        of_set = functools.partial(features.of, store, device=config["device"],
                                   extractor=config["extractor"],
                                   classifier=spec.inputs.get("classifier"))
        real, (ours, facts) = of_set(spec.inputs["real"])[0], of_set(spec.inputs["images"])
        values = measures(real[:count], ours[skip:skip + count], spec.seed, config["nearest_k"])
        write_json(path, {"measures": values, **facts})
    return {"measures.json": write}


def load(store: Store, spec: ArtifactSpec) -> dict | str:
    """What a `comparison` or a `memorisation.copies` holds, or why it cannot be computed."""
    try:
        return json.loads(store.make(spec).files[0].read_text(encoding="utf-8"))
    except (SetDistanceError, FeatureError) as error:
        return f"not run: {str(error).removeprefix('not run: ').splitlines()[0].split(':')[0]}"


def measures(real: np.ndarray, synthetic: np.ndarray, seed: int, k: int = 5) -> dict[str, dict]:
    """All that two sets of features give."""
    return {"FD": fd(real, synthetic, seed), "FD∞": fd_infinity(real, synthetic, seed),
            "KID": kid(real, synthetic, seed), **prdc(real, synthetic, k, seed)}


def fd(a: np.ndarray, b: np.ndarray, seed: int, rounds: int = 100) -> Estimate:
    """Fréchet distance at this n; `small` where covariances have not full rank."""
    sides = equal_size(a, b, seed)
    estimate = stats.biased_bootstrap(sides, frechet, seed, rounds)
    return estimate | {"low": max(estimate["low"], 0.0), "small": len(sides[0]) <= a.shape[1]}


def fd_infinity(a: np.ndarray, b: np.ndarray, seed: int) -> dict:
    """Fréchet distance of endless images, by a line through 1/N (Chong and Forsyth 2020)."""
    sides = equal_size(a, b, seed)
    n, rng = len(sides[0]), np.random.default_rng(seed_of(seed, "sizes"))
    sizes = np.linspace(max(MIN_IMAGES // 2, n // 5), n, SIZES).round().astype(int)
    values = [frechet(*(x[rng.permutation(n)[:size]] for x in sides)) for size in sizes]
    slope, end = np.polyfit(1 / sizes, values, 1)
    return {"mean": float(end), "slope": float(slope), "n": n,
            "small": bool(sizes[0] <= a.shape[1])}


def kid(a: np.ndarray, b: np.ndarray, seed: int) -> Estimate:
    """Unbiased squared MMD under the kernel (x·y / d + 1)³ (Bińkowski et al. 2018)."""
    a, b = (np.asarray(x, np.float64) for x in equal_size(a, b, seed))
    within = _kernel_sums(a, a) + _kernel_sums(b, b) - _kernel_sums(a, b) - _kernel_sums(b, a)
    return stats.over_pairs(within, np.full(len(a), len(a) - 1))


def prdc(real: np.ndarray, synthetic: np.ndarray, k: int = 5, seed: int = 0) -> dict[str, Estimate]:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    An interval is over the images of one set, the other set and all neighbourhoods given.
    """
    real, synthetic = equal_size(real, synthetic, seed)
    if not 1 <= k < len(real):
        raise SetDistanceError(f"k = {k} neighbours among {len(real)} images: "
                               f"choose k from 1 to {len(real) - 1}")
    around_real, around_synthetic = (nearest_neighbours(x, k=k)[0][:, -1] * TIE
                                     for x in (real, synthetic))
    hits, recalled, covered = np.zeros(len(real)), [], []
    for rows, distances in _distances(real, synthetic):
        near = distances < around_real[rows, None]
        hits += near.sum(0)
        covered.append(near.any(1))
        recalled.append((distances < around_synthetic).any(1))
    values = {"precision": hits > 0, "recall": np.concatenate(recalled), "density": hits / k,
              "coverage": np.concatenate(covered)}
    return {name: stats.over_images(flags) | {"k": k} for name, flags in values.items()}


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """|μ1 − μ2|² + tr Σ1 + tr Σ2 − 2 tr √(Σ1 Σ2) of features (n, d), in float64."""
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    shift = a.mean(0) - b.mean(0)
    a, b = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    few = len(a) <= a.shape[1]  # the covariances have low rank and no d x d matrix is needed
    shared = np.linalg.svd(a @ b.T, compute_uv=False).sum() if few else root_trace(a.T @ a, b.T @ b)
    return max(float(shift @ shift + (a**2).sum() + (b**2).sum() - 2 * shared), 0.0)


def root_trace(first: np.ndarray, second: np.ndarray) -> float:
    """tr √(Σ1 Σ2) of two covariances (d, d).

    Any factor Σ1 = L Lᵀ serves, for Lᵀ Σ2 L has the eigenvalues of Σ1^½ Σ2 Σ1^½. Cholesky's is the
    fastest; where a dimension is constant or repeated it does not exist, and eigenvectors give one.
    """
    try:
        factor = np.linalg.cholesky(first)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(first)
        factor = vectors * np.sqrt(np.maximum(values, 0))
    return float(np.sqrt(np.maximum(np.linalg.eigvalsh(factor.T @ second @ factor), 0)).sum())


def counterparts(features: np.ndarray, labels: np.ndarray, others: np.ndarray,
                 other_labels: np.ndarray) -> np.ndarray:
    """Position (n,) of the nearest in `others` of each one's class; of any class if it has none."""
    positions = np.empty(len(features), np.int64)
    for label in np.unique(labels):
        ours, theirs = labels == label, np.flatnonzero(other_labels == label)
        theirs = theirs if len(theirs) else np.arange(len(others))
        positions[ours] = theirs[nearest_neighbours(features[ours], others[theirs])[1][:, 0]]
    return positions


def equal_size(a: np.ndarray, b: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Both sets with as many images as the smaller, the larger one thinned by the seed; checked."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise SetDistanceError("features of one network (n, d) are needed; "
                               f"got {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise SetDistanceError("features hold numbers that are not finite; "
                               "the network's training has diverged")
    n = min(len(a), len(b))
    check_enough(n)
    rng = np.random.default_rng(seed_of(seed, "equal n"))
    return tuple(x if len(x) == n else x[np.sort(rng.permutation(len(x))[:n])] for x in (a, b))


def check_enough(n: int) -> None:
    """Stop where a distance between sets would say more of n than of the images."""
    if n < MIN_IMAGES:
        raise SetDistanceError(f"{n} images where at least {MIN_IMAGES} are needed: below that a "
                               "distance between sets says more of n than of the images; make more")


def _kernel_sums(a: np.ndarray, b: np.ndarray, block: int = 500) -> np.ndarray:
    """Of each row of a (n,) the sum of the kernel with all rows of b but that at its position."""
    sums = []
    for start in range(0, len(a), block):
        base = a[start:start + block] @ b.T / a.shape[1] + 1
        kernel = base * base * base  # a power takes several times as long
        own = np.arange(len(base))
        sums.append(kernel.sum(1) - kernel[own, start + own])
    return np.concatenate(sums)


def _distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of rows of the distances between features (n, d) and (m, d), and their place."""
    start = 0
    for block in pairwise_distances_chunked(a.astype(np.float64), b.astype(np.float64),
                                            working_memory=CHUNK_MB):
        yield slice(start, start + len(block)), block
        start += len(block)
