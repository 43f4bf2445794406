"""Sentences follow the data: each branch is reached by numbers that ask for it."""

import numpy as np
import pytest

from lib.report import words


def result(mean, half=0.01, n=3):
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


DATA = {"resolution": 64, "train": 3000, "test": 1500, "source": "world", "classes": ["a"] * 10, "truth": True}


def training(**arms):
    accuracy = {arm: {"test": result(mean), "shift-night": result(mean - 0.2)} for arm, mean in arms.items()}
    return {"accuracy": accuracy, "best": max(arms, key=arms.get), "protocol": "ResNet-18."}


def test_balance_says_equal_or_names_the_ends():
    assert words.balance(np.array([5, 5]), "ab").startswith("Balanced: 5 training images")
    assert "5 or 6" in words.balance(np.array([5, 6]), "ab")
    assert words.balance(np.array([5, 90]), ["rare", "common"]) == "Not balanced: common has 90 training images, rare 5."


@pytest.mark.parametrize("shared, twins, near, said", [
    (3, 0, 9, "Training and test overlap: 3 images"),
    (0, 0, 10, "no training image comes twice, and test images lie as far from"),
    (0, 4, 10, "4 training images are exact copies"), (0, 0, 2, "lie nearer to")])
def test_apart(shared, twins, near, said):
    assert said in words.apart(shared, twins, near, 10)


def test_drops_speak_of_a_shift_only_where_intervals_part():
    far = words.drops({"test": result(0.9), "night": result(0.5), "drawing": result(0.8)}, "test")
    assert far == "The hardest shift is night: 50.0 % ± 1.0 (n = 3), 40.0 points below the test set."
    assert words.drops({"test": result(0.9), "night": result(0.89)}, "test").startswith("No shift set is clearly harder")
    assert words.drops({"test": result(0.9)}, "test") == "This source offers no shift set."


def test_confusable_names_the_commonest_mistake():
    found = np.array([[0.9, 0.1, 0], [0.3, 0.7, 0], [0, 0, 1]])
    assert words.confusable(found, ["cone", "cube", "torus"]) == "The commonest mistake: 30 % of cube images are called cone."
    assert words.confusable(np.eye(3), "abc") == "No test image was given to a wrong class."


def test_hardest_and_easiest():
    assert words.hardest({"real": {"cone": result(0.5), "cube": result(0.9)}}, "real") == (
        "Hardest for real: cone, 50.0 % ± 1.0 (n = 3) recognised; easiest: cube, 90.0 % ± 1.0 (n = 3).")


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("arms", [{"real": 0.9}, {"real": 0.9, "sd": 0.7}, {"real": 0.7, "real+sd": 0.9, "sd": 0.5}])
def test_the_abstract_fits_and_is_honest(arms, small):
    text = words.abstract(DATA, training(**arms), small)
    assert len(text.split()) <= 150 and ("small run" in text) == small
    assert ("No synthetic training set was part" in text) == (set(arms) == {"real"})
    assert f"{100 * max(arms.values()):.1f} %" in text


def test_limits_name_what_was_not_run():
    assert "Synthetic arms: not run in this profile." in words.limits(DATA, training(real=0.9), False)
    assert not any("not run" in text for text in words.limits(DATA, training(real=0.9, sd=0.5), False))
    assert any("rendered" in text for text in words.limits(DATA, training(real=0.9), False))
    assert not any("rendered" in text for text in words.limits(DATA | {"truth": False}, training(real=0.9), False))
    assert any("small run" in text.lower() for text in words.limits(DATA, training(real=0.9), True))


def test_the_key_table_has_a_row_a_test_set_and_a_column_an_arm():
    table = words.key_table(training(real=0.9, sd=0.5)["accuracy"])
    assert list(table.columns) == ["tested on", "real", "sd"] and list(table["tested on"]) == ["test", "shift-night"]
    assert table["sd"][0]["n"] == 3
