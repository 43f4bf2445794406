"""Fidelity against closed forms, brute force, torchmetrics and scipy."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.metrics import pairwise_distances
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from lib.measure import fidelity
from lib.measure.fidelity import FidelityError


class Given(nn.Identity):
    """For torchmetrics: features are what it is given."""

    def __init__(self, num_features):
        super().__init__()
        self.num_features = num_features


def normal(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((2, n, d))


def rectified(n, d, seed=0):
    """Two sets of correlated features after a ReLU, some dimensions dead in both."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((d, d)) / np.sqrt(d)
    a, b = (np.maximum(rng.standard_normal((n, d)) @ mixing + shift, 0) for shift in (0, 0.3))
    a[:, :d // 8] = b[:, :d // 8] = 0
    return a.astype(np.float32), b.astype(np.float32)


def spd(d, seed):
    x = np.random.default_rng(seed).standard_normal((d, 2 * d))
    return x @ x.T / d


# --- Fréchet distance

def test_root_trace_of_commuting_covariances():
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((20, 20)))[0]
    one, two = np.random.default_rng(1).uniform(0.1, 5, (2, 20))
    first, second = (turn @ np.diag(values) @ turn.T for values in (one, two))
    assert np.trace(first + second) - 2 * fidelity.root_trace(first, second) == pytest.approx(
        ((one**0.5 - two**0.5)**2).sum(), rel=1e-9)


def test_root_trace_of_two_by_two():
    for seed in range(20):
        a, b = spd(2, seed), spd(2, seed + 100)
        wanted = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a) * np.linalg.det(b)))
        assert fidelity.root_trace(a, b) == pytest.approx(wanted, rel=1e-9)


def test_root_trace_is_scipys_and_stands_a_covariance_without_full_rank():
    a, b = spd(40, 0), spd(40, 1)
    assert fidelity.root_trace(a, b) == pytest.approx(np.trace(sqrtm(a @ b)).real, rel=1e-9)
    flat = np.diag([4.0, 9.0, 0.0, 0.0])
    assert fidelity.root_trace(flat, np.diag([1.0, 4.0, 5.0, 0.0])) == pytest.approx(2 + 6, rel=1e-9)
    assert fidelity.root_trace(flat, np.zeros((4, 4))) == 0


def test_fd_of_one_normal_distribution_drawn_twice():
    found = fidelity.fd(*normal(10_000, 64))
    assert found["mean"] == pytest.approx(0.2199, rel=0.05) and found["n"] == 10_000 and not found["small"]


@pytest.mark.parametrize("n, d", [(400, 32), (70, 130), (65, 64)])
def test_fd_is_torchmetrics(n, d):
    a, b = rectified(n, d)
    theirs = FrechetInceptionDistance(feature=Given(d)).set_dtype(torch.float64)
    theirs.update(torch.from_numpy(a).double(), real=True)
    theirs.update(torch.from_numpy(b).double(), real=False)
    found = fidelity.fd(a, b, network="reference")
    assert found["mean"] == pytest.approx(theirs.compute().item(), rel=1e-4)
    assert found["small"] == (n <= d) and found["network"] == "reference"


@pytest.mark.parametrize("n, d", [(300, 20), (60, 100)])
def test_fd_of_a_set_to_itself_and_to_itself_moved(n, d):
    a = normal(n, d)[0]
    assert fidelity.fd(a, a)["mean"] == pytest.approx(0, abs=1e-6)
    assert fidelity.fd(a, a[::-1] + 0.5)["mean"] == pytest.approx(d / 4, rel=1e-6)
    assert fidelity.fd(a, 3 * a)["mean"] == pytest.approx(4 * a.var(0, ddof=1).sum() + 4 * (a.mean(0)**2).sum(), rel=1e-6)


def test_unequal_sets_are_thinned_by_the_seed():
    a, b = normal(400, 5)
    found = [fidelity.fd(a, b[:300], seed) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2] and found[0]["n"] == 300


def test_fd_infinity_takes_the_bias_away():
    a, b = normal(1000, 32)
    one = fidelity.fd_infinity(a, b, 0)
    assert fidelity.fd(a, b)["mean"] > 0.5 and one["mean"] == pytest.approx(0, abs=0.1)
    assert one == fidelity.fd_infinity(a, b, 0) != fidelity.fd_infinity(a, b, 1)
    assert fidelity.fd_infinity(a, b + np.eye(32)[0], 0)["mean"] == pytest.approx(1, abs=0.2)


def test_intervals_cover_as_often_as_they_say():
    fds, kids = [], []
    for seed in range(60):
        a, b = normal(100, 4, seed)
        fds.append(fidelity.fd_interval(a, 1.3 * b + 0.3, seed, rounds=30))
        kids.append(fidelity.kid(a, 1.3 * b + 0.3, seed, subsets=10))
    for found in (fds, kids):
        expected = np.mean([one["mean"] for one in found])
        assert np.mean([one["low"] < expected < one["high"] for one in found]) >= 0.87
        widths = np.mean([one["high"] - one["low"] for one in found])
        assert 3 < widths / np.std([one["mean"] for one in found]) < 6  # 3.92 where all is normal


# --- KID

def test_kid_of_subsets_is_torchmetrics():
    a, b = (x.astype(np.float64) for x in rectified(230, 24))
    of_a, of_b = np.ones((2, 2, 230))  # the whole sets, and 80 images of each
    of_a[1, 80:] = of_b[1, :150] = 0
    found = fidelity._mmd(a, b, of_a, of_b)
    for i, (x, y) in enumerate([(a, b), (a[:80], b[150:])]):
        assert found[i] == pytest.approx(poly_mmd(torch.from_numpy(x), torch.from_numpy(y)).item(), rel=1e-4)


def test_kid_is_unbiased_and_seeded():
    found = np.array([fidelity.kid(*normal(60, 5, seed), seed, subsets=5)["mean"] for seed in range(100)])
    assert abs(found.mean()) < 3 * found.std() / np.sqrt(100) and (found < 0).any()
    a, b = normal(120, 5)
    one = fidelity.kid(a, b + 1, 0)
    assert one == fidelity.kid(a, b + 1, 0) != fidelity.kid(a, b + 1, 1) and one["subset"] == 60
    assert one["low"] < one["mean"] < one["high"] and one["low"] > 0
    assert fidelity.kid(a, b, 0, size=6)["n"] == 60  # ten subsets' worth


# --- precision, recall, density, coverage

def by_hand(a, b, k):
    """The definitions, all pairs at once."""
    around = [np.sort(pairwise_distances(x), axis=1)[:, k] for x in (a, b)]
    cross = pairwise_distances(a, b)
    near = cross < around[0][:, None]
    return {"precision": near.any(0).mean(), "recall": (cross < around[1]).any(1).mean(), "density": near.sum(0).mean() / k,
            "coverage": near.any(1).mean()}


@pytest.mark.parametrize("block", [(500, 5000), (7, 11)])
@pytest.mark.parametrize("k", [1, 5])
def test_prdc_is_its_definition_whatever_the_block(monkeypatch, block, k):
    monkeypatch.setattr(fidelity, "BLOCK", block)
    a, b = rectified(90, 6)
    found = fidelity.prdc(a, b, k)
    assert {name: one["mean"] for name, one in found.items()} == pytest.approx(by_hand(a, b, k), abs=1e-12)
    assert all(one["n"] == 90 and one["low"] <= one["mean"] <= one["high"] for one in found.values())


@pytest.mark.parametrize("d", [2, 70])
def test_prdc_of_a_set_with_itself_and_far_away(d):
    a = normal(300, d)[0].astype(np.float32)
    assert [one["mean"] for one in fidelity.prdc(a, a.copy()).values()] == pytest.approx([1, 1, 1, 1], abs=1e-12)
    assert [one["mean"] for one in fidelity.prdc(a, a + 100).values()] == [0, 0, 0, 0]


def test_coverage_of_one_distribution():
    n, k = 200, 5
    found = np.mean([fidelity.prdc(*normal(n, 3, seed), k)["coverage"]["mean"] for seed in range(25)])
    i = np.arange(1, k + 1)
    assert found == pytest.approx(1 - np.prod((n - i) / (2 * n - i)), abs=0.008)


def test_a_memorising_and_a_collapsed_set_are_told_apart():
    a, b = normal(400, 4)
    wild, collapsed = fidelity.prdc(a, 3 * b), fidelity.prdc(a, 0.05 * b)
    assert wild["precision"]["mean"] < 0.5 < 0.95 < collapsed["precision"]["mean"]
    assert collapsed["coverage"]["mean"] < 0.2 < wild["coverage"]["mean"]


def test_fifty_thousand_rows_are_never_held_at_once():
    a = np.zeros((50_000, 2), np.float32)
    _, first = next(fidelity._distances(a, a))
    assert first.shape[1] == 50_000 and first.nbytes <= 40e6


# --- memorisation

def pictures(n, seed):
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def test_planted_copies_are_found():
    train, test, made = pictures(200, 0), pictures(100, 1), pictures(80, 2)
    made[7] = made[8] = train[33]
    made[9] = train[150]
    made[11] = train[60]
    made[11, 0, 0, 0] ^= 1  # not an exact copy, but as near as one can be
    made[20] = made[21]
    found = fidelity.memorisation(made, train, test)
    assert found["copies"] == 3 and found["duplicates"] == 2 and found["n"] == 80
    assert {(p["synthetic"], p["train"]) for p in found["pairs"][:4]} == {(7, 33), (8, 33), (9, 150), (11, 60)}
    assert found["pairs"][3]["synthetic"] == 11 and found["pairs"][4]["distance"] > 10 * found["pairs"][3]["distance"]
    assert found["closer"]["0.01"]["mean"] >= 4 / 80


def test_an_honest_set_scores_as_test_images_do():
    draws = [np.random.default_rng(seed).standard_normal((600, 3)) for seed in range(3)]
    images = [pictures(600, seed) for seed in range(3)]
    found = fidelity.memorisation(*images, features=draws, network="reference")
    for q, share in found["closer"].items():
        assert share["mean"] == pytest.approx(float(q), abs=0.06) and share["network"] == "reference"
    assert found["authentic"]["mean"] == pytest.approx(found["authentic test"]["mean"], abs=0.06) == pytest.approx(0.5, abs=0.1)
    held = fidelity.memorisation(images[2], *images[1:], features=(draws[2], *draws[1:]))
    assert held["authentic"] == held["authentic test"] and held["closer"]["0.5"]["mean"] == 0.5


def test_a_set_of_near_copies_is_not_authentic():
    made, train, test = (np.random.default_rng(seed).standard_normal((100, 3)) for seed in range(3))
    images = [pictures(100, seed) for seed in range(3)]
    copied = fidelity.memorisation(*images, features=(train + 1e-4, train, test))
    assert copied["authentic"]["mean"] <= 0.02 and copied["closer"]["0.05"]["mean"] > 0.95 and copied["copies"] == 0
    far = fidelity.memorisation(*images, features=(made + 50, train, test))
    assert far["authentic"]["mean"] == 1 and far["closer"]["0.5"]["mean"] == 0


# --- all together, and refusals

def test_measures_name_the_network_and_the_number():
    found = fidelity.measures(*rectified(60, 8), seed=0, network="reference")
    assert list(found) == ["FD-reference", "FD∞-reference", "KID-reference", "precision", "recall", "density", "coverage"]
    assert all(one["network"] == "reference" and one["n"] == 60 for one in found.values())
    assert found["FD-reference"]["low"] < found["FD-reference"]["mean"] < found["FD-reference"]["high"]


@pytest.mark.parametrize("measure", [fidelity.fd, lambda a, b: fidelity.kid(a, b, 0), fidelity.prdc,
                                     lambda a, b: fidelity.fd_infinity(a, b, 0), lambda a, b: fidelity.fd_interval(a, b, 0)])
def test_what_cannot_be_measured_is_refused(measure):
    a, b = normal(80, 3)
    with pytest.raises(FidelityError, match="49 images where at least 50"):
        measure(a, b[:49])
    with pytest.raises(FidelityError, match=r"\(80, 3\) and \(80, 2\)"):
        measure(a, b[:, :2])
    with pytest.raises(FidelityError, match="not finite"):
        measure(a, np.where(np.arange(80)[:, None] == 7, np.nan, b))


def test_other_refusals():
    a, b = normal(60, 3)
    with pytest.raises(FidelityError, match="from 1 to 59"):
        fidelity.prdc(a, b, 60)
    with pytest.raises(FidelityError, match="60 features for 61 images"):
        fidelity.memorisation(pictures(61, 0), pictures(60, 1), pictures(60, 2), features=(a, a, a))
