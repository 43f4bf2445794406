"""Sentences of chapter 07 follow the numbers, and its plots stand where they are."""

import numpy as np
import pandas as pd
import pytest

from lib.report import figures
from lib.report import representation as chapter


def result(mean, half=0.01, n=3, **rest):
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n, **rest}


def compared(fd, precision, coverage):
    return {"FD": result(fd, n=750), "precision": result(precision), "coverage": result(coverage)}


BASE = "other real images"
SETS = {BASE: compared(0.1, 0.9, 0.95), "sd": compared(0.5, 0.6, 0.5), "cd": compared(0.1, 0.9, 0.7), "few": "not run: 20 images"}


def test_a_set_is_far_only_beyond_what_other_real_images_are():
    said = chapter.fidelity(SETS, BASE, "own")
    assert "FD-own of other real images 0.10; sd 0.50 [0.49, 0.51]; cd" in said and "sd lies farther" in said and "750" in said
    near = chapter.fidelity({BASE: SETS[BASE], "cd": SETS["cd"]}, BASE, "own")
    assert near.endswith("no set lies farther from real test images than other real images do.")
    assert chapter.fidelity({BASE: SETS[BASE], "few": SETS["few"]}, BASE, "own").endswith("few: not run: 20 images")


def test_fidelity_and_diversity_are_told_apart():
    said = chapter.terms(SETS, BASE)
    assert "sd lacks both fidelity and diversity (precision −30, coverage −45 points" in said
    assert "cd lacks diversity, not fidelity" in said and "few" not in said
    assert chapter.terms({BASE: SETS[BASE], "x": compared(1, 0.5, 0.95)}, BASE).startswith("x lacks fidelity, not diversity")


def test_copies_are_called_copies():
    def one(copies, near, half=0.5):
        return {"copies": copies, "duplicates": 2, "closer": {"0.01": result(near, 0.005), "0.5": result(half)},
                "authentic": result(0.6)}
    found = {BASE: one(0, 0.01), "honest": one(0, 0.015), "near": one(0, 0.2), "smooth": one(0, 0.01, 0.8), "thief": one(3, 0.3),
             "few": "not run: 20 images"}
    said = chapter.memory(found, BASE).split(". ")
    assert said[0].endswith("no sign that training images were handed back") and "more than chance, look" in said[1]
    assert "80.0 % than half of them" in said[2] and "no image stands out, but the set as a whole lies nearer" in said[2]
    assert said[3].endswith("3 exact copies, 2 repeated: training images stand in it.")
    assert chapter.memory(found | {BASE: "not run"}, BASE).startswith("No synthetic set is large enough")
    rows = chapter.copies(found).set_index("set")
    assert rows.loc["thief", "copies"] == 3 and rows.loc["few", "authentic"] == "not run: 20 images"


def test_features_and_transfer_name_what_moved():
    means = {"real": {"sparsity": result(0.3), "transfer to digits": result(0.9)},
             "sd": {"sparsity": result(0.2), "transfer to digits": result(0.8)}}
    apart = {"sd": {"sparsity": result(-0.1), "transfer to digits": result(-0.1)}}
    assert chapter.features(means, apart, "real", {"sparsity": "lower"}).endswith("sd: sparsity 0.20 against 0.30.")
    assert chapter.transfers(means, apart, "real").endswith("reaches 90.0 %; different beyond chance: sd −10.0 points.")
    unsure = {"sd": {name: result(0, 0.2) for name in means["sd"]}}
    assert chapter.features(means, unsure, "real", {"sparsity": "lower"}).startswith("In none")
    assert chapter.transfers(means, unsure, "real").endswith("no arm differs from it beyond chance.")
    assert chapter.transfers({"real": {"sparsity": result(0.3)}}, {}, "real") == "No other source is at hand to transfer to."


def test_layers_say_where_an_arm_falls_behind():
    table = {"real": {"stem": result(0.2), "layer1": result(0.9), "own head": result(0.9)}}
    apart = {"sd": {"stem": result(0, 0.1), "layer1": result(-0.3), "own head": result(-0.4)},
             "cd": {"stem": result(0, 0.1), "layer1": result(0, 0.1), "own head": result(-0.4)}}
    said = chapter.layered(table, apart, "real")
    assert "layer1 of real recognises 90.0 %" in said and "sd falls behind from layer1 on (−30.0 points" in said
    assert "cd nowhere falls behind" in said
    likeness = {"real": {"layer1": result(0.9)}, "sd": {"layer1": result(0.5)}, "cd": {"layer1": result(0.8)}}
    assert "sd is least like real (CKA 0.50), less than two" in chapter.alike(likeness, "real")
    assert "not measurably less" in chapter.alike(likeness | {"sd": {"layer1": result(0.5, 0.5)}}, "real")


def test_robustness_compares_paired():
    kept = {"real": {"shifts": result(0.7)}, "sd": {"shifts": result(0.6)}}
    assert chapter.robust(kept, {"sd": {"shifts": result(-0.1)}}, "real") == (
        "Under shifts real keeps 70 % of its clean accuracy; different beyond chance: sd 60 %.")
    assert chapter.robust(kept, {"sd": {"shifts": result(-0.1, 0.2)}}, "real").endswith("no arm differs beyond chance.")
    assert chapter.robust({}, {}, "real").startswith("real recognises no clean image")


@pytest.mark.parametrize("features, head, verdict", [
    (-0.2, -0.1, "in the features and in the head"), (-0.3, 0.0, "in the features."), (0.0, -0.3, "in the head"),
    (0.0, 0.0, "do not tell")])
def test_the_gap_lies_where_its_interval_says(features, head, verdict):
    parts = {"sd": {"gap": result(-0.3), "features": result(features, 0.05), "head": result(head, 0.05)}}
    said = chapter.gap(parts, "real", 400)
    assert verdict in said and said.startswith("sd is 30.0 points behind real") and "400 real images" in said
    assert chapter.gap({"cd": parts["sd"] | {"gap": result(-0.1, 0.2)}}, "real", 400) == "cd is not measurably behind real."
    table = chapter.made_of(parts | {"real+sd": parts["sd"]}, SETS, {"sd": {"corruptions": result(0.8)}}).set_index("arm")
    assert table.loc["sd", "coverage"]["mean"] == 0.5 and table.loc["real+sd", "coverage"] == "–"
    assert table.loc["real+sd", "corruptions"].startswith("not run")


def test_cells_have_their_own_digits():
    assert chapter.cell(result(0.123, 0.05, digits=2)) == "0.12 ± 0.05"
    assert chapter.cell({"mean": -1, "n": 9, "digits": 1}) == "−1.0"
    assert chapter.cell(result(2, digits=1) | {"high": 3}) == "2.0 [2.0, 3.0]" and chapter.cell("not run: few") == "not run: few"


def test_plots_draw_every_number():
    table = {arm: {"stem": result(0.2), "own head": result(0.8)} for arm in ("real", "sd")}
    _, axes = figures.figure(1, 2)
    chapter.layers(axes, table, table, 10, "real")
    assert axes[0].containers[1].lines[0].get_ydata() == pytest.approx([20, 80])
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["real", "sd"]
    shifts = {"shift-night": {"1": result(0.3)}, "shift-dusk": {"1": result(0.2)}}
    trials = {arm: {"blur": {"1": result(0.5), "3": result(0.4)}, **shifts} for arm in ("real", "sd")}
    drawn = chapter.panels(trials)
    assert list(drawn) == ["blur", "shift"] and list(drawn["shift"]["sd"]) == ["night", "dusk"]
    _, axes = figures.figure(1, 4)
    chapter.damages(axes, drawn)
    assert [axis.get_title(loc="left") for axis in axes] == ["blur", "shift", "", ""] and not axes[3].axison
    assert axes[1].containers[0].lines[0].get_ydata() == pytest.approx([30, 20])
    flat = chapter.long({"accuracy": trials})
    assert len(flat) == 8 and flat.iloc[3][["what", "arm", "at", "mean"]].tolist() == ["accuracy", "real", "shift-dusk 1", 0.2]


def test_the_spider_has_a_polygon_an_arm_and_says_which_way_is_better():
    spokes = pd.DataFrame([{"arm": arm, "axis": axis, "better": better, "spoke": spoke, "spoke_low": spoke - 0.1,
                            "spoke_high": spoke + 0.1} for arm, spoke in (("real", 1), ("sd", 0.6))
                           for axis, better in (("sparsity", "lower"), ("accuracy", "higher"), ("transfer to digits", "higher"))])
    _, axes = figures.figure(subplot_kw={"projection": "polar"})
    chapter.spider(axes, spokes, "real")
    assert [text.get_text() for text in axes.get_xticklabels()] == ["sparsity ↓", "accuracy ↑", "transfer\nto digits ↑"]
    assert [line.get_ydata()[0] for line in axes.lines] == [1, 0.6] and len(axes.lines[0].get_ydata()) == 4  # closed
    assert chapter.spiders(spokes, "real") == "Against real: sd is better on 0 and worse on 3 of 3 axes."


def test_the_map_names_classes_only_where_there_is_room():
    assert chapter.clear(np.array([[0, 0], [10, 0], [0.1, 0.1]]), np.array([1, 1])) in ([1, 0], [1, 2])
    points = {"real test": np.random.default_rng(0).normal(size=(30, 2)), "sd": np.zeros((30, 2))}
    _, axes = figures.figure(1, 2)
    chapter.planes(axes, points, np.arange(30) % 3, ["a", "b", "c"])
    assert len(axes[0].collections) == 1 and len(axes[1].collections) == 2 and axes[0].texts and not axes[1].texts
    spread = chapter.spread(points).set_index("set")
    assert spread.loc["sd", "spread x"] == 0 and spread.loc["real test", "images"] == 30
