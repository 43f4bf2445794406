"""Chapter 08's sentences follow the data."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest

from lib.remedies.registry import Remedy
from lib.report import repair


def result(mean, half=0.02):
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": 3, "verdict": "better than sd"}


GAP = result(0.28)
REMEDIES = {"head alone, 240 real": Remedy([], 240, "weights", k=1), "all layers, 240 real": Remedy([], 240, "weights", k=0),
            "all layers, 960 real": Remedy([], 960, "weights", k=0),
            "filter by focus": Remedy([], 960, "images", control=[1], controlled="a random filter", part="attention")}
YARDSTICK = {"no synthetic image, 960 real": Remedy([], 960, "images", candidate=False, yardstick=True)}
GAINS = {"head alone, 240 real": {"gain": result(0.05)}, "all layers, 240 real": {"gain": result(0.14)},
         "all layers, 960 real": {"gain": result(0.2)}, "filter by focus": {"gain": result(0.04), "control": result(0.0)}}


def test_the_verdict_counts_what_helps_and_names_the_best():
    said = repair.verdict(REMEDIES, GAINS, "sd", GAP, 240)
    assert said.startswith("3 of 4 remedies help") and "All layers, 960 real gives" in said and "71 % of the gap of 28.0" in said
    assert "With at most 240 real images the best is: all layers, 240 real, 14.0 points" in said
    one = {"x": Remedy([], 9, "weights")}
    assert "None of 1 remedies" in repair.verdict(one, {"x": {"gain": result(0.01)}}, "sd", GAP, 240)
    assert "One of 1 remedies helps" in repair.verdict(one, {"x": {"gain": result(0.1)}}, "sd", GAP, 240)


def test_real_images_alone_are_named_beside_a_remedy_and_never_counted_as_one():
    gains = GAINS | {"no synthetic image, 960 real": {"gain": result(0.25), "control": result(0.05)}}
    said = repair.verdict(REMEDIES | YARDSTICK, gains, "sd", GAP, 240)
    assert said.startswith("3 of 4 remedies help") and "All layers, 960 real gives" in said
    assert "(960 real images without a synthetic one, in as many steps: 25.0 points ± 2.0 (n = 3))" in said
    assert said.count("without a synthetic one") == 1  # there is none of 240
    choice = SimpleNamespace(name="all", shares={"all": result(0.8)}, through=False, remedy=REMEDIES["all layers, 960 real"])
    assert repair.curve(REMEDIES | YARDSTICK, gains).endswith(
        "against synthetic images first, all layers: with 960 5.0 points ± 2.0 (n = 3) (better than sd).")
    assert "960 real images without a synthetic one" in repair.chosen(
        choice, {"gain": result(0.2)}, result(0.8), GAP, 240, gains, REMEDIES | YARDSTICK)


def test_the_curve_and_the_filters_in_words():
    said = repair.curve(REMEDIES, GAINS)
    assert "All layers learning again gain 14.0 points with 240 real images and 20.0 with 960." in said
    assert "With 240 real images the gain goes from 5.0 (head alone) to 14.0 (all layers) points." in said
    assert repair.curve({}, {}) == "Late layers are not among this profile's remedies."
    assert repair.filters(REMEDIES, GAINS) == "None of 1 filters can be told from a random one of the same size."
    better = GAINS | {"filter by focus": {"gain": result(0.1), "control": result(0.1)}}
    assert repair.filters(REMEDIES, better) == (
        "Filter by focus is 10.0 points ± 2.0 (n = 3) better than a random filter of the same size (better than sd as it is); 1 "
        "filters were tried, not corrected for their number.")
    worse = GAINS | {"filter by focus": {"gain": result(0.1), "control": result(-0.1)}}
    assert "is 10.0 points ± 2.0 (n = 3) worse than a random" in repair.filters(REMEDIES, worse)


ROWS = [{"panel": "class", "part": "cube", "points": result(0.4)}, {"panel": "layer", "part": "layer3", "points": result(0.1)},
        {"panel": "layer", "part": "own head", "points": GAP}, {"panel": "cue", "part": "pixels", "points": result(0.03)},
        {"panel": "term", "part": "fidelity", "points": result(0.01)}]


def test_what_the_gap_is_made_of_in_words():
    said = repair.split(ROWS, GAP)
    assert "Widest in cube (40 points)" in said and "leaves 10.0 of the 28.0 points" in said
    assert "beyond chance, of 2 repairs, not corrected for their number: pixels" in said and "fidelity" not in said
    assert "gives back nothing beyond chance" in repair.split([row for row in ROWS if row["part"] != "pixels"], GAP)


def test_the_choice_in_words():
    choice = SimpleNamespace(name="all", shares={"all": result(0.8), "sd": result(0.6)}, through=False,
                             remedy=Remedy([], 9, "weights"))
    said = repair.chosen(choice, {"gain": result(0.14)}, result(0.75), GAP, 240, {}, {})
    assert "On 240 validation images 2 candidates were compared; chosen: all" in said and "50 % of the gap" in said
    assert "unrepaired" in repair.chosen(choice, {}, result(0.6), GAP, 240, {}, {})
    assert "validation images too" not in said
    choice.through = True
    assert "had learnt from validation images too" in repair.chosen(choice, {}, result(0.6), GAP, 240, {}, {})
    both = SimpleNamespace(name="filter; then late", shares={"filter; then late": result(0.8)}, through=False,
                           remedy=Remedy([], 9, "weights"))
    assert repair.chosen(both, {"gain": result(0.14)}, result(0.75), GAP, 240, {"late": {"gain": result(0.15)}},
                         {}).endswith(
        "50 % of the gap of 28.0 points (late alone: 15.0 points ± 2.0 (n = 3)).")
    assert repair.alone("late", {"late": {"gain": result(0.15)}}) == ""
    assert repair.share(result(0.1), result(-0.1)) == "with no gap to close"


def test_plots_draw_every_row():
    fig, axes = plt.subplots(2, 2)
    repair.parts(axes, ROWS, GAP)
    assert [len(axis.patches) for axis in axes.ravel()] == [1, 2, 1, 1]
    assert axes[1, 1].patches[0].get_alpha() == pytest.approx(0.35)  # its interval holds zero
    fig, axes = plt.subplots(1, 2)
    alone = repair.yardsticks(YARDSTICK, {"no synthetic image, 960 real": {"gain": result(0.25)}})
    repair.curves(axes, repair.late(REMEDIES, GAINS), GAP, alone)
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["all layers", "no synthetic image"]
    assert [label.get_text() for label in axes[1].get_xticklabels()] == ["head alone", "all layers"]
    plt.close("all")


def test_the_table_puts_the_largest_gain_first():
    tested = {name: {"test": result(0.6 + gain["gain"]["mean"])} for name, gain in GAINS.items()}
    frame = repair.table(REMEDIES, GAINS, tested, dict.fromkeys(GAINS, 1.0))
    assert frame["remedy"].tolist()[0] == "all layers, 960 real"
    assert frame["control"].tolist()[-2:] == ["–", GAINS["filter by focus"]["control"]]
