"""Intervals and verdicts: closed forms, references, and coverage in simulation."""

import json

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score

from lib.measure import stats

TRIALS = 2000


def correct(seeds=5, images=200, share=0.8, seed=0):
    """A matrix (seeds, images) of correct or not."""
    return np.random.default_rng(seed).random((seeds, images)) < share


@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize(("seed_effect", "image_effect"),
                         [(0.05, 0), (0, 0.5), (0.05, 0.5), (0.1, 0.5)])
def test_coverage_over_seeds_and_images(seeds, seed_effect, image_effect):
    rng, images = np.random.default_rng(seeds), 100
    values = (seed_effect * rng.standard_normal((TRIALS, seeds, 1))
              + image_effect * rng.standard_normal((TRIALS, 1, images))
              + 0.5 * rng.standard_normal((TRIALS, seeds, images)))
    error, df = stats.two_way_error(values)
    covered = np.abs(values.mean((1, 2))) < scipy_stats.t.ppf(0.975, df) * error
    assert 0.93 <= covered.mean() <= 0.97


def test_coverage_of_differences_that_are_right_or_wrong():
    """Two training sets of equal skill, each answer 0 or 1, with seed and image effects."""
    rng, seeds, images = np.random.default_rng(0), 5, 150
    hard = rng.standard_normal((TRIALS, 1, images))
    skill = 1.2 + 0.25 * rng.standard_normal((2, TRIALS, seeds, 1))
    noise = rng.standard_normal((2, TRIALS, seeds, images))
    right = (skill + hard + 0.7 * noise > 0).astype(float)
    values = right[0] - right[1]
    error, df = stats.two_way_error(values)
    covered = np.abs(values.mean((1, 2))) < scipy_stats.t.ppf(0.975, df) * error
    assert 0.93 <= covered.mean() <= 0.97


def test_coverage_of_the_same_seeds_on_other_images():
    rng, trials, seeds = np.random.default_rng(1), 1000, 5
    hits = []
    for _ in range(trials):
        shared = 0.3 * rng.standard_normal((seeds, 1))  # a seed's skill, on both sets
        sides = [shared + 0.1 * rng.standard_normal((seeds, 1)) + 0.5 * rng.standard_normal((1, n))
                 + 0.5 * rng.standard_normal((seeds, n)) for n in (60, 90)]
        estimate = stats.unpaired(*sides)
        hits.append(estimate["low"] < 0 < estimate["high"])
    assert 0.93 <= np.mean(hits) <= 0.97


def test_unpaired_leaves_images_without_a_value_out_and_needs_the_same_seeds():
    ours, base = np.random.default_rng(0).normal(size=(2, 3, 20))
    ours[0, 3] = np.nan
    assert stats.unpaired(ours, base)["n_images"] == 19
    with pytest.raises(stats.StatsError, match="same seeds on both sides"):
        stats.unpaired(ours, base[:2])


def test_a_family_counts_what_helps_beside_what_hurts():
    helps, hurts = stats.over_seeds([0.3, 0.31, 0.32]), stats.over_seeds([-0.3, -0.31, -0.32])
    family = stats.family({"a": helps, "b": hurts, "c": stats.over_seeds([0.5, 0.5, 0.5])})
    assert [family[name]["verdict"] for name in "abc"] == ["higher", "lower", "inconclusive"]
    assert family["a"]["family"] == 2 and family["c"]["p_holm"] is None
    assert family["a"]["p_holm"] == pytest.approx(2 * helps["p"])
    assert stats.tally(family) == {"higher": 1, "lower": 1, "equivalent": 0, "inconclusive": 1}


def test_means_over_pairs_are_jackknifed_over_images():
    """The mean of (x_i - x_j)² / 2 is the variance, whose jackknife error is known."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 2, 60)
    sums = np.square(x[:, None] - x).sum(1) / 2
    estimate = stats.over_pairs(sums, np.full(60, 59))
    assert estimate["mean"] == pytest.approx(x.var(ddof=1))
    without = np.array([np.delete(x, i).var(ddof=1) for i in range(60)])
    error = np.sqrt(59 / 60 * np.square(without - without.mean()).sum())
    half = scipy_stats.t.ppf(0.975, 59) * error
    assert estimate["high"] - estimate["mean"] == pytest.approx(half) and estimate["p"] is None


def test_percentiles_of_draws_without_end_are_refused():
    draws = np.linspace(0, 1, 1000)
    draws[-10:] = np.inf
    assert stats.percentiles(0.5, draws)["high"] == pytest.approx(0.976, abs=0.01)
    draws[-40:] = np.inf
    with pytest.raises(stats.StatsError, match="no interval"):
        stats.percentiles(0.5, draws)


def test_the_inverse_of_an_interval():
    estimate = stats.inverse(stats.over_seeds([0.4, 0.5, 0.6]))
    assert estimate["mean"] == pytest.approx(2) and estimate["low"] < 2 < estimate["high"]


def test_the_closed_form_agrees_with_the_crossed_bootstrap():
    ours, base = correct(20, 400, 0.8), correct(20, 400, 0.7, seed=1)
    closed = stats.difference(ours, base)
    draws = stats.crossed_bootstrap((ours * 1.0 - base)[None], rounds=4000)[:, 0]
    assert draws.mean() == pytest.approx(closed["mean"], abs=1e-3)
    # the bootstrap counts the noise of single answers three times (Owen 2007), the closed form once
    error = (closed["high"] - closed["mean"]) / 1.96
    assert error < draws.std() < 1.9 * error


def test_without_image_effects_it_is_the_t_interval_over_seeds():
    values = np.repeat(np.array([[0.1], [0.2], [0.4]]), 50, axis=1)
    both, seeds = stats.difference(values, 0 * values), stats.over_seeds(values[:, 0])
    assert both["low"] == pytest.approx(seeds["low"]) and both["p"] == pytest.approx(seeds["p"])


def test_over_seeds_is_scipys_t_interval_and_test():
    values = [0.71, 0.74, 0.69, 0.75]
    theirs = scipy_stats.ttest_1samp(values, 0)
    estimate = stats.over_seeds(values)
    assert estimate["p"] == pytest.approx(theirs.pvalue)
    for level, ends in ((0.95, ("low", "high")), (0.90, ("low90", "high90"))):
        expected = list(theirs.confidence_interval(level))
        assert [estimate[end] for end in ends] == pytest.approx(expected)
    assert (estimate["n"], estimate["n_seeds"], estimate["n_images"]) == (4, 4, None)


def test_over_seeds_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    estimates = [stats.over_seeds(rng.normal(5, 2, 4)) for _ in range(1000)]
    hits = [one["low"] < 5 < one["high"] for one in estimates]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.02)


def test_pairing_sees_what_an_unpaired_test_would_not():
    base = np.array([0.2, 0.5, 0.8])
    ours = base + [0.01, 0.012, 0.011]
    estimate = stats.difference(ours, base)
    assert estimate["p"] == pytest.approx(scipy_stats.ttest_rel(ours, base).pvalue)
    assert estimate["low"] > 0


def test_a_share_is_wilsons():
    estimate = stats.share(np.arange(10) < 7)  # Newcombe 1998: 0.397 to 0.892
    assert (estimate["mean"], estimate["n"]) == (0.7, 10)
    assert [estimate["low"], estimate["high"]] == pytest.approx([0.3968, 0.8922], abs=1e-4)


def test_accuracy_stays_a_share_and_is_uncertain_where_all_is_right():
    assert stats.accuracy(correct())["n_images"] == 200
    perfect = stats.accuracy(np.ones((3, 40)))
    assert perfect["mean"] == perfect["high"] == 1 and perfect["n_seeds"] == 3
    assert 0.9 < perfect["low"] < 1
    nearly = np.ones((3, 40))
    nearly[0, 0] = 0
    assert stats.accuracy(nearly)["high"] == 1


def test_one_seed_is_refused():
    alone = correct(1)
    for call in (lambda: stats.over_seeds([0.5]), lambda: stats.accuracy(alone),
                 lambda: stats.difference(alone, alone),
                 lambda: stats.crossed_bootstrap(alone[None])):
        with pytest.raises(stats.StatsError, match="at least two; got 1: raise study.seeds"):
            call()


def test_unpaired_matrices_are_refused():
    with pytest.raises(stats.StatsError, match="same seeds and images"):
        stats.difference(correct(5), correct(4))


def test_a_copy_of_a_training_set_is_equivalent():
    same = stats.difference(correct(), correct())
    assert stats.verdict(same) == "equivalent" and same["p"] == 1


@pytest.mark.parametrize(("low", "high", "low90", "high90", "word"), [
    (0.02, 0.06, 0.025, 0.055, "higher"), (-0.06, -0.02, -0.055, -0.025, "lower"),
    (-0.03, 0.02, -0.02, 0.01, "inconclusive"), (-0.011, 0.009, -0.009, 0.007, "equivalent"),
    (0.001, 0.008, 0.002, 0.007, "equivalent"), (0.02, 0.02, 0.02, 0.02, "inconclusive")])
def test_verdicts(low, high, low90, high90, word):
    ends = {"low": low, "high": high, "low90": low90, "high90": high90}
    assert stats.verdict({"mean": 0, **ends}) == word


def test_the_margin_is_in_points():
    wide = {"mean": 0, "low": -0.02, "high": 0.02, "low90": -0.018, "high90": 0.018}
    assert stats.verdict(wide) == "inconclusive" and stats.verdict(wide, margin=2) == "equivalent"


def test_few_seeds_without_spread_prove_nothing():
    estimate = stats.over_seeds([0.02, 0.02, 0.02])
    assert estimate["p"] is None and stats.verdict(estimate) == "inconclusive"


def reference_holm(p):
    """statsmodels.stats.multitest.multipletests(p, method="holm")[1], as in its source."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(np.sort(p) * np.arange(len(p), 0, -1))
    out = np.empty(len(p))
    out[order] = np.minimum(stepped, 1)
    return out


def test_holm_is_that_of_statsmodels():
    # statsmodels 0.14.4: multipletests([0.01, 0.04, 0.03, 0.005], method="holm")[1]
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 30):
        p = rng.random(size)**3
        assert stats.holm(list(p)) == pytest.approx(reference_holm(p))


def test_holm_of_one_test_and_of_tests_that_were_not_made():
    assert stats.holm([0.03]) == [0.03] and stats.holm([]) == []
    assert stats.holm([0.02, None, 0.03]) == pytest.approx([0.04, None, 0.04])


def test_a_ratio_has_the_interval_of_the_crossed_bootstrap_or_none():
    real, base, ours = correct(share=0.9), correct(share=0.5, seed=1), correct(share=0.7, seed=2)
    gap, gain = real * 1.0 - base, ours * 1.0 - base
    estimate = stats.ratio(gain, gap)
    assert estimate["low"] < estimate["mean"] < estimate["high"]
    assert estimate["mean"] == pytest.approx(gain.mean() / gap.mean())
    assert estimate["low90"] > estimate["low"] and estimate == stats.ratio(gain, gap)
    with pytest.raises(stats.StatsError, match="contains 0"):
        stats.ratio(gain, correct(share=0.5, seed=3) * 1.0 - base)


def test_a_ratio_is_refused_where_resampled_denominators_reach_zero():
    """4 of 40 images are recognised by every seed: above 0, but a resample may hold none."""
    few = np.zeros((3, 40))
    few[:, :4] = 1
    assert stats.difference(few, 0 * few)["low"] > 0
    with pytest.raises(stats.StatsError, match="no ratio"):
        stats.ratio(few, few)


def test_bootstrap_over_images_is_near_the_t_interval():
    values = np.random.default_rng(0).normal(2, 1, 300)
    drawn = stats.bootstrap((values,), lambda a, axis: a.mean(axis), seed=0)
    closed = stats.over_images(values)
    for end in ("low", "high", "low90", "high90"):
        assert drawn[end] == pytest.approx(closed[end], abs=0.02)
    with pytest.raises(stats.StatsError, match="at least two; got 1"):
        stats.bootstrap((values[:1],), lambda a, axis: a.mean(axis), seed=0)


def test_estimates_are_json():
    for estimate in (stats.accuracy(correct()), stats.over_seeds([1, 2, 3]),
                     stats.share(np.array([True, False]))):
        assert json.loads(json.dumps(estimate)) == estimate


def test_auc_is_that_of_scikit_learn_and_covers():
    rng, hits = np.random.default_rng(0), []
    for _ in range(400):
        positives, negatives = rng.normal(1, 1, 60), rng.normal(0, 1, 80)
        estimate = stats.auc(positives, negatives)
        hits.append(estimate["low"] < scipy_stats.norm.cdf(1 / np.sqrt(2)) < estimate["high"])
    labels = np.repeat([1, 0], [60, 80])
    scores = np.concatenate([positives, negatives])
    assert estimate["mean"] == pytest.approx(roc_auc_score(labels, scores))
    assert np.mean(hits) == pytest.approx(0.95, abs=0.03)
    assert stats.auc(np.ones(5), np.ones(5))["mean"] == 0.5
