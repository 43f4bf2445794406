"""Arms: they read as written, hold what they say, and say what is wrong with them."""

import dataclasses

import numpy as np
import pytest

from lib.classifier import arms
from lib.classifier.arms import ArmError, Term
from lib.data.checks import LeakError
from tests.classifier.toys import blobs


def test_arms_read_as_written():
    assert arms.parse("0.1*real + sd@4x") == [Term("real", 0.1), Term("sd", 1.0, 4.0)]


@pytest.mark.parametrize(
    "arm, match",
    [
        ("reel", "did you mean 'real'"),
        ("1.5*real", "at most 1; for more images of a set write real@1.5x"),
        ("0*real", "above 0"),
        ("real++sd", "cannot read ''"),
        ("real-", "no image set 'real-'"),
        ("import os", "no image set 'importos'"),
        ("2x", "cannot read"),
        ("sd@4", "cannot read"),
        ("sd@0x", "takes nothing"),
        ("sd+sd", "'sd' stands twice; write it once"),
    ],
)
def test_arms_that_cannot_be(arm, match):
    with pytest.raises(ArmError, match=match):
        arms.names(arm, {"real": None, "sd": None})


def test_a_name_alone_takes_as_many_as_real_has():
    sets = {"real": blobs(30), "sd": blobs(120, seed=1), "few": blobs(12, seed=2)}
    count = lambda arm: len(arms.assemble(arm, sets, 0, base=30))  # noqa: E731
    assert [count(a) for a in ("real", "sd", "few", "0.1*real+sd")] == [30, 30, 12, 33]
    assert [count(a) for a in ("sd@4x", "0.5*sd@4x", "sd@0.5x")] == [120, 60, 15]
    sizes = {name: len(part) for name, part in sets.items()}
    assert [arms.size(a, sizes) for a in ("sd", "sd@4x", "0.1*real+sd")] == [30, 120, 33]
    assert len(arms.assemble("sd", sets, 0)) == 120  # nothing to count by


def test_more_than_a_set_holds_is_refused():
    with pytest.raises(
        ArmError,
        match=r"sd@4x needs 120 images \(4 x 30\), set 'sd' holds 60: make more .* sd@2x",
    ):
        arms.assemble("sd@4x", {"real": blobs(30), "sd": blobs(60)}, 0, base=30)
    with pytest.raises(ArmError, match="were not given"):
        arms.assemble("sd@4x", {"sd": blobs(60)}, 0)


def test_parts_are_balanced_nested_and_drawn_by_the_seed():
    sets = {"real": blobs(300), "sd": blobs(300, seed=1)}
    seeds = lambda arm, k: set(arms.assemble(arm, sets, k, 300).seeds.tolist())  # noqa: E731
    assert arms.assemble("0.1*real", sets, 0, 300).counts().tolist() == [10] * 3
    assert seeds("0.1*real", 0) < seeds("0.5*real", 0) and seeds("0.1*real", 0) != seeds(
        "0.1*real", 1
    )
    mixed = arms.assemble("0.1*real+sd", sets, 0, 300)
    assert set(mixed.seeds[:30].tolist()) == seeds(
        "0.1*real", 0
    )  # the same images whatever stands beside them
    np.testing.assert_array_equal(mixed.images[30:], sets["sd"].images)


def test_a_class_missing_from_one_set_is_refused():
    whole = blobs()
    with pytest.raises(ArmError, match="set 'sd' has no image of class 'blue'"):
        arms.assemble("real+sd", {"real": whole, "sd": whole.take(whole.labels != 2)}, 0)


def test_sets_of_other_classes_or_sizes_do_not_add_up():
    other = dataclasses.replace(blobs(), classes=("a", "b", "c"))
    for sd in (other, blobs(size=8)):
        with pytest.raises(ArmError, match="different classes or sizes"):
            arms.assemble("real+sd", {"real": blobs(), "sd": sd}, 0)


def test_the_report_counts_and_finds_what_is_too_near_the_test_set():
    test, real = blobs(30, seed=9), blobs(60)
    images = np.concatenate(
        [real.images[:-4], test.images[:3] ^ 1, real.images[:1]]
    )  # a grey level off, and a copy
    rows = arms.report(
        ["real", "0.5*real"], {"real": dataclasses.replace(real, images=images)}, test
    )
    assert rows.loc[0].tolist() == ["real", 60, 20, 20, 1, 3] and rows.loc[1, "images"] == 30
    assert arms.report(["real"], {"real": real}, test).loc[0, "near test"] == 0


def test_one_planted_test_image_stops_the_run():
    test, real = blobs(30, seed=9), blobs(60)
    images = np.concatenate([real.images[:-1], test.images[:1]])
    with pytest.raises(LeakError, match="training set 'real' holds 1 test image"):
        arms.report(["real"], {"real": dataclasses.replace(real, images=images)}, test)
