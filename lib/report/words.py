"""Sentences that the data choose, so that no finding can contradict the figure above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lib.report.figures import value

Result = Mapping[str, float]  # mean, low, high, n


def percent(result: Result) -> str:
    """`81.3 % ± 0.4 (n = 3)`."""
    return value(result, scale=100, unit=" %")


def points(result: Result) -> str:
    """A difference in percentage points."""
    return value(result, scale=100, unit=" points")


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


def drops(accuracy: Mapping[str, Result], base: str) -> str:
    """How accuracy on the other sets stands to that on `base`."""
    others = {name: result for name, result in accuracy.items() if name != base}
    if not others:
        return "This source offers no shift set."
    worst = min(others, key=lambda name: others[name]["mean"])
    gap = 100 * (accuracy[base]["mean"] - others[worst]["mean"])
    apart = others[worst]["high"] < accuracy[base]["low"]
    if apart:
        return f"The hardest shift is {worst}: {percent(others[worst])}, {gap:.1f} points below the {base} set."
    return f"No shift set is clearly harder than the {base} set; the lowest is {worst}, {percent(others[worst])}."


def confusable(confusion: np.ndarray, classes: Sequence[str]) -> str:
    """The classes most often mixed up, from shares of each true class (rows)."""
    wrong = confusion - np.diag(np.diag(confusion))
    row, column = np.unravel_index(wrong.argmax(), wrong.shape)
    if wrong[row, column] == 0:
        return "No test image was given to a wrong class."
    return f"The commonest mistake: {100 * wrong[row, column]:.0f} % of {classes[row]} images are called {classes[column]}."


def abstract(data: Mapping, training: Mapping, small: bool) -> str:
    """The study in at most 150 words, from the results of its chapters."""
    accuracy, best = training["accuracy"], training["best"]
    size = f"{data['resolution']} × {data['resolution']}"
    parts = [
        "Does a classifier trained on diffusion-made images see real images as well as one trained on real images?",
        f"Here the real images are {data['train']:,} from source {data['source']} ({size} pixels, "
        f"{len(data['classes'])} classes), and every classifier is tested on {data['test']:,} real images that nothing "
        "was trained on.",
        f"Trained on {best} it recognises {percent(accuracy[best]['test'])}.", drops(accuracy[best], "test"), _gap(accuracy)]
    return " ".join(["This is a small run: its numbers show that everything works and mean nothing else."] * small + parts)


def key_table(accuracy: Mapping[str, Mapping[str, Result]]) -> pd.DataFrame:
    """One row a test set, one column an arm: narrow enough to stand beside a figure."""
    tests = list(next(iter(accuracy.values())))
    return pd.DataFrame([{"tested on": name, **{arm: results[name] for arm, results in accuracy.items()}} for name in tests])


def _gap(accuracy: Mapping[str, Mapping[str, Result]]) -> str:
    """How the other arms stand to `real`, or that there are none."""
    others = [arm for arm in accuracy if arm != "real"]
    if not others:
        return "No synthetic training set was part of this run, so it gives the baseline that they must be held against."
    lowest = min(others, key=lambda arm: accuracy[arm]["test"]["mean"])
    return f"The weakest training set is {lowest}: {percent(accuracy[lowest]['test'])}."


def limits(data: Mapping, training: Mapping, small: bool) -> list[str]:
    """What a reader must know before believing the numbers."""
    found = [f"One classifier family: {training['protocol']} Larger networks and longer training may rank arms otherwise."]
    if data["truth"]:
        found.append("The images are rendered. Truth is known here because the world is simple; how far the answer "
                     "carries to photographs is for the profiles on real pictures to say.")
    if set(training["accuracy"]) == {"real"}:
        found.append("Synthetic arms: not run in this profile.")
    return found + ["A small run: intervals are wide and nothing here should be quoted."] * small


def hardest(per_class: Mapping[str, Mapping[str, Result]], arm: str) -> str:
    """The class that is missed most often and the one that is missed least, for one arm."""
    shares = per_class[arm]
    low, high = (pick(shares, key=lambda name: shares[name]["mean"]) for pick in (min, max))
    return f"Hardest for {arm}: {low}, {percent(shares[low])} recognised; easiest: {high}, {percent(shares[high])}."


def memory(near: np.ndarray, usual: np.ndarray, copies: int) -> str:
    """Whether synthetic images come too near to training images: distances (n,) of theirs and of real test images."""
    edge = float(np.quantile(usual, 0.01))
    share = float((near < edge).mean())
    twins = f"{copies} synthetic images equal another" if copies else "no synthetic image comes twice"
    verdict = ("no sign that training images were handed back" if share <= 0.02 else
               "more than chance: look at the closest pairs before believing the arms")
    return (f"{100 * share:.1f} % of the synthetic images lie nearer to a training image than 99 % of the real test images do "
            f"({edge:.1f} grey levels; 1 % would be chance): {verdict}; {twins}.")


def judged(verdicts: Mapping[str, Mapping[str, Result]], base: str = "real test") -> str:
    """What a real-trained classifier recognises of each set, and each set's hardest class."""
    parts = []
    for name, rows in verdicts.items():
        worst = min((label for label in rows if label != "all"), key=lambda label: rows[label]["mean"])
        hardest = f", least of {worst} ({100 * rows[worst]['mean']:.0f} %)" if name != base else ""
        parts.append(f"{100 * rows['all']['mean']:.1f} % of {name}{hardest}")
    return f"A classifier trained on real images recognises {'; '.join(parts)}."


def swept(points: pd.DataFrame, recipe: str, guidance: float) -> str:
    """What the sweep found: frame with columns recipe, guidance, recognised and variety (results)."""
    mean = lambda row, what: row[what]["mean"]  # noqa: E731
    along = points[points["recipe"] == recipe].sort_values("guidance")
    said = points[points["guidance"] == guidance]
    best, worst = (said.iloc[int(pick([mean(row, "recognised") for _, row in said.iterrows()]))]
                   for pick in (np.argmax, np.argmin))
    low, high = along.iloc[0], along.iloc[-1]
    return (f"From guidance {low['guidance']:g} to {high['guidance']:g} the recognised share goes from "
            f"{100 * mean(low, 'recognised'):.0f} to {100 * mean(high, 'recognised'):.0f} % and the variety within a class from "
            f"{mean(low, 'variety'):.1f} to {mean(high, 'variety'):.1f} grey levels. At guidance {guidance:g} the recipe "
            f"“{best['recipe']}” is recognised most ({100 * mean(best, 'recognised'):.0f} %), “{worst['recipe']}” least "
            f"({100 * mean(worst, 'recognised'):.0f} %), n = {int(best['recognised']['n'])} images each.")


def cost(costs: pd.DataFrame) -> str:
    """How fast each set was sampled and what had to be drawn again: frame with set, images, rate, again, training."""
    parts = [f"{row['images']:,} images of {row['set']} at {row['rate']:.1f} a second"
             + (f" after {row['training']:.0f} s of training" if row["training"] else "") for _, row in costs.iterrows()]
    again = int(costs["again"].sum())
    return f"{'; '.join(parts)}. {again or 'None'} had to be drawn again."
