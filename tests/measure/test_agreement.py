"""The chapters of a report agree: one quantity has one value, one interval and one verdict."""

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from lib.core.paths import ROOT
from lib.measure.stats import verdict

OPPOSITE = {"higher": "lower", "lower": "higher"}
RESULTS = [path for path in sorted((ROOT / "reports").glob("*/results"))
           if (path / "08_repair.json").is_file()
           and "results" in json.loads((path / "04_training.json").read_text(encoding="utf-8"))]


def load(folder: Path) -> dict[str, dict]:
    """Results by chapter."""
    files = {path.stem: json.loads(path.read_text(encoding="utf-8"))
             for path in sorted(folder.glob("0*.json"))}
    return {name: content["results"] for name, content in files.items()}


def quantities(results: Mapping[str, dict]) -> Iterator[tuple[tuple[str, ...], str, Mapping]]:
    """Quantity, chapter and estimate of all that more than one chapter quotes."""
    training, measures = results["04_training"], results["07_representation"]
    repair, inversion = results["08_repair"], results["02_inversion"]
    for arm, gap in training["gaps"].items():
        yield ("difference", arm, training["baseline"]), "04_training", gap
    for arm, sets in training["accuracy"].items():
        yield ("accuracy", arm), "04_training", sets["test"]
    for arm, parts in measures["gap"].items():
        yield ("difference", arm, measures["base"]), "07_representation", parts["gap"]
    yield ("difference", repair["base"], repair["against"]), "08_repair", negative(repair["gap"])
    for arm in repair.get("accuracy", {}):
        yield ("accuracy", arm), "08_repair", repair["accuracy"][arm]
    for name, memory in (("02_inversion", inversion.get("memorisation")),
                         ("07_representation", measures["memory"].get("di"))):
        if isinstance(memory, Mapping):
            yield (
                ("nearer to training than 1 % of test images", "di"),
                name,
                memory["closer"]["0.01"],
            )


def negative(difference: Mapping) -> dict:
    """The same difference the other way round."""
    ends = {"mean": "mean", "low": "high", "high": "low", "low90": "high90", "high90": "low90"}
    turned = {end: -difference[other] for end, other in ends.items() if other in difference}
    word = difference.get("verdict", "inconclusive")
    return {**difference, **turned, "verdict": OPPOSITE.get(word, word)}


def disagreements(results: Mapping[str, dict]) -> list[str]:
    """Quantities with two values or two verdicts."""
    groups: dict[tuple, list] = {}
    for quantity, chapter, estimate in quantities(results):
        groups.setdefault(quantity, []).append((chapter, estimate))
    return [f"{' '.join(quantity)}: {first[0]} and {second[0]}"
            for quantity, quoted in groups.items()
            for first, second in itertools.combinations(quoted, 2)
            if not same(quantity[0], first[1], second[1])]


def same(kind: str, first: Mapping, second: Mapping) -> bool:
    """Mean and interval to 1e-9, and for differences the verdict."""
    ends = all(
        first[end] == pytest.approx(second[end], abs=1e-9) for end in ("mean", "low", "high")
    )
    return ends and (kind != "difference" or verdict(first) == verdict(second))


def foreign_verdicts(tree: object, path: str = "") -> list[str]:
    """Where a result says another word than `verdict` does."""
    if isinstance(tree, list):
        return [
            fault for k, part in enumerate(tree) for fault in foreign_verdicts(part, f"{path}/{k}")
        ]
    if not isinstance(tree, Mapping):
        return []
    wrong = {"mean", "low", "high", "verdict"} <= set(tree) and tree["verdict"] != verdict(tree)
    inner = [
        fault for key, part in tree.items() for fault in foreign_verdicts(part, f"{path}/{key}")
    ]
    return [path] * wrong + inner


def check(folder: Path) -> None:
    results = load(folder)
    assert len(list(quantities(results))) > 5
    assert disagreements(results) == []
    assert foreign_verdicts(results) == []


def test_chapters_of_the_smoke_study_agree(house):
    check(house / "reports" / "smoke" / "results")


@pytest.mark.parametrize("folder", RESULTS, ids=lambda path: path.parent.name)
def test_chapters_of_a_kept_report_agree(folder):
    check(folder)


def test_a_second_value_and_a_second_verdict_are_seen():
    low = {"mean": -0.2, "low": -0.3, "high": -0.1, "verdict": "lower"}
    results = {"02_inversion": {}, "04_training": {"baseline": "real", "gaps": {"sd": low},
                                                   "accuracy": {}},
               "07_representation": {"base": "real", "gap": {"sd": {"gap": low}}, "memory": {}},
               "08_repair": {"base": "sd", "against": "real", "gap": negative(low)}}
    assert disagreements(results) == [] and foreign_verdicts(results) == []
    results["08_repair"]["gap"] = negative(low | {"mean": -0.15})
    assert disagreements(results) == ["difference sd real: 04_training and 08_repair",
                                      "difference sd real: 07_representation and 08_repair"]
    results["04_training"]["gaps"]["sd"] = low | {"verdict": "inconclusive"}
    assert foreign_verdicts(results) == ["/04_training/gaps/sd"]
