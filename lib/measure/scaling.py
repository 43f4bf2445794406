"""Accuracy over the number of images: which arms make a curve, and how many synthetic images are worth one real one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

from lib.classifier import arms

COLUMNS = ["set", "real", "accuracy", "needed", "above", "rate", "said"]  # of the exchange table


class CurveError(ValueError):
    """Scores from which no curve can be drawn."""


def drawn(training) -> dict[str, list[str]]:
    """The curves that the settings ask for, each as its arms in order; arms that stand in several are trained once.

    `real` and `sd` alone, `sd beside real` (few real images and the whole set), `sd for real` (mixtures of one size).
    """
    found = (
        {"real": low_real(sorted({*training.real_fractions, 1.0}))}
        if training.real_fractions
        else {}
    )
    for name in training.scaling_sets:
        own = {
            name: training.synthetic_ratios
            and scaling(name, sorted({*training.synthetic_ratios, 1.0})),
            f"{name} beside real": training.real_fractions_with_set
            and low_real(sorted({*training.real_fractions_with_set, 1.0}), name),
            f"{name} for real": training.mix_fractions
            and mixing(name, sorted({0.0, *training.mix_fractions, 1.0})),
        }
        found |= {label: points for label, points in own.items() if points}
    return found


def scaling(name: str, times: Sequence[float]) -> list[str]:
    """Arms of more and more images of one set: `0.5*sd, sd, sd@2x`."""
    return [name if k == 1 else f"{k:g}*{name}" if k < 1 else f"{name}@{k:g}x" for k in times]


def low_real(shares: Sequence[float], name: str = "") -> list[str]:
    """Arms of few real images, alone or with a synthetic set: `0.1*real`, `0.1*real+sd`."""
    return [f"{arm}+{name}" if name else arm for arm in scaling("real", shares)]


def mixing(name: str, shares: Sequence[float]) -> list[str]:
    """Arms of one size that go from synthetic (real share 0) to real (1): `0.25*real+0.75*sd`."""
    parts = [[(share, "real"), (round(1 - share, 10), name)] for share in shares]
    return [
        "+".join(f"{'' if k == 1 else f'{k:g}*'}{part}" for k, part in terms if k)
        for terms in parts
    ]


def tidy(found: pd.DataFrame, sizes: Mapping[str, int], name: str = "test") -> pd.DataFrame:
    """One row an arm and seed on one test set: accuracy, and how many images are real, synthetic, and in all."""
    rows = found.loc[found["set"] == name, ["arm", "seed", "accuracy"]].reset_index(drop=True)
    held = {
        arm: {
            term.name: round(term.wanted(sizes[term.name], sizes["real"]))
            for term in arms.parse(arm)
        }
        for arm in rows["arm"].unique()
    }
    real = rows["arm"].map(lambda arm: held[arm].get("real", 0)).astype(int)  # of no rows, too
    every = rows["arm"].map(lambda arm: sum(held[arm].values())).astype(int)
    sets = rows["arm"].map(lambda arm: "+".join(held[arm]))
    return rows.assign(sets=sets, real=real, synthetic=every - real, images=every)


def exchange(curves: pd.DataFrame, name: str, rounds: int = 1000, seed: int = 0) -> list[dict]:
    """For each size of the real curve: how many images of a set teach as much, and how many that is for one real image.

    Both curves are made monotone and are straight lines over log n; never extrapolated. The interval is a bootstrap over
    the seeds, the same ones for both curves. `rate` is None where the set's curve does not get there.
    """
    real, synthetic = (_grid(curves, sets) for sets in ("real", name))
    shared = real.columns.intersection(synthetic.columns)
    if len(shared) < 2:
        raise CurveError(
            f"real and {name} share {len(shared)} seeds; an interval needs at least two (study.seeds)"
        )
    draws = np.random.default_rng(seed).integers(len(shared), size=(rounds, len(shared)))
    samples = np.concatenate(
        [np.arange(len(shared))[None], draws]
    )  # the first is what was measured
    tall, wide = (
        part[shared].to_numpy()[:, samples].mean(2).T for part in (real, synthetic)
    )  # (rounds + 1, sizes)
    sizes = synthetic.index.to_numpy(float)
    levels = np.stack([isotonic_regression(row).x for row in tall])
    needed = np.stack(
        [
            reach(sizes, isotonic_regression(row).x, level)
            for row, level in zip(wide, levels, strict=True)
        ]
    )
    return [
        _rate(count, float(levels[0, k]), needed[:, k], sizes, name, len(shared))
        for k, count in enumerate(real.index)
    ]


def trades(points: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The exchange of each set, one row a size of the real curve; where a curve is missing, why, in column `said`."""
    rows = []
    for name in names:
        try:
            rows += [{"set": name} | row for row in exchange(points, name)]
        except CurveError as error:
            rows.append(dict.fromkeys(COLUMNS) | {"set": name, "said": f"not run: {error}"})
    return pd.DataFrame(rows, columns=COLUMNS, dtype=object)


def reach(sizes: np.ndarray, curve: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Sizes at which a rising curve first has these levels: inf above its end, 0 below its start."""
    found = []
    for level in levels:
        k = int(np.searchsorted(curve, level))
        if k == len(curve) or level < curve[0]:
            found.append(np.inf if k else 0.0)
        elif k == 0:
            found.append(float(sizes[0]))
        else:
            part = (level - curve[k - 1]) / (curve[k] - curve[k - 1])
            found.append(float(np.exp(np.interp(part, [0, 1], np.log(sizes[k - 1 : k + 1])))))
    return np.array(found)


def _grid(curves: pd.DataFrame, sets: str) -> pd.DataFrame:
    """Accuracy by size (rows) and seed (columns) of the arms made of these sets alone."""
    rows = curves[curves["sets"] == sets]
    if rows["images"].nunique() < 2:
        there = ", ".join(curves["sets"].unique())
        raise CurveError(
            f"a curve of {sets!r} needs arms of at least two sizes, e.g. {', '.join(scaling(sets, (0.5, 1)))}; "
            f"the scores have {rows['images'].nunique()} (sets: {there})"
        )
    return rows.pivot_table("accuracy", "images", "seed")


def _rate(
    count: int, level: float, needed: np.ndarray, sizes: np.ndarray, name: str, n: int
) -> dict:
    """One row of the exchange table; `needed` (rounds + 1,) begins with what was measured."""
    low, high = np.quantile(needed[1:], [0.025, 0.975], method="nearest") / count
    row = {"real": int(count), "accuracy": level, "needed": None, "above": None, "rate": None}
    if needed[0] == np.inf:
        return row | {
            "above": int(sizes[-1]),
            "said": f"not reached by {sizes[-1]:,.0f} images of {name}",
        }
    if needed[0] == 0:
        return row | {"said": f"reached by fewer than {sizes[0]:,.0f} images of {name}"}
    row["needed"] = round(needed[0])
    if high == np.inf or low == 0:
        return row | {
            "said": f"about {needed[0]:,.0f} images of {name}; its interval leaves the measured curve"
        }
    rate = {"mean": float(needed[0] / count), "low": float(low), "high": float(high), "n": n}
    return row | {"rate": rate, "said": f"{rate['mean']:.1f} images of {name} for one real image"}
