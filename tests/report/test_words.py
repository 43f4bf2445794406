"""Sentences follow the data: each branch is reached by numbers that ask for it."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lib.report import words


def result(mean, half=0.01, n=3):
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


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


@pytest.mark.parametrize(("train", "test", "said"), [
    (["a/1 (2).jpg"], ["b.JPEG"], "the same encoding: JPEG. What the encoding takes away"),
    (["world/photo/3"], ["digits/1.5"], "the same encoding: none"),
    (["a.jpg", "b.png"], ["c.png"], "from JPEG and PNG, test images from PNG: accuracies below are too low"),
    (["a.png"], ["cifar10/7"], "test images from arrays")])
def test_encodings_of_both_sides_are_named(train, test, said):
    assert said in words.encoded(train, test)


def test_what_was_left_out_is_counted_and_flaws_are_told():
    assert words.left_out([]) == "No file was left out."
    assert words.left_out([f"{i}.jpg" for i in range(7)]).startswith("7 unreadable files were left out: 0.jpg, ")
    said = words.flawed({"pairs": 1200, "train": 50000, "leaks": 3, "test": 10000}, "FAKE")
    assert said == ("As published, half FAKE has 1,200 pairs of equal images among its 50,000 training images, and 3 of its "
                    "10,000 test images equal a training image.")


def test_drops_speak_of_a_shift_only_where_intervals_part():
    far = words.drops({"test": result(0.9), "night": result(0.5), "drawing": result(0.8)}, "test")
    assert far == "The hardest shift is night: 50.0 % ± 1.0, 40.0 points below the test set."
    near = words.drops({"test": result(0.9), "night": result(0.5, 0.2), "drawing": result(0.65)}, "test")
    assert near.endswith("40.0 points below the test set, not told apart from drawing.")
    assert words.drops({"test": result(0.9), "night": result(0.89)}, "test").startswith("No shift set is clearly harder")
    assert words.drops({"test": result(0.9)}, "test") == "This source offers no shift set."


def test_confusable_names_the_commonest_mistake():
    found = np.array([[0.9, 0.1, 0], [0.3, 0.7, 0], [0, 0, 1]])
    assert words.confusable(found, ["cone", "cube", "torus"]) == "The commonest mistake: 30 % of cube images are called cone."
    assert words.confusable(np.eye(3), "abc") == "No test image was given to a wrong class."


def test_hardest_and_easiest():
    assert words.hardest({"real": {"cone": result(0.5), "cube": result(0.9)}}, "real") == (
        "Hardest for real: cone, 50.0 % ± 1.0 recognised; easiest: cube, 90.0 % ± 1.0.")
    said = words.hardest({"real": {"cone": result(0.5, 0.3), "cube": result(0.9), "torus": result(0.7)}}, "real")
    assert "recognised, not told apart from torus; easiest" in said
    many = {str(k): result(0.5 + k / 1000) for k in range(5)}
    assert words.alike("0", many) == ", not told apart from 4 others" and words.alike("4", {"4": result(0.5)}) == ""


@pytest.mark.parametrize("near, copies, said", [
    (np.full(100, 9.0), 0, ["0.0 % [0.0, 3.7] of the synthetic", "no sign", "no synthetic image comes twice"]),
    (np.r_[np.full(90, 9.0), np.zeros(10)], 3, ["10.0 % [", "more than chance", "3 synthetic images equal"]),
    (np.r_[np.full(98, 9.0), np.zeros(2)], 0, ["2.0 % [", "no sign"]),  # 2 of 100 where 1 is usual
    (np.full(100, 6.0), 0, ["0.0 % [", "nearer than half of them: no image stands out, but the set as a whole lies nearer"])])
def test_memory(near, copies, said):
    sentence = words.memory(near, np.linspace(5, 10, 101), copies)
    assert all(part in sentence for part in said), sentence


def test_judged_names_each_sets_hardest_class():
    rows = {"all": result(0.8), "cube": result(0.6), "cone": result(0.9)}
    sentence = words.judged({"real test": rows, "sd": rows})
    assert sentence.endswith("recognises 80.0 % of real test; 80.0 % of sd, least of cube (60 %, of real ones 60 %).")


def test_swept_names_all_ties_and_where_what_is_in_use_stands():
    told = [("a", 3.0, 0.7, 7, 1.0, 0), ("a", 1.0, 0.5, 9, 0.01, 5), ("b", 3.0, 0.8, 8, 0.2, 2), ("c", 3.0, 0.8, 8, 0.2, 6)]
    frame = pd.DataFrame([{"recipe": said, "guidance": pull, "recognised": result(share, n=50), "variety": result(spread),
                           "p": p, "moved": moved} for said, pull, share, spread, p, moved in told])
    sentence = words.swept(frame, "a", 3.0)
    assert "recognises 50.0 % at 1 and 70.0 % at 3 (1 told apart from 3, which is in use)" in sentence
    assert "from 9.0 to 7.0 grey levels" in sentence and "by 2 to 6 grey levels on average; two images of a class in" in sentence
    assert "most with “b” and “c” (80.0 %), least with “a” (70.0 %), and 70.0 % with “a”, which is in use (none told" in sentence
    assert "n = 50 images each, exact paired tests corrected for 3 comparisons" in sentence
    assert "none told apart from 3" in words.swept(frame.assign(p=0.02), "a", 3.0)  # 0.02 of three is chance
    assert "wording" not in words.swept(frame[:2], "a", 3.0)


@pytest.mark.parametrize(("sets", "model", "said"), [(["sd"], "shipped", "sweep_num_images is 0"),
                                                    (["sd", "cd"], "published", "somebody else"),
                                                    (["cd"], "shipped", "no model here is asked in words")])
def test_why_there_is_no_sweep(sets, model, said):
    assert said in words.unswept(SimpleNamespace(sets=sets, model=model, sweep_num_images=0))


def test_cost_counts_what_was_drawn_again():
    frame = pd.DataFrame([{"set": "sd", "images": 1000, "rate": 20.0, "again": 0, "training": 0.0},
                          {"set": "cd", "images": 10, "rate": 5.0, "again": 2, "training": 61.0}])
    assert words.cost(frame) == "1,000 images of sd at 20.0 a second; 10 images of cd at 5.0 a second after 61 s of training. " \
                                "2 had to be drawn again."
    assert words.cost(frame[:1]).endswith("None had to be drawn again.")



def test_the_widest_gap_and_the_worst_calibration():
    shares = {"real": {"cone": result(0.9), "cube": result(0.8)}, "sd": {"cone": result(0.3), "cube": result(0.9)}}
    assert words.widest(shares, "real") == "The widest gap: cone under sd, 30 % against 90 % under real."
    assert words.widest({"real": shares["real"]}, "real").startswith("Hardest for real: cube")
    errors = {"real": {"test": result(0.05)}, "sd": {"test": result(0.2)}}
    assert "for sd: 20.0 % ± 1.0 on average; real: 5.0 %" in words.calibration(errors, "real")
    assert words.hundredfold("–") == "–" and words.hundredfold(result(0.5)) == "50.0 ± 1.0"
