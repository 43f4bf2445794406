"""Chapter 07's tables and plots of tidy results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lib.report.style import color, marks, palette
from lib.report.tables import minus

Result = Mapping[str, float]  # mean, low, high, n
DIGITS = {"FD": 2, "FD∞": 2, "KID": 4}  # of a measure of a set; two of the others
SHARES = ("precision", "density", "recall", "coverage")


def comparison(results: Mapping[str, dict | str]) -> pd.DataFrame:
    """A row a measure, a column a set with its result or the reason why there is none."""
    computed = [result["measures"] for result in results.values() if isinstance(result, dict)]
    rows = []
    for measure in computed[0] if computed else ():
        cells = {name: result if isinstance(result, str)
                 else cell(result["measures"][measure], measure)
                 for name, result in results.items()}
        rows.append({"measure": measure, **cells})
    return pd.DataFrame(rows)


def cell(result: Result, measure: str) -> str:
    """A measure with its own number of digits and its interval."""
    digits = DIGITS.get(measure, 2)
    text = f"{result['mean']:.{digits}f}"
    if "low" in result:
        text += f" [{result['low']:.{digits}f}, {result['high']:.{digits}f}]"
    return minus(text)


def copies(results: Mapping[str, dict | str]) -> pd.DataFrame:
    """A row a set: exact copies, repeated images, shares nearer to training than real images."""
    names = ("copies", "duplicates", "authentic", "membership", "closer", "median")
    rows = []
    for name, result in results.items():
        values = dict.fromkeys(names, result)
        if isinstance(result, dict):
            values = {key: result[key] for key in names[:4]}
            values |= {"closer": result["closer"]["0.01"], "median": result["closer"]["0.5"]}
        rows.append({"set": name, **values})
    return pd.DataFrame(rows)


def rows(table: Mapping[str, Mapping[str, Result]]) -> pd.DataFrame:
    """A row a training set, a column a measure."""
    return pd.DataFrame([{"arm": arm, **results} for arm, results in table.items()])


def long(tables: Mapping[str, Mapping]) -> pd.DataFrame:
    """Nested tables of results as one row a number, for the file beside a figure."""
    rows = []

    def walk(tree: Mapping, names: list[str]) -> None:
        if "mean" in tree:
            ends = {end: tree[end] for end in ("mean", "low", "high", "n")}
            rows.append({"what": names[0], "arm": names[1], "at": " ".join(names[2:]), **ends})
            return
        for name, branch in tree.items():
            walk(branch, [*names, name])
    walk(tables, [])
    return pd.DataFrame(rows)


def layers(axes, probes: Mapping[str, Mapping[str, Result]],
           similarity: Mapping[str, Mapping[str, Result]], classes: int, base: str) -> None:
    """Left: accuracy of linear probes after each layer. Right: CKA with the base's networks."""
    for axis, table, scale in zip(axes, (probes, similarity), (100, 1), strict=True):
        for k, (arm, values) in enumerate(table.items()):
            line(axis, values, arm, list(table), scale, 0.06 * (k - (len(table) - 1) / 2))
    axes[0].axhline(100 / classes, linewidth=1, linestyle="--", color=color("other"))
    axes[0].set(ylabel="accuracy (%)", ylim=(0, 101), title="linear probes, real images")
    axes[1].set(ylabel="CKA", ylim=(0, 1.02), title=f"similarity to {base}")
    axes[0].legend(loc="upper left")


def damages(axes: Sequence, table: Mapping[str, Mapping[str, Mapping[str, Result]]]) -> None:
    """One panel a kind of damage: accuracy over its strength, one line a training set."""
    arms = list(table)
    kinds = [kind for kind in table[arms[0]] if kind != "clean"]
    for axis, kind in zip(axes, kinds, strict=False):
        for k, arm in enumerate(arms):
            line(axis, table[arm][kind], arm, arms, 100, 0.05 * (k - (len(arms) - 1) / 2))
        attack = kind in ("fgsm", "pgd")
        axis.set(title=kind.upper() if attack else kind, ylim=(0, 101),
                 xlim=(-0.4, len(table[arms[0]][kind]) - 0.6),
                 xlabel="ε (grey levels)" if attack else "severity")
    for axis in axes[len(kinds):]:
        axis.set_axis_off()
    axes[0].figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center",
                          ncols=len(arms))


def line(axis, results: Mapping[str, Result], name: str, names: list[str], scale: float,
         shift: float) -> None:
    """Mean and interval at each label, joined; shifted so that several lines stay apart."""
    ends = ("mean", "low", "high")
    mean, low, high = (np.array([r[end] for r in results.values()]) * scale for end in ends)
    axis.errorbar(np.arange(len(mean)) + shift, mean, yerr=[mean - low, high - mean],
                  fmt=marks(names)[name] + "-", capsize=0, markersize=4, linewidth=1.5,
                  color=palette(names)[name], label=name)
    axis.set_xticks(range(len(results)), list(results))
