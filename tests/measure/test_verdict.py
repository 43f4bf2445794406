"""The judge's numbers are shares with Wilson intervals; variety is zero for copies and grows with difference."""

import numpy as np
import pytest

from lib.data.images import ImageSet
from lib.measure import verdict
from lib.settings import load
from lib.store import Recipe


def pictures(values, labels):
    """Grey pictures of these levels."""
    images = np.array(values, np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    n = len(values)
    return ImageSet(images, np.array(labels, np.int64), ("a", "b"), np.arange(n), ("",) * n, ("",) * n)


def test_shares_are_wilsons():
    """8 of 10: the published interval is 0.4902 to 0.9433."""
    found = verdict.share(np.array([True] * 8 + [False] * 2))
    assert found["mean"] == 0.8 and found["n"] == 10
    assert abs(found["low"] - 0.4902) < 1e-4 and abs(found["high"] - 0.9433) < 1e-4


def test_the_judge_of_uneven_classes_counts_them_alike():
    study, data, real = load("smoke").study, {"resolution": 32, "flip": True, "train": 90}, Recipe("tests.classifier.toys.toy")
    wanted = [verdict.judge(study, data | {"uneven": uneven}, real, 1).settings for uneven in (False, True)]
    assert "balance" not in wanted[0] and wanted[1] == wanted[0] | {"balance": True}


def test_recognised_by_class_and_strangest():
    part = pictures([1, 2, 3, 4], [0, 0, 1, 1])
    belief = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.05, 0.95]])
    found = verdict.recognised(belief, part)
    assert (found["all"]["mean"], found["a"]["mean"], found["b"]["mean"]) == (0.75, 0.5, 1.0)
    assert list(verdict.strangest(belief, part, 2)) == [1, 2]
    assert list(verdict.table({"x": found, "y": found}).columns) == ["class", "x", "y"]


def test_variety_of_copies_is_nothing_and_of_two_levels_known():
    """Levels 10 and 30 in equal number: two different images of four differ by 20 in 8 of 12 ordered pairs."""
    assert verdict.variety(pictures([7] * 6, [0] * 6))["mean"] == 0
    found = verdict.variety(pictures([10, 10, 30, 30], [0] * 4), pairs=20000)
    assert found["low"] <= 20 * 8 / 12 <= found["high"] and found["n"] == 20000
    with pytest.raises(ValueError, match="no two of one class"):
        verdict.variety(pictures([1, 2], [0, 1]))
