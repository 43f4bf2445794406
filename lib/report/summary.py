"""The first screen: how large the gap is, what it is made of, what closed how much of it, from the results of all chapters."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from lib.core.store import ArtifactSpec
from lib.report.inversion import introduced
from lib.report.tables import minus
from lib.report.words import Result, listed, percent

Gaps = Mapping[str, Mapping]
WORDS, ARMS = 150, 4  # of an abstract at most; differences to name where all of them would be too many


def abstract(data: Mapping, training: Mapping, parts: Mapping, repair: Mapping, small: bool) -> str:
    """The study in at most 150 words; `parts` and `repair` are the numbers of chapters 07 and 08."""
    versions = [told(data, training, parts, repair, small, brief) for brief in range(3)]
    return next((text for text in versions if len(text.split()) <= WORDS), versions[-1])


def told(data: Mapping, training: Mapping, parts: Mapping, repair: Mapping, small: bool, brief: int) -> str:
    """The sentences of the abstract; brief 1 without the remedy's name and parts, 2 without what the chapters say as well."""
    accuracy, base = training["accuracy"], "real" if "real" in training["accuracy"] else training["best"]
    asked = "Does a classifier trained on diffusion-made images see real images as well as one trained on real images?"
    said = [asked] * (brief < 2) + [
        f"Trained on {data['train']:,} images of source {data['source']} ({data['resolution']} pixels, {len(data['classes'])} "
        f"classes) a classifier recognises {percent(accuracy[base]['test'])} of {data['test']:,} unseen real images.",
        large(training["gaps"], base, ARMS if brief > 1 else None), made_of(parts["gap"], repair), closed(repair, brief)]
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
    return (f"With a new head from the same few real images for both, {ranged(parts[arm]['features'])} stay of {arm}'s gap: "
            f"{where_it_lies(parts[arm])}.")


def where_it_lies(parts: Mapping[str, Mapping[str, float]]) -> str:
    names = [name.replace("_", " ") for name in ("features", "final_layer") if parts[name]["high"] < 0]
    return f"the gap lies in the {' and in the '.join(names)}" if names else "the seeds do not tell where it lies"


def closed(repair: Mapping, brief: int = 0) -> str:
    """How many remedies help, and what the chosen one gives back; beside it what real images alone do; less where brief."""
    good, tried, whole, choice = len(repair["helped"]), repair["tried"], repair["gap"]["mean"], repair["choice"]
    some = {0: "No remedy helps", 1: f"One of {tried} remedies helps"}
    count = f"{some.get(good, f'{good} of {tried} remedies help')} beyond chance"
    if not choice["gain"] or whole <= 0:
        return f"{count}."
    gain, last, same = choice["gain"]["gain"], choice["name"].split("; then ")[-1], choice["without"]
    what, alone = ("remedy", None) if last == choice["name"] else ("combination", repair["gains"].get(last))
    part = f" ({last} alone: {ranged(alone['gain'])})" if alone and not brief else ""
    rival = f". The same {choice['real']:,} real images without a synthetic one: {ranged(same['gain'])}" if same else ""
    told = f", {same['control']['verdict'].split(':')[0]}" if same and "control" in same and brief < 2 else ""
    name = f" ({choice['name']})" * (not brief)
    return minus(f"{count}; the {what} chosen on validation images{name} gives {ranged(gain)}, "
                 f"{100 * gain['mean'] / whole:.0f} % of the gap{part}{rival}{told}.")


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


def legend(made: Mapping[str, ArtifactSpec], data: Mapping) -> str:
    """What each training set is, for readers who begin here."""
    return f"real: {data['train']:,} real training images. {introduced(made)}" if made else ""


def columns(table: pd.DataFrame) -> dict[str, str]:
    """Headings of the columns that the key table has."""
    return {name: label for name, label in COLUMNS.items() if name in table}


def limits(data: Mapping, training: Mapping, repair: Mapping, small: bool) -> list[str]:
    """What a reader must know before believing the numbers."""
    found = [f"One classifier family: {training['protocol']} Larger networks and longer training may rank arms otherwise.",
             f"Intervals are of few seeds, and none is corrected for how many were looked at: {len(training['gaps'])} arms, "
             f"{repair['tried']} remedies."]
    if data["truth"]:
        found.append("The images are rendered. Truth is known here because the world is simple; how far the answer "
                     "carries to photographs is for the profiles on real pictures to say. The generator that ships with "
                     "the project learnt from the same renderer in other styles: its images may lie nearer than others would.")
    if set(training["accuracy"]) == {"real"}:
        found.append("Synthetic arms: not run in this profile.")
    return found + ["A small run: with more images and longer training figures are higher, and arms may rank otherwise."] * small


def best(repair: Mapping, count: int = 3) -> dict[str, Result]:
    """The remedies with the largest gains that help beyond chance, the chosen combination, and as many real images alone."""
    good = sorted(repair["helped"], key=lambda name: -repair["gains"][name]["gain"]["mean"])[:count]
    found = {name: repair["gains"][name]["gain"] for name in good}
    choice = repair["choice"]
    if choice["gain"]:
        found[choice["name"]] = choice["gain"]["gain"]
        found |= {f"no synthetic image, {choice['real']:,} real": choice["without"]["gain"]} if choice["without"] else {}
    return dict(sorted(found.items(), key=lambda pair: -pair[1]["mean"]))
