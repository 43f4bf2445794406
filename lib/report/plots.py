"""Plots that several chapters share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lib.report.figures import palette


def dots(axes, results: Mapping[str, Mapping[str, Mapping[str, float]]], scale: float = 100) -> None:
    """Mean and interval of `results[arm][label]`, labels down the axis, arms one below the other within a label."""
    labels, colours = list(next(iter(results.values()))), palette(list(results))
    for k, (arm, rows) in enumerate(results.items()):
        mean, low, high = (np.array([rows[label][key] for label in labels]) * scale for key in ("mean", "low", "high"))
        y = np.arange(len(labels)) + 0.6 * ((k + 0.5) / len(results) - 0.5)
        axes.errorbar(mean, y, xerr=[mean - low, high - mean], fmt="o", color=colours[arm], label=arm, markersize=6, capsize=0)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    if len(results) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0)
