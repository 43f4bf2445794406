"""Plots that several chapters share: each draws frames or results into axes that it is given."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from lib.measure.scaling import ADD_ON, Curve
from lib.report.style import color, label, marks, palette

Results = Mapping[str, Mapping[str, float]]  # name -> mean, low, high
ENDS = ("mean", "low", "high")


def dots(axes, results: Mapping[str, Results], scale: float = 100) -> None:
    """Mean and interval of `results[arm][row]`, rows down the axis, training sets within a row."""
    rows, colours = list(next(iter(results.values()))), palette(list(results))
    for k, (arm, of_row) in enumerate(results.items()):
        mean, low, high = _ends([of_row[row] for row in rows], scale)
        y = np.arange(len(rows)) + _offset(k, len(results))
        mark = "D" if "+" in arm else "o"  # a mix has nearly the colour of its set
        axes.errorbar(mean, y, xerr=[mean - low, high - mean], fmt=mark, color=colours[arm],
                      label=arm, markersize=6, capsize=0)
    _rows(axes, rows)
    if len(results) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=min(5, len(results)),
                    borderaxespad=0, handlelength=0.8, handletextpad=0.6, columnspacing=1.2)


def dumbbells(axes, results: Mapping[str, Results], baseline: str) -> pd.DataFrame:
    """Means by class, a row a class: dots of all training sets on one line, largest gap first."""
    means = pd.DataFrame({arm: {row: 100 * result["mean"] for row, result in of_row.items()}
                          for arm, of_row in results.items()})
    others = [arm for arm in means if arm != baseline]
    if others:
        means = means.loc[(means[others].mean(axis=1) - means[baseline]).sort_values().index]
    y, colours = np.arange(len(means)), palette(list(results))
    axes.hlines(y, means.min(axis=1), means.max(axis=1), color=color("grid"), linewidth=3)
    for arm in means:
        axes.scatter(means[arm], y, s=52, color=colours[arm], marker=marks(list(means))[arm],
                     label=arm, zorder=3)
    _rows(axes, list(means.index))
    axes.set(xlabel="accuracy (%)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(means.columns),
                borderaxespad=0, handletextpad=0.3, columnspacing=1.2)
    ordered = {arm: [results[arm][row] for row in means.index] for arm in means}
    return pd.DataFrame({"class": means.index, **ordered})


def accuracies(axes, scores: pd.DataFrame, results: Mapping[str, Results]) -> None:
    """`dots` of accuracy, and every seed of `scores` as a ring."""
    sets, colours = list(next(iter(results.values()))), palette(list(results))
    for k, arm in enumerate(results):
        rows = scores[scores["arm"] == arm]
        y = rows["set"].map(sets.index) + _offset(k, len(results))
        axes.scatter(100 * rows["accuracy"], y, s=16, zorder=3, facecolors=color("paper"),
                     edgecolors=colours[arm], linewidths=1.2)
    dots(axes, results)
    axes.set(xlabel="accuracy (%)")


def loss_band(axes, curve: pd.DataFrame) -> None:
    """Mean and middle 90 % of images over updates: columns updates, mean, low, high."""
    axes.fill_between(curve["updates"], curve["low"], curve["high"], alpha=0.25, linewidth=0,
                      color=color("di"), label="middle 90 % of images")
    axes.plot(curve["updates"], curve["mean"], "o-", color=color("di"), label="mean")
    axes.axhline(100, linewidth=1, color=color("other"))
    axes.set(xlabel="updates of each embedding", ylabel="loss (% of the first)")
    axes.legend()


def bars(axes, results: Results, colour: str, letters: int = 60) -> None:
    """One bar a result, in points; pale where its interval contains zero."""
    for y, result in enumerate(results.values()):
        mean, low, high = (100 * result[end] for end in ENDS)
        axes.barh(y, mean, height=0.6, color=colour, alpha=0.35 if low <= 0 <= high else 1)
        axes.errorbar(
            mean, y, xerr=[[mean - low], [high - mean]], color=color("ink"), linewidth=1.2
        )
    axes.axvline(0, linewidth=1, color=color("ink"))
    _rows(axes, [textwrap.fill(name, letters) for name in results])


def scaling(axes, points: pd.DataFrame, curves: Sequence[Curve]) -> None:
    """Accuracy over the number of images: seeds as dots, means as lines labelled at their ends."""
    forms = marks([curve.label for curve in curves])
    for curve in curves:
        rows, added = points[points["arm"].isin(curve.arms)], curve.kind == ADD_ON
        colour = color(f"real+{curve.set}" if added else curve.set)
        axes.scatter(
            rows["images"], 100 * rows["accuracy"], s=16, color=colour, alpha=0.5, linewidths=0
        )
        means = 100 * rows.groupby("images")["accuracy"].mean()
        axes.plot(means.index, means, color=colour, linestyle="--" if added else "-",
                  marker=forms[curve.label])
        _end_label(axes, means.index[-1], means.iloc[-1], curve.label, colour)
    axes.set(xlabel="images", ylabel="accuracy (%)")
    log_counts(axes, points["images"])


def worth(axes, rates: pd.DataFrame) -> None:
    """Real images that a synthetic one is worth, over the synthetic images; a mark a curve."""
    known = rates[rates["worth"].notna()]
    groups = {
        f"{name}, {kind}": part
        for (name, kind), part in known.groupby(["set", "curve"], sort=False)
    }
    forms = marks(list(groups))
    for key, part in groups.items():
        mean, low, high = _ends(part["worth"], 1)
        axes.errorbar(part["synthetic"].astype(float), mean, yerr=[mean - low, high - mean],
                      fmt=forms[key], color=color(part["set"].iloc[0]), label=key)
    for value in (0, 1):
        axes.axhline(value, linewidth=1, linestyle="--", color=color("other"))
    axes.set(xlabel="synthetic images", ylabel="real images that one is worth")
    if groups:
        axes.legend()
        log_counts(axes, known["synthetic"])


def mixtures(axes, points: pd.DataFrame, curves: Sequence[Curve]) -> None:
    """Accuracy over the share of real images in training sets of one size."""
    for curve in curves:
        rows = points[points["arm"].isin(curve.arms)]
        rows = rows.assign(share=100 * rows["real"] / rows["images"])
        colour = color(curve.set)
        axes.scatter(
            rows["share"], 100 * rows["accuracy"], s=16, color=colour, alpha=0.5, linewidths=0
        )
        means = 100 * rows.groupby("share")["accuracy"].mean()
        axes.plot(means.index, means, color=colour, marker="o", label=label(curve.set))
    axes.set(xlabel="real images (%), the rest synthetic", ylabel="accuracy (%)")
    axes.legend()


def real_images(axes, curves: Mapping[str, pd.DataFrame], reference: float) -> None:
    """Accuracy against the number of real images, a line a method: frames of m and accuracy."""
    colours, forms = palette(list(curves)), marks(list(curves))
    for k, (name, rows) in enumerate(curves.items()):
        mean, low, high = _ends(rows["accuracy"])
        x = rows["m"] * 1.04 ** (k - len(curves) / 2)  # a little apart, so that intervals are seen
        axes.errorbar(
            x, mean, yerr=[mean - low, high - mean], color=colours[name], marker=forms[name]
        )
        _end_label(axes, x.iloc[-1], mean[-1], name, colours[name])
    axes.axhline(100 * reference, linestyle="--", linewidth=1, color=color("real"))
    axes.set(xlabel="real images", ylabel="accuracy (%)")
    log_counts(axes, pd.concat([rows["m"] for rows in curves.values()]))


def sweep(axes, points: pd.DataFrame, prompt: str, guidance: float) -> None:
    """Left: recognised share against variety, a point a guidance scale. Right: by prompt."""
    left, right = axes
    along = points[points["prompt"] == prompt].sort_values("guidance")
    x, y = _ends(along["variety"], 1), _ends(along["recognised"])
    left.errorbar(
        x[0], y[0], xerr=abs(x[1:] - x[0]), yerr=abs(y[1:] - y[0]), fmt="o-", color=color("sd")
    )
    for scale, *at in zip(along["guidance"], x[0], y[0], strict=True):
        left.annotate(f"{scale:g}", at, xytext=(7, 7), textcoords="offset points")
    left.set(
        xlabel="variety within a class (grey levels)",
        ylabel="recognised (%)",
        title="guidance scale",
    )
    prompts = points[points["guidance"] == guidance]
    dots(right, {"sd": dict(zip(prompts["prompt"], prompts["recognised"], strict=True))})
    right.set(xlabel="recognised (%)", title="prompt")


def measures(axes, means: Mapping[str, Results]) -> None:
    """One panel a measure: mean and interval of `means[arm][measure]`, training sets down the axis.
    """
    arms, colours = list(means), palette(list(means))
    for axis, name in zip(axes, next(iter(means.values())), strict=True):
        for y, arm in enumerate(arms):
            mean, low, high = (means[arm][name][end] for end in ENDS)
            axis.errorbar(mean, y, xerr=[[mean - low], [high - mean]], fmt="o", color=colours[arm])
        _rows(axis, arms if axis is axes[0] else [""] * len(arms))
        axis.set(title=name)


def calibration(axes, known: pd.DataFrame, size: int) -> None:
    """Left: vanishing-point error over image size, rendered and (dashed) photographs. Right: AUROC
    of bent against straight. The study's size is marked."""
    panels = {"median": "error of vanishing points (°)", "bend": "AUROC, bent against straight"}
    for axis, (name, ylabel) in zip(axes, panels.items(), strict=True):
        mean, low, high = _ends(known[name], 1)
        axis.errorbar(
            known["size"], mean, yerr=[mean - low, high - mean], fmt="o-", color=color("real")
        )
        axis.axvline(size, linewidth=1, color=color("other"))
        axis.annotate("this study", (size, 1), (4, -12), ("data", "axes fraction"), "offset points",
                      color=color("muted"), fontsize=9)
        axis.set(xlabel="image size (px)", ylabel=ylabel)
        log_counts(axis, known["size"])
    axes[0].plot(known["size"], known["photograph"], "o--", color=color("other"))
    axes[0].set(yscale="log")
    axes[1].axhline(0.5, linewidth=1, linestyle="--", color=color("other"))


def log_counts(axes, counts: Iterable[float]) -> None:
    """A logarithmic axis with ticks at these counts, but for those too close to the one before."""
    ticks: list[float] = []
    for count in sorted(set(counts)):
        if not ticks or count > 1.25 * ticks[-1]:
            ticks.append(count)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    axes.minorticks_off()


def _ends(results: Iterable[Mapping], scale: float = 100) -> np.ndarray:
    """Mean, low and high (3, n)."""
    return scale * np.array([[result[end] for end in ENDS] for result in results], float).T


def _offset(k: int, count: int) -> float:
    return 0.6 * ((k + 0.5) / count - 0.5)


def _rows(axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _end_label(axes, x: float, y: float, name: str, colour: str) -> None:
    axes.annotate(
        name,
        (x, y),
        xytext=(7, 0),
        textcoords="offset points",
        va="center",
        color=colour,
        fontsize=9.5,
        annotation_clip=False,
    )
