"""Metrics against scikit-learn and torchmetrics; tables and differences of made-up scores."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error

from lib.measure import accuracy, stats


def frame(images=40, **arms):
    """Scores of arms on one set: a share of correct images a seed, the first ones correct."""
    labels = np.arange(images) % 2
    return pd.DataFrame([{"arm": arm, "seed": k, "set": "test", "labels": labels, "accuracy": share,
                          "correct": np.arange(images) < round(share * images)}
                         for arm, shares in arms.items() for k, share in enumerate(shares)])


def test_tables_by_arm_set_and_class():
    day = frame(real=[0.5, 0.6, 0.7], sd=[0.2, 0.3, 0.4])
    scores = pd.concat([day, day.assign(set="night", ece=[0.1, 0.2, 0.3] * 2)], ignore_index=True)
    table = accuracy.table(scores)
    assert table["sd"]["night"]["mean"] == pytest.approx(0.3)
    assert table["real"]["test"] == stats.accuracy(accuracy.correct(scores, "real"))
    assert (table["real"]["test"]["n_seeds"], table["real"]["test"]["n_images"]) == (3, 40)
    errors = accuracy.table(scores[scores["set"] == "night"], "ece")
    assert errors["sd"]["night"] == stats.over_seeds([0.1, 0.2, 0.3])
    shares = accuracy.by_class(scores, "test", ["cone", "cube", "no image of it"])
    assert list(shares["real"]) == ["cone", "cube"]
    assert shares["real"]["cone"]["mean"] == pytest.approx(0.6)
    assert shares["real"]["cone"]["n_images"] == 20


def test_differences_to_real_have_a_verdict_and_adjusted_p():
    scores = frame(400, real=[0.8, 0.82, 0.81], low=[0.6, 0.62, 0.615], near=[0.8, 0.83, 0.8],
                   copy=[0.8, 0.82, 0.81])
    found = accuracy.against(scores)
    verdicts = {arm: difference["verdict"] for arm, difference in found.items()}
    assert verdicts == {"low": "lower", "near": "inconclusive", "copy": "equivalent"}
    assert found["low"]["mean"] == pytest.approx(-0.1983, abs=1e-3) and found["low"]["p"] < 0.001
    assert found["low"]["p_holm"] == pytest.approx(3 * found["low"]["p"])
    assert found["copy"]["p_holm"] == 1


def test_a_family_of_one_needs_no_adjustment():
    found = accuracy.against(frame(400, real=[0.8, 0.82, 0.81], sd=[0.6, 0.62, 0.615]))
    assert found["sd"]["p_holm"] == found["sd"]["p"]


def test_images_widen_the_interval_beyond_that_over_seeds():
    """Three seeds that agree exactly on 40 images do not know the accuracy exactly."""
    difference = accuracy.against(frame(real=[0.8, 0.8, 0.8], sd=[0.7, 0.7, 0.7]))["sd"]
    assert difference["low"] < -0.15 < -0.05 < difference["high"]


def test_a_variant_is_compared_with_its_own_arm():
    scores = frame(400, real=[0.8, 0.82, 0.81], sd=[0.5, 0.52, 0.51], longer=[0.6, 0.62, 0.615])
    change = accuracy.changes(scores, {"longer": "sd"})
    assert list(change) == ["longer"] and change["longer"]["verdict"] == "higher"
    assert change["longer"]["mean"] == pytest.approx(0.1017, abs=1e-3)


def test_a_row_of_scores_counts():
    labels, logits = np.array([0, 0, 1, 1]), np.eye(3)[[0, 1, 1, 1]]
    row = accuracy.score(logits, labels)
    assert row["correct"].tolist() == [True, False, True, True] and row["accuracy"] == 0.75
    np.testing.assert_array_equal(row["confusion"], [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 0]])


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
    theirs = multiclass_calibration_error(
        torch.from_numpy(sure), torch.from_numpy(labels), 4, n_bins=10, norm="l1"
    )
    assert accuracy.calibration(sure, labels)[0] == pytest.approx(theirs.item(), abs=1e-6)


def test_measures_are_those_that_the_classes_call_for():
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 25
    logits = rng.normal(size=(100, 25))
    logits[np.arange(100), labels] += 9 * (np.arange(100) % 2)
    ranks = (logits > logits[np.arange(100), labels][:, None]).sum(1)
    found = accuracy.metrics(logits, labels)
    assert (
        set(found) == {"accuracy", "ece", "top5"}
        and found["top5"] == (ranks < 5).mean() > found["accuracy"]
    )
    two = accuracy.metrics(np.array([[2.0, 0], [1, 0], [0, 1], [3, 0]]), np.array([0, 0, 1, 1]))
    assert two["accuracy"] == 0.75 and two["balanced"] == 0.75 and two["auroc"] == 0.5
    assert set(accuracy.metrics(logits[:, :10], labels % 10)) == {"accuracy", "ece"}


def test_rare_classes_are_measured_as_scikit_learn_measures_them():
    """One in eight is of the second class; a classifier that never names it is right in 87.5 % and
    worth nothing.
    """
    rng, labels = np.random.default_rng(1), np.arange(400) % 8 // 7
    logits = rng.normal(size=(400, 2)).astype(np.float32) + labels[:, None] * [0, 1.2]
    found = accuracy.metrics(logits, labels)
    assert found["balanced"] == pytest.approx(
        balanced_accuracy_score(labels, logits.argmax(1)), abs=1e-12
    )
    assert found["auroc"] == pytest.approx(
        roc_auc_score(labels, logits[:, 1] - logits[:, 0]), abs=1e-9
    )
    never = accuracy.metrics(np.tile([1.0, 0.0], (400, 1)), labels)
    assert (never["accuracy"], never["balanced"], never["auroc"]) == (0.875, 0.5, 0.5)


def test_reliability_pools_the_seeds():
    bins = np.array([[np.nan, np.nan, 0], [0.9, 1.0, 30]])
    rows = [
        {"arm": "real", "seed": 0, "set": "test", "reliability": bins},
        {
            "arm": "real",
            "seed": 1,
            "set": "test",
            "reliability": np.array([[0.4, 0.5, 10], [0.8, 0.7, 10]]),
        },
    ]
    found = accuracy.reliability(pd.DataFrame(rows))
    assert found.to_numpy()[:, 1:].tolist() == [
        [0.4, 0.5, 10],
        [pytest.approx(0.875), pytest.approx(0.925), 40],
    ]


def test_accuracy_on_unseen_images_of_the_own_set_stands_beside_that_on_real_ones(monkeypatch):
    own = {"sd": frame(30, sd=[0.9, 0.9, 0.95]), "cd": frame(30, cd=[0.6, 0.6, 0.6])}
    monkeypatch.setattr(accuracy, "_scores_of", lambda store, arm, seeds, images, device: own[arm])
    scores = frame(100, real=[0.8, 0.8, 0.8], sd=[0.5, 0.52, 0.5], cd=[0.6, 0.6, 0.6])
    found = accuracy.held_out(None, scores, {"sd": [], "cd": []}, {"sd": None, "cd": None}, "cpu")
    assert found["sd"]["own"]["mean"] == pytest.approx(0.9167, abs=0.01)
    assert found["sd"]["real"] == stats.accuracy(accuracy.correct(scores, "sd"))
    assert found["sd"]["difference"]["mean"] < -0.35 and found["sd"]["difference"]["family"] == 2
    assert found["sd"]["difference"]["n_images"] == 100
