"""Dots stand where the numbers are."""

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
    heights = [container.lines[0].get_ydata()[0] for container in axes.containers]
    assert heights == sorted(heights) and all(abs(y) < 0.5 for y in heights)
