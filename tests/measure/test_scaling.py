"""Curves of known laws give their known exchange rate; what is not reached is said."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import isotonic_regression

from lib.classifier import arms
from lib.measure import scaling as curves
from lib.measure.scaling import CurveError

SIZES = {"real": 3000, "sd": 12000}
ARMS = [*curves.low_real((0.1, 0.3, 1)), *curves.scaling("sd", (0.25, 1, 4))]


def scores(worth, noise=0.0, ceiling=1.0, seeds=4, start=0):
    """Accuracy 0.1 + 0.1 log10 of real images' worth, one `sd` image being worth `worth` real ones."""
    rng = np.random.default_rng(start)
    rows = []
    for arm in ARMS:
        n = arms.size(arm, SIZES) * (worth if "sd" in arm else 1)
        for k in range(seeds):
            value = (
                min(0.1 + 0.1 * np.log10(n), ceiling if "sd" in arm else 1) + noise * rng.normal()
            )
            rows.append({"arm": arm, "seed": k, "set": "test", "accuracy": value})
    return pd.DataFrame(rows)


def test_arms_of_the_curves_can_be_read():
    assert curves.scaling("sd", (0.5, 1, 4)) == ["0.5*sd", "sd", "sd@4x"]
    assert curves.low_real((0.1, 1), "sd") == ["0.1*real+sd", "real+sd"]
    assert curves.mixing("sd", (0, 0.1, 1)) == ["sd", "0.1*real+0.9*sd", "real"]
    assert [arms.size(arm, SIZES) for arm in curves.mixing("sd", (0, 0.1, 0.5, 1))] == [3000] * 4


def test_settings_name_their_curves_and_share_arms():
    training = SimpleNamespace(
        real_fractions=[0.3, 0.1],
        scaling_sets=["sd"],
        synthetic_ratios=[4.0],
        real_fractions_with_set=[0.1],
        mix_fractions=[0.5],
    )
    assert curves.drawn(training) == {
        "real": ["0.1*real", "0.3*real", "real"],
        "sd": ["sd", "sd@4x"],
        "sd beside real": ["0.1*real+sd", "real+sd"],
        "sd for real": ["sd", "0.5*real+0.5*sd", "real"],
    }
    assert (
        curves.drawn(
            SimpleNamespace(
                real_fractions=[],
                scaling_sets=["sd"],
                synthetic_ratios=[],
                real_fractions_with_set=[],
                mix_fractions=[],
            )
        )
        == {}
    )


def test_trades_say_where_a_curve_is_missing():
    found = curves.trades(curves.tidy(scores(1 / 3), SIZES), ["sd", "cd"])
    assert list(found["set"]) == ["sd"] * 3 + ["cd"] and found["rate"][1]["mean"] == pytest.approx(
        3, rel=1e-6
    )
    assert found["real"][3] is None and found["said"][3].startswith(
        "not run: a curve of 'cd' needs arms"
    )
    assert curves.trades(curves.tidy(scores(1), SIZES), []).empty


def test_tidy_counts_real_and_synthetic_images():
    rows = curves.tidy(
        pd.concat(
            [
                scores(1),
                pd.DataFrame(
                    [
                        {"arm": "0.1*real+sd", "seed": 0, "set": "test", "accuracy": 0.5},
                        {"arm": "real", "seed": 0, "set": "night", "accuracy": 0.1},
                    ]
                ),
            ]
        ),
        SIZES,
    )
    found = rows.drop_duplicates("arm").set_index("arm")
    assert found.loc["0.1*real+sd", ["sets", "real", "synthetic", "images"]].tolist() == [
        "real+sd",
        300,
        3000,
        3300,
    ]
    assert (
        found.loc["sd@4x", ["real", "synthetic"]].tolist() == [0, 12000] and len(rows) == 6 * 4 + 1
    )


@pytest.mark.parametrize("worth, rate", [(1, 1), (1 / 3, 3)])
def test_a_known_law_gives_its_exchange_rate(worth, rate):
    found = {row["real"]: row for row in curves.exchange(curves.tidy(scores(worth), SIZES), "sd")}
    assert found[900]["rate"]["mean"] == pytest.approx(rate, rel=1e-6) == found[900]["rate"]["low"]
    assert found[3000]["needed"] == 3000 * rate


def test_a_curve_that_does_not_get_there_is_not_extrapolated():
    found = {
        row["real"]: row
        for row in curves.exchange(curves.tidy(scores(1, ceiling=0.43), SIZES), "sd")
    }
    assert (
        found[3000]["rate"] is None and found[3000]["said"] == "not reached by 12,000 images of sd"
    )
    assert found[300]["said"] == "reached by fewer than 750 images of sd"


def test_the_interval_covers_the_rate_and_repeats_itself():
    def row(k):
        points = curves.tidy(scores(1 / 3, 0.004, seeds=8, start=k), SIZES)
        return curves.exchange(points, "sd", 200)[1]

    rates = [row(k)["rate"] for k in range(24)]
    assert rates[0] == row(0)["rate"] and rates[0]["n"] == 8
    assert np.mean([rate["low"] < 3 < rate["high"] for rate in rates]) > 0.7
    assert np.median([rate["mean"] for rate in rates]) == pytest.approx(3, rel=0.1)


def test_an_interval_that_leaves_the_curve_is_no_interval():
    found = scores(1 / 4)  # needs just the 12,000 that there are
    found.loc[found["arm"] == "sd@4x", "accuracy"] += np.where(
        found["seed"][found["arm"] == "sd@4x"] % 2, 0.011, -0.01
    )
    row = curves.exchange(curves.tidy(found, SIZES), "sd")[2]
    assert (
        row["rate"] is None
        and 11500 < row["needed"] < 12000
        and "leaves the measured curve" in row["said"]
    )


def test_a_dip_does_not_count():
    assert curves.reach(
        np.array([10.0, 100, 1000]),
        isotonic_regression([0.5, 0.4, 0.6]).x,
        np.array([0.45, 0.525, 0.61, 0.3]),
    ).tolist() == pytest.approx([10, 10**2.5, np.inf, 0])


def test_too_few_sizes_or_seeds_are_refused():
    rows = curves.tidy(scores(1), SIZES)
    with pytest.raises(CurveError, match="at least two sizes"):
        curves.exchange(rows, "cd")
    with pytest.raises(CurveError, match="share 1 seeds"):
        curves.exchange(rows[rows["seed"] == 0], "sd")


def test_no_arm_of_a_curve_is_an_empty_table():
    none = pd.DataFrame({"arm": ["sd"], "seed": [0], "set": ["test"], "accuracy": [0.5]}).iloc[:0]
    assert list(curves.tidy(none, {"real": 10})["synthetic"]) == []
