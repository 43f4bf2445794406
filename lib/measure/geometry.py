"""What the lines of images say: checks of one image, calibration on known cameras, real against synthetic.

    result = vanishing_points(segments(image), image.shape[:2])
    checks(result)                      # explained length and its null, focal lengths, horizon, straightness
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
VOTE = np.sin(np.radians(1.0))  # a level point this near to a horizon votes for it: twice a usual error
ROLL, HEIGHT = 0.15, 0.25  # slopes of horizons, and tangents around what the zenith implies, that are usual
BEND = 4.0  # degrees by which a bent line's direction swings at most
TRUSTED = 3.0  # degrees of vanishing-point error up to which the measure means something
PHOTOGRAPHS = {128: 1.6, 640: 0.6}  # median error in degrees by longer side: 200 photographs of buildings
ALONG = {"tiles": (0, 1), "checker": (0, 1), "planks": (0, 1), "bricks": (0, 1), "stripes": (0,), "panels": (1,)}
STYLES = ("photo", "render", "drawing")


def explained(result: VanishingPoints) -> float:
    """Share of all segments' length that points to some vanishing point within two degrees; nan without segments."""
    rays = Rays.of(result.segments, result.size)
    if not rays.length.sum():
        return float("nan")
    near = rays.miss(frame(result.points, result.size)) < np.sin(np.radians(TOLERANCE))
    return float(rays.length[near.any(axis=0)].sum() / rays.length.sum())


def scattered(lines: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The segments (m, 4), each turned about its middle to a random direction."""
    ends = lines.reshape(-1, 2, 2)
    half, angle = np.hypot(*(ends[:, 1] - ends[:, 0]).T) / 2, rng.uniform(0, np.pi, len(lines))
    step = half[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.concatenate([ends.mean(axis=1) - step, ends.mean(axis=1) + step], axis=1)


def checks(result: VanishingPoints, seed: int = 0, repeats: int = 4) -> dict[str, float]:
    """What one image's lines say; all but the counts is nan where it abstains or has no value.

    The null takes as many points, significant or not, from the same segments with random directions.
    """
    names = ("explained", "null", "excess", "positive", "spread", "tilt", "straight")
    row = {"segments": len(result.segments), "abstained": result.abstained, "points": len(result.points)}
    row |= dict.fromkeys(names, float("nan"))
    if result.abstained:
        return row
    share = explained(result)
    null = explained_by_chance(result, seed, repeats) if len(result.points) else 0.0
    row |= {"explained": share, "null": null, "excess": share - null, "straight": straightness(result.segments)}
    squares = focal_squared(result.points, result.size)
    squares = squares[np.isfinite(squares)]
    if len(squares):
        row["positive"] = float((squares > 0).mean())
    if (squares > 0).sum() > 1:  # of the focal lengths' logarithms: 0.1 is a tenth
        row["spread"] = float(np.log(squares[squares > 0]).std() / 2)
    line = horizon(result.points, result.size, result.support)
    return row | ({} if line is None else {"tilt": tilt(line)})


def explained_by_chance(result: VanishingPoints, seed: int, repeats: int) -> float:
    """Mean of `explained` for the same segments in random directions, with as many points."""
    rng, n = np.random.default_rng([seed, 1]), len(result.points)
    turned = (scattered(result.segments, rng) for _ in range(repeats))
    return float(np.mean([explained(vanishing_points(lines, result.size, n, seed + k, np.inf))
                          for k, lines in enumerate(turned)]))


def focal_squared(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Focal length squared, in pixels, that makes each pair (1,2), (1,3), (2,3) ... of points (k, 3) a right angle.

    The camera's axis is taken to meet the image's middle. Negative: no camera does. nan: one may lie at infinity,
    as for a wall seen from the front, of which the sign would be noise.
    """
    pairs = list(combinations(frame(points, size), 2))
    bottom = np.array([a[2] * b[2] for a, b in pairs])
    top = max(size) ** 2 * -np.array([a[:2] @ b[:2] for a, b in pairs])
    near = np.array([min(abs(a[2]), abs(b[2])) > 1 / FAR for a, b in pairs], bool)
    return np.divide(top, bottom, out=np.full(len(pairs), np.nan), where=near)


def orthocentre(points: np.ndarray) -> np.ndarray:
    """Where the heights of three finite points (3, 3) meet, in pixels (2,): for right angles, on the camera's axis."""
    if np.shape(points) != (3, 3) or (np.abs(points[:, 2]) < 1e-12).any():
        raise GeometryError("an orthocentre needs three vanishing points (3, 3), none of them at infinity")
    a, b, c = points[:, :2] / points[:, 2:]
    sides = np.stack([b - c, c - a])
    return np.linalg.solve(sides, np.array([sides[0] @ a, sides[1] @ b]))


def horizon(points: np.ndarray, size: tuple[int, int], support: np.ndarray | None = None) -> np.ndarray | None:
    """Line (3,) in pixels, its normal of length one, of a camera held about upright; None without a finite point.

    The zenith (or nadir) gives the slope and a first guess of the height, all level points vote for the height
    with their `support`, then both are fitted. A far point says little about the height, two close ones
    little about the slope. Without a level point the guess stays; without a zenith the usual slope is none.
    """
    rays = unit(frame(points, size) * (1, 1, USUAL))
    support = np.ones(len(rays)) if support is None else np.asarray(support, float)
    if not (np.abs(rays[:, 2]) > 1e-12).any():
        return None
    upright = np.abs(rays[:, 1]) > np.hypot(rays[:, 0], rays[:, 2])
    zenith, share = rays[upright] / rays[upright, 1:2], support[upright]
    level, votes = rays[~upright], support[~upright]
    first, weight = np.array([0, 1, 0.0]), 1e-3 * support.max()  # level, unless two points say otherwise
    if upright.any():
        best = (share * np.exp(-((zenith[:, 0] / ROLL) ** 2) / 2)).argmax()
        first, weight = zenith[best], share[best]
    normals = candidates(first, level, upright.any())
    near = np.maximum(0, 1 - (unit(normals) @ level.T / VOTE) ** 2) * np.abs(level[:, 2])
    usual = ((normals[:, 2] - first[2]) / HEIGHT) ** 2 + (normals[:, 0] / ROLL) ** 2
    best = normals[np.argmax(np.log(near @ votes + 1e-9 * support.max()) - usual / 2)]
    line = np.linalg.inv(to_pixels(size)).T @ (fitted(best, level, votes, first[0], weight) * (1, 1, USUAL))
    return line / np.hypot(*line[:2])


def candidates(first: np.ndarray, level: np.ndarray, zenith: bool) -> np.ndarray:
    """Horizons (k, 3) as normals (slope, 1, height): the first, through each level ray, or through two of them."""
    slope, finite = first[0], level[np.abs(level[:, 2]) > 1 / FAR]
    normals = [first, *([slope, 1, -(slope * x + y) / w] for x, y, w in finite)]
    if not zenith:
        pairs = (np.cross(a, b) for a, b in combinations(level, 2))
        normals += [normal / normal[1] for normal in pairs if abs(normal[1]) > 1e-6]
    return np.array(normals)


def fitted(normal: np.ndarray, level: np.ndarray, votes: np.ndarray, slope: float, weight: float) -> np.ndarray:
    """The normal (slope, 1, height) with the least squared misses of its voters and of the zenith's slope."""
    finite = np.abs(level[:, 2]) > 1 / FAR
    rows = np.stack([level[:, 0], np.where(finite, level[:, 2], 0)], axis=1)  # a far height would be noise
    for _ in range(3):
        near = np.abs(level @ unit(normal)) < VOTE
        if not (near & finite).any():
            return normal
        scale = np.sqrt(np.append(votes * near, weight))
        left = np.vstack([rows, [1, 0]]) * scale[:, None]
        fit = np.linalg.lstsq(left, np.append(-level[:, 1], slope) * scale, rcond=1e-9)[0]
        normal = np.array([fit[0], 1, fit[1]])
    return normal


def tilt(line: np.ndarray) -> float:
    """Degrees from 0 to 90 between a line (3,) and the image's rows."""
    return float(np.degrees(np.arctan2(abs(line[0]), abs(line[1]))))


def straightness(lines: np.ndarray, gap: float = 3.0) -> float:
    """Share of edges that go on straight, within two degrees, of those that go on within twenty where a segment ends.

    LSD keeps the darker side on one hand, so a segment goes on where another begins; nan where none does.
    """
    if len(lines) < 2:
        return float("nan")
    away = cdist(lines[:, 2:], lines[:, :2])
    np.fill_diagonal(away, np.inf)
    angle = np.degrees(np.arctan2(lines[:, 3] - lines[:, 1], lines[:, 2] - lines[:, 0]))
    turn = np.abs((angle[away.argmin(axis=1)] - angle + 180) % 360 - 180)[away.min(axis=1) < gap]
    return float((turn[turn < 20] < TOLERANCE).mean()) if (turn < 20).any() else float("nan")


def angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Degrees (k, m) between undirected directions (k, 3) and (m, 3), exact for small ones too."""
    across = np.linalg.norm(np.cross(a[:, None], b[None]), axis=-1)
    return np.degrees(np.arctan2(across, np.abs(a @ b.T)))


def vp_error(estimated: np.ndarray, true: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Degrees (m,) between each true vanishing point (m, 3) and an estimate of its own; 90 where none is left for it."""
    back = np.linalg.inv(K).T
    off = angles(np.reshape(estimated, (-1, 3)) @ back, np.reshape(true, (-1, 3)) @ back)
    ours, theirs = linear_sum_assignment(off)
    errors = np.full(off.shape[1], 90.0)
    errors[theirs] = off[ours, theirs]
    return errors


def horizon_error(estimated: np.ndarray | None, true: np.ndarray, K: np.ndarray) -> float:
    """Degrees between the planes that two horizons (3,) are seen in; 90 without an estimate."""
    return 90.0 if estimated is None else float(angles((K.T @ estimated)[None], (K.T @ true)[None])[0, 0])


def drawn_axes(scene: world.Scene) -> np.ndarray:
    """Which world axes (3,) have lines along them in the pattern of floor or walls: the ones that an image can show."""
    shown = np.zeros(3, bool)
    for surface in (scene.floor, *scene.walls):
        across = {2: (0, 1), 1: (0, 2), 0: (1, 2)}[surface.axis]
        shown[[across[i] for i in ALONG.get(surface.pattern, ())]] = True
    return shown


def warped(image: np.ndarray, phase: float, bent: bool) -> np.ndarray:
    """The image with its lines bent into waves of half its side; or sheared as steeply, which keeps them straight.

    Both are resampled alike, so that what differs between them is the bend and not a blur.
    """
    size, slope = len(image), np.tan(np.radians(BEND))
    at = np.arange(size) - (size - 1) / 2
    wave = 4 * np.pi / size
    shift = slope * np.sin(wave * at + phase) / wave if bent else slope * at * np.sign(np.sin(phase))
    u, v = np.meshgrid(np.arange(size), np.arange(size))
    places = (u + shift[:, None]).astype(np.float32), (v + shift).astype(np.float32)
    return cv2.remap(image, *places, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def trial(job: tuple[int, str, int]) -> dict:
    """One scene (seed, style, size): errors against its camera, and the measure of its lines bent and straight."""
    seed, style, size = job
    scene = world.scene(seed, style)
    image, _ = world.render(scene, size)
    result, K, shown = vanishing_points(segments(image), size), scene.K(size), drawn_axes(scene)
    line, phase = scene.horizon(size), np.random.default_rng(seed).uniform(0, 2 * np.pi)
    bent, straight = (checks(vanishing_points(segments(warped(image, phase, bent)), size))["excess"]
                      for bent in (True, False))
    off = horizon_error(horizon(result.points, result.size, result.support), line, K) if shown[:2].all() else np.nan
    return {"size": size, "style": style, "abstained": result.abstained, "bent": bent, "straight": straight,
            "errors": vp_error(result.points, scene.vanishing_points(size)[shown], K), "horizon": off}


def calibrate(sizes: Sequence[int], scenes: int, seed: int, styles: Sequence[str] = STYLES,
              workers: int = 1) -> pd.DataFrame:
    """One row a size: what the measures are worth on `scenes` rendered scenes of each style whose camera is known.

    Errors are of the axes that floor or walls draw lines along, in images that do not abstain; `bend` is the AUROC
    of the excess, straight against bent. Each statistic is {mean, low, high, n}. `photograph` is the median error
    on photographs of this size, and `factor` how many times that of the rendered scenes.
    """
    if scenes < 2 or not len(sizes):
        raise GeometryError(f"{scenes} scenes a style at sizes {list(sizes)}: give two scenes or more, and a size")
    jobs = [(compute.seed_of(seed, "calibration", k), style, int(size))
            for size in sizes for style in styles for k in range(scenes)]
    rows = pd.DataFrame(mapped(trial, jobs, workers, 4))
    return pd.DataFrame([{"size": size} | summary(part, size, seed) for size, part in rows.groupby("size")])


def summary(rows: pd.DataFrame, size: int, seed: int) -> dict:
    """The statistics of one size's trials."""
    measured = rows[~rows["abstained"].astype(bool)]
    errors = np.concatenate([*measured["errors"], np.zeros(0)])
    level = measured["horizon"].dropna().to_numpy()
    both = measured[["straight", "bent"]].dropna().to_numpy()
    row = {f"within_{limit}": resampled(errors, lambda e, limit=limit: (e <= limit).mean(), seed)
           for limit in (1, 3, 10)}
    row |= {"median": resampled(errors, np.median, seed), "horizon": resampled(level, np.median, seed)}
    row["bend"] = resampled(both, lambda pairs: auroc(pairs[:, 1], pairs[:, 0]), seed)
    row |= {"photograph": photograph_error(size), "factor": photograph_error(size) / row["median"]["mean"]}
    return {"scenes": len(rows), "abstained": len(rows) - len(measured)} | row


def photograph_error(size: int) -> float:
    """Median error in degrees on photographs with this longer side; nan below the smallest that was measured."""
    sizes = np.log(list(PHOTOGRAPHS))
    errors = np.log(list(PHOTOGRAPHS.values()))
    return float(np.exp(np.interp(np.log(size), sizes, errors, left=np.nan)))


def auroc(low: np.ndarray, high: np.ndarray) -> float:
    """How often a value of `high` is above one of `low`, ties counting half; nan if either is empty."""
    if not len(low) or not len(high):
        return float("nan")
    return float(roc_auc_score(np.repeat([0, 1], [len(low), len(high)]), np.concatenate([low, high])))


def resampled(values: np.ndarray, statistic: Callable, seed: int, rounds: int = 500) -> dict[str, float]:
    """A statistic of n values as {mean, low, high, n}, its 95 % interval by the bootstrap; nan without values."""
    if not len(values):
        return {"mean": float("nan"), "low": float("nan"), "high": float("nan"), "n": 0}
    rng = np.random.default_rng(seed)
    draws = [statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(rounds)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"mean": float(statistic(values)), "low": float(low), "high": float(high), "n": len(values)}


def smallest_size(table: pd.DataFrame, rendered: bool = True) -> int | None:
    """The size from which on the measure means something: by the photographs' curve, or for rendered images where
    the median error stays within three degrees and bent lines are noticed."""
    if not rendered:
        return min(PHOTOGRAPHS)
    rows = table.to_dict("records")
    good = [row["median"]["high"] <= TRUSTED and row["bend"]["low"] > 0.5 for row in rows]
    return min((int(row["size"]) for k, row in enumerate(rows) if all(good[k:])), default=None)


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
    """One row an image of what its lines and vanishing points say, no pixel among it; nan where nothing has a value."""
    return pd.DataFrame(mapped(feature, [(image, seed) for image in images], workers, 16))


def feature(job: tuple[np.ndarray, int]) -> dict[str, float]:
    """The row of one (image, seed); lengths in longer sides."""
    image, seed = job
    result = vanishing_points(segments(image), np.shape(image)[:2], seed=seed)
    rays = Rays.of(result.segments, result.size)
    row, length = checks(result, seed=seed), rays.length / rays.side
    support = np.append(result.support, np.zeros(3))[:3] / max(rays.length.sum(), 1e-9)
    row |= {"length": length.sum(), "longest": length.max(initial=0)}
    row |= {f"support_{k + 1}": np.nan if result.abstained else share for k, share in enumerate(support)}
    for name, part in (("level", rays.along[:, 1]), ("upright", rays.along[:, 0])):
        near = np.abs(part) < np.sin(np.radians(10))
        row[name] = np.nan if result.abstained else length[near].sum() / length.sum()
    return row


def compare(real: pd.DataFrame, synthetic: pd.DataFrame, seed: int, rounds: int = 20) -> dict:
    """Two tables of `features`: {"features": one row each, "auroc", "permuted", "abstained"}.

    `features` has both medians and the Wasserstein distance in standard deviations of both together, beside what
    two random halves are apart. `auroc` is how well a forest separates the sets on images it was not fitted on;
    `permuted` the same with labels shuffled, its interval the middle 95 % of the shuffles.
    """
    fewest = min(len(real), len(synthetic))
    if fewest < 10:
        raise GeometryError(f"{fewest} images in the smaller set; a cross-validated probe needs 10 of each or more")
    both = pd.concat([real, synthetic], ignore_index=True).astype(float)
    labels = np.repeat([0, 1], [len(real), len(synthetic)])
    rng, scores = np.random.default_rng(seed), probe(both, labels, seed)
    shuffles = [rng.permutation(labels) for _ in range(rounds)]
    chance = [roc_auc_score(shuffled, probe(both, shuffled, seed)) for shuffled in shuffles]
    low, high = np.quantile(chance, [0.025, 0.975])
    rows = [{"feature": name, "real": real[name].median(), "synthetic": synthetic[name].median(),
             "distance": distance(both[name], labels),
             "null": np.mean([distance(both[name], shuffled) for shuffled in shuffles])} for name in both]
    pairs = np.stack([scores, labels], axis=1)
    return {"features": pd.DataFrame(rows), "auroc": resampled(pairs, lambda p: auroc(*split(*p.T)), seed),
            "permuted": {"mean": float(np.mean(chance)), "low": float(low), "high": float(high), "n": len(labels)},
            "abstained": {"real": int(real["abstained"].sum()), "synthetic": int(synthetic["abstained"].sum())}}


def split(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values of label 0 and those of label 1."""
    return values[labels == 0], values[labels == 1]


def probe(table: pd.DataFrame, labels: np.ndarray, seed: int) -> np.ndarray:
    """For each row the probability of label 1 by a forest that was fitted without it; it takes nan as it is."""
    forest = ExtraTreesClassifier(30, min_samples_leaf=3, random_state=seed)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    return cross_val_predict(forest, table.to_numpy(np.float32), labels, cv=folds, method="predict_proba")[:, 1]


def distance(values: pd.Series, labels: np.ndarray) -> float:
    """Wasserstein distance between the two labels' values, in their common standard deviations; nan left out."""
    sides = [side[np.isfinite(side)] for side in split(values.to_numpy(float), labels)]
    scale = np.concatenate(sides).std() if min(map(len, sides)) else 0.0
    return float(stats.wasserstein_distance(*sides) / scale) if scale else 0.0


def drawn(image: np.ndarray, seed: int = 0, n: int = 3, level: bool = False) -> dict[str, dict[str, np.ndarray]]:
    """A contact sheet's overlay: segments (m, 4) by vanishing point, and the points (1, 2) that are not at infinity.

    With `level` the horizon takes the place of the unexplained segments: a sheet has four colours.
    """
    result = vanishing_points(segments(image), np.shape(image)[:2], n, seed)
    lines = {f"point {k + 1}": result.segments[result.assignment == k] for k in range(n)}  # all, so that colours stay
    line = horizon(result.points, result.size, result.support)
    if not level:
        lines["unexplained"] = result.segments[result.assignment < 0]
    elif line is not None and abs(line[1]) > abs(line[0]):
        ends = np.array([0.0, result.size[1] - 1.0])
        lines["horizon"] = np.stack([ends, -(line[2] + line[0] * ends) / line[1]], axis=1).reshape(1, 4)
    places = {f"point {k + 1}": (p[:2] / p[2])[None] for k, p in enumerate(result.points) if abs(p[2]) > 1e-9}
    return {"segments": lines, "points": places}
