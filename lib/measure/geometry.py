"""What the lines of images say: checks of one image, calibration on known cameras, real against
synthetic.

    result = vanishing_points(segments(image), image.shape[:2])
    checks(result)                      # explained length and its null, focal lengths, horizon
    calibrate((32, 64, 128), 40, 0)     # from which size any of it means something
    compare(features(real), features(synthetic), seed=0)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import cv2
import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from threadpoolctl import threadpool_limits

from lib import world
from lib.core import compute
from lib.core.workers import processes
from lib.measure.vanishing import (
    GeometryError,
    Rays,
    VanishingPoints,
    frame,
    segments,
    to_pixels,
    unit,
    vanishing_points,
)

TOLERANCE = 2.0  # degrees within which a segment counts as explained
USUAL = 1.2  # focal length in longer sides where the camera is unknown
FAR = 20.0  # longer sides to a point from which on its lines could as well be parallel
VOTE = np.sin(np.radians(1.0))  # a level point this near to a horizon votes for it
ROLL, HEIGHT = 0.08, 0.25  # usual slopes of horizons, and tangents from where the zenith has them
BEND = 4.0  # degrees by which a bent line's direction swings at most
TRUSTED = 3.0  # degrees of vanishing-point error up to which the measure means something
PHOTOGRAPHS = {128: 1.6, 640: 0.6}  # median degrees by longer side: 200 photographs of buildings
PATTERNS = {"tiles": (0, 1), "checker": (0, 1), "planks": (0, 1), "bricks": (0, 1),
            "stripes": (0,), "panels": (1,)}  # directions across a surface that a pattern has
STYLES = ("photo", "render", "drawing")


def explained(result: VanishingPoints) -> float:
    """Share of all segments' length within two degrees of a vanishing point; nan without any."""
    rays = Rays.of(result.segments, result.size)
    if not rays.length.sum():
        return float("nan")
    near = rays.sines(frame(result.points, result.size)) < np.sin(np.radians(TOLERANCE))
    return float(rays.length[near.any(axis=0)].sum() / rays.length.sum())


def scattered(lines: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The segments (m, 4), each turned about its middle to a random direction."""
    ends = lines.reshape(-1, 2, 2)
    half, angle = np.hypot(*(ends[:, 1] - ends[:, 0]).T) / 2, rng.uniform(0, np.pi, len(lines))
    step = half[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.concatenate([ends.mean(axis=1) - step, ends.mean(axis=1) + step], axis=1)


def checks(result: VanishingPoints, seed: int = 0, repeats: int = 4) -> dict[str, float]:
    """What one image's lines say; all but the counts is nan where it abstains or has no value.

    `null`: the mean of `explained` for the same segments in random directions, with as many
    points, significant or not. `spread`: of the focal lengths' logarithms; 0.1 is a tenth.
    """
    names = ("explained", "null", "excess", "positive", "spread", "tilt", "straight")
    row = {"segments": len(result.segments), "abstained": result.abstained,
           "points": len(result.points)} | dict.fromkeys(names, float("nan"))
    if result.abstained:
        return row
    rng, n, null = np.random.default_rng([seed, 1]), len(result.points), 0.0
    if n:
        turned = (scattered(result.segments, rng) for _ in range(repeats))
        null = float(np.mean([explained(vanishing_points(lines, result.size, n, seed + k, np.inf))
                              for k, lines in enumerate(turned)]))
    share = explained(result)
    row |= {"explained": share, "null": null, "excess": share - null,
            "straight": straightness(result.segments)}
    squares = focal_squared(result.points, result.size)
    squares = squares[np.isfinite(squares)]
    if len(squares):
        row["positive"] = float((squares > 0).mean())
    if (squares > 0).sum() > 1:
        row["spread"] = float(np.log(squares[squares > 0]).std() / 2)
    line = horizon(result.points, result.size, result.support)
    return row | ({} if line is None else {"tilt": tilt(line)})


def focal_squared(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Focal length squared, in pixels, at which each pair (1,2), (1,3), (2,3) ... of points (k, 3)
    is at a right angle, for a camera whose axis meets the image's middle.

    Negative: no camera does. nan: one may lie at infinity, where the sign would be noise.
    """
    pairs = list(combinations(frame(points, size), 2))
    bottom = np.array([a[2] * b[2] for a, b in pairs])
    top = max(size) ** 2 * -np.array([a[:2] @ b[:2] for a, b in pairs])
    near = np.array([min(abs(a[2]), abs(b[2])) > 1 / FAR for a, b in pairs], bool)
    return np.divide(top, bottom, out=np.full(len(pairs), np.nan), where=near)


def orthocentre(points: np.ndarray) -> np.ndarray:
    """Where the heights of three finite points (3, 3) meet, in pixels (2,): for right angles, on
    the camera's axis."""
    if np.shape(points) != (3, 3) or (np.abs(points[:, 2]) < 1e-12).any():
        raise GeometryError("an orthocentre needs three vanishing points (3, 3), "
                            "none of them at infinity")
    a, b, c = points[:, :2] / points[:, 2:]
    sides = np.stack([b - c, c - a])
    return np.linalg.solve(sides, np.array([sides[0] @ a, sides[1] @ b]))


def horizon(points: np.ndarray, size: tuple[int, int], support: np.ndarray | None = None
            ) -> np.ndarray | None:
    """Line (3,) in pixels, its normal of length one, of a camera held about upright; None without
    a finite point.

    The zenith (or nadir) gives the slope and a first guess of the height, all level points vote
    with their `support`, then both are fitted. A far point says little about the height, two close
    ones little about the slope. Without a level point the guess stays; without a zenith the usual
    slope is none.
    """
    rays = unit(frame(points, size) * (1, 1, USUAL))
    support = np.ones(len(rays)) if support is None else np.asarray(support, float)
    if not (np.abs(rays[:, 2]) > 1e-12).any():
        return None
    upright = np.abs(rays[:, 1]) > np.hypot(rays[:, 0], rays[:, 2])
    first, weight = np.array([0, 1, 0.0]), 1e-3 * support.max()
    zeniths = rays[upright] / rays[upright, 1:2]
    worth = support[upright] * (np.abs(zeniths[:, 0]) < 3 * ROLL)
    if worth.any():
        first, weight = zeniths[worth.argmax()], worth.max()
    normal = elected(first, weight, rays[~upright], support[~upright])
    line = np.linalg.inv(to_pixels(size)).T @ (normal * (1, 1, USUAL))
    return line / np.hypot(*line[:2])


def elected(first: np.ndarray, weight: float, level: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """The horizon's normal (slope, 1, height) that most level rays (k, 3) vote for, fitted to them
    and to the `first` guess's slope with its `weight`.

    Candidates: the first guess, its slope through each ray, and the planes of two rays.
    """
    finite = np.abs(level[:, 2]) > 1 / FAR
    heights = -(level[finite, :2] @ (first[0], 1)) / level[finite, 2]
    pairs = (np.cross(a, b) for a, b in combinations(level, 2))
    normals = np.array([first, *((first[0], 1, height) for height in heights),
                        *(normal / normal[1] for normal in pairs if abs(normal[1]) > 1e-6)])
    near = np.maximum(0, 1 - (unit(normals) @ level.T / VOTE) ** 2) * np.abs(level[:, 2])
    unusual = ((normals[:, 0] - first[0]) / ROLL) ** 2 / 2
    unusual += np.log1p(((normals[:, 2] - first[2]) / HEIGHT) ** 2)
    normal = normals[np.argmax(np.log(near @ votes + 1e-9 * max(weight, 1e-9)) - unusual)]
    rows = np.vstack([np.stack([level[:, 0], level[:, 2] * finite], axis=1), [1, 0]])
    for _ in range(3):  # a far ray's height would be noise
        near = np.abs(level @ unit(normal)) < VOTE
        if (near & finite).any():
            scale = np.sqrt(np.append(votes * near, weight))
            right = np.append(-level[:, 1], first[0]) * scale
            slope, height = np.linalg.lstsq(rows * scale[:, None], right, rcond=1e-9)[0]
            normal = np.array([slope, 1, height])
    return normal


def tilt(line: np.ndarray) -> float:
    """Degrees from 0 to 90 between a line (3,) and the image's rows."""
    return float(np.degrees(np.arctan2(abs(line[0]), abs(line[1]))))


def straightness(lines: np.ndarray, gap: float = 3.0) -> float:
    """Share of edges that go on within two degrees, of those that go on within twenty.

    LSD keeps the darker side on one hand, so a segment goes on where another begins; nan where
    none does.
    """
    if len(lines) < 2:
        return float("nan")
    away = cdist(lines[:, 2:], lines[:, :2])
    np.fill_diagonal(away, np.inf)
    angle = np.degrees(np.arctan2(lines[:, 3] - lines[:, 1], lines[:, 2] - lines[:, 0]))
    turn = np.abs((angle[away.argmin(axis=1)] - angle + 180) % 360 - 180)[away.min(axis=1) < gap]
    return float((turn[turn < 20] < TOLERANCE).mean()) if (turn < 20).any() else float("nan")


def angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Degrees (k, m) between undirected directions (k, 3), (m, 3), exact for small ones too."""
    across = np.linalg.norm(np.cross(a[:, None], b[None]), axis=-1)
    return np.degrees(np.arctan2(across, np.abs(a @ b.T)))


def vp_error(estimated: np.ndarray, true: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Degrees (m,) between each true vanishing point (m, 3) and an estimate of its own; 90 where
    none is left for it."""
    back = np.linalg.inv(K).T
    off = angles(np.reshape(estimated, (-1, 3)) @ back, np.reshape(true, (-1, 3)) @ back)
    ours, theirs = linear_sum_assignment(off)
    errors = np.full(off.shape[1], 90.0)
    errors[theirs] = off[ours, theirs]
    return errors


def horizon_error(estimated: np.ndarray | None, true: np.ndarray, K: np.ndarray) -> float:
    """Degrees between the planes of two horizons (3,); 90 without an estimate."""
    if estimated is None:
        return 90.0
    return float(angles((K.T @ estimated)[None], (K.T @ true)[None])[0, 0])


def visible_axes(scene: world.Scene) -> np.ndarray:
    """Which world axes (3,) have lines along them in the patterns of floor and walls."""
    shown = np.zeros(3, bool)
    for surface in (scene.floor, *scene.walls):
        across = {2: (0, 1), 1: (0, 2), 0: (1, 2)}[surface.axis]
        shown[[across[i] for i in PATTERNS.get(surface.pattern, ())]] = True
    return shown


def warped(image: np.ndarray, phase: float, bent: bool) -> np.ndarray:
    """The image with its lines bent into waves of half its side; or sheared as steeply, which
    keeps them straight, and resampled alike: what differs is the bend and not a blur."""
    size, slope = len(image), np.tan(np.radians(BEND))
    at, wave = np.arange(size) - (size - 1) / 2, 4 * np.pi / size
    shift = np.sin(wave * at + phase) / wave if bent else at * np.sign(np.sin(phase))
    shift = slope * shift
    u, v = np.meshgrid(np.arange(size), np.arange(size))
    places = (u + shift[:, None]).astype(np.float32), (v + shift).astype(np.float32)
    return cv2.remap(image, *places, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def trial(job: tuple[int, str, int]) -> dict:
    """One scene (seed, style, size): errors against its camera, and the excess of explained length
    with its lines bent and straight."""
    seed, style, size = job
    scene = world.scene(seed, style)
    image, _ = world.render(scene, size)
    result, K, axes = vanishing_points(segments(image), size), scene.K(size), visible_axes(scene)
    line = horizon(result.points, result.size, result.support)
    phase = np.random.default_rng(seed).uniform(0, 2 * np.pi)
    excess = {name: checks(vanishing_points(segments(warped(image, phase, bent)), size))["excess"]
              for name, bent in (("bent", True), ("straight", False))}
    return {"size": size, "style": style, "abstained": result.abstained, **excess,
            "errors": vp_error(result.points, scene.vanishing_points(size)[axes], K),
            "horizon": horizon_error(line, scene.horizon(size), K) if axes[:2].all() else np.nan}


def calibrate(sizes: Sequence[int], scenes: int, seed: int, styles: Sequence[str] = STYLES,
              workers: int = 1) -> pd.DataFrame:
    """One row a size: what the measures are worth on `scenes` rendered scenes of each style.

    Errors are of the axes that floor or walls have lines along, in images that do not abstain;
    `bend` is the AUROC of the excess, straight against bent. Each statistic is {mean, low, high,
    n}. `photograph` is the median error on photographs of this size, `factor` how many times that
    of the rendered scenes.
    """
    if scenes < 2 or not len(sizes):
        raise GeometryError(f"{scenes} scenes a style at sizes {list(sizes)}: "
                            "give two scenes or more, and a size")
    jobs = [(compute.seed_of(seed, "calibration", k), style, int(size))
            for size in sizes for style in styles for k in range(scenes)]
    rows = pd.DataFrame(mapped(trial, jobs, workers, 4))
    return pd.DataFrame([{"size": size} | summary(part, size, seed)
                         for size, part in rows.groupby("size")])


def summary(rows: pd.DataFrame, size: int, seed: int) -> dict:
    """The statistics of one size's trials."""
    measured = rows[~rows["abstained"].astype(bool)]
    errors = np.concatenate([*measured["errors"], np.zeros(0)])
    both = measured[["straight", "bent"]].dropna().to_numpy()
    row = {f"within_{limit}": resampled(errors <= limit, np.mean, seed) for limit in (1, 3, 10)}
    row |= {"median": resampled(errors, np.median, seed),
            "horizon": resampled(measured["horizon"].dropna().to_numpy(), np.median, seed),
            "bend": resampled(both, lambda pairs: auroc(pairs[:, 1], pairs[:, 0]), seed)}
    error = photograph_error(size)
    return {"scenes": len(rows), "abstained": len(rows) - len(measured), **row,
            "photograph": error, "factor": error / row["median"]["mean"]}


def photograph_error(size: int) -> float:
    """Median error in degrees on photographs with this longer side; nan below the smallest."""
    sizes, errors = np.log(list(PHOTOGRAPHS)), np.log(list(PHOTOGRAPHS.values()))
    return float(np.exp(np.interp(np.log(size), sizes, errors, left=np.nan)))


def smallest_size(table: pd.DataFrame, rendered: bool = True) -> int | None:
    """The size from which on the measure means something: by the photographs' curve, or for
    rendered images where the median error stays within three degrees and bent lines are noticed."""
    if not rendered:
        return min(PHOTOGRAPHS)
    good = [row["median"]["high"] <= TRUSTED and row["bend"]["low"] > 0.5
            for row in table.to_dict("records")]
    return min((int(size) for k, size in enumerate(table["size"]) if all(good[k:])), default=None)


def auroc(low: np.ndarray, high: np.ndarray) -> float:
    """How often a value of `high` is above one of `low`, ties counting half; nan of none."""
    if not len(low) or not len(high):
        return float("nan")
    return float(roc_auc_score(np.repeat([0, 1], [len(low), len(high)]), np.append(low, high)))


def resampled(values: np.ndarray, statistic: Callable, seed: int, rounds: int = 500
              ) -> dict[str, float]:
    """A statistic of n values with its 95 % bootstrap interval {mean, low, high, n}."""
    if not len(values):
        return {"mean": float("nan"), "low": float("nan"), "high": float("nan"), "n": 0}
    rng, n = np.random.default_rng(seed), len(values)
    draws = [statistic(values[rng.integers(n, size=n)]) for _ in range(rounds)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"mean": float(statistic(values)), "low": float(low), "high": float(high), "n": n}


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """No threads of OpenCV, BLAS or OpenMP within."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        cv2.setNumThreads(threads)


def mapped(function: Callable, jobs: Sequence, workers: int, chunk: int) -> list:
    """The results in order; one worker is this process on one core."""
    if workers > 1:
        return list(processes(workers).map(function, jobs, chunksize=chunk))
    with one_core():
        return list(map(function, jobs))


def features(images: Sequence[np.ndarray], seed: int = 0, workers: int = 1) -> pd.DataFrame:
    """One row an image of what its lines and vanishing points say, no pixel among it; nan where
    nothing has a value."""
    return pd.DataFrame(mapped(feature, [(image, seed) for image in images], workers, 16))


def feature(job: tuple[np.ndarray, int]) -> dict[str, float]:
    """The row of one (image, seed); lengths in longer sides."""
    image, seed = job
    result = vanishing_points(segments(image), np.shape(image)[:2], seed=seed)
    rays, row = Rays.of(result.segments, result.size), checks(result, seed=seed)
    total = max(rays.length.sum(), 1e-9)
    row["length"] = rays.length.sum() / rays.side
    row["longest"] = rays.length.max(initial=0) / rays.side
    shares = [*result.support[:3] / total, 0, 0, 0][:3]
    row |= {f"support_{k + 1}": share for k, share in enumerate(shares)}
    across = np.abs(rays.line[:, :2]) < np.sin(np.radians(10))
    row["level"], row["upright"] = rays.length @ across / total
    if result.abstained:
        row |= dict.fromkeys(("support_1", "support_2", "support_3", "level", "upright"), np.nan)
    return row


def compare(real: pd.DataFrame, synthetic: pd.DataFrame, seed: int, rounds: int = 20) -> dict:
    """Two tables of `features`: {"features": one row each, "auroc", "permuted", "abstained"}.

    `features` has both medians and the Wasserstein distance in standard deviations of both
    together, beside what two random halves are apart. `auroc` is how well a forest separates the
    sets on images it was not fitted on; `permuted` the same with labels shuffled, its interval the
    middle 95 % of the shuffles.
    """
    fewest = min(len(real), len(synthetic))
    if fewest < 10:
        raise GeometryError(f"{fewest} images in the smaller set; "
                            "a cross-validated probe needs 10 of each or more")
    both = pd.concat([real, synthetic], ignore_index=True).astype(float)
    labels = np.repeat([0, 1], [len(real), len(synthetic)])
    rng, scores = np.random.default_rng(seed), probe(both, labels, seed)
    shuffles = [rng.permutation(labels) for _ in range(rounds)]
    chance = [roc_auc_score(shuffled, probe(both, shuffled, seed)) for shuffled in shuffles]
    low, high = np.quantile(chance, [0.025, 0.975])
    rows = [{"feature": name, "real": real[name].median(), "synthetic": synthetic[name].median(),
             "distance": distance(both[name], labels),
             "null": np.mean([distance(both[name], shuffled) for shuffled in shuffles])}
            for name in both]
    pairs = np.stack([scores, labels], axis=1)
    return {"features": pd.DataFrame(rows),
            "auroc": resampled(pairs, lambda pairs: auroc(*split(*pairs.T)), seed),
            "permuted": {"mean": float(np.mean(chance)), "low": float(low), "high": float(high),
                         "n": len(labels)},
            "abstained": {"real": int(real["abstained"].sum()),
                          "synthetic": int(synthetic["abstained"].sum())}}


def split(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values of label 0 and those of label 1."""
    return values[labels == 0], values[labels == 1]


def probe(table: pd.DataFrame, labels: np.ndarray, seed: int) -> np.ndarray:
    """For each row the probability of label 1 by a forest fitted without it; nan is allowed."""
    forest = ExtraTreesClassifier(30, min_samples_leaf=3, random_state=seed)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    return cross_val_predict(forest, table.to_numpy(np.float32), labels, cv=folds,
                             method="predict_proba")[:, 1]


def distance(values: pd.Series, labels: np.ndarray) -> float:
    """Wasserstein distance between the labels' values, in their common standard deviations."""
    sides = [side[np.isfinite(side)] for side in split(values.to_numpy(float), labels)]
    scale = np.concatenate(sides).std() if min(map(len, sides)) else 0.0
    return float(stats.wasserstein_distance(*sides) / scale) if scale else 0.0


def overlay(image: np.ndarray, seed: int = 0, n: int = 3, level: bool = False
            ) -> dict[str, dict[str, np.ndarray]]:
    """A contact sheet's overlay: segments (m, 4) by vanishing point, and the points (1, 2) that
    are not at infinity. With `level` the horizon takes the place of the unexplained segments."""
    result = vanishing_points(segments(image), np.shape(image)[:2], n, seed)
    lines = {f"point {k + 1}": result.segments[result.assignment == k] for k in range(n)}
    line = horizon(result.points, result.size, result.support)
    if not level:
        lines["unexplained"] = result.segments[result.assignment < 0]
    elif line is not None and abs(line[1]) > abs(line[0]):
        ends = np.array([0.0, result.size[1] - 1.0])
        heights = -(line[2] + line[0] * ends) / line[1]
        lines["horizon"] = np.stack([ends, heights], axis=1).reshape(1, 4)
    places = {f"point {k + 1}": (p[:2] / p[2])[None]
              for k, p in enumerate(result.points) if abs(p[2]) > 1e-9}
    return {"segments": lines, "points": places}
