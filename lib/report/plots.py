"""Plots that several chapters share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lib.report.figures import color, palette


def dots(axes, results: Mapping[str, Mapping[str, Mapping[str, float]]], scale: float = 100) -> None:
    """Mean and interval of `results[arm][label]`, labels down the axis, arms one below the other within a label."""
    labels, colours = list(next(iter(results.values()))), palette(list(results))
    for k, (arm, rows) in enumerate(results.items()):
        mean, low, high = (np.array([rows[label][key] for label in labels]) * scale for key in ("mean", "low", "high"))
        y = np.arange(len(labels)) + 0.6 * ((k + 0.5) / len(results) - 0.5)
        mark = "D" if "+" in arm else "o"  # a mix has nearly the colour of its set
        axes.errorbar(mean, y, xerr=[mean - low, high - mean], fmt=mark, color=colours[arm], label=arm, markersize=6, capsize=0)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    if len(results) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=min(5, len(results)), borderaxespad=0, handlelength=0.8,
                    handletextpad=0.6, columnspacing=1.2)


def sweep(axes, points: pd.DataFrame, recipe: str, guidance: float) -> None:
    """Left: recognised share against variety, a point each guidance. Right: recognised share by recipe."""
    left, right = axes
    along = points[points["recipe"] == recipe].sort_values("guidance")
    ends = ("mean", "low", "high")
    x, y = (np.array([[result[end] for end in ends] for result in along[what]]).T for what in ("variety", "recognised"))
    left.errorbar(x[0], 100 * y[0], xerr=abs(x[1:] - x[0]), yerr=100 * abs(y[1:] - y[0]), fmt="o-", color=color("sd"))
    for pull, *at in zip(along["guidance"], x[0], 100 * y[0], strict=True):
        left.annotate(f"{pull:g}", at, xytext=(7, 7), textcoords="offset points",
                      bbox={"facecolor": color("paper"), "edgecolor": "none", "pad": 0.5, "alpha": 0.8})
    left.set(xlabel="variety within a class (grey levels)", ylabel="recognised (%)", title="guidance", ylim=(0, 101))
    said = points[points["guidance"] == guidance]
    dots(right, {"sd": dict(zip(said["recipe"], said["recognised"], strict=True))})
    right.set(xlabel="recognised (%)", xlim=(0, 101), title="recipe")


def measures(axes, means: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """One panel a measure: mean and interval of `means[arm][measure]`, arms down the axis."""
    arms, colours = list(means), palette(list(means))
    for axis, name in zip(axes, next(iter(means.values())), strict=True):
        for y, arm in enumerate(arms):
            found = means[arm][name]
            axis.errorbar(found["mean"], y, xerr=[[found["mean"] - found["low"]], [found["high"] - found["mean"]]], fmt="o",
                          color=colours[arm], markersize=6)
        axis.set(title=name, ylim=(len(arms) - 0.5, -0.5), yticks=range(len(arms)))
        axis.set_yticklabels(arms if axis is axes[0] else [""] * len(arms))


def calibration(axes, known: pd.DataFrame, size: int) -> None:
    """Left: vanishing-point error over image size. Right: AUROC of bent against straight. The study's size is marked."""
    panels = {"median": "error of vanishing points (°)", "bend": "AUROC, bent against straight"}
    for axis, (name, label) in zip(axes, panels.items(), strict=True):
        mean, low, high = (np.array([found[end] for found in known[name]]) for end in ("mean", "low", "high"))
        axis.errorbar(known["size"], mean, yerr=[mean - low, high - mean], fmt="o-", color=color("real"))
        axis.axvline(size, linewidth=1, color=color("other"))
        axis.annotate("this study", (size, 1), (4, -12), ("data", "axes fraction"), "offset points",
                      color=color("muted"), fontsize=9)
        axis.set(xscale="log", xlabel="pixels a side", ylabel=label, xticks=list(known["size"]))
        axis.set_xticklabels([str(side) for side in known["size"]])
        axis.minorticks_off()
    axes[0].set(yscale="log")
    axes[1].axhline(0.5, linewidth=1, linestyle="--", color=color("other"))
