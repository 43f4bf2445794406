"""Curves of known laws give the known worth of a synthetic image; what is not reached is said."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import isotonic_regression

from lib.measure import scaling
from lib.measure.scaling import ADD_ON, ALONE, DISPLACEMENT, REAL, Curve

SIZES = {"real": 3000, "sd": 12000}
TRAINING = SimpleNamespace(real_fractions=[0.3, 0.1], scaling_sets=["sd"], synthetic_ratios=[4.0],
                           mix_fractions=[0.5], added_to=0.2, added_ratios=[1.0, 0.5])
CURVES = scaling.curves_of(TRAINING)


def scores(worth, noise=0.0, seeds=4, images=400, start=0, ceiling=1.0):
    """Of n real images' worth, a share 0.1 + 0.2 log10 n of test images is right; one `sd` image
    is worth so many real ones. Without noise the hardest images are wrong in every seed."""
    rng = np.random.default_rng(start)
    level = np.tile(np.linspace(0, 1, images, endpoint=False), (seeds, 1))
    level = level + noise * rng.normal(size=(seeds, 1)) + noise * rng.normal(size=images)
    rows = []
    for arm in dict.fromkeys(arm for curve in CURVES for arm in curve.arms):
        real, synthetic = scaling.counted(arm, SIZES)
        share = 0.1 + 0.2 * np.log10(max(real + worth * synthetic, 1))
        for seed, right in enumerate(level < min(share, ceiling if synthetic else 1)):
            rows.append({"arm": arm, "seed": seed, "set": "test", "accuracy": right.mean(),
                         "correct": right})
    return pd.DataFrame(rows)


def rows_of(*args, curves=CURVES, **options):
    frame = scaling.exchange(scores(*args, **options), curves, SIZES, rounds=200)
    return {(row["curve"], row["arm"]): row for row in frame.to_dict("records")}


def test_settings_name_their_curves():
    expected = [
        Curve(REAL, "real", ("0.1*real", "0.3*real", "real")),
        Curve(ALONE, "sd", ("sd", "sd@4x")),
        Curve(DISPLACEMENT, "sd", ("sd", "0.5*real+0.5*sd", "real")),
        Curve(ADD_ON, "sd", ("0.2*real", "0.2*real+0.1*sd", "0.2*real+0.2*sd"))]
    assert expected == CURVES
    assert [curve.label for curve in CURVES] == ["real", "sd", "sd, displacement", "sd, add-on"]
    none = SimpleNamespace(**{**vars(TRAINING), "real_fractions": [], "synthetic_ratios": [],
                              "mix_fractions": [], "added_ratios": []})
    assert scaling.curves_of(none) == []


def test_images_are_counted_by_kind():
    counts = [scaling.counted(arm, SIZES) for arm in ("0.1*real+sd", "sd@4x", "real")]
    assert counts == [(300, 3000), (0, 12000), (3000, 0)]
    totals = {sum(scaling.counted(arm, SIZES)) for arm in CURVES[2].arms}
    assert totals == {3000}
    night = pd.DataFrame([{"arm": "real", "seed": 0, "set": "night", "accuracy": 0.1}])
    points = scaling.tidy(pd.concat([scores(1), night]), SIZES)
    assert len(points) == 9 * 4 and list(points.columns) == [
        "arm", "seed", "accuracy", "real", "synthetic", "images"]
    assert scaling.tidy(night, SIZES).empty


@pytest.mark.parametrize("worth", [1, 1 / 3])
def test_a_known_law_gives_its_worth_on_every_curve(worth):
    rows = rows_of(worth, images=4000)
    for key in ((ALONE, "sd"), (DISPLACEMENT, "0.5*real+0.5*sd"), (ADD_ON, "0.2*real+0.2*sd")):
        if worth < 1 or key[0] != ALONE:
            assert rows[key]["worth"]["mean"] == pytest.approx(worth, rel=0.05)
    row = rows[DISPLACEMENT, "0.5*real+0.5*sd"]
    assert (row["real"], row["synthetic"]) == (1500, 1500)
    assert row["rate"]["mean"] == pytest.approx(1 / row["worth"]["mean"])
    assert row["rate"]["low"] <= row["rate"]["mean"] <= row["rate"]["high"]


def test_images_that_do_harm_have_no_rate():
    row = rows_of(-0.5, images=4000)[DISPLACEMENT, "0.5*real+0.5*sd"]
    assert row["worth"]["mean"] == pytest.approx(-0.5, rel=0.05) and row["rate"] is None


def test_a_curve_is_never_extrapolated():
    assert rows_of(1)[ALONE, "sd@4x"]["reason"] == "as good as more than 3,000 real images"
    assert rows_of(1 / 3, ceiling=0.5)[ALONE, "sd"]["reason"] == (
        "as good as fewer than 300 real images")
    frame = scores(0.2)
    lucky = frame[(frame["arm"] == "sd") & (frame["seed"] == 1)].index[0]
    frame.at[lucky, "correct"] = np.ones(400, bool)  # some resamples pass the best real set
    edge = scaling.exchange(frame, CURVES, SIZES, rounds=200).iloc[0]
    assert edge["arm"] == "sd" and "the interval leaves their curve" in edge["reason"]


def test_the_interval_covers_the_worth_and_repeats_itself():
    key = DISPLACEMENT, "0.5*real+0.5*sd"
    draws = [rows_of(1 / 3, 0.02, seeds=8, start=k)[key]["worth"] for k in range(12)]
    assert draws[0] == rows_of(1 / 3, 0.02, seeds=8)[key]["worth"] and draws[0]["n"] == 8
    assert np.mean([draw["low"] < 1 / 3 < draw["high"] for draw in draws]) > 0.7


def test_a_dip_does_not_count():
    sizes, curve = np.array([10.0, 100, 1000]), isotonic_regression([0.5, 0.4, 0.6]).x
    reached = scaling.reach(sizes, curve, np.array([0.45, 0.525, 0.61, 0.3]))
    assert reached.tolist() == pytest.approx([10, 10**2.5, np.inf, -np.inf])


def test_where_a_curve_is_missing_the_reason_stands():
    few = rows_of(1, curves=CURVES[1:])[ALONE, "sd"]
    assert few["reason"].startswith("not run: a curve of `real` needs at least two sizes")
    single = scaling.exchange(scores(1, seeds=1), CURVES, SIZES)
    assert single["reason"].str.contains("at least two; got 1").all()
    assert scaling.exchange(scores(1), [], SIZES).empty
