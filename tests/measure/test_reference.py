"""The reference classifier's shares are Wilson's; variety is zero for copies and grows with
difference.
"""

import numpy as np
import pytest

from lib.core.config import load
from lib.core.store import ArtifactSpec
from lib.data.imageset import ImageSet
from lib.measure import reference, stats


def pictures(values, labels):
    """Grey pictures of these levels."""
    images = np.array(values, np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    n = len(values)
    return ImageSet(images, np.array(labels), ("a", "b"), np.arange(n), ("",) * n, ("",) * n)


def test_the_reference_of_uneven_classes_counts_them_alike():
    smoke, real = load("smoke"), ArtifactSpec("blobs")
    even, uneven = (
        reference.reference_classifier(smoke.training, smoke.study,
                                       {"flip": True, "train": 90, "uneven": uneven}, real,
                                       1).settings
        for uneven in (False, True))
    assert even["class_weights"] == "none" and even["steps"] == 2 and even["lr"] == 0.3
    assert uneven == even | {"class_weights": "balanced"}


def test_shares_by_class_and_the_least_probable():
    part = pictures([1, 2, 3, 4], [0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.05, 0.95]])
    shares = reference.by_class(probabilities, part)
    assert [shares[name]["mean"] for name in ("all", "a", "b")] == [0.75, 0.5, 1.0]
    assert shares["a"] == stats.share(np.array([True, False]))
    assert list(reference.least_probable(probabilities, part, 2)) == [1, 2]
    assert list(reference.table({"x": shares, "y": shares}).columns) == ["class", "x", "y"]


def test_a_set_at_chance_has_failed_if_real_images_are_recognised():
    rows = {
        name: {"all": {"low": low}} for name, low in (("real test", 0.6), ("sd", 0.5), ("cd", 0.3))
    }
    assert reference.failed(rows, 3) == ["cd"] and reference.failed(rows, 2) == ["sd", "cd"]
    assert reference.failed(rows | {"real test": {"all": {"low": 0.2}}}, 3) == []


def test_the_interval_of_variety_knows_that_pairs_share_images():
    """As wide as the mean varies over sets of 40; over pairs alone it is several times too narrow.
    """
    rng = np.random.default_rng(0)
    draws = [reference.variety(pictures(rng.integers(0, 255, 40), [0, 1] * 20))
             for _ in range(200)]
    spread = np.std([draw["mean"] for draw in draws])
    half = np.mean([draw["high"] - draw["mean"] for draw in draws])
    assert 0.85 < half / (1.96 * spread) < 1.3


def test_variety_of_copies_is_nothing_and_of_two_levels_known():
    """Levels 10 and 30 in equal number: two of four images differ by 20 in 8 of 12 ordered pairs.
    """
    assert reference.variety(pictures([7] * 6, [0] * 6))["mean"] == 0
    levels = reference.variety(pictures([10, 10, 30, 30], [0] * 4))
    assert levels["mean"] == pytest.approx(20 * 8 / 12) and levels["n"] == 4
    assert reference.variety(pictures([10, 10, 30, 30], [0, 0, 1, 1]))["mean"] == 0
    with pytest.raises(ValueError, match="no two of one class"):
        reference.variety(pictures([1, 2], [0, 1]))


def test_a_sweep_is_paired_with_the_point_in_use(monkeypatch):
    part = pictures([10, 20] * 20, [0, 1] * 20)
    right = np.eye(2)[part.labels]
    answers = {"used": right, "same": right, "wrong": right[:, ::-1]}
    monkeypatch.setattr(
        reference, "probabilities", lambda store, model, spec, device: answers[spec]
    )
    points = {(name, 1.0): name for name in answers}
    rows = reference.sweep(None, None, points, dict.fromkeys(points, part), "cpu")
    assert [row["recognised"]["mean"] for row in rows] == [1, 1, 0]
    assert rows[0]["difference"] is None and rows[1]["difference"]["verdict"] == "equivalent"
    assert rows[2]["difference"]["mean"] == -1 and rows[2]["difference"]["family"] == 1
    assert reference.shift(pictures([10, 20], [0, 1]), pictures([13, 21], [0, 1])) == pytest.approx(
        2
    )
