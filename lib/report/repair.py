"""Chapter 08's tables, sentences and plots."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lib.remedies import registry
from lib.remedies.alone import FIRST
from lib.remedies.late_layers import layers
from lib.remedies.registry import Remedy, helped, repairs
from lib.report.figures import color, marks, palette
from lib.report.tables import minus
from lib.report.words import minused, percent, points

ALONE = "no synthetic image"
Gains = Mapping[str, Mapping[str, Mapping]]
PANELS = {"class": "Which classes\nare behind", "layer": "After which layer\nfeatures are behind",
          "cue": "What repairing\none cue gives back", "term": "What repairing the set\nof images gives back"}
LABELS = {"pixels": "pixels (first batch norm)", "geometry": "geometry (filter)", "attention": "attention (filter by focus)",
          "fidelity": "fidelity (filter by density)", "diversity": "diversity (all, not a part)",
          "label noise": "label noise (by agreement)", "own head": "own head: the gap"}


def table(remedies: Mapping[str, Remedy], gains: Gains, tested: Mapping[str, Mapping],
          seconds: Mapping[str, float]) -> pd.DataFrame:
    """One row a remedy, the largest gain first."""
    rows = [{"remedy": name, "accuracy": tested[name]["test"], "gain": gains[name]["gain"],
             "verdict": gains[name]["gain"]["verdict"].split(":")[0], "control": gains[name].get("control", "–"),
             "controlled": one.controlled, "real": one.real, "seconds": seconds[name]} for name, one in remedies.items()]
    return pd.DataFrame(sorted(rows, key=lambda row: -row["gain"]["mean"]))


def verdict(remedies: Mapping[str, Remedy], gains: Gains, base: str, gap: Mapping[str, float], few: int) -> str:
    """How many remedies help beyond chance, what the best closes of the gap, and what the best with `few` real images does."""
    tried = repairs(gains, remedies)
    good = sorted((name for name in tried if helped(tried[name])), key=lambda name: -tried[name]["gain"]["mean"])
    if not good:
        return f"None of {len(tried)} remedies has a gain over {base} whose paired interval excludes zero."
    cheap = next((name for name in good if remedies[name].real <= few), good[0])
    also = "" if cheap == good[0] else (f" With at most {few:,} real images the best is: {cheap}, "
                                        f"{points(gains[cheap]['gain'])}, {share(gains[cheap]['gain'], gap)}"
                                        f"{beside(without(remedies, gains, remedies[cheap].real))}.")
    some = f"{len(good)} of {len(tried)} remedies help" if len(good) > 1 else f"One of {len(tried)} remedies helps"
    return (f"{some} beyond chance over {base} (and over its control, where it has one). {_capital(good[0])} gives "
            f"{points(gains[good[0]]['gain'])}, {share(gains[good[0]]['gain'], gap)}"
            f"{beside(without(remedies, gains, remedies[good[0]].real))}.{also}")


def without(remedies: Mapping[str, Remedy], gains: Gains, real: int) -> str:
    """What as many real images give without a synthetic one, where that yardstick was tried."""
    same = registry.without(gains, remedies, real)
    return f"{real:,} real images without a synthetic one, in as many steps: {points(same['gain'])}" if same else ""


def share(gain: Mapping[str, float], gap: Mapping[str, float]) -> str:
    """A gain as a part of the gap."""
    if gap["mean"] <= 0:
        return "with no gap to close"
    return minus(f"{100 * gain['mean'] / gap['mean']:.0f} % of the gap of {100 * gap['mean']:.1f} points")


def curve(remedies: Mapping[str, Remedy], gains: Gains) -> str:
    """What more real images, and more layers, bring."""
    frame = late(remedies, gains)
    if frame.empty:
        return "Late layers are not among this profile's remedies."
    long = max((rows for _, rows in frame.groupby("k")), key=lambda rows: (len(rows), rows["gain"].iloc[-1]["mean"]))
    first, last = long.iloc[0], long.iloc[-1]
    m = frame["m"].mode().iloc[0]
    deep = frame[frame["m"] == m].sort_values("depth")
    ends = [f"{100 * row['gain']['mean']:.1f} ({row['layers']})" for row in (deep.iloc[0], deep.iloc[-1])]
    more = (f"{_capital(first['layers'])} learning again gain {100 * first['gain']['mean']:.1f} points with {first['m']:,} real "
            f"images and {100 * last['gain']['mean']:.1f} with {last['m']:,}.") if len(long) > 1 else ""
    depth = f"With {m:,} real images the gain goes from {ends[0]} to {ends[1]} points."
    return minus(f"{more} {depth}{instead(remedies, gains)}".strip())


def instead(remedies: Mapping[str, Remedy], gains: Gains) -> str:
    """Whether the same real images are better used without the synthetic ones."""
    said = [f"with {one.real:,} {points(gains[name]['control'])} ({gains[name]['control']['verdict'].split(':')[0]})"
            for name, one in remedies.items() if one.yardstick and "control" in gains[name]]
    return f" Real images alone, in as many steps, against {FIRST}, all layers: {'; '.join(said)}." if said else ""


def filters(remedies: Mapping[str, Remedy], gains: Gains) -> str:
    """Which filters beat a random one of the same size, and how they stand to the base itself."""
    found = {name: gains[name]["control"] for name in sieved(remedies)}
    if not found:
        return "Filters are not among this profile's remedies."
    said = [f"{name} is {points(minused(one) if _sign(one) < 0 else one)} {'better' if _sign(one) > 0 else 'worse'} than a "
            f"random filter of the same size ({gains[name]['gain']['verdict'].split(':')[0]} as it is)"
            for name, one in found.items() if _sign(one)]
    return _capital("; ".join(said) + f"; {len(found)} filters were tried, not corrected for their number" if said else
                    f"none of {len(found)} filters can be told from a random one of the same size") + "."


def split(rows: Sequence[Mapping], gap: Mapping[str, float]) -> str:
    """What the gap is made of, from rows of `panel`, `part`, `points`."""
    of = {panel: [row for row in rows if row["panel"] == panel] for panel in PANELS}
    said = [f"The gap is {points(gap)}."]
    if of["class"]:
        worst = of["class"][0]
        said.append(f"Widest in {worst['part']} ({100 * worst['points']['mean']:.0f} points).")
    if len(of["layer"]) > 1:
        last, head = of["layer"][-2:]
        where = "the rest lies in the head" if last["points"]["mean"] < head["points"]["mean"] else "it lies in the features"
        said.append(f"A linear probe of real images after {last['part']} leaves {100 * last['points']['mean']:.1f} of the "
                    f"{100 * head['points']['mean']:.1f} points: {where}.")
    back = [row for row in [*of["cue"], *of["term"]] if row["points"]["low"] > 0]
    if of["cue"] or of["term"]:
        each = [f"{row['part']} {points(row['points'])}" for row in back]
        tried = f"of {len(of['cue']) + len(of['term'])} repairs, not corrected for their number"
        said.append(f"What gives points back beyond chance, {tried}: {'; '.join(each)}." if back else
                    "Repairing one cue or one term of the distribution gives back nothing beyond chance.")
    return minus(" ".join(said))


def chosen(choice, gain: Mapping[str, Mapping], tested: Mapping[str, float], gap: Mapping[str, float], held: int,
           gains: Gains, remedies: Mapping[str, Remedy]) -> str:
    """What the validation images chose and what that is worth on test images; `gain` is empty where the base was chosen."""
    seen = (f"On {held:,} validation images {len(choice.shares)} candidates were compared; chosen: {choice.name} "
            f"({percent(choice.shares[choice.name])})")
    also = " The generator of the synthetic images had learnt from validation images too." if choice.through else ""
    if not gain:
        return f"{seen}, which is the unrepaired arm.{also}"
    return (f"{seen}. It recognises {percent(tested)} of the test images, a gain of {points(gain['gain'])}: "
            f"{share(gain['gain'], gap)}"
            f"{beside(alone(choice.name, gains), without(remedies, gains, choice.remedy.real))}.{also}")


def alone(name: str, gains: Gains) -> str:
    """What the last part of a combination gives without the first, or nothing where there is but one part."""
    last = name.split("; then ")[-1]
    return f"{last} alone: {points(gains[last]['gain'])}" if last != name and last in gains else ""


def sieved(remedies: Mapping[str, Remedy]) -> list[str]:
    """The filters among the remedies."""
    return [name for name in remedies if name.startswith("filter by ")]


def late(remedies: Mapping[str, Remedy], gains: Gains) -> pd.DataFrame:
    """The points of the curves of late layers: m, k, depth (all layers are deepest) and gain."""
    rows = [{"m": one.real, "k": one.k, "depth": one.k or np.inf, "layers": layers(one.k), "gain": gains[name]["gain"]}
            for name, one in remedies.items() if one.k is not None]
    return pd.DataFrame(rows, columns=["m", "k", "depth", "layers", "gain"]).sort_values(["depth", "m"], ignore_index=True)


def yardsticks(remedies: Mapping[str, Remedy], gains: Gains) -> pd.DataFrame:
    """Real images alone: m and gain."""
    rows = [{"m": one.real, "layers": ALONE, "gain": gains[name]["gain"]} for name, one in remedies.items() if one.yardstick]
    return pd.DataFrame(rows, columns=["m", "layers", "gain"]).sort_values("m", ignore_index=True)


def curves(axes, frame: pd.DataFrame, gap: Mapping[str, float], alone: pd.DataFrame) -> None:
    """Left: gain over real images, a line each depth that has several, and real images alone. Right: gain over depth."""
    left, right = axes
    lines = {name: rows for name, rows in frame.groupby("layers", sort=False) if len(rows) > 1}
    shades, forms = palette(list(lines)), marks(list(lines))
    for shift, (name, rows) in enumerate(lines.items()):  # a little apart, so that both intervals are seen
        _line(left, rows["m"] * 1.05**shift, rows["gain"], label=name, color=shades[name], marker=forms[name])
    if len(alone):
        _line(left, alone["m"] / 1.05, alone["gain"], label=ALONE, color=color("ink"), marker="x", linestyle=":")
    m = frame["m"].mode().iloc[0]
    deep = frame[frame["m"] == m]
    _line(right, range(len(deep)), deep["gain"], color=color("ink"))
    right.set_xticks(range(len(deep)), deep["layers"])
    left.set(xscale="log", xlabel="real images", ylabel="gain (points)", title="more real images")
    left.set_xticks(sorted(set(frame["m"])), [f"{count:,}" for count in sorted(set(frame["m"]))])
    left.minorticks_off()
    right.set(xlabel="what learns again", title=f"more layers ({m:,} real images)", xlim=(-0.4, len(deep) - 0.6))
    for axis in axes:
        axis.axhline(100 * gap["mean"], linestyle="--", linewidth=1, color=color("real"))
        axis.axhline(0, linewidth=1, color=color("other"))
    left.annotate("as good as real training", (0, 100 * gap["mean"]), (4, -12), ("axes fraction", "data"), "offset points",
                  color=color("real"), fontsize=9)
    if lines or len(alone):
        left.legend(loc="lower right")


def bars(axis, results: Mapping[str, Mapping[str, float]], shade: str, letters: int = 60) -> None:
    """Points with interval, one bar each, labels down the axis in lines of `letters`; what zero lies within is pale."""
    for y, one in enumerate(results.values()):
        mean, low, high = (100 * one[end] for end in ("mean", "low", "high"))
        axis.barh(y, mean, height=0.6, color=shade, alpha=0.35 if low <= 0 <= high else 1)
        axis.errorbar(mean, y, xerr=[[mean - low], [high - mean]], color=color("ink"), linewidth=1.2)
    axis.axvline(0, linewidth=1, color=color("ink"))
    axis.set_yticks(range(len(results)), [textwrap.fill(name, letters) for name in results])
    axis.set_ylim(len(results) - 0.5, -0.5)


def parts(axes, rows: Sequence[Mapping], gap: Mapping[str, float]) -> None:
    """The gap in four panels, above what is behind, below what gives back; a dashed line is the whole gap."""
    for axis, (panel, title) in zip(np.ravel(axes), PANELS.items(), strict=True):
        of = {LABELS.get(row["part"], row["part"]): row["points"] for row in rows if row["panel"] == panel}
        behind = panel in ("class", "layer")
        bars(axis, of, color("sd") if behind else color("cd"))
        axis.axvline(100 * gap["mean"], linestyle="--", linewidth=1, color=color("real"))
        axis.set(title=title, xlabel="points behind real training" if behind else "points given back; dashed: the whole gap")
        if not of:
            axis.text(0.5, 0.5, "not run", transform=axis.transAxes, ha="center")


def _line(axis, x, gain: Sequence[Mapping[str, float]], **look) -> None:
    mean, low, high = (np.array([100 * one[end] for one in gain]) for end in ("mean", "low", "high"))
    axis.errorbar(list(x), mean, yerr=[mean - low, high - mean], **({"marker": "o"} | look))


def beside(*notes: str) -> str:
    """What is to be known beside a finding, in brackets."""
    said = [note for note in notes if note]
    return f" ({'; '.join(said)})" if said else ""


def _sign(result: Mapping[str, float]) -> int:
    return int(result["low"] > 0) - int(result["high"] < 0)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
