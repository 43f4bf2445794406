"""Sentences, tables and plots of training: arms before and after it, budgets, curves, recipes, published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lib.classifier import arms
from lib.classifier import train as fit
from lib.core.store import ArtifactSpec
from lib.diffusion.sets import learnt_from
from lib.measure import accuracy
from lib.report import plots, words
from lib.report.figures import color, marks, palette, value
from lib.report.words import Result

COLUMNS = {"arm": "Trained on", "wording": "Words", "guidance": "Guidance",
           "images": "Images", "steps": "Steps", "accuracy": "Accuracy", "balanced": "Balanced accuracy",
           "auroc": "AUROC", "top5": "Top-5", "rival": "Real in as many steps", "gap": "Difference to {base}", "p": "p",
           "verdict": "Verdict",
           "ece": "Calibration error", "seen": "Recognised by {base}-trained", "change": "Change from equal steps"}
EMPTY = {
    "equal_epoch_arms": "arms at equal epochs", "compare_augmentations": "other recipes of augmentation",
    "real_fractions": "few real images", "synthetic_ratios": "more and fewer synthetic images",
    "real_fractions_with_set": "few real images beside a whole synthetic set", "mix_fractions": "mixtures of one size",
    "train_on_sweep": "other words and other guidance as arms"}


def planned(report: pd.DataFrame) -> str:
    """Whether the arms are what they should be before training: a frame of `classifier.arms.report`."""
    uneven = report[report["smallest class"] < 0.95 * report["largest class"]]["arm"]
    near = report[report["near test"] > 0]
    parts = ["No arm holds a test image.", "Every arm is balanced." if uneven.empty else f"Not balanced: {', '.join(uneven)}."]
    if near.empty:
        return " ".join([*parts, "No training image is nearly equal to one."])
    most = near.loc[near["near test"].idxmax()]
    return " ".join([*parts, f"Nearly equal to a test image are at most {most['near test']:,} of {most['images']:,} images "
                             f"({most['arm']}): its accuracy may be a little too high."])


def rows(tables: Mapping[str, Mapping], gaps: Mapping[str, Mapping], sizes: Mapping[str, int],
         seen: Mapping[str, Result]) -> pd.DataFrame:
    """One row an arm: images, every measure on the test set, paired difference to the base with p and verdict."""
    measured = {arm: {what: found[arm]["test"] for what, found in tables.items()} for arm in tables["accuracy"]}
    return pd.DataFrame([{"arm": arm, "images": arms.size(arm, sizes), **values, **_gap(gaps.get(arm)),
                          "seen": seen.get(arm, "–")} for arm, values in measured.items()])


def columns(frame: pd.DataFrame, base: str) -> dict[str, str]:
    """Headings of the columns that a frame has."""
    return {name: label.format(base=base) for name, label in COLUMNS.items() if name in frame}


def formats(frame: pd.DataFrame) -> dict:
    """Shares as per cent, p as p."""
    return {name: p_value if name == "p" else words.hundredfold for name in frame
            if name not in ("arm", "wording", "guidance", "images", "steps", "verdict")}


def p_value(p: float) -> str:
    """`0.032`, and `< 0.001` below."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def seen(found: Mapping[str, Result], base: str, test: Result) -> str:
    """What classifiers of the base recognise of each synthetic set, as of real test images."""
    if not found:
        return "There is no synthetic set to look at."
    said = [f"{words.percent(result)} of {name}" for name, result in found.items()]
    low = [name for name, result in found.items() if result["high"] < test["low"]]
    why = f": in {words.listed(low)} some images are not of their class, or of a kind that {base} never showed" if low else ""
    return f"Classifiers trained on {base} recognise {words.listed(said)}, {words.percent(test)} of the real test images{why}."


def rivals(every: pd.DataFrame, again: Mapping[str, str], made: Mapping[str, Sequence[ArtifactSpec]]) -> dict[str, dict]:
    """Of each arm at equal epochs (`again`: label to arm) the accuracy of real in as many steps, and the difference to it."""
    found, tested = {}, every[every["set"] == "test"]
    for label, arm in again.items():
        rival = fit.as_long("real", made[label][0].settings["steps"])
        if rival in made:
            pair = tested[tested["arm"].isin([label, rival])]
            found[arm] = {"accuracy": accuracy.table(pair)[rival]["test"], "gap": accuracy.against(pair, rival)[label]}
    return found


def budgets(table: Mapping[str, Mapping], gaps: Mapping[str, Mapping], rivals: Mapping[str, Mapping],
            changes: Mapping[str, Mapping], sizes: Mapping[str, int], steps: int) -> pd.DataFrame:
    """One row an arm at equal epochs: its images and steps, accuracy, that of the base in as many steps (`rivals`) and the
    difference to it, and the difference to itself at equal steps."""
    base = sizes.get("real", max(sizes.values()))
    found = []
    for arm, results in table.items():
        count = arms.size(arm, sizes)
        found.append({"arm": arm, "images": count, "steps": int(np.ceil(steps * count / base)), "accuracy": results["test"],
                      "rival": rivals.get(arm, "–"), **_gap(gaps.get(arm)), "change": changes.get(fit.variant(arm), "–")})
    return pd.DataFrame(found)


def longer(frame: pd.DataFrame, left: Sequence[str]) -> str:
    """More data or more steps: a frame of `budgets`; `left` are arms of another size that were not trained again."""
    said, base = [], frame["steps"].iloc[0]
    for row in frame[frame["change"] != "–"].to_dict("records"):
        change = row["change"]
        moved = "the steps matter" if change["low"] > 0 or change["high"] < 0 else "no difference that could be told"
        rival = (f"real in as many steps reaches {words.percent(row['rival'])}, and {row['arm']} is {row['verdict']}"
                 if row["rival"] != "–" else f"it is then {row['verdict']}, which was not trained in as many steps")
        said.append(f"With as many passes over its images as real gets ({row['steps']:,} steps, real has {base:,}), {row['arm']} "
                    f"changes by {words.points(change)}: {moved}; {rival}.")
    if left:
        said.append(f"Of another size and not run at equal epochs: {', '.join(left)} (training.equal_epoch_arms).")
    return " ".join(said) or "Every arm has as many images as real, so equal steps are equal epochs."


def other_recipes(changes: Mapping[str, Mapping]) -> str:
    """What another augmentation does to each arm."""
    best = max(changes, key=lambda name: changes[name]["mean"])
    helped = [name for name, change in changes.items() if change["low"] > 0]
    return (f"{len(helped)} of {len(changes)} are better than the same arm under the usual recipe beyond chance; the largest "
            f"change: {best}, {words.points(changes[best])}.")


def wordings(sweep: Sequence[Mapping]) -> dict[str, Mapping]:
    """The points of chapter 03's sweep as sets that arms can name: sd-1, as `sd` itself is prompted, sd-2 …"""
    return {f"sd-{k}": point for k, point in enumerate(sweep, 1)}


def taught(swept: Mapping[str, Mapping], table: Mapping[str, Mapping], gaps: Mapping[str, Mapping]) -> pd.DataFrame:
    """One row a point of the sweep that was trained: words, guidance, accuracy, paired difference to the first."""
    return pd.DataFrame([{"arm": name, "wording": swept[name]["recipe"], "guidance": swept[name]["guidance"],
                          "accuracy": results["test"], **_gap(gaps.get(name))} for name, results in table.items()])


def best_wording(frame: pd.DataFrame) -> str:
    """Which words and guidance teach most and least: a frame of `taught`."""
    best, worst = (frame.loc[pick([one["mean"] for one in frame["accuracy"]])] for pick in (np.argmax, np.argmin))
    better = sum(gap["low"] > 0 for gap in frame["gap"] if gap != "–")
    called = [f"“{row['wording']}” at guidance {row['guidance']:g} ({words.percent(row['accuracy'])})" for row in (best, worst)]
    return (f"{called[0]} teaches most, {called[1]} least; {better or 'none'} of {len(frame) - 1} others beat the first row "
            "beyond chance.")


def empty(settings, names: Sequence[str]) -> str:
    """Which parts of the chapter this profile leaves out, and the key that asks for each; empty where it has them all."""
    left = [f"{EMPTY[name]} (training.{name})" for name in names if not getattr(settings, name)]
    return f"Not run in this profile, since the setting is empty: {'; '.join(left)}." if left else ""


def traded(found: pd.DataFrame, sets: Mapping[str, ArtifactSpec]) -> str:
    """What one real image is worth: a frame of `curves.trades`; and how many of them the traded sets' own generators saw."""
    if found.empty:
        return "No exchange rate: training.scaling_sets names no set."
    missing, there = found[found["real"].isna()], found[found["real"].notna()]
    said = [f"{'. '.join(map(_traded, part.to_dict('records')))}." for _, part in there.groupby("set", sort=False)]
    learnt = {name: learnt_from(sets[name]) for name in there["set"].unique()}
    said += [f"The generator of {name} had itself learnt from {count:,} real images." for name, count in learnt.items() if count]
    return " ".join(said + [f"{name}: {why}." for name, why in zip(missing["set"], missing["said"], strict=True)])


def mixed(points: pd.DataFrame, order: Sequence[str]) -> str:
    """Which of several mixtures of one size teaches most: a frame of `curves.tidy`."""
    means = points.groupby("arm")["accuracy"].mean().reindex(order)
    return (f"Of {len(order)} mixtures of one size {means.idxmax()} teaches most ({100 * means.max():.1f} % on average), "
            f"{means.idxmin()} least ({100 * means.min():.1f} %).")


def beside(published: pd.DataFrame, ours: Mapping[str, Mapping], gaps: Mapping[str, Mapping]) -> pd.DataFrame:
    """Published rows of arms that this study has, our own gap beside theirs."""
    there = published[published["arm"].isin(ours)]
    return there.assign(gap=[gaps.get(arm, "–") for arm in there["arm"]])


def compared(rows: pd.DataFrame, dataset: str, on: str) -> str:
    """How our figures stand to the published ones."""
    if rows.empty:
        return "There is no published figure of any arm of this study."
    if on != dataset:
        return (f"The published figures are of {on}, ours of {dataset}: {len(rows)} rows stand beside ours and no difference is "
                "drawn; what can be compared is how far each source's arm is from its own real row.")
    counts = rows["verdict"].value_counts()
    return f"Of {len(rows)} published figures: {'; '.join(f'{n} {said}' for said, n in counts.items())}."


# --- plots ----------------------------------------------------------------------------------------------------------

def dots(axes, found: pd.DataFrame, table: Mapping[str, Mapping]) -> None:
    """Every seed as a small ring on its arm's interval, its mean as a dot, test sets down the axis."""
    labels, colours = list(next(iter(table.values()))), palette(list(table))
    for k, arm in enumerate(table):
        own = found[found["arm"] == arm]
        height = own["set"].map(labels.index) + 0.6 * ((k + 0.5) / len(table) - 0.5)  # as plots.dots sets its means
        rings = {"facecolors": color("paper"), "edgecolors": colours[arm], "linewidths": 1.2}
        axes.scatter(100 * own["accuracy"], height, s=16, zorder=3, **rings)
    plots.dots(axes, table)
    axes.set(xlabel="accuracy (%)", xlim=(0, 102))


def lines(axes, points: pd.DataFrame, drawn: Mapping[str, Sequence[str]]) -> None:
    """Accuracy over the number of images: every seed as a dot, means as lines; beside a whole set, over its real images."""
    seen = set()
    for label, order in drawn.items():
        beside = label.endswith(" beside real")
        own = points[points["arm"].isin(order)]
        x, shade = own["real" if beside else "images"], color(f"real+{label.split()[0]}" if beside else label)
        axes.scatter(x, 100 * own["accuracy"], s=16, color=shade, alpha=0.5, linewidths=0)
        means = own.assign(x=x).groupby("x")["accuracy"].mean()
        axes.plot(means.index, 100 * means, color=shade, linestyle="--" if beside else "-", label=label,
                  marker=marks(list(drawn))[label])
        seen |= set(means.index)
    axes.set(xlabel="images", ylabel="accuracy (%)")
    _counted(axes, seen)
    axes.legend()


def exchange(axes, rates: pd.DataFrame) -> None:
    """Images that are worth one real image, with interval; open where that leaves the curve, a triangle where more are needed."""
    for name, part in rates.groupby("set", sort=False):
        for row in part[part["needed"].notna()].to_dict("records"):
            worth = row["rate"]["mean"] if row["rate"] else row["needed"] / row["real"]
            ends = [[worth - row["rate"]["low"]], [row["rate"]["high"] - worth]] if row["rate"] else None
            axes.errorbar(row["real"], worth, yerr=ends, fmt="o", color=color(name), fillstyle="full" if ends else "none")
        for row in part[part["above"].notna()].to_dict("records"):
            axes.plot(row["real"], row["above"] / row["real"], "^", color=color(name), fillstyle="none", label="more than this")
    axes.axhline(1, linewidth=1, linestyle="--", color=color("other"))
    axes.set(xlabel="real images", ylabel="images worth one real image")
    axes.set_ylim(bottom=0)
    axes.set_visible(bool(rates["real"].notna().any()))
    _counted(axes, set(rates["real"].dropna()))
    if rates["above"].notna().any():
        axes.legend(*([one[-1]] for one in axes.get_legend_handles_labels()))


def mixture(axes, points: pd.DataFrame, drawn: Mapping[str, Sequence[str]]) -> None:
    """Accuracy over the share of real images in mixtures of one size, every seed as a dot."""
    for label, order in drawn.items():
        own, name = points[points["arm"].isin(order)], label.split()[0]
        share, shade = 100 * own["real"] / own["images"], color(name)
        axes.scatter(share, 100 * own["accuracy"], s=16, color=shade, alpha=0.5, linewidths=0)
        means = own.assign(share=share).groupby("share")["accuracy"].mean()
        axes.plot(means.index, 100 * means, color=shade, label=name, marker=marks([name])[name])
    axes.set(xlabel="real images (%), the rest synthetic", ylabel="accuracy (%)")
    axes.legend()


def _counted(axes, counts: set[int]) -> None:
    """A logarithmic axis of counts whose ticks are these, but for those that would stand in each other's way."""
    ticks = []
    for count in sorted(counts):
        ticks += [count] * (not ticks or count > 1.25 * ticks[-1])
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    axes.minorticks_off()


def _gap(gap: Mapping | None) -> dict:
    """The cells of a paired difference; dashes for the base itself."""
    return {"gap": gap, "p": gap["p"], "verdict": gap["verdict"]} if gap else dict.fromkeys(("gap", "p", "verdict"), "–")


def _traded(row: Mapping) -> str:
    """One size of the real curve and what its images are worth."""
    worth = f"{value(row['rate'])} images of {row['set']} for one real image" if row["rate"] else row["said"]
    return f"What {row['real']:,.0f} real images teach ({100 * row['accuracy']:.1f} %): {worth}"
