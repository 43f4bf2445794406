"""Copies are found where they were planted; a set without copies scores as test images do."""

import numpy as np
import pytest

from lib.measure import memorisation
from lib.measure.memorisation import QUANTILES
from lib.measure.set_distance import SetDistanceError


def pictures(n, seed):
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def test_planted_copies_are_found():
    train, test, made = pictures(200, 0), pictures(100, 1), pictures(80, 2)
    made[7] = made[8] = train[33]
    made[9] = train[150]
    made[11] = train[60]
    made[11, 0, 0, 0] ^= 1  # not an exact copy, but as near as can be
    made[20] = made[21]
    result = memorisation.memorisation(made, train, test)
    assert result["copies"] == 3 and result["duplicates"] == 2 and result["n"] == 80
    pairs = result["pairs"]
    assert {(p["synthetic"], p["train"]) for p in pairs[:4]} == {
        (7, 33),
        (8, 33),
        (9, 150),
        (11, 60),
    }
    assert pairs[3]["synthetic"] == 11 and pairs[4]["distance"] > 10 * pairs[3]["distance"]
    assert result["closer"]["0.01"]["mean"] >= 4 / 80


def test_a_set_without_copies_scores_as_test_images_do():
    result = memorisation.memorisation(*(pictures(400, seed) for seed in range(3)))
    for q in QUANTILES:
        assert result["closer"][str(q)]["mean"] == pytest.approx(q, abs=0.07)
    assert result["membership"]["low"] < 0.5 < result["membership"]["high"]
    assert result["authentic"]["mean"] == pytest.approx(result["authentic test"]["mean"], abs=0.07)
    held = memorisation.memorisation(pictures(400, 2), pictures(400, 1), pictures(400, 2))
    assert held["authentic"] == held["authentic test"] and held["closer"]["0.5"]["mean"] == 0.5


def test_near_copies_are_not_authentic_and_far_images_are():
    train, test = pictures(100, 0) // 2, pictures(100, 1) // 2
    near = memorisation.memorisation(train + 1, train, test)
    assert near["authentic"]["mean"] == 0 and near["closer"]["0.05"]["mean"] == 1
    assert near["copies"] == 0 and near["membership"]["low"] > 0.95
    far = memorisation.memorisation(np.full_like(train, 255), train, test)
    assert far["authentic"]["mean"] == 1 and far["closer"]["0.5"]["mean"] == 0


def test_too_few_images_are_refused():
    with pytest.raises(SetDistanceError, match="49 images where at least 50"):
        memorisation.memorisation(pictures(49, 0), pictures(60, 1), pictures(60, 2))
