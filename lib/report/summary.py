"""The first screen: how large the gap is, what it is made of, what closed how much of it, from the results of all chapters."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from lib.report.repair import alone, beside
from lib.report.tables import minus
from lib.report.words import Result, listed, percent, points

Gaps = Mapping[str, Mapping]


def abstract(data: Mapping, training: Mapping, parts: Mapping, repair: Mapping, small: bool) -> str:
    """The study in at most 150 words; `parts` and `repair` are the numbers of chapters 07 and 08."""
    accuracy, base = training["accuracy"], "real" if "real" in training["accuracy"] else training["best"]
    said = [
        "Does a classifier trained on diffusion-made images see real images as well as one trained on real images?",
        f"Trained on {data['train']:,} images of source {data['source']} ({data['resolution']} pixels, {len(data['classes'])} "
        f"classes) it recognises {percent(accuracy[base]['test'])} of {data['test']:,} unseen real images.",
        large(training["gaps"], base), made_of(parts["gap"], repair), closed(repair)]
    return " ".join(["This is a small run: few images and short training, so figures are low and uncertain."] * small + said)


def large(gaps: Gaps, base: str) -> str:
    """How the other arms stand to the base at equal optimiser steps, or that there are none."""
    if not gaps:
        return "No synthetic training set was part of this run, so it gives the baseline that they must be held against."
    said = [f"{arm} {100 * gap['mean']:+.1f} [{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]" for arm, gap in gaps.items()]
    beaten = [arm for arm, gap in gaps.items() if gap["high"] < 0]
    verdict = f"{listed(beaten)} teach{'es' * (len(beaten) == 1)} less" if beaten else "none teaches measurably less"
    return minus(f"With equal steps, in points against {base}: {'; '.join(said)}: {verdict}.")


def made_of(parts: Gaps, repair: Mapping) -> str:
    """Where the repaired arm's gap lies: in its features, in its head, in both, or not told."""
    arm = repair["base"]
    if arm not in parts or parts[arm]["gap"]["high"] >= 0:
        return f"{arm} has no measurable gap to take apart."
    left, lost = parts[arm]["features"], parts[arm]["gap"]
    share = f"{min(100.0, max(0.0, 100 * left['mean'] / lost['mean'])):.0f} %"
    verdict = "the features are worse" if left["high"] < 0 else "the features are not measurably worse"
    return f"{share} of {arm}'s gap stays when both classifiers get a new head from the same few real images: {verdict}."


def closed(repair: Mapping) -> str:
    """How many remedies help, and what the chosen combination gives back."""
    good, tried, whole, choice = len(repair["helped"]), repair["tried"], repair["gap"]["mean"], repair["choice"]
    some = {0: "No remedy helps", 1: f"One of {tried} remedies helps"}
    count = f"{some.get(good, f'{good} of {tried} remedies help')} beyond chance"
    if not choice["gain"] or whole <= 0:
        return f"{count}."
    gain = choice["gain"]["gain"]
    what = "combination" if "; then " in choice["name"] else "remedy"
    return minus(f"{count}; the {what} chosen on validation images ({choice['name']}) gives {100 * gain['mean']:+.1f} "
                 f"[{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}], {100 * gain['mean'] / whole:.0f} % of the gap"
                 f"{beside(alone(choice['name'], repair['gains']), _without(choice))}.")


def _without(choice: Mapping) -> str:
    """What as many real images give without a synthetic one, where that was tried."""
    if not choice["without"]:
        return ""
    return f"{choice['real']:,} real images without a synthetic one: {points(choice['without']['gain'])}"


COLUMNS = {"arm": "Trained on", "test": "Real test images", "gap": "Difference to real", "verdict": "Verdict",
           "balanced": "Balanced accuracy", "auroc": "AUROC"}  # in the order of need: narrow screens cut off the last


def key_table(training: Mapping) -> pd.DataFrame:
    """One row an arm: accuracy on real test images, with two classes also balanced and AUROC, difference to the base, verdict."""
    gaps, beside = training["gaps"], training.get("beside", {})
    return pd.DataFrame([{"arm": arm, "test": results["test"], **{what: found[arm] for what, found in beside.items()},
                          "gap": gaps.get(arm, "–"),
                          "verdict": gaps[arm]["verdict"].split(":")[0] if arm in gaps else "–"}
                         for arm, results in training["accuracy"].items()])


def columns(table: pd.DataFrame) -> dict[str, str]:
    """Headings of the columns that the key table has."""
    return {name: label for name, label in COLUMNS.items() if name in table}


def limits(data: Mapping, training: Mapping, small: bool) -> list[str]:
    """What a reader must know before believing the numbers."""
    found = [f"One classifier family: {training['protocol']} Larger networks and longer training may rank arms otherwise."]
    if data["truth"]:
        found.append("The images are rendered. Truth is known here because the world is simple; how far the answer "
                     "carries to photographs is for the profiles on real pictures to say.")
    if set(training["accuracy"]) == {"real"}:
        found.append("Synthetic arms: not run in this profile.")
    return found + ["A small run: with more images and longer training figures are higher, and arms may rank otherwise."] * small


def best(repair: Mapping, count: int = 3) -> dict[str, Result]:
    """The remedies with the largest gains that help beyond chance, and the chosen combination."""
    good = sorted(repair["helped"], key=lambda name: -repair["gains"][name]["gain"]["mean"])[:count]
    found = {name: repair["gains"][name]["gain"] for name in good}
    chosen = {repair["choice"]["name"]: repair["choice"]["gain"]["gain"]} if repair["choice"]["gain"] else {}
    return found | chosen
