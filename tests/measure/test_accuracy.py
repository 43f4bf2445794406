"""Statistics against closed forms and scipy."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error

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


def frame(**arms):
    """Scores of arms on one set, one value a seed."""
    return pd.DataFrame([{"arm": arm, "seed": k, "set": "test", "accuracy": value}
                         for arm, values in arms.items() for k, value in enumerate(values)])


def test_differences_to_real_choose_their_words():
    found = accuracy.against(frame(real=[0.8, 0.82, 0.81], low=[0.6, 0.62, 0.615], near=[0.8, 0.83, 0.8], copy=[0.8, 0.82, 0.81]))
    assert [found[arm]["verdict"].split(":")[0] for arm in ("low", "near", "copy")] == [
        "worse than real", "not told apart from real", "the same as real"]
    assert found["low"]["mean"] == pytest.approx(np.mean([-0.2, -0.2, -0.195])) and found["low"]["p"] < 0.001
    assert accuracy.verdict({"low": 0.01, "high": 0.03}, "sd") == "better than sd"
    assert accuracy.verdict({"low": -0.01, "high": 0.03}, "my-own") == (
        "not told apart from my-own: between \N{MINUS SIGN}1.0 and +3.0 points")


def test_a_variant_is_held_against_its_own_arm():
    found = frame(real=[0.8, 0.82, 0.81], sd=[0.5, 0.52, 0.51], longer=[0.6, 0.62, 0.615])
    change = accuracy.changes(found, {"longer": "sd"})
    assert list(change) == ["longer"] and change["longer"]["verdict"] == "better than sd"
    assert change["longer"]["mean"] == pytest.approx(np.mean([0.1, 0.1, 0.105]))


def test_calibration_of_known_bins():
    sure = np.array([[0.95, 0.05]] * 10 + [[0.65, 0.35]] * 10)
    labels = np.array([0] * 9 + [1] + [0] * 4 + [1] * 6)
    error, bins = accuracy.calibration(sure, labels)
    assert error == pytest.approx((abs(0.9 - 0.95) + abs(0.4 - 0.65)) / 2)
    np.testing.assert_allclose(bins[[6, 9]], [[0.65, 0.4, 10], [0.95, 0.9, 10]])
    assert bins[:, 2].sum() == 20 and np.isnan(bins[0, 0])


def test_calibration_is_that_of_torchmetrics():
    rng = np.random.default_rng(0)
    sure, labels = rng.dirichlet([0.5] * 4, 500), rng.integers(0, 4, 500)
    theirs = multiclass_calibration_error(torch.from_numpy(sure), torch.from_numpy(labels), 4, n_bins=10, norm="l1")
    assert accuracy.calibration(sure, labels)[0] == pytest.approx(theirs.item(), abs=1e-6)


def test_measures_are_those_that_the_classes_call_for():
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 25
    logits = rng.normal(size=(100, 25))
    logits[np.arange(100), labels] += 9 * (np.arange(100) % 2)
    ranks = (logits > logits[np.arange(100), labels][:, None]).sum(1)
    found = accuracy.measures(logits, labels)
    assert set(found) == {"accuracy", "ece", "top5"} and found["top5"] == (ranks < 5).mean() > found["accuracy"]
    two = accuracy.measures(np.array([[2.0, 0], [1, 0], [0, 1], [3, 0]]), np.array([0, 0, 1, 1]))
    assert two["accuracy"] == 0.75 and two["balanced"] == 0.75 and two["auroc"] == 0.5
    assert set(accuracy.measures(logits[:, :10], labels % 10)) == {"accuracy", "ece"}


def test_rare_classes_are_measured_as_scikit_learn_measures_them():
    """One in eight is of the second class; a classifier that never names it is right in 87.5 % and worth nothing."""
    rng, labels = np.random.default_rng(1), np.arange(400) % 8 // 7
    logits = rng.normal(size=(400, 2)).astype(np.float32) + labels[:, None] * [0, 1.2]
    found = accuracy.measures(logits, labels)
    assert found["balanced"] == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)), abs=1e-12)
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, logits[:, 1] - logits[:, 0]), abs=1e-9)
    never = accuracy.measures(np.tile([1.0, 0.0], (400, 1)), labels)
    assert (never["accuracy"], never["balanced"], never["auroc"]) == (0.875, 0.5, 0.5)


def test_reliability_pools_the_seeds():
    bins = np.array([[np.nan, np.nan, 0], [0.9, 1.0, 30]])
    rows = [{"arm": "real", "seed": 0, "set": "test", "reliability": bins},
            {"arm": "real", "seed": 1, "set": "test", "reliability": np.array([[0.4, 0.5, 10], [0.8, 0.7, 10]])}]
    found = accuracy.reliability(pd.DataFrame(rows))
    assert found.to_numpy()[:, 1:].tolist() == [[0.4, 0.5, 10], [pytest.approx(0.875), pytest.approx(0.925), 40]]
