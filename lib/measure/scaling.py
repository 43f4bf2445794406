"""Accuracy over the number of images, and how many real images a synthetic one is worth.

r real and s synthetic images that give the accuracy of m real images alone make a synthetic image
worth (m - r) / s real ones; its inverse is the exchange rate. One definition serves synthetic
images alone (r = 0), in place of real ones (displacement: r + s fixed) and added to few real ones
(add-on: r fixed). m is read from the real curve, made monotone and linear over log n, and is never
extrapolated; intervals are by the crossed bootstrap over seeds and test images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

from lib.classifier import arms
from lib.measure import stats
from lib.measure.accuracy import correct
from lib.measure.stats import StatsError

REAL, ALONE, DISPLACEMENT, ADD_ON = "real", "alone", "displacement", "add-on"
SETTINGS = {REAL: "real_fractions", ALONE: "synthetic_ratios", DISPLACEMENT: "mix_fractions",
            ADD_ON: "added_ratios"}  # of section `training`
COLUMNS = ["set", "curve", "arm", "real", "synthetic", "worth", "rate", "reason"]


@dataclass(frozen=True)
class Curve:
    """Training sets in order of size or of their share of real images."""

    kind: str  # REAL, ALONE, DISPLACEMENT or ADD_ON
    set: str
    arms: tuple[str, ...]

    @property
    def label(self) -> str:
        """For display alone."""
        return self.set if self.kind in (REAL, ALONE) else f"{self.set}, {self.kind}"


def curves_of(training) -> list[Curve]:
    """The curves that section `training` asks for; training sets of several are trained once."""
    curves = []
    if training.real_fractions:
        curves.append(Curve(REAL, "real", scaled("real", training.real_fractions)))
    for name in training.scaling_sets:
        base = training.added_to
        kinds = {ALONE: training.synthetic_ratios and scaled(name, training.synthetic_ratios),
                 DISPLACEMENT: training.mix_fractions and mixed(name, training.mix_fractions),
                 ADD_ON: training.added_ratios and added(name, base, training.added_ratios)}
        curves += [Curve(kind, name, points) for kind, points in kinds.items() if points]
    return curves


def scaled(name: str, ratios: Sequence[float]) -> tuple[str, ...]:
    """One set at several sizes, its whole among them: `0.5*sd, sd, sd@2x`."""
    return tuple(_term(name, ratio) for ratio in sorted({*ratios, 1.0}))


def mixed(name: str, shares: Sequence[float]) -> tuple[str, ...]:
    """One size, from synthetic (real share 0) to real (1): `sd, 0.25*real+0.75*sd, real`."""
    return tuple(_sum(("real", share), (name, round(1 - share, 10)))
                 for share in sorted({0.0, *shares, 1.0}))


def added(name: str, base: float, ratios: Sequence[float]) -> tuple[str, ...]:
    """The same few real images and more and more synthetic ones, in sizes of the real part."""
    return tuple(_sum(("real", base), (name, round(base * ratio, 10)))
                 for ratio in sorted({0.0, *ratios}))


def _sum(*terms: tuple[str, float]) -> str:
    return "+".join(_term(name, ratio) for name, ratio in terms if ratio)


def _term(name: str, ratio: float) -> str:
    return name if ratio == 1 else f"{ratio:g}*{name}" if ratio < 1 else f"{name}@{ratio:g}x"


def tidy(scores: pd.DataFrame, sizes: Mapping[str, int], name: str = "test") -> pd.DataFrame:
    """A row a training set and seed on one test set: accuracy, real, synthetic and all images."""
    rows = scores.loc[scores["set"] == name, ["arm", "seed", "accuracy"]].reset_index(drop=True)
    counts = {arm: counted(arm, sizes) for arm in rows["arm"].unique()}
    real, synthetic = (rows["arm"].map(lambda arm, k=k: counts[arm][k]).astype(int) for k in (0, 1))
    return rows.assign(real=real, synthetic=synthetic, images=real + synthetic)


def counted(arm: str, sizes: Mapping[str, int]) -> tuple[int, int]:
    """Real and synthetic images of a training set."""
    counts = {term.name: round(term.count(sizes[term.name], sizes["real"]))
              for term in arms.parse(arm)}
    real = counts.pop("real", 0)
    return real, sum(counts.values())


def exchange(scores: pd.DataFrame, curves: Sequence[Curve], sizes: Mapping[str, int],
             seed: int = 0, rounds: int = 1000) -> pd.DataFrame:
    """What a synthetic image is worth at each point of each curve, or the reason why not."""
    trained = set(scores["arm"])
    real = [arm for curve in curves if curve.kind == REAL for arm in curve.arms if arm in trained]
    points = [(curve, arm) for curve in curves if curve.kind != REAL for arm in curve.arms
              if arm in trained and counted(arm, sizes)[1]]
    rows = [dict.fromkeys(COLUMNS) | {"set": curve.set, "curve": curve.kind, "arm": arm}
            | dict(zip(("real", "synthetic"), counted(arm, sizes), strict=True))
            for curve, arm in points]
    rates = _rates(scores, real, rows, sizes, (seed, rounds)) if rows else []
    return pd.DataFrame([row | rate for row, rate in zip(rows, rates, strict=True)],
                        columns=COLUMNS, dtype=object)


def _rates(scores: pd.DataFrame, real: Sequence[str], rows: Sequence[dict],
           sizes: Mapping[str, int], bootstrap: tuple[int, int]) -> list[dict]:
    """The last columns of `exchange`."""
    if len(real) < 2:
        reason = "not run: a curve of `real` needs at least two sizes (training.real_fractions)"
        return [{"reason": reason}] * len(rows)
    matrices = np.stack([correct(scores, arm) for arm in (*real, *(row["arm"] for row in rows))])
    try:
        draws = stats.crossed_bootstrap(matrices, bootstrap[1], bootstrap[0])
    except StatsError as error:
        return [{"reason": f"not run: {error}"}] * len(rows)
    draws = np.concatenate([matrices.mean((1, 2))[None], draws])  # the first is what was measured
    real_sizes = np.array([counted(arm, sizes)[0] for arm in real], float)
    as_many = np.array([reach(real_sizes, isotonic_regression(draw[:len(real)]).x,
                              draw[len(real):]) for draw in draws])
    return [_rate(as_many[:, k], row, real_sizes, matrices.shape[1])
            for k, row in enumerate(rows)]


def _rate(as_many: np.ndarray, row: dict, sizes: np.ndarray, seeds: int) -> dict:
    """Worth and exchange rate from the real images (rounds + 1,) that do as well."""
    if not np.isfinite(as_many[0]):
        side = f"more than {sizes[-1]:,.0f}" if as_many[0] > 0 else f"fewer than {sizes[0]:,.0f}"
        return {"reason": f"as good as {side} real images"}
    worth = (as_many - row["real"]) / row["synthetic"]
    try:
        estimate = stats.percentiles(worth[0], worth[1:], n_seeds=seeds)
    except StatsError:
        text = f"as good as about {as_many[0]:,.0f} real images; the interval leaves their curve"
        return {"reason": text}
    return {"worth": estimate, "rate": stats.inverse(estimate) if estimate["low"] > 0 else None}


def reach(sizes: np.ndarray, curve: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Sizes at which a rising curve first has these levels: inf above its end, -inf below."""
    after = np.searchsorted(curve, levels)
    k = np.clip(after, 1, len(curve) - 1)
    rise = curve[k] - curve[k - 1]
    part = np.divide(levels - curve[k - 1], rise, out=np.zeros_like(levels), where=rise > 0)
    log = np.log(sizes)
    inside = np.exp(log[k - 1] + np.clip(part, 0, 1) * (log[k] - log[k - 1]))
    return np.select([levels < curve[0], after == len(curve)], [-np.inf, np.inf], inside)
