"""Chapter 07's plots and sentences: sets against real images, features, layers, damages, and what the gap is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lib.report.figures import color, marks, palette, value
from lib.report.tables import minus
from lib.report.words import handed, listed

Result = Mapping[str, float]  # mean, low, high, n
SHORT = {"sparsity": "sparsity", "intra-class distance": "distance\nwithin class", "redundancy": "redundancy",
         "coding length": "coding\nlength", "corruptions": "kept under\ncorruption", "shifts": "kept under\nshift",
         "attacks": "kept under\nattack"}  # on the spider plot, which is small
SHARES = ("precision", "density", "recall", "coverage")  # fidelity first, diversity after
ARROWS = {"higher": "↑", "lower": "↓"}  # more or less is better


def cell(result: Result | str) -> str:
    """A result with its own number of digits and without n, which is the same in the whole table."""
    if isinstance(result, str):
        return result
    digits = result["digits"]
    if "low" not in result:
        return minus(f"{result['mean']:.{digits}f}")
    down, up = result["mean"] - result["low"], result["high"] - result["mean"]
    tail = f"± {(up + down) / 2:.{digits}f}" if abs(up - down) <= 0.1 * (up + down) else (
        f"[{result['low']:.{digits}f}, {result['high']:.{digits}f}]")
    return minus(f"{result['mean']:.{digits}f} {tail}")


def fidelity(found: Mapping[str, dict | str], base: str, network: str) -> str:
    """How far each set is from real images, on one network's features, beside what other real images give."""
    sets = {name: one["FD"] for name, one in found.items() if isinstance(one, dict) and name != base}
    if not sets or not isinstance(found[base], dict):
        why = "; ".join(f"{name}: {one}" for name, one in found.items() if isinstance(one, str))
        return f"No synthetic set could be compared with real images. {why}".rstrip()
    own, far = found[base]["FD"], max(sets, key=lambda name: sets[name]["mean"])
    beyond = [name for name, one in sets.items() if one["low"] > own["high"]]
    said = "; ".join(f"{name} {one['mean']:.2f} [{one['low']:.2f}, {one['high']:.2f}]" for name, one in sets.items())
    verdict = (f"{listed(beyond)} lie{'s' * (len(beyond) == 1)} farther from real test images than other real images do, "
               f"{far} farthest" if beyond else "no set lies farther from real test images than other real images do")
    return f"FD-{network} of {base} {own['mean']:.2f}; {said} ({own['n']:,} images a side): {verdict}."


def terms(found: Mapping[str, dict | str], base: str) -> str:
    """Whether each set lacks fidelity (precision) or diversity (coverage) more, in points below what real images reach."""
    if not isinstance(found[base], dict):
        return "Neither fidelity nor diversity could be measured."
    parts = []
    for name, one in found.items():
        if name == base or isinstance(one, str):
            continue
        lacks = {what: 100 * (found[base][what]["mean"] - one[what]["mean"]) for what in ("precision", "coverage")}
        sure = {what: one[what]["high"] < found[base][what]["low"] for what in lacks}
        told = {(True, True): "lacks both fidelity and diversity", (True, False): "lacks fidelity, not diversity",
                (False, True): "lacks diversity, not fidelity", (False, False): "lacks neither measurably"}
        parts.append(f"{name} {told[sure['precision'], sure['coverage']]} (precision {-lacks['precision']:+.0f}, coverage "
                     f"{-lacks['coverage']:+.0f} points against {base})")
    return minus(f"{'; '.join(parts)}.") if parts else "No synthetic set is large enough to be measured."


def memory(found: Mapping[str, dict | str], base: str) -> str:
    """Whether training images were handed back: copies, and how many lie nearer to one than other real images do."""
    parts, found = [], found if isinstance(found[base], dict) else {}
    for name, one in found.items():
        if name == base or isinstance(one, str):
            continue
        (near, half), (usual, middle) = ([each["closer"][q] for q in ("0.01", "0.5")] for each in (one, found[base]))
        told = "training images stand in it" if one["copies"] else handed(near, half, usual, middle)
        parts.append(f"{name}: {100 * near['mean']:.1f} % lie nearer to a training image than all but 1 % of real test images "
                     f"do, {100 * half['mean']:.1f} % than half of them ({base} {100 * middle['mean']:.1f} %), {one['copies']} "
                     f"exact copies, {one['duplicates']} repeated: {told}")
    return f"{'. '.join(parts)}." if parts else "No synthetic set is large enough to look for copies in it."


def copies(found: Mapping[str, dict | str]) -> pd.DataFrame:
    """A row a set: copies, repeated images, share authentic, shares nearer to training than quantiles of test images."""
    rows = []
    for name, one in found.items():
        known = {"set": name, "copies": one, "duplicates": one, "authentic": one, "closer": one, "median": one}
        if isinstance(one, dict):
            known = {"set": name, "copies": one["copies"], "duplicates": one["duplicates"], "authentic": one["authentic"],
                     "closer": one["closer"]["0.01"], "median": one["closer"]["0.5"]}
        rows.append(known)
    return pd.DataFrame(rows)


def features(means: Mapping[str, Mapping[str, Result]], apart: Mapping[str, Mapping[str, Result]], base: str,
             ways: Mapping[str, str]) -> str:
    """Which measures of the features differ from the base arm's beyond chance, and which way."""
    moved = {arm: [f"{name} {means[arm][name]['mean']:.2f} against {means[base][name]['mean']:.2f}" for name, one in rows.items()
                   if name in ways and _sure(one)] for arm, rows in apart.items()}
    if not any(moved.values()):
        return f"In none of these measures do features of another arm differ from those of {base} beyond chance."
    said = "; ".join(f"{arm}: {', '.join(parts)}" for arm, parts in moved.items() if parts)
    return f"Features that differ from those of {base} beyond chance. {said}."


def transfers(means: Mapping[str, Mapping[str, Result]], apart: Mapping[str, Mapping[str, Result]], base: str) -> str:
    """Whether features learnt from other sets serve another source as well."""
    names = [name for name in means[base] if name.startswith("transfer")]
    if not names:
        return "No other source is at hand to transfer to."
    parts = []
    for name in names:
        told = [f"{arm} {100 * rows[name]['mean']:+.1f}" for arm, rows in apart.items() if _sure(rows[name])]
        verdict = f"different beyond chance: {', '.join(told)} points" if told else "no arm differs from it beyond chance"
        own = 100 * means[base][name]["mean"]
        parts.append(f"In {name} a linear probe on the features of {base} reaches {own:.1f} %; {verdict}.")
    return minus(" ".join(parts))


def layered(table: Mapping[str, Mapping[str, Result]], apart: Mapping[str, Mapping[str, Result]], base: str) -> str:
    """After which layer an arm's features first serve real images less than the base's."""
    parts = []
    for arm, rows in apart.items():
        worse = [name for name, one in rows.items() if one["high"] < 0 and name != "own head"]
        parts.append(f"{arm} falls behind from {worse[0]} on ({_points(rows[worse[0]])})" if worse
                     else f"{arm} nowhere falls behind beyond chance")
    last = list(table[base])[-2]
    first = f"A linear probe on {last} of {base} recognises {100 * table[base][last]['mean']:.1f} % of real images"
    return minus(f"{first}; {'; '.join(parts)}.") if parts else f"{first}."


def alike(table: Mapping[str, Mapping[str, Result]], base: str) -> str:
    """How much the last layer's features agree with the base's, beside two classifiers of the base itself."""
    last, others = list(table[base])[-1], {arm: rows for arm, rows in table.items() if arm != base}
    own = table[base][last]
    if not others:
        return f"Two classifiers of {base} have a likeness (CKA) of {own['mean']:.2f} after {last}."
    least = min(others, key=lambda arm: others[arm][last]["mean"])
    rest = table[least][last]
    told = "less than" if rest["high"] < own["low"] else "not measurably less than"
    return minus(f"After {last}, {least} is least like {base} (CKA {rest['mean']:.2f}), {told} two classifiers of {base} are "
                 f"like each other ({own['mean']:.2f}).")


def robust(kept: Mapping[str, Mapping[str, Result]], apart: Mapping[str, Mapping[str, Result]], base: str) -> str:
    """How much of its clean accuracy the base keeps under each group of damages, and which arms keep more or less."""
    if base not in kept:
        return f"{base} recognises no clean image, so there is nothing that damage could take."
    parts = []
    for name, own in kept[base].items():
        told = ", ".join(f"{arm} {100 * kept[arm][name]['mean']:.0f} %" for arm, rows in apart.items() if _sure(rows[name]))
        rest = f"; different beyond chance: {told}" if told else "; no arm differs beyond chance"
        parts.append(f"Under {name} {base} keeps {100 * own['mean']:.0f} % of its clean accuracy{rest * bool(apart)}.")
    return " ".join(parts)


def spiders(spokes: pd.DataFrame, base: str) -> str:
    """On how many axes each arm is better or worse than the base, the interval of the arm leaving out the base's mean."""
    parts = []
    for arm, rows in spokes[spokes["arm"] != base].groupby("arm", sort=False):
        better, worse = (rows["spoke_low"] > 1).sum(), (rows["spoke_high"] < 1).sum()
        parts.append(f"{arm} is better on {better} and worse on {worse} of {len(rows)} axes")
    return f"Against {base}: {'; '.join(parts)}." if parts else f"Only {base} was trained."


def gap(found: Mapping[str, Mapping[str, Result]], base: str, probe: int) -> str:
    """Whether an arm's gap lies in its features or in its head, as far as the seeds can tell."""
    parts = []
    for arm, one in found.items():
        if one["gap"]["high"] >= 0:
            parts.append(f"{arm} is not measurably behind {base}.")
            continue
        lost, left = -100 * one["gap"]["mean"], -100 * one["features"]["mean"]
        parts.append(f"{arm} is {lost:.1f} points behind {base} with its own head, and {left:.1f} when both get a new linear "
                     f"head from {probe} real images: {lies(one)}.")
    return minus(" ".join(parts)) if parts else "There is no other arm to compare with."


def lies(one: Mapping[str, Result]) -> str:
    """Which parts of a gap are measurably behind."""
    where = [name for name in ("features", "head") if one[name]["high"] < 0]
    return f"the gap lies in the {' and in the '.join(where)}" if where else "the seeds do not tell where it lies"


def made_of(split: Mapping[str, Mapping[str, Result]], found: Mapping[str, dict | str],
            kept: Mapping[str, Mapping[str, Result]]) -> pd.DataFrame:
    """A row an arm: its gap, features' and head's part in it, its set's precision and coverage, what it keeps under damage."""
    rows = []
    for arm, one in split.items():
        measured = found.get(arm, "–")
        own = {what: measured if isinstance(measured, str) else measured[what] for what in ("precision", "coverage")}
        left = kept.get(arm, {}).get("corruptions", "not run: recognises no clean image")
        rows.append({"arm": arm, **one, **own, "corruptions": left})
    return pd.DataFrame(rows)


def rows(table: Mapping[str, Mapping[str, Result]]) -> pd.DataFrame:
    """A row an arm, a column a measure."""
    return pd.DataFrame([{"arm": arm, **found} for arm, found in table.items()])


def long(tables: Mapping[str, Mapping]) -> pd.DataFrame:
    """Nested tables of results as one row a number, for the file beside a figure."""
    found = []

    def walk(tree: Mapping, names: list[str]) -> None:
        if "mean" in tree:
            found.append({"what": names[0], "arm": names[1], "at": " ".join(names[2:]),
                          **{end: tree[end] for end in ("mean", "low", "high", "n")}})
            return
        for name, branch in tree.items():
            walk(branch, [*names, name])
    walk(tables, [])
    return pd.DataFrame(found)


def spread(points: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Where each cloud of a map lies and how wide it is."""
    return pd.DataFrame([{"set": name, "x": at[:, 0].mean(), "y": at[:, 1].mean(), "spread x": at[:, 0].std(),
                          "spread y": at[:, 1].std(), "images": len(at)} for name, at in points.items()])


def layers(axes, probed: Mapping[str, Mapping[str, Result]], alike: Mapping[str, Mapping[str, Result]], classes: int,
           base: str) -> None:
    """Left: accuracy of probes after each layer and of the own head. Right: CKA with the base arm."""
    for axis, table, scale in zip(axes, (probed, alike), (100, 1), strict=True):
        for k, (arm, rows) in enumerate(table.items()):
            _line(axis, rows, arm, list(table), scale, 0.06 * (k - (len(table) - 1) / 2))
    axes[0].axhline(100 / classes, linewidth=1, linestyle="--", color=color("other"))
    axes[0].set(ylabel="recognised (%)", ylim=(0, 101), title="probes on real images")
    axes[1].set(ylabel="CKA", ylim=(0, 1.02), title=f"likeness to {base}")
    axes[0].legend(loc="upper left")


def panels(table: Mapping[str, Mapping[str, Mapping[str, Result]]]) -> dict[str, dict[str, dict[str, Result]]]:
    """`panels[kind][arm]`: results by severity, and those of all shift sets together, by their names."""
    found: dict[str, dict[str, dict[str, Result]]] = {}
    for arm, kinds in table.items():
        for kind, rows in kinds.items():
            if kind.startswith("shift-"):
                rows = {kind.removeprefix("shift-"): one for one in rows.values()}
            found.setdefault("shift" if kind.startswith("shift-") else kind, {}).setdefault(arm, {}).update(rows)
    return found


def damages(axes: Sequence, drawn: Mapping[str, Mapping[str, Mapping[str, Result]]]) -> None:
    """One panel a kind of damage: accuracy over severity, one line an arm; panels that are left over stay empty."""
    labels = {"shift": "shift set", "fgsm": "ε (grey levels)", "pgd": "ε (grey levels)"}
    for axis, (kind, arms) in zip(axes, drawn.items(), strict=False):
        for k, (arm, rows) in enumerate(arms.items()):
            _line(axis, rows, arm, list(arms), 100, 0.05 * (k - (len(arms) - 1) / 2), "" if kind == "shift" else "-")
        axis.set(title=kind.upper() if kind in ("fgsm", "pgd") else kind, ylim=(0, 101), xlim=(-0.4, len(rows) - 0.6),
                 xlabel=labels.get(kind, "severity"))
    for axis in axes[len(drawn):]:
        axis.set_axis_off()
    axes[0].figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(arms))


def spider(axes, spokes: pd.DataFrame, base: str) -> None:
    """One polygon an arm on polar axes: outward is better, the base arm is the circle at 1."""
    names, arms = (list(dict.fromkeys(spokes[what])) for what in ("axis", "arm"))
    angles = 2 * np.pi * np.arange(len(names)) / len(names)
    for arm, rows in spokes.groupby("arm", sort=False):
        lengths = rows.set_index("axis")["spoke"].loc[names].to_numpy()
        axes.plot([*angles, angles[0]], [*lengths, lengths[0]], marker=marks(arms)[arm], markersize=4, label=arm,
                  color=palette(arms)[arm])
    better = spokes.drop_duplicates("axis").set_index("axis")["better"]
    said = [SHORT.get(name, name.replace(" to ", "\nto ")) for name in names]
    axes.set_xticks(angles, [f"{text} {ARROWS[better[name]]}" for text, name in zip(said, names, strict=True)])
    axes.set(theta_offset=np.pi / 2, theta_direction=-1, ylim=(max(0, spokes["spoke"].min() - 0.3), spokes["spoke"].max() + 0.05))
    axes.set_yticks([1], [""])
    axes.spines["polar"].set_visible(False)
    axes.tick_params(axis="x", pad=1)
    for label, angle in zip(axes.get_xticklabels(), angles, strict=True):
        label.set_horizontalalignment("center" if abs(np.sin(angle)) < 0.1 else "left" if np.sin(angle) > 0 else "right")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, title=f"outward is better; the ring is {base}\n"
                f"{ARROWS['higher']} more is better, {ARROWS['lower']} less is better")


def planes(axes: Sequence, points: Mapping[str, np.ndarray], labels: np.ndarray, classes: Sequence[str]) -> None:
    """One panel a set on the same plane, real test images grey behind it; the first are these, with the classes' names."""
    real, colours = next(iter(points.values())), palette(list(points))
    for axis, (name, at) in zip(axes, points.items(), strict=True):
        axis.scatter(*real.T, s=6, color=color("other"), alpha=0.45, linewidths=0)
        if at is not real:
            axis.scatter(*at.T, s=6, color=colours[name], linewidths=0)
        axis.set(title=name, xticks=[], yticks=[])
    middles = np.array([real[labels == k].mean(0) for k in range(len(classes))])
    for k in clear(middles, np.ptp(real, axis=0) * (0.3, 0.07)):
        axes[0].annotate(classes[k], middles[k], ha="center", va="center", fontsize=10, fontweight="bold")


def clear(middles: np.ndarray, room: np.ndarray) -> list[int]:
    """Positions (k,) of labels at middles (n, 2), the outermost first, that have this room (2,) to one another."""
    chosen: list[int] = []
    for k in np.argsort(-np.linalg.norm(middles - middles.mean(0), axis=1)):
        if all((abs(middles[k] - middles[other]) > room).any() for other in chosen):
            chosen.append(int(k))
    return chosen


def _line(axis, rows: Mapping[str, Result], name: str, names: list[str], scale: float, shift: float = 0.0,
          form: str = "-") -> None:
    """Mean and interval at each label, joined; shifted, so that the intervals of several lines do not hide each other."""
    mean, low, high = (np.array([one[end] for one in rows.values()]) * scale for end in ("mean", "low", "high"))
    axis.errorbar(np.arange(len(rows)) + shift, mean, yerr=[mean - low, high - mean], fmt=marks(names)[name] + form, capsize=0,
                  markersize=4, linewidth=1.5, color=palette(names)[name], label=name)
    axis.set_xticks(range(len(rows)), list(rows))


def _sure(difference: Result) -> bool:
    """Whether an interval leaves out 0."""
    return difference["low"] > 0 or difference["high"] < 0


def _points(difference: Result) -> str:
    return value(difference, scale=100, unit=" points")
