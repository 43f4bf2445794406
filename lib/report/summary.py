"""The first screen: how large the gap is, what it is made of, what closed how much of it, from the results of all chapters."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from lib.report.repair import beside
from lib.report.tables import minus
from lib.report.words import Result, listed, percent

Gaps = Mapping[str, Mapping]
WORDS, ARMS = 150, 4  # of an abstract at most; differences to name where all of them would be too many


def abstract(data: Mapping, training: Mapping, parts: Mapping, repair: Mapping, small: bool) -> str:
    """The study in at most 150 words; `parts` and `repair` are the numbers of chapters 07 and 08."""
    whole, brief = (told(data, training, parts, repair, small, brief) for brief in (False, True))
    return whole if len(whole.split()) <= WORDS else brief


def told(data: Mapping, training: Mapping, parts: Mapping, repair: Mapping, small: bool, brief: bool) -> str:
    """The sentences of the abstract; brief without what the chapters say as well."""
    accuracy, base = training["accuracy"], "real" if "real" in training["accuracy"] else training["best"]
    asked = "Does a classifier trained on diffusion-made images see real images as well as one trained on real images?"
    said = [asked] * (not brief) + [
        f"Trained on {data['train']:,} images of source {data['source']} ({data['resolution']} pixels, {len(data['classes'])} "
        f"classes) it recognises {percent(accuracy[base]['test'])} of {data['test']:,} unseen real images.",
        large(training["gaps"], base, ARMS if brief else None), made_of(parts["gap"], repair), closed(repair, brief)]
    return " ".join(["This is a small run: few images and short training, so figures are low and uncertain."] * small + said)


def large(gaps: Gaps, base: str, first: int | None = None) -> str:
    """How the other arms, or the first of them, stand to the base at equal optimiser steps, or that there are none."""
    if not gaps:
        return "No synthetic training set was part of this run, so it gives the baseline that they must be held against."
    said = [f"{arm} {ranged(gap)}" for arm, gap in gaps.items()][:first]
    said += [f"{len(gaps) - len(said)} more in the table"] * (len(said) < len(gaps))
    gaps = dict(list(gaps.items())[:first])
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


def closed(repair: Mapping, brief: bool = False) -> str:
    """How many remedies help, and what the chosen one gives back; beside it, unless brief, what its parts and rivals do."""
    good, tried, whole, choice = len(repair["helped"]), repair["tried"], repair["gap"]["mean"], repair["choice"]
    some = {0: "No remedy helps", 1: f"One of {tried} remedies helps"}
    count = f"{some.get(good, f'{good} of {tried} remedies help')} beyond chance"
    if not choice["gain"] or whole <= 0:
        return f"{count}."
    gain, last = choice["gain"]["gain"], choice["name"].split("; then ")[-1]
    what, notes = ("remedy", []) if last == choice["name"] else ("combination", [(f"{last} alone", repair["gains"].get(last))])
    notes.append((f"{choice['real']:,} real images without a synthetic one", choice["without"]))
    more = [f"{name}: {ranged(found['gain'])}" for name, found in notes if found and not brief]
    return minus(f"{count}; the {what} chosen on validation images ({choice['name']}) gives {ranged(gain)}, "
                 f"{100 * gain['mean'] / whole:.0f} % of the gap{beside(*more)}.")


def ranged(difference: Result) -> str:
    """A difference in points with its interval, short."""
    return minus(f"{100 * difference['mean']:+.1f} [{100 * difference['low']:+.1f}, {100 * difference['high']:+.1f}]")


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
