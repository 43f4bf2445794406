"""How close a set of synthetic images is to a real one, how diverse, and how much of it is copied.

On features (n, d) of both sets by one network, whose name every result carries. Both sides have the same number of images:
the larger set is thinned by the seed, since every measure here moves with n. Below FLOOR images there is no result.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from lib.core.compute import seed_of
from lib.core.store import ArtifactSpec, FileWriters, Store, artifact, write_json
from lib.data import checks, imageset
from lib.measure import features
from lib.measure.features import FeatureError
from lib.measure.stats import over_images

OTHER_REAL = "other real images"  # the comparison that any set can at best reach
FLOOR = 50  # images a side below which no measure here says anything
SIZES = 15  # numbers of images through which FD∞ is drawn
SPLITS = 10  # parts of a set whose spread is measured
QUANTILES = (0.01, 0.05, 0.5)  # of the distances from test to train
BLOCK = 100, 5000  # rows and columns of distances worked on at a time: 4 MB, and 40 MB for rows of 50,000

Result = dict[str, float]


class FidelityError(ValueError):
    """Features that a measure is not defined for."""


@artifact("fidelity")
def comparison(store: Store, spec: ArtifactSpec) -> FileWriters:
    """`measures` of `count` images of a set, after the first `skip`, against as many real ones."""
    def write(path: Path) -> None:
        config, count, skip = spec.settings, spec.settings["count"], spec.settings["skip"]
        of_set = functools.partial(features.of, store, device=config["device"],
                                   extractor=config["extractor"],
                                   classifier=spec.inputs.get("classifier"))
        real, (ours, facts) = of_set(spec.inputs["real"])[0], of_set(spec.inputs["images"])
        values = measures(real[:count], ours[skip:skip + count], spec.seed, config["extractor"],
                          config["nearest_k"])
        write_json(path, {"measures": values, **facts})
    return {"measures.json": write}


@artifact("memorisation")
def copies(store: Store, spec: ArtifactSpec) -> FileWriters:
    """`memorisation` of `count` images of a set, after the first `skip`, beside as many real ones."""
    def write(path: Path) -> None:
        count, skip = spec.settings["count"], spec.settings["skip"]
        ours, train, test = (imageset.load(store.make(spec.inputs[name])).images
                             for name in ("images", "train", "test"))
        write_json(path, memorisation(ours[skip:skip + count], train, test[:count]))
    return {"memory.json": write}


def load(store: Store, spec: ArtifactSpec) -> dict | str:
    """What a `comparison` or `copies` artifact holds, or why it cannot be computed."""
    try:
        return json.loads(store.make(spec).files[0].read_text(encoding="utf-8"))
    except (FidelityError, FeatureError) as error:
        return f"not run: {str(error).removeprefix('not run: ').splitlines()[0].split(':')[0]}"


def measures(real: np.ndarray, synthetic: np.ndarray, seed: int, network: str, k: int = 5) -> dict[str, Result]:
    """All that two sets of features give: FD, FD∞ and KID with the network in the name, and the four of `prdc`."""
    return {f"FD-{network}": fd_interval(real, synthetic, seed, network=network),
            f"FD∞-{network}": fd_infinity(real, synthetic, seed, network),
            f"KID-{network}": kid(real, synthetic, seed, network=network),
            **prdc(real, synthetic, k, seed, network)}


def fd(a: np.ndarray, b: np.ndarray, seed: int = 0, network: str = "unnamed") -> Result:
    """Fréchet distance of two sets of features; `small` where there are too few images for covariances of full rank."""
    a, b = _equal(a, b, seed)
    return {"mean": _frechet(a, b), "n": len(a), "network": network, "small": len(a) <= a.shape[1]}


def fd_interval(a: np.ndarray, b: np.ndarray, seed: int, rounds: int = 100, network: str = "unnamed") -> Result:
    """`fd` with its 95 % bootstrap interval.

    Drawing again repeats images, which raises every distance as a smaller n would; so the draws' spread about their own
    mean is laid around the value. It is an interval of the distance at this n, not of FD∞.
    """
    found, rng = fd(a, b, seed, network), np.random.default_rng(seed_of(seed, "bootstrap"))
    a, b = _equal(a, b, seed)
    drawn = np.array([_frechet(*(x[rng.integers(0, len(x), len(x))] for x in (a, b))) for _ in range(rounds)])
    low, high = np.quantile(drawn - drawn.mean(), (0.025, 0.975))
    return found | {"low": max(found["mean"] + float(low), 0.0), "high": found["mean"] + float(high)}


def fd_infinity(a: np.ndarray, b: np.ndarray, seed: int, network: str = "unnamed") -> Result:
    """Fréchet distance extrapolated to endless images, by a line through 1/N (Chong and Forsyth 2020); may be below 0."""
    a, b = _equal(a, b, seed)
    rng = np.random.default_rng(seed_of(seed, "sizes"))
    sizes = np.linspace(max(FLOOR // 2, len(a) // 5), len(a), SIZES).round().astype(int)
    found = [_frechet(*(x[rng.permutation(len(x))[:size]] for x in (a, b))) for size in sizes]
    slope, end = np.polyfit(1 / sizes, found, 1)
    return {"mean": float(end), "n": len(a), "network": network, "small": bool(sizes[0] <= a.shape[1]), "slope": float(slope)}


def kid(a: np.ndarray, b: np.ndarray, seed: int, subsets: int = 100, size: int = 1000, network: str = "unnamed") -> Result:
    """Unbiased squared MMD under the cubic kernel: mean and sd over random subsets, and a 95 % interval.

    Subsets overlap, so that their sd is no error of the mean; the interval's width comes from disjoint parts, which is too
    wide where both sets are alike. Of more than ten subsets' worth of images, n says how many are used.
    """
    a, b = _equal(a, b, seed, most=10 * size)
    n, rng = len(a), np.random.default_rng(seed_of(seed, "subsets"))
    size = min(size, n // 2)
    chosen = np.zeros((2, subsets + SPLITS, n))  # 1 where an image belongs to a subset
    for side in chosen:
        members = [rng.permutation(n)[:size] for _ in range(subsets)] + np.array_split(rng.permutation(n), SPLITS)
        for row, positions in zip(side, members, strict=True):
            row[positions] = 1
    drawn, parts = np.split(_mmd(a, b, *chosen), [subsets])
    mean, spread = float(drawn.mean()), over_images(parts)
    half = spread["high"] - spread["mean"]
    return {"mean": mean, "low": mean - half, "high": mean + half, "sd": float(drawn.std()), "n": n, "network": network,
            "subset": size}


def prdc(a: np.ndarray, b: np.ndarray, k: int = 5, seed: int = 0, network: str = "unnamed") -> dict[str, Result]:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020) of synthetic b against real a.

    An interval is over the images of one set, the other set and all neighbourhoods given.
    """
    a, b = _equal(a, b, seed)
    if not 1 <= k < len(a):
        raise FidelityError(f"k = {k} neighbours among {len(a)} images: choose k from 1 to {len(a) - 1}")
    around_a, around_b = (_radii(x, k) for x in (a, b))
    hits, recalled, covered = np.zeros(len(b)), [], []
    for at, distances in _distances(a, b):
        near = distances < around_a[at, None]
        hits += near.sum(0).numpy()
        recalled.append((distances < around_b).any(1))
        covered.append(near.any(1))
    each = {"precision": hits > 0, "recall": torch.cat(recalled).numpy(), "density": hits / k,
            "coverage": torch.cat(covered).numpy()}
    return {name: over_images(values) | {"network": network, "k": k} for name, values in each.items()}


def memorisation(synthetic: np.ndarray, train: np.ndarray, test: np.ndarray, features: Sequence[np.ndarray] | None = None,
                 network: str = "thumbnail", pairs: int = 8) -> dict:
    """How much of synthetic images (n, h, w, 3) is copied from train: exact copies, and nearness against that of test images.

    Distances are of `features` (of synthetic, train, test, in this order), else of 8 x 8 thumbnails. `closer` is the share
    of synthetic images nearer to train than that quantile of test images, so q is what an honest generator scores;
    `authentic` (Alaa et al. 2022) those farther from their nearest training image than that one is from its own nearest.
    """
    ours, base, held = features or [checks.thumbnails(images) for images in (synthetic, train, test)]
    for given, pictures in ((ours, synthetic), (base, train), (held, test)):
        if len(given) != len(pictures):
            raise FidelityError(f"{len(given)} features for {len(pictures)} images: give one row an image")
        _enough(len(given))
    (near, which), (honest, among), (apart, _) = _nearest(ours, base), _nearest(held, base), _nearest(base)
    first = np.argsort(near, kind="stable")[:pairs]
    share = lambda values: over_images(values) | {"network": network}  # noqa: E731
    return {"copies": len(checks.overlap(synthetic, train)), "duplicates": checks.duplicates(synthetic), "n": len(synthetic),
            "network": network, "closer": {str(q): share(near < np.quantile(honest, q)) for q in QUANTILES},
            "authentic": share(near > apart[which]), "authentic test": share(honest > apart[among]),
            "pairs": [{"synthetic": int(i), "train": int(which[i]), "distance": float(near[i])} for i in first]}


def root_trace(first: np.ndarray, second: np.ndarray) -> float:
    """tr √(Σ1 Σ2) of two covariances (d, d).

    Any factor Σ1 = L Lᵀ serves, for Lᵀ Σ2 L has the eigenvalues of Σ1^½ Σ2 Σ1^½; Cholesky's is the fastest to have, and
    where a dimension is constant or repeated, so that there is none, the eigenvectors give one.
    """
    try:
        factor = np.linalg.cholesky(first)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(first)
        factor = vectors * np.sqrt(np.maximum(values, 0))
    return float(np.sqrt(np.maximum(np.linalg.eigvalsh(factor.T @ second @ factor), 0)).sum())


def _frechet(a: np.ndarray, b: np.ndarray) -> float:
    """|μ1 − μ2|² + tr Σ1 + tr Σ2 − 2 tr √(Σ1 Σ2) of features (n, d), computed in float64."""
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    shift = a.mean(0) - b.mean(0)
    a, b = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    few = len(a) <= a.shape[1]  # then the covariances have low rank and no d x d matrix is needed
    shared = np.linalg.svd(a @ b.T, compute_uv=False).sum() if few else root_trace(a.T @ a, b.T @ b)
    return max(float(shift @ shift + (a**2).sum() + (b**2).sum() - 2 * shared), 0.0)


def _mmd(a: np.ndarray, b: np.ndarray, of_a: np.ndarray, of_b: np.ndarray) -> np.ndarray:
    """Unbiased squared maximum mean discrepancy under (x·y / d + 1)³ of each pair of subsets, rows (subsets, n) of 0 and 1.

    One kernel for all subsets, since a subset's sum is sᵀ K s.
    """
    a, b = (np.asarray(x, np.float64) for x in (a, b))

    def total(x, y, s, t):
        blocks = (slice(i, i + BLOCK[0]) for i in range(0, len(x), BLOCK[0]))
        return sum(((s[:, rows] @ _cubic(x[rows] @ y.T, x.shape[1])) * t).sum(1) for rows in blocks)

    within = sum(total(x, x, s, s) - s @ _cubic((x * x).sum(1), x.shape[1]) for x, s in ((a, of_a), (b, of_b)))
    size = of_a.sum(1)
    return within / (size * (size - 1)) - 2 * total(a, b, of_a, of_b) / size**2


def _cubic(products: np.ndarray, d: int) -> np.ndarray:
    """(x·y / d + 1)³; written out, since a power takes several times as long."""
    base = products / d + 1
    return base * base * base


def _distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, torch.Tensor]]:
    """Rows of the distances between features (n, d) and (m, d), and where they stand; float64, though features may be float32.

    By hand, since what scikit-learn finds in one call and in another can differ in the last digit, and a strict < sees that.
    """
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    for start in range(0, len(a), BLOCK[0]):
        rows = a[start:start + BLOCK[0]].double()
        found = torch.empty(len(rows), len(b), dtype=torch.float64)
        for part, place in zip(b.split(BLOCK[1]), found.split(BLOCK[1], 1), strict=True):
            place[:] = torch.cdist(rows, part.double(), compute_mode="use_mm_for_euclid_dist")
        yield slice(start, start + len(rows)), found


def _others(a: np.ndarray) -> Iterator[tuple[slice, torch.Tensor]]:
    """`_distances` of a set to itself, in which nothing is its own neighbour."""
    for at, distances in _distances(a, a):
        distances[:, at].fill_diagonal_(torch.inf)
        yield at, distances


def _radii(a: np.ndarray, k: int) -> torch.Tensor:
    """Distance (n,) of each to its k-th neighbour in the set."""
    return torch.cat([distances.topk(k, largest=False).values[:, -1] for _, distances in _others(a)])


def _nearest(a: np.ndarray, b: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Distance and position in b (n,) of the nearest to each of a; without b, of its nearest other."""
    found = [distances.min(1) for _, distances in (_others(a) if b is None else _distances(a, b))]
    return torch.cat([f.values for f in found]).numpy(), torch.cat([f.indices for f in found]).numpy()


def _equal(a: np.ndarray, b: np.ndarray, seed: int, most: int = 10**9) -> list[np.ndarray]:
    """Both sets with as many images as the smaller, the larger one thinned by the seed; checked."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise FidelityError(f"features of one network (n, d) are needed; got {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise FidelityError("features hold numbers that are not finite; the network's training has diverged")
    n = min(len(a), len(b), most)
    _enough(n)
    rng = np.random.default_rng(seed_of(seed, "equal n"))
    return [x if len(x) == n else x[np.sort(rng.permutation(len(x))[:n])] for x in (a, b)]


def _enough(n: int) -> None:
    if n < FLOOR:
        raise FidelityError(f"{n} images where at least {FLOOR} are needed: below that a distance between sets says more of "
                            "n than of the images; make more")
