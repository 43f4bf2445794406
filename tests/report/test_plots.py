"""Dots stand where the numbers are."""

import numpy as np
import pandas as pd
import pytest

from lib.report import figures, plots


def result(mean):
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.05, "n": 3}


@pytest.mark.parametrize("arms", [["real"], ["real", "sd", "real+sd"]])
def test_dots_and_intervals(arms):
    fig, axes = figures.figure()
    plots.dots(axes, {arm: {"cone": result(0.5), "cube": result(0.8)} for arm in arms})
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cone", "cube"]
    assert len(axes.containers) == len(arms) and (axes.get_legend() is None) == (len(arms) == 1)
    line, _, (bars,) = axes.containers[0].lines
    assert line.get_xdata() == pytest.approx([50, 80])
    assert bars.get_segments()[1][:, 0] == pytest.approx([70, 85])
    assert [container.lines[0].get_marker() for container in axes.containers] == [
        "D" if "+" in arm else "o" for arm in arms
    ]
    heights = [container.lines[0].get_ydata()[0] for container in axes.containers]
    assert heights == sorted(heights) and all(abs(y) < 0.5 for y in heights)


def test_sweep_measures_and_calibration_draw_every_point():
    points = pd.DataFrame(
        [
            {"prompt": said, "guidance": pull, "recognised": result(0.5), "variety": result(9.0)}
            for said, pull in [("a", 1.0), ("a", 3.0), ("b", 3.0)]
        ]
    )
    _, axes = figures.figure(1, 2)
    plots.sweep(axes, points, "a", 3.0)
    assert len(axes[0].containers[0].lines[0].get_xdata()) == 2 and [
        t.get_text() for t in axes[0].texts
    ] == ["1", "3"]
    assert [label.get_text() for label in axes[1].get_yticklabels()] == ["a", "b"]
    _, axes = figures.figure(1, 2)
    plots.measures(
        axes, {arm: {"focus": result(0.2), "spread": result(0.4)} for arm in ("real", "sd")}
    )
    assert [axis.get_title(loc="left") for axis in axes] == ["focus", "spread"]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["real", "sd"]
    _, axes = figures.figure(1, 2)
    row = {"size": 32, "median": result(9), "bend": result(0.5), "photograph": np.nan}
    plots.calibration(axes, pd.DataFrame([row]), 64)
    assert axes[0].get_xscale() == axes[0].get_yscale() == "log" and [
        t.get_text() for t in axes[1].get_xticklabels()
    ] == ["32"]


def test_dumbbells_sort_classes_by_their_gap():
    fig, axes = figures.figure()
    results = {"real": {"cone": result(0.9), "cube": result(0.6)},
               "sd": {"cone": result(0.8), "cube": result(0.2)}}
    frame = plots.dumbbells(axes, results, "real")
    assert list(frame["class"]) == ["cube", "cone"] and frame["sd"][0] == results["sd"]["cube"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cube", "cone"]
    real, sd = axes.collections[1:]
    assert real.get_offsets()[:, 0].tolist() == pytest.approx([60, 90])
    assert sd.get_offsets()[:, 0].tolist() == pytest.approx([20, 80])
