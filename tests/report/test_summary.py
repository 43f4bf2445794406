"""The first screen: each sentence follows the numbers, and the abstract stays short."""

import pytest

from lib.core.store import ArtifactSpec
from lib.report import summary, words


def result(mean, half=0.01, n=3):
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


DATA = {"resolution": 64, "train": 3000, "test": 1500, "source": "world", "classes": ["a"] * 10, "truth": True}


def training(**arms):
    accuracy = {arm: {"test": result(mean), "shift-night": result(mean - 0.2)} for arm, mean in arms.items()}
    gaps = {arm: result(mean - arms["real"], 0.05) | {"p": 0.01, "verdict": "worse than real" if mean < arms["real"] - 0.05 else
                                                      "not told apart from real: between -3.0 and +3.0 points"}
            for arm, mean in arms.items() if arm != "real"}
    return {"accuracy": accuracy, "best": max(arms, key=arms.get), "gaps": gaps, "protocol": "ResNet-18."}


def parts(gap=-0.3, features=-0.1, half=0.02):
    return {"gap": {"sd": {"gap": result(gap, half), "features": result(features, half), "final_layer": result(gap - features, half)}}}


def repair(gain=0.2, helped=("late",)):
    chosen = {"name": "late then filter", "gain": {"gain": result(gain, 0.02)} if gain else {}, "real": 800, "without": None}
    return {"base": "sd", "gap": result(0.3), "gains": {name: {"gain": result(0.1)} for name in ("late", "filter")},
            "helped": list(helped), "tried": 2, "choice": chosen}


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("arms", [{"real": 0.9}, {"real": 0.9, "sd": 0.7}, {"real": 0.7, "real+sd": 0.9, "sd": 0.5}])
def test_the_abstract_fits_and_is_honest(arms, small):
    text = summary.abstract(DATA, training(**arms), parts(), repair(), small)
    assert len(text.split()) <= 150 and ("small run" in text) == small
    assert ("No synthetic training set was part" in text) == (set(arms) == {"real"})
    assert f"a classifier recognises {100 * arms['real']:.1f} %" in text
    assert ("sd teaches less" in text) == ("sd" in arms) and ("real+sd +20.0 [+15.0, +25.0]" in text) == ("real+sd" in arms)


def test_the_abstract_of_many_arms_and_long_names_still_fits():
    arms = {"real": 0.9} | {f"real+sd@{k}x": 0.5 for k in range(30)}
    name = f"filter by {'much ' * 9}; then late"
    long = repair() | {"choice": repair()["choice"] | {"name": name, "without": {"gain": result(0.1)}}}
    text = summary.abstract(DATA, training(**arms), parts(), long, True)
    assert len(text.split()) <= 150 and "26 more in the table" in text and "+10.0 [+9.0, +11.0]" in text


def test_the_legend_says_what_each_set_is():
    made = {"cd": ArtifactSpec("class-conditional-images", inputs={"generator": ArtifactSpec(
        "class-conditional-model", {"start": "shipped", "train": {"max_train_steps": 9, "batch_size": 4}},
        {"real": ArtifactSpec("real-images", {"count": 70})})})}
    assert summary.legend(made, DATA) == (
        "real: 3,000 real training images. cd knows classes instead of words; its generator was trained from the shipped model "
        "on 70 real training images for 9 steps of 4.")
    assert summary.legend({}, DATA) == ""


def test_the_abstract_first_leaves_out_names_and_then_the_question():
    choice = repair()["choice"] | {"name": "filter; then late", "without": {"gain": result(0.1), "control": {"verdict": "worse"}}}
    named = repair() | {"choice": choice}
    longer = repair() | {"choice": choice | {"name": f"filter {'much ' * 60}; then late"}}
    one, two = (summary.abstract(DATA, training(real=0.9, sd=0.7), parts(), each, True) for each in (named, longer))
    assert "(filter; then late)" in one and "late alone" in one and one.count("Does a classifier") == 1
    assert "much" not in two and "Does a classifier" in two and two.endswith("one: +10.0 [+9.0, +11.0], worse.")


def test_limits_name_what_was_not_run():
    assert "Synthetic arms: not run in this profile." in summary.limits(DATA, training(real=0.9), repair(), False)
    assert not any("not run" in text for text in summary.limits(DATA, training(real=0.9, sd=0.5), repair(), False))
    assert any("rendered" in text for text in summary.limits(DATA, training(real=0.9), repair(), False))
    assert not any("rendered" in text for text in summary.limits(DATA | {"truth": False}, training(real=0.9), repair(), False))
    assert any("small run" in text.lower() for text in summary.limits(DATA, training(real=0.9), repair(), True))


def test_the_key_table_has_a_row_an_arm():
    table = summary.key_table(training(real=0.9, sd=0.5))
    assert list(table["arm"]) == ["real", "sd"] and table["gap"][0] == table["verdict"][0] == "–"
    assert list(summary.columns(table)) == ["arm", "test", "gap", "verdict"]
    two = summary.key_table(training(real=0.9, sd=0.5) | {"beside": {"auroc": {"real": result(0.95), "sd": result(0.6)}}})
    assert list(summary.columns(two).values())[2:] == ["Difference to real", "Verdict", "AUROC"]
    assert two["auroc"][1] == result(0.6)
    assert table["test"][1]["n"] == 3 and table["verdict"][1] == "worse than real" and table["gap"][1]["mean"] == -0.4
    assert summary.key_table(training(real=0.9, sd=0.9))["verdict"][1] == "not told apart from real"


@pytest.mark.parametrize(("found", "said"), [
    (parts(), "With a new head from the same few real images for both, −10.0 [−12.0, −8.0] stay of sd's gap: the gap lies in "
              "the features and in the final layer."),
    (parts(features=0.01), "With a new head from the same few real images for both, +1.0 [−1.0, +3.0] stay of sd's gap: the gap "
                           "lies in the final layer."),
    (parts(features=-0.4), "With a new head from the same few real images for both, −40.0 [−42.0, −38.0] stay of sd's gap: the "
                           "gap lies in the features."),
    (parts(gap=0.0), "sd has no measurable gap to take apart."), ({"gap": {}}, "sd has no measurable gap to take apart.")])
def test_what_the_gap_is_made_of(found, said):
    assert summary.made_of(found["gap"], repair()) == said


@pytest.mark.parametrize(("found", "said"), [
    (repair(), "One of 2 remedies helps beyond chance; the remedy chosen on validation images (late then filter) gives "
               "+20.0 [+18.0, +22.0], 67 % of the gap."),
    (repair() | {"choice": repair()["choice"] | {"name": "filter; then late", "without": {
        "gain": result(0.15), "control": {"verdict": "better than a"}}}},
     "One of 2 remedies helps beyond chance; the combination chosen on validation images (filter; then late) gives "
     "+20.0 [+18.0, +22.0], 67 % of the gap (late alone: +10.0 [+9.0, +11.0]). The same 800 real images without a synthetic "
     "one: +15.0 [+14.0, +16.0], better than a."),
    (repair(gain=0, helped=()), "No remedy helps beyond chance."), (repair(gain=0), "One of 2 remedies helps beyond chance."),
    (repair(gain=0, helped=("late", "filter")), "2 of 2 remedies help beyond chance.")])
def test_what_closes_it(found, said):
    assert summary.closed(found) == said


def test_the_best_remedies_come_first_beside_the_chosen_and_real_images_alone():
    found = repair(helped=("late", "filter")) | {"gains": {"filter": {"gain": result(0.1)}, "late": {"gain": result(0.2)}}}
    assert list(summary.best(found)) == ["late", "late then filter", "filter"]
    alone = found | {"choice": found["choice"] | {"without": {"gain": result(0.5)}}}
    assert list(summary.best(alone))[0] == "no synthetic image, 800 real"
    assert summary.best(repair(gain=0, helped=())) == {}


def test_the_headline_of_the_key_table_names_every_gap():
    one = training(real=0.9, sd=0.5)
    assert words.headline(one["accuracy"], one["gaps"], "real", 1500) == (
        "Trained on real, 90.0 % ± 1.0 (n = 3) of 1,500 unseen real images are recognised. Instead of it: sd 50.0 % "
        "(−40.0 points ± 5.0 (n = 3), worse than real).")
    alone = training(real=0.9)
    assert words.headline(alone["accuracy"], {}, "real", 10).endswith("are recognised.")
