"""Statistics against closed forms and scipy."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.measure import accuracy


def test_interval_of_three_known_values():
    found = accuracy.interval([1.0, 2.0, 3.0])  # sd 1, t(0.975, 2) = 4.302653
    assert found["mean"] == 2 and found["n"] == 3
    assert found["high"] - 2 == pytest.approx(4.302653 / 3**0.5, rel=1e-6) == 2 - found["low"]


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = [(i := accuracy.interval(rng.normal(5, 2, 4)))["low"] < 5 < i["high"] for _ in range(4000)]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


def test_one_value_has_no_interval():
    with pytest.raises(ValueError, match="at least two"):
        accuracy.interval([1.0])


def test_paired_is_scipys_paired_test_and_sees_what_an_unpaired_one_would_not():
    base = np.array([0.2, 0.5, 0.8])
    ours = base + [0.01, 0.012, 0.011]
    found = accuracy.paired(ours, base)
    assert found["p"] == pytest.approx(stats.ttest_rel(ours, base).pvalue) and found["low"] > 0


def test_paired_with_itself_is_no_difference():
    assert accuracy.paired([1.0, 2.0], [1.0, 2.0]) == {"mean": 0, "low": 0, "high": 0, "n": 2, "p": 1}


def test_per_class_and_confusion_count():
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    assert accuracy.per_class(predicted, labels, 3)[:2].tolist() == [0.5, 1]
    assert np.isnan(accuracy.per_class(predicted, labels, 3)[2])
    np.testing.assert_array_equal(accuracy.confusion(predicted, labels, 2), [[0.5, 0.5], [0, 1]])


def test_tables_by_arm_set_and_class():
    rows = [{"arm": arm, "seed": k, "set": name, "accuracy": base + k / 10, "per_class": np.array([base, k / 2])}
            for arm, base in (("real", 0.5), ("sd", 0.2)) for k in range(3) for name in ("test", "night")]
    found = pd.DataFrame(rows)
    table = accuracy.table(found)
    assert table["sd"]["night"]["mean"] == pytest.approx(0.3) and table["real"]["test"]["n"] == 3
    shares = accuracy.by_class(found, "test", ["cone", "cube"])
    assert shares["real"]["cone"] == {"mean": 0.5, "low": 0.5, "high": 0.5, "n": 3}
    assert shares["sd"]["cube"]["mean"] == pytest.approx(0.5)
