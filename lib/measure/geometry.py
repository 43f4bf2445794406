"""Whether the lines of pictures hold: checks of one picture, its limits measured on known cameras, real against synthetic.

    found = vanishing.vanishing_points(vanishing.segments(image), image.shape[:2])
    geometry.checks(found)                            # explained length and its null, focal length, horizon, straightness
    table = geometry.calibrate((32, 64, 128), 40, 0)  # from which size any of it means something
    geometry.compare(geometry.features(real), geometry.features(synthetic), seed=0)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import cv2
import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from lib import world
from lib.core import compute
from lib.core.workers import processes
from lib.measure.vanishing import Found, GeometryError, Rays, segments, to_pixels, vanishing_points

TOLERANCE = 2.0  # degrees within which a segment counts as explained
USUAL = 1.2  # focal length in longer sides that tells upright from level points where the camera is unknown
FAR = 20.0  # longer sides to a point from which on its lines could as well be parallel: three degrees for a usual camera
STRAY = 1 / 3  # of the upright point's support, below which a second level point is none
BEND = 4.0  # degrees by which a bent line's direction swings at most
TRUSTED = 3.0  # degrees of vanishing-point error up to which the measure means something
ALONG = {"tiles": (0, 1), "checker": (0, 1), "planks": (0, 1), "bricks": (0, 1), "stripes": (0,), "panels": (1,)}
STYLES = ("photo", "render", "drawing")


def frame(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Homogeneous pixels (k, 3) in frame coordinates: longer side one, origin in the middle, of length one."""
    points = np.asarray(points, float).reshape(-1, 3) @ np.linalg.inv(to_pixels(size)).T
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def explained(found: Found) -> float:
    """Share of all segments' length that points to some vanishing point within two degrees; nan without segments."""
    rays = Rays.of(found.segments, found.size)
    if not rays.length.sum():
        return float("nan")
    near = (rays.miss(frame(found.points, found.size)) < np.sin(np.radians(TOLERANCE))).any(axis=0)
    return float(rays.length[near].sum() / rays.length.sum())


def scattered(lines: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The segments (m, 4), each turned about its middle to a direction drawn at random."""
    ends = lines.reshape(-1, 2, 2)
    half, angle = np.hypot(*(ends[:, 1] - ends[:, 0]).T) / 2, rng.uniform(0, np.pi, len(lines))
    step = half[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.concatenate([ends.mean(axis=1) - step, ends.mean(axis=1) + step], axis=1)


def checks(found: Found, n: int = 3, seed: int = 0, repeats: int = 4) -> dict[str, float]:
    """What one picture's lines say; all but the counts is nan where it abstains or cannot be said.

    The null looks for n points of its own in the same segments with directions drawn at random, so that finding
    something where there is nothing costs the same.
    """
    said = dict.fromkeys(("explained", "null", "excess", "positive", "spread", "tilt", "straight"), float("nan"))
    said = {"segments": len(found.segments), "abstained": found.abstained, "points": len(found.points)} | said
    if found.abstained:
        return said
    rng, share = np.random.default_rng([seed, 1]), explained(found)
    drawn = (vanishing_points(scattered(found.segments, rng), found.size, n, seed + k) for k in range(repeats))
    null, square = float(np.mean([explained(one) for one in drawn])), focal_squared(found.points, found.size)
    square, line = square[np.isfinite(square)], horizon(found.points, found.size, found.support)
    said |= {"explained": share, "null": null, "excess": share - null, "straight": straightness(found.segments)}
    if len(square):
        said["positive"] = float((square > 0).mean())
    if (square > 0).sum() > 1:  # of the focal lengths' logarithms: 0.1 is a tenth
        said["spread"] = float(np.log(square[square > 0]).std() / 2)
    return said | ({} if line is None else {"tilt": tilt(line)})


def focal_squared(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Focal length squared, in pixels, that makes each pair (1,2), (1,3), (2,3) ... of points (k, 3) a right angle.

    The camera's axis is taken to meet the picture's middle. Negative: no camera does. nan: one may lie at infinity, as for
    a wall seen from the front, of which the sign would be noise.
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
    """Line (3,) in pixels, its normal of length one, through the two best points that are not upright; else None.

    With a single level point the line runs at a right angle to the upright one, where there is one. A single wall has no
    second, but a few stray segments always meet somewhere: their `support` (k,) is small beside the upright point's.
    """
    seen = frame(points, size)
    upright = np.abs(seen[:, 1]) > np.hypot(seen[:, 0], USUAL * seen[:, 2])
    level, zenith = seen[~upright], seen[upright]
    if support is not None and len(level) > 1 and len(zenith) and support[~upright][1] < STRAY * support[upright][0]:
        level = level[:1]
    if len(level) > 1:
        line = np.cross(level[0], level[1])
    elif len(level) and len(zenith):
        line = np.cross(level[0], [-zenith[0][1], zenith[0][0], 0.0])
    else:
        return None
    line = np.linalg.inv(to_pixels(size)).T @ line
    return line / np.hypot(*line[:2]) if np.hypot(*line[:2]) > 1e-12 * abs(line[2]) else None


def tilt(line: np.ndarray) -> float:
    """Degrees from 0 to 90 between a line (3,) and the picture's rows."""
    return float(np.degrees(np.arctan2(abs(line[0]), abs(line[1]))))


def straightness(lines: np.ndarray, gap: float = 3.0) -> float:
    """Share of edges that go on straight, within two degrees, of those that go on within twenty where a segment ends.

    LSD keeps the darker side on one hand, so a segment goes on where another begins; nan where none does.
    """
    if len(lines) < 2:
        return float("nan")
    away = cdist(lines[:, 2:], lines[:, :2])
    np.fill_diagonal(away, np.inf)
    nearest, angle = away.argmin(axis=1), np.degrees(np.arctan2(lines[:, 3] - lines[:, 1], lines[:, 2] - lines[:, 0]))
    turn = np.abs((angle[nearest] - angle + 180) % 360 - 180)[away.min(axis=1) < gap]
    return float((turn[turn < 20] < TOLERANCE).mean()) if (turn < 20).any() else float("nan")


def angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Degrees (k, m) between undirected directions (k, 3) and (m, 3), exact for small ones too."""
    across = np.linalg.norm(np.cross(a[:, None], b[None]), axis=-1)
    return np.degrees(np.arctan2(across, np.abs(a @ b.T)))


def vp_error(estimated: np.ndarray, true: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Degrees (m,) between each true vanishing point (m, 3) and an estimate of its own; 90 where none is left for it."""
    back = np.linalg.inv(K).T
    off = angles(np.reshape(estimated, (-1, 3)) @ back, np.reshape(true, (-1, 3)) @ back)
    mine, theirs = linear_sum_assignment(off)
    errors = np.full(off.shape[1], 90.0)
    errors[theirs] = off[mine, theirs]
    return errors


def horizon_error(estimated: np.ndarray | None, true: np.ndarray, K: np.ndarray) -> float:
    """Degrees between the planes that two horizons (3,) are seen in; 90 where none was found."""
    return 90.0 if estimated is None else float(angles((K.T @ estimated)[None], (K.T @ true)[None])[0, 0])


def drawn_axes(scene: world.Scene) -> np.ndarray:
    """Which world axes (3,) have lines along them in the pattern of floor or walls: the ones that a picture can show."""
    shown = np.zeros(3, bool)
    for surface in (scene.floor, *scene.walls):
        across = {2: (0, 1), 1: (0, 2), 0: (1, 2)}[surface.axis]
        shown[[across[i] for i in ALONG.get(surface.pattern, ())]] = True
    return shown


def warped(image: np.ndarray, phase: float, bent: bool) -> np.ndarray:
    """The picture with its lines bent into waves of half its side; or sheared as steeply, which keeps them straight.

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
    found, K = vanishing_points(segments(image), size), scene.K(size)
    shown, row = drawn_axes(scene), {"size": size, "style": style, "abstained": found.abstained}
    phase = np.random.default_rng(seed).uniform(0, 2 * np.pi)
    pair = (vanishing_points(segments(warped(image, phase, bent)), size) for bent in (True, False))
    bent, straight = (checks(one)["excess"] for one in pair)
    errors = vp_error(found.points, scene.vanishing_points(size)[shown], K)
    line = horizon_error(horizon(found.points, found.size, found.support), scene.horizon(size), K)
    return row | {"errors": errors, "horizon": line if shown[:2].all() else np.nan, "bent": bent, "straight": straight}


def calibrate(sizes: Sequence[int], scenes: int, seed: int, styles: Sequence[str] = STYLES, workers: int = 1) -> pd.DataFrame:
    """One row a size: what the measures are worth on `scenes` fresh scenes of each style whose camera is known.

    Errors are of the axes that floor or walls draw lines along, in pictures that do not abstain; `bend` is the AUROC
    of the excess, straight against bent. Each statistic is {mean, low, high, n}.
    """
    if scenes < 2 or not len(sizes):
        raise GeometryError(f"{scenes} scenes a style at sizes {list(sizes)}: give two scenes or more, and a size")
    jobs = [(compute.seed_of(seed, "calibration", k), style, int(size)) for size in sizes for style in styles
            for k in range(scenes)]
    rows = pd.DataFrame(map(trial, jobs) if workers == 1 else processes(workers).map(trial, jobs, chunksize=4))
    return pd.DataFrame([{"size": size} | summary(part, seed) for size, part in rows.groupby("size")])


def summary(rows: pd.DataFrame, seed: int) -> dict:
    """The statistics of one size's trials."""
    judged = rows[~rows["abstained"].astype(bool)]
    errors = np.concatenate([*judged["errors"], np.zeros(0)])
    level, both = judged["horizon"].dropna().to_numpy(), judged[["straight", "bent"]].dropna().to_numpy()
    shares = {f"within_{limit}": resampled(errors, lambda e, limit=limit: (e <= limit).mean(), seed) for limit in (1, 3, 10)}
    return {"scenes": len(rows), "abstained": len(rows) - len(judged), "median": resampled(errors, np.median, seed), **shares,
            "horizon": resampled(level, np.median, seed),
            "bend": resampled(both, lambda pair: auroc(pair[:, 1], pair[:, 0]), seed)}


def auroc(low: np.ndarray, high: np.ndarray) -> float:
    """How often a value of `high` is above one of `low`, ties counting half."""
    ranks, n = stats.rankdata(np.concatenate([low, high])), len(high)
    return float((ranks[len(low):].sum() - n * (n + 1) / 2) / (n * len(low))) if n and len(low) else float("nan")


def resampled(values: np.ndarray, statistic: Callable, seed: int, times: int = 500) -> dict[str, float]:
    """A statistic of n values as {mean, low, high, n}, its 95 % interval by the bootstrap; nan without values."""
    if not len(values):
        return {"mean": float("nan"), "low": float("nan"), "high": float("nan"), "n": 0}
    rng = np.random.default_rng(seed)
    again = [statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(times)]
    low, high = np.quantile(again, [0.025, 0.975])
    return {"mean": float(statistic(values)), "low": float(low), "high": float(high), "n": len(values)}


def smallest_size(table: pd.DataFrame) -> int | None:
    """The size from which on the median error stays within three degrees and bent lines are told from straight ones."""
    good = [row.median_["high"] <= TRUSTED and row.bend["low"] > 0.5
            for row in table.rename(columns={"median": "median_"}).itertuples()]
    sizes = [size for k, size in enumerate(table["size"]) if all(good[k:])]
    return int(min(sizes)) if sizes else None


def features(images: Sequence[np.ndarray], seed: int = 0, workers: int = 1) -> pd.DataFrame:
    """One row a picture of what its lines and vanishing points say, no pixel among it; nan where nothing can be said."""
    jobs = [(image, seed) for image in images]
    return pd.DataFrame(map(feature, jobs) if workers == 1 else processes(workers).map(feature, jobs, chunksize=16))


def feature(job: tuple[np.ndarray, int]) -> dict[str, float]:
    """The row of one (picture, seed); lengths in longer sides."""
    image, seed = job
    found = vanishing_points(segments(image), np.shape(image)[:2], seed=seed)
    rays = Rays.of(found.segments, found.size)
    row, length = checks(found, seed=seed), rays.length / rays.side
    support = np.append(found.support, np.zeros(3))[:3] / max(rays.length.sum(), 1e-9)
    row |= {"length": length.sum(), "longest": length.max(initial=0)}
    row |= {f"support_{k + 1}": np.nan if found.abstained else share for k, share in enumerate(support)}
    for name, part in (("level", rays.along[:, 1]), ("upright", rays.along[:, 0])):
        near = np.abs(part) < np.sin(np.radians(10))
        row[name] = np.nan if found.abstained else length[near].sum() / length.sum()
    return row


def compare(real: pd.DataFrame, synthetic: pd.DataFrame, seed: int, times: int = 20) -> dict:
    """Two tables of `features`: {"features": one row each, "auroc", "permuted", "abstained"}.

    `features` has both medians and the Wasserstein distance in standard deviations of both together, beside what two
    random halves are apart. `auroc` is how well a forest tells the sets apart on pictures it was not fitted on; `permuted`
    the same with labels shuffled, its interval the middle 95 % of the shuffles.
    """
    fewest = min(len(real), len(synthetic))
    if fewest < 10:
        raise GeometryError(f"{fewest} pictures in the smaller set; a cross-validated probe needs 10 of each or more")
    both, labels = pd.concat([real, synthetic], ignore_index=True).astype(float), np.repeat([0, 1], [len(real), len(synthetic)])
    rng, told = np.random.default_rng(seed), probe(both, labels, seed)
    shuffles = [rng.permutation(labels) for _ in range(times)]
    chance = [auroc(*split(probe(both, y, seed), y)) for y in shuffles]
    low, high = np.quantile(chance, [0.025, 0.975])
    rows = [{"feature": name, "real": real[name].median(), "synthetic": synthetic[name].median(),
             "distance": apart(both[name], labels), "null": np.mean([apart(both[name], y) for y in shuffles])} for name in both]
    pairs = np.stack([told, labels], axis=1)
    return {"features": pd.DataFrame(rows), "auroc": resampled(pairs, lambda p: auroc(*split(p[:, 0], p[:, 1])), seed),
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


def apart(values: pd.Series, labels: np.ndarray) -> float:
    """Wasserstein distance between the two labels' values, in their common standard deviations; nan left out."""
    sides = [side[np.isfinite(side)] for side in split(values.to_numpy(float), labels)]
    scale = np.concatenate(sides).std() if min(map(len, sides)) else 0.0
    return float(stats.wasserstein_distance(*sides) / scale) if scale else 0.0


def drawn(image: np.ndarray, seed: int = 0, n: int = 3, level: bool = False) -> dict[str, dict[str, np.ndarray]]:
    """A contact sheet's overlay: segments (m, 4) by vanishing point, and the points (1, 2) that are not at infinity.

    With `level` the horizon takes the place of the unexplained segments: a sheet has four colours.
    """
    found = vanishing_points(segments(image), np.shape(image)[:2], n, seed)
    lines = {f"point {k + 1}": found.segments[found.assignment == k] for k in range(n)}  # all, so that colours stay
    line = horizon(found.points, found.size, found.support)
    if not level:
        lines["unexplained"] = found.segments[found.assignment < 0]
    elif line is not None and abs(line[1]) > abs(line[0]):
        ends = np.array([0.0, found.size[1] - 1.0])
        lines["horizon"] = np.stack([ends, -(line[2] + line[0] * ends) / line[1]], axis=1).reshape(1, 4)
    places = {f"point {k + 1}": (p[:2] / p[2])[None] for k, p in enumerate(found.points) if abs(p[2]) > 1e-9}
    return {"segments": lines, "points": places}
