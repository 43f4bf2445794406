"""Sentences that the data choose, so that no finding can contradict the figure above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.measure.reference import share
from lib.report.figures import value

Result = Mapping[str, float]  # mean, low, high, n
KINDS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WebP", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}


def percent(result: Result) -> str:
    """`81.3 % ± 0.4 (n = 3)`."""
    return value(result, scale=100, unit=" %")


def points(result: Result) -> str:
    """A difference in percentage points."""
    return value(result, scale=100, unit=" points")


def listed(names: Sequence[str]) -> str:
    """`sd, cd and di`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def alike(name: str, results: Mapping[str, Result]) -> str:
    """`, not told apart from cube and cone`: whose intervals meet that of the lowest; empty where none does."""
    near = [other for other in results if other != name and results[other]["low"] <= results[name]["high"]]
    return f", not told apart from {listed(near) if len(near) < 4 else f'{len(near)} others'}" * bool(near)


def balance(counts: np.ndarray, classes: Sequence[str]) -> str:
    """Whether classes (n,) are equally frequent, and if not which are rarest and most frequent."""
    low, high = int(counts.min()), int(counts.max())
    if high - low <= 1:
        return f"Balanced: {low if low == high else f'{low} or {high}'} training images in each of {len(counts)} classes."
    return (f"Not balanced: {classes[int(counts.argmax())]} has {high:,} training images, "
            f"{classes[int(counts.argmin())]} {low:,}.")


def apart(shared: int, twins: int, near: float, usual: float) -> str:
    """Whether training and test images are apart; `near`, `usual`: nearest distances test to train, train to train."""
    if shared:
        return f"Training and test overlap: {shared} images stand in both, so every accuracy below is too high."
    copies = f"{twins} training images are exact copies of another" if twins else "no training image comes twice"
    verb = "as far from" if near >= 0.8 * usual else "nearer to"
    return (f"No test image is a training image, {copies}, and test images lie {verb} training images "
            f"{'as' if near >= 0.8 * usual else 'than'} training images lie from each other "
            f"(median nearest distance {near:.1f} against {usual:.1f} grey levels).")


def encoded(train: Sequence[str], test: Sequence[str]) -> str:
    """Which files images were read from, by the ends of their names: an accuracy is worth little where the two differ."""
    kinds = [listed(sorted({KINDS.get(Path(name).suffix.lower(), "") for name in names} - {""})) for names in (train, test)]
    if kinds[0] != kinds[1]:
        return (f"Training images were read from {kinds[0] or 'arrays'}, test images from {kinds[1] or 'arrays'}: accuracies "
                "below are too low for that reason alone. Bring both into one encoding.")
    lossy = (" What the encoding takes away is missing in both alike; images drawn in this study are kept without loss."
             if "JPEG" in kinds[0] else "")
    return f"Training and test images have the same encoding: {kinds[0] or 'none, they are kept without loss'}.{lossy}"


def left_out(names: Sequence[str]) -> str:
    """How many files of a download could not be read."""
    return f"{len(names)} unreadable files were left out: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}." if names else \
        "No file was left out."


def flawed(found: Mapping, half: str) -> str:
    """Copies within the half of a published set and between its parts."""
    return (f"As published, half {half} has {found['pairs']:,} pairs of equal images among its {found['train']:,} training "
            f"images, and {found['leaks']:,} of its {found['test']:,} test images equal a training image.")


def drops(accuracy: Mapping[str, Result], base: str) -> str:
    """How accuracy on the other sets stands to that on `base`."""
    others = {name: result for name, result in accuracy.items() if name != base}
    if not others:
        return "This source offers no shift set."
    worst = min(others, key=lambda name: others[name]["mean"])
    gap = 100 * (accuracy[base]["mean"] - others[worst]["mean"])
    apart = others[worst]["high"] < accuracy[base]["low"]
    if apart:
        return (f"The hardest shift is {worst}: {percent(others[worst])}, {gap:.1f} points below the {base} set"
                f"{alike(worst, others)}.")
    return f"No shift set is clearly harder than the {base} set; the lowest is {worst}, {percent(others[worst])}."


def confusable(confusion: np.ndarray, classes: Sequence[str]) -> str:
    """The classes most often mixed up, from shares of each true class (rows)."""
    wrong = confusion - np.diag(np.diag(confusion))
    row, column = np.unravel_index(wrong.argmax(), wrong.shape)
    if wrong[row, column] == 0:
        return "No test image was given to a wrong class."
    return f"The commonest mistake: {100 * wrong[row, column]:.0f} % of {classes[row]} images are called {classes[column]}."


def hardest(per_class: Mapping[str, Mapping[str, Result]], arm: str) -> str:
    """The class that is missed most often and the one that is missed least, for one arm."""
    shares = per_class[arm]
    low, high = (pick(shares, key=lambda name: shares[name]["mean"]) for pick in (min, max))
    return (f"Hardest for {arm}: {low}, {percent(shares[low])} recognised{alike(low, shares)}; easiest: {high}, "
            f"{percent(shares[high])}.")


def memory(near: np.ndarray, usual: np.ndarray, copies: int) -> str:
    """Whether synthetic images come too near to training images: distances (n,) of theirs and of real test images."""
    edge, middle = np.quantile(usual, [0.01, 0.5])
    ours, theirs = ([share(values < end) for end in (edge, middle)] for values in (near, usual))
    twins = f"{copies} synthetic images equal another" if copies else "no synthetic image comes twice"
    return (f"{percent(ours[0])} of the synthetic images lie nearer to a training image than 99 % of the real test images do "
            f"({edge:.1f} grey levels; 1 % would be chance), {percent(ours[1])} nearer than half of them: "
            f"{handed(*ours, *theirs)}; {twins}.")


def handed(tail: Result, half: Result, usual: Result, middle: Result) -> str:
    """Whether training images were handed back: shares nearer to one than all but 1 %, and than half, of real images, and
    the same of real images themselves."""
    if tail["low"] > max(0.01, usual["high"]):
        return "more than chance, look at the closest pairs before believing the arms"
    if half["low"] > max(0.5, middle["high"]):
        return ("no image stands out, but the set as a whole lies nearer to training images than unseen real ones do, as "
                "smoother images would, or copies in part")
    return "no sign that training images were handed back"


def judged(verdicts: Mapping[str, Mapping[str, Result]], base: str = "real test") -> str:
    """What a real-trained classifier recognises of each set, and each set's hardest class beside the same of real images."""
    parts = []
    for name, rows in verdicts.items():
        worst = min((label for label in rows if label != "all"), key=lambda label: rows[label]["mean"])
        hardest = (f", least of {worst} ({100 * rows[worst]['mean']:.0f} %, of real ones "
                   f"{100 * verdicts[base][worst]['mean']:.0f} %)") if name != base else ""
        parts.append(f"{100 * rows['all']['mean']:.1f} % of {name}{hardest}")
    return f"A classifier trained on real images recognises {'; '.join(parts)}."


def swept(points: pd.DataFrame, recipe: str, guidance: float) -> str:
    """What the sweep found: rows of `verdict.sweep`, held against the recipe and guidance in use."""
    along = points[points["recipe"] == recipe].sort_values("guidance")
    said = points[points["guidance"] == guidance]
    own, others = said[said["recipe"] == recipe].iloc[0], said[said["recipe"] != recipe]
    told = (f"the same noise, n = {own['recognised']['n']} images each, exact paired tests corrected for {len(points) - 1} "
            "comparisons")
    shares = listed([f"{_recognised(row)} at {row['guidance']:g}" for _, row in along.iterrows()])
    found = (f"By guidance the judge recognises {shares} ({_other(along, len(points))} told apart from {guidance:g}, which is in "
             f"use); the variety within a class goes from {along.iloc[0]['variety']['mean']:.1f} to "
             f"{along.iloc[-1]['variety']['mean']:.1f} grey levels.")
    if others.empty:
        return f"{found} ({told}.)"
    best, worst = (said[[one["mean"] == end(each["mean"] for each in said["recognised"]) for one in said["recognised"]]]
                   for end in (max, min))
    return (f"{found} By wording at guidance {guidance:g} it recognises most with {quoted(best['recipe'])} "
            f"({_recognised(best.iloc[0])}), least with {quoted(worst['recipe'])} ({_recognised(worst.iloc[0])}), and "
            f"{_recognised(own)} with “{recipe}”, which is in use ({_other(others, len(points))} told apart from it; {told}). "
            f"Other words move an image by {others['moved'].min():.0f} to {others['moved'].max():.0f} grey levels on average; "
            f"two images of a class in use lie {own['variety']['mean']:.0f} apart.")


def quoted(names: Sequence[str]) -> str:
    """`“a” and “b”`."""
    return listed([f"“{name}”" for name in names])


def _recognised(row: Mapping) -> str:
    return f"{100 * row['recognised']['mean']:.1f} %"


def _other(points: pd.DataFrame, tried: int) -> str:
    """How many of some points are told apart from what is in use, corrected for all that were tried (Bonferroni)."""
    return str(int((points["p"] < 0.05 / max(1, tried - 1)).sum()) or "none")


def unswept(generation) -> str:
    """Why there is no sweep over wording and guidance: section `generation` of the settings."""
    why = ("generation.sweep_num_images is 0" if generation.sweep_num_images == 0 and "sd" in generation.sets
           and generation.model != "published" else
           "images that somebody else made cannot be asked for in other words" if generation.model == "published" else
           "no model here is asked in words")
    return f"Wording and guidance: not run: {why}."


def cost(costs: pd.DataFrame) -> str:
    """How fast each set was sampled and what had to be drawn again: frame with set, images, rate, again, training."""
    parts = [f"{row['images']:,} images of {row['set']} " + ("that somebody else made" if isinstance(row["rate"], str) else
             f"at {row['rate']:.1f} a second") + (f" after {row['training']:.0f} s of training" if row["training"] else "")
             for _, row in costs.iterrows()]
    again = int(costs["again"].sum())
    return f"{'; '.join(parts)}. {again or 'None'} had to be drawn again."


def minused(result: Result) -> dict[str, float]:
    """The same result with the other sign."""
    return {"mean": -result["mean"], "low": -result["high"], "high": -result["low"], "n": result["n"]}


def hundredfold(result: Result | str) -> str:
    """A share as per cent; what is no result stays as it is."""
    return result if isinstance(result, str) else value(result, scale=100)


def headline(table: Mapping[str, Mapping[str, Result]], gaps: Mapping[str, Mapping], base: str, tested: int) -> str:
    """How well the base does, and how far each other arm is from it: the sentence of the study."""
    first = f"Trained on {base}, {percent(table[base]['test'])} of {tested:,} unseen real images are recognised."
    said = [f"{arm} {100 * table[arm]['test']['mean']:.1f} % ({points(gap)}, {gap['verdict'].split(':')[0]})"
            for arm, gap in gaps.items()]
    return f"{first} Instead of it: {'; '.join(said)}." if said else first


def widest(per_class: Mapping[str, Mapping[str, Result]], base: str) -> str:
    """The class in which an arm falls furthest behind the base."""
    behind = {(arm, name): per_class[base][name]["mean"] - result["mean"]
              for arm, shares in per_class.items() if arm != base for name, result in shares.items()}
    if not behind:
        return hardest(per_class, base)
    arm, name = max(behind, key=behind.get)
    return (f"The widest gap: {name} under {arm}, {100 * per_class[arm][name]['mean']:.0f} % against "
            f"{100 * per_class[base][name]['mean']:.0f} % under {base}.")


def calibration(errors: Mapping[str, Mapping[str, Result]], base: str) -> str:
    """Which arm's confidence is furthest from what it gets right."""
    worst = max(errors, key=lambda arm: errors[arm]["test"]["mean"])
    rest = f"; {base}: {percent(errors[base]['test'])}" if worst != base else ""
    return f"Confidence is furthest from the truth for {worst}: {percent(errors[worst]['test'])} on average{rest}."
