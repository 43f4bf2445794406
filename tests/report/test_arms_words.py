"""Training's sentences, tables and plots follow the data."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lib.classifier import train as fit
from lib.core.store import ArtifactSpec
from lib.measure import accuracy, stats
from lib.measure import scaling as curves
from lib.report import arms, figures, published
from tests.report.test_words import result

SIZES = {"real": 100, "sd": 100}


def gap(mean, half=0.01, p=0.01):
    found = result(mean, half) | {"p": p}
    return found | {"verdict": stats.verdict(found)}


def report(near=0, smallest=10):
    return pd.DataFrame([{"arm": arm, "images": 100, "smallest class": least, "largest class": 10, "near test": close}
                         for arm, least, close in (("real", 10, 0), ("sd", smallest, near))])


@pytest.mark.parametrize("given, said", [
    ({}, "No arm holds a test image. Every arm is balanced. No training image is nearly equal to one."),
    ({"smallest": 9}, "Not balanced: sd."), ({"near": 7}, "at most 7 of 100 images (sd)")])
def test_planned(given, said):
    assert said in arms.planned(report(**given))


def test_the_main_table_has_difference_p_and_verdict():
    tables = {"accuracy": {"real": {"test": result(0.9)}, "sd": {"test": result(0.6)}}, "top5": {"real": {"test": result(1.0)},
              "sd": {"test": result(0.8)}}}
    frame = arms.rows(tables, {"sd": gap(-0.3, p=1e-5)}, SIZES, {"sd": result(0.7)})
    assert frame.loc[0, ["arm", "images", "gap", "p", "verdict", "seen"]].tolist() == ["real", 100, "–", "–", "–", "–"]
    assert frame.loc[1, "verdict"] == "lower" and frame.loc[1, "top5"]["mean"] == 0.8
    heads = arms.columns(frame, "real")
    assert heads["gap"] == "Difference to real" and "ece" not in heads and list(heads) == list(frame)
    how = arms.formats(frame)
    assert how["p"](1e-5) == "< 0.001" and how["p"](0.0321) == "0.032" and how["top5"](result(0.8)) == "80.0 ± 1.0 (n = 3)"


def test_seen_blames_images_only_where_they_are_recognised_less():
    low = arms.seen({"sd": result(0.6)}, "real", result(0.9))
    assert "recognise 60.0 % ± 1.0 (n = 3) of sd, 90.0 %" in low and "in sd some images are not of their class" in low
    assert "not of their class" not in arms.seen({"sd": result(0.89)}, "real", result(0.9))
    assert arms.seen({}, "real", result(0.9)) == "There is no synthetic set to look at."


def test_budgets_count_steps_and_say_what_they_change():
    changes = {fit.variant("real+sd"): gap(0.05)}
    table = {"real": {"test": result(0.9)}, "real+sd": {"test": result(0.92)}}
    rival = {"real+sd": result(0.91)}
    frame = arms.budgets(table, {"real+sd": gap(0.02)}, rival, changes, SIZES, 70)
    assert frame["steps"].tolist() == [70, 140] and frame["change"][0] == "–" and frame["change"][1]["mean"] == 0.05
    assert arms.longer(frame, []) == (
        "With as many passes over its images as real gets (140 steps, real has 70), real+sd changes by 5.0 points ± 1.0 (n = 3): "
        "the steps matter; real in as many steps reaches 91.0 % ± 1.0 (n = 3), and real+sd is higher.")
    unsure = arms.budgets(table, {"real+sd": gap(0)}, {}, {"real+sd, equal epochs": gap(0.05, 0.1)}, SIZES, 70)
    assert "no difference that could be told; it is then inconclusive" in arms.longer(unsure, [])
    assert arms.longer(unsure, []).endswith("which was not trained in as many steps.")
    left = "Of another size and not run at equal epochs: real+sd (training.equal_epoch_arms)."
    assert arms.longer(frame[:1], ["real+sd"]) == left
    assert arms.longer(frame[:1], []).startswith("Every arm has as many images as real")


def test_the_rival_of_an_arm_at_equal_epochs_is_real_in_as_many_steps():
    label, rival = fit.variant("real+sd"), fit.as_long("real", 140)
    every = pd.DataFrame([{"arm": arm, "seed": k, "set": "test", "correct": np.arange(1000) < 1000 * mean + k}
                          for arm, mean in ((label, 0.8), (rival, 0.9), ("real", 0.7)) for k in range(3)])
    made = {label: [ArtifactSpec("fit", {"steps": 140})], rival: []}
    found = arms.rivals(every, {label: "real+sd"}, made)["real+sd"]
    assert found["accuracy"]["mean"] == pytest.approx(0.901) and found["gap"]["mean"] == pytest.approx(-0.1)
    assert found["gap"]["verdict"] == "lower"
    assert arms.rivals(every, {label: "real+sd"}, {label: made[label]}) == {}  # it could not be trained


def test_what_is_left_out_names_its_key():
    settings = SimpleNamespace(mix_fractions=[], real_fractions_with_set=[0.1])
    assert arms.empty(settings, ["mix_fractions", "real_fractions_with_set"]).endswith(
        "is empty: mixtures of one size (training.mix_fractions).")
    assert arms.empty(settings, ["real_fractions_with_set"]) == ""


def test_words_and_guidance_become_arms():
    swept = arms.wordings([{"recipe": "a {class}", "guidance": 4.0}, {"recipe": "{class}", "guidance": 1.0}])
    table = {"sd-1": {"test": gap(0.5)}, "sd-2": {"test": gap(0.7)}}
    frame = arms.taught(swept, table, {"sd-2": gap(0.2) | {"p": 0.01, "verdict": "better"}})
    assert list(frame["arm"]) == ["sd-1", "sd-2"] and list(frame["guidance"]) == [4.0, 1.0] and list(frame["gap"])[0] == "–"
    said = arms.best_wording(frame)
    assert said.startswith("“{class}” at guidance 1 (70.0 %")
    assert said.endswith("1 of 1 others beat the first row beyond chance.")


def test_other_recipes_count_what_they_better():
    said = arms.other_recipes({"sd, multicrop": gap(0.14), "real, multicrop": gap(0.001, 0.05)})
    assert said.startswith("1 of 2 are better") and "sd, multicrop, 14.0 points" in said


def points(**means):
    """Scores of arms, three seeds each, as `curves.tidy` leaves them."""
    rows = [{"arm": arm, "seed": k, "set": "test", "accuracy": mean + 0.002 * k} for arm, mean in means.items() for k in range(3)]
    return curves.tidy(pd.DataFrame(rows), SIZES)


CURVES = {"0.2*real": 0.5, "real": 0.9, "0.2*sd": 0.3, "sd": 0.7, "0.2*real+sd": 0.75, "real+sd": 0.9, "0.5*real+0.5*sd": 0.8}


def test_the_price_of_a_real_image():
    found = curves.trades(points(**CURVES), ["sd", "cd"])
    sets = {"sd": ArtifactSpec("sd"), "cd": ArtifactSpec("cd")}
    said = arms.traded(found, sets)
    assert "learnt from" not in said
    assert said.startswith("What 20 real images teach (50.2 %): 2.2 [2.2, 2.2] (n = 3) images of sd for one real image. What 100")
    assert "not reached by 100 images of sd" in said and "cd: not run: a curve of 'cd' needs" in said
    made = ArtifactSpec("sd", inputs={"generator": ArtifactSpec("trained", inputs={"real": ArtifactSpec("real", {"count": 70})})})
    assert "The generator of sd had itself learnt from 70 real images." in arms.traded(found, {"sd": made})
    assert arms.traded(found[:0], sets).startswith("No exchange rate")


def test_mixed_names_both_ends():
    said = arms.mixed(points(**CURVES), ["sd", "0.5*real+0.5*sd", "real"])
    assert said == "Of 3 mixtures of one size real teaches most (90.2 % on average), sd least (70.2 %)."


def test_published_figures_stand_beside_ours():
    ours = {"real": result(0.95), "sd": result(0.52)}
    same = arms.beside(published.beside(ours, "cifar10"), ours, {"sd": gap(-0.43)})
    assert set(same["arm"]) == {"real", "sd"} and "ours is lower" in arms.compared(same, "cifar10", "cifar10")
    assert same[same["arm"] == "real"]["gap"].eq("–").all()
    other = arms.beside(published.beside(ours, "world", "cifar10"), ours, {})
    assert "no difference is drawn" in arms.compared(other, "world", "cifar10")
    assert arms.compared(other[:0], "world", "cifar10").startswith("There is no published figure")


def test_every_seed_is_drawn_beside_its_own_mean():
    found = pd.DataFrame([{"arm": arm, "seed": k, "set": name, "accuracy": 0.5 + k / 10,
                           "correct": np.arange(10) < 5 + k}
                          for arm in ("real", "sd") for k in range(3) for name in ("test", "night")])
    _, axes = figures.figure()
    arms.dots(axes, found, accuracy.table(found))
    small, large = axes.collections[0].get_offsets(), axes.containers[0].lines[0]
    assert len(small) == 6 and sorted(set(small[:, 1])) == pytest.approx(sorted(large.get_ydata()))
    assert axes.get_xlim() == (0, 102)


def test_curves_rates_and_mixtures_draw_every_point():
    scored = points(**CURVES)
    _, axes = figures.figure(1, 3)
    arms.lines(axes[0], scored, {"real": ["0.2*real", "real"], "sd beside real": ["0.2*real+sd", "real+sd"]})
    real, beside = axes[0].lines
    assert real.get_xdata().tolist() == beside.get_xdata().tolist() == [20, 100] and real.get_ydata()[1] == pytest.approx(90.2)
    assert [len(dots.get_offsets()) for dots in axes[0].collections] == [6, 6] and beside.get_linestyle() == "--"
    arms.exchange(axes[1], curves.trades(scored, ["sd"]))
    assert [line.get_ydata().tolist() for line in axes[1].lines if line.get_marker() == "^"] == [[1]]
    assert len(axes[1].containers) == 1 and axes[1].containers[0].lines[0].get_ydata()[0] == pytest.approx(2.24, abs=0.02)
    arms.mixture(axes[2], scored, {"sd for real": ["sd", "0.5*real+0.5*sd", "real"]})
    assert axes[2].lines[0].get_xdata().tolist() == [0, 50, 100]
