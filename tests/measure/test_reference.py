"""The judge's numbers are shares with Wilson intervals; variety is zero for copies and grows with difference."""

import numpy as np
import pytest

from lib.core.config import load
from lib.core.store import ArtifactSpec
from lib.data.imageset import ImageSet
from lib.measure import reference as verdict


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
    smoke, real = load("smoke"), ArtifactSpec("blobs")
    even, uneven = (
        verdict.reference_classifier(
            smoke.training, smoke.study, {"flip": True, "train": 90, "uneven": uneven}, real, 1
        ).settings
        for uneven in (False, True)
    )
    assert even["class_weights"] == "none" and even["steps"] == 2 and even["lr"] == 0.3
    assert uneven == even | {"class_weights": "balanced"}


def test_recognised_by_class_and_strangest():
    part = pictures([1, 2, 3, 4], [0, 0, 1, 1])
    belief = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.05, 0.95]])
    found = verdict.recognised(belief, part)
    assert (found["all"]["mean"], found["a"]["mean"], found["b"]["mean"]) == (0.75, 0.5, 1.0)
    assert list(verdict.strangest(belief, part, 2)) == [1, 2]
    assert list(verdict.table({"x": found, "y": found}).columns) == ["class", "x", "y"]


def test_a_set_at_chance_has_failed_if_real_images_are_recognised():
    rows = {name: {"all": {"low": low}} for name, low in (("real test", .6), ("sd", .5), ("cd", .3))}
    assert verdict.failed(rows, 3) == ["cd"] and verdict.failed(rows, 2) == ["sd", "cd"]
    assert verdict.failed(rows | {"real test": {"all": {"low": 0.2}}}, 3) == []


def test_the_interval_of_variety_knows_that_pairs_share_images():
    """As wide as the mean itself varies over sets of 40; the interval over pairs alone is several times too narrow."""
    rng = np.random.default_rng(0)
    found = [verdict.variety(pictures(rng.integers(0, 255, 40), [0, 1] * 20)) for _ in range(200)]
    spread = np.std([one["mean"] for one in found])
    half = np.mean([one["high"] - one["mean"] for one in found])
    assert 0.85 < half / (1.96 * spread) < 1.3


def test_paired_hits_and_what_other_words_move():
    hits = np.array([True] * 10 + [False] * 10)
    assert verdict.apart(hits, hits) == 1 and verdict.apart(hits, ~hits) == 1  # ten gained, ten lost
    assert verdict.apart(hits, np.zeros(20, bool)) == pytest.approx(2 * 0.5**10)
    assert verdict.moved(pictures([10, 20], [0, 1]), pictures([13, 21], [0, 1])) == pytest.approx(2)


def test_variety_of_copies_is_nothing_and_of_two_levels_known():
    """Levels 10 and 30 in equal number: two different images of four differ by 20 in 8 of 12 ordered pairs."""
    assert verdict.variety(pictures([7] * 6, [0] * 6))["mean"] == 0
    found = verdict.variety(pictures([10, 10, 30, 30], [0] * 4))
    assert found["mean"] == pytest.approx(20 * 8 / 12) and found["n"] == 4
    assert verdict.variety(pictures([10, 10, 30, 30], [0, 0, 1, 1]))["mean"] == 0
    with pytest.raises(ValueError, match="no two of one class"):
        verdict.variety(pictures([1, 2], [0, 1]))
