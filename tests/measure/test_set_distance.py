"""Distances between sets against closed forms, brute force, torchmetrics and scipy."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.metrics import pairwise_distances
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from lib.measure import set_distance
from lib.measure.set_distance import SetDistanceError


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
    assert np.trace(first + second) - 2 * set_distance.root_trace(first, second) == pytest.approx(
        ((one**0.5 - two**0.5)**2).sum(), rel=1e-9)


def test_root_trace_of_two_by_two():
    for seed in range(20):
        a, b = spd(2, seed), spd(2, seed + 100)
        wanted = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a) * np.linalg.det(b)))
        assert set_distance.root_trace(a, b) == pytest.approx(wanted, rel=1e-9)


def test_root_trace_is_scipys_and_stands_a_covariance_without_full_rank():
    a, b = spd(40, 0), spd(40, 1)
    assert set_distance.root_trace(a, b) == pytest.approx(np.trace(sqrtm(a @ b)).real, rel=1e-9)
    flat = np.diag([4.0, 9.0, 0.0, 0.0])
    assert set_distance.root_trace(flat, np.diag([1.0, 4.0, 5.0, 0.0])) == pytest.approx(
        2 + 6, rel=1e-9
    )
    assert set_distance.root_trace(flat, np.zeros((4, 4))) == 0


def test_fd_infinity_takes_the_bias_away():
    a, b = normal(1000, 32)
    one = set_distance.fd_infinity(a, b, 0)
    assert set_distance.frechet(a, b) > 0.5 and one["mean"] == pytest.approx(0, abs=0.1)
    assert one == set_distance.fd_infinity(a, b, 0) != set_distance.fd_infinity(a, b, 1)
    assert set_distance.fd_infinity(a, b + np.eye(32)[0], 0)["mean"] == pytest.approx(1, abs=0.2)


def test_fd_of_one_normal_distribution_drawn_twice():
    assert set_distance.frechet(*normal(10_000, 64)) == pytest.approx(0.2199, rel=0.05)


@pytest.mark.parametrize("n, d", [(400, 32), (70, 130), (65, 64)])
def test_fd_is_torchmetrics(n, d):
    a, b = rectified(n, d)
    theirs = FrechetInceptionDistance(feature=Given(d)).set_dtype(torch.float64)
    theirs.update(torch.from_numpy(a).double(), real=True)
    theirs.update(torch.from_numpy(b).double(), real=False)
    ours = set_distance.fd(a, b, 0, rounds=2)
    assert ours["mean"] == pytest.approx(theirs.compute().item(), rel=1e-4)
    assert ours["small"] == (n <= d) and ours["n"] == n


@pytest.mark.parametrize("n, d", [(300, 20), (60, 100)])
def test_fd_of_a_set_to_itself_and_to_itself_moved(n, d):
    a = normal(n, d)[0]
    assert set_distance.frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert set_distance.frechet(a, a[::-1] + 0.5) == pytest.approx(d / 4, rel=1e-6)
    scaled = 4 * a.var(0, ddof=1).sum() + 4 * (a.mean(0)**2).sum()
    assert set_distance.frechet(a, 3 * a) == pytest.approx(scaled, rel=1e-6)


def test_unequal_sets_are_thinned_by_the_seed():
    a, b = normal(400, 5)
    same, again, other = (set_distance.fd(a, b[:300], seed, 2)["mean"] for seed in (1, 1, 2))
    assert same == again != other and set_distance.fd(a, b[:300], 1, 2)["n"] == 300


def test_intervals_cover_as_often_as_they_say():
    fds, kids = [], []
    for seed in range(60):
        a, b = normal(100, 4, seed)
        fds.append(set_distance.fd(a, 1.3 * b + 0.3, seed, rounds=30))
        kids.append(set_distance.kid(a, 1.3 * b + 0.3, seed))
    for values in (fds, kids):
        means = [value["mean"] for value in values]
        covered = [value["low"] < np.mean(means) < value["high"] for value in values]
        assert np.mean(covered) >= 0.87
        width = np.mean([value["high"] - value["low"] for value in values])
        assert 3 < width / np.std(means) < 6  # 3.92 where all is normal


# --- KID

@pytest.mark.parametrize("n", [80, 700])  # less and more than one block of rows
def test_kid_is_torchmetrics_but_for_pairs_at_one_position(n):
    """Both are unbiased; torchmetrics also counts the n pairs of images at the same position."""
    a, b = (x.astype(np.float64) for x in rectified(n, 24))
    theirs = poly_mmd(torch.from_numpy(a), torch.from_numpy(b)).item()
    cross = (a @ b.T / 24 + 1)**3
    off_diagonal = (cross.sum() - np.trace(cross)) / (n * (n - 1))
    expected = theirs + 2 * cross.mean() - 2 * off_diagonal
    assert set_distance.kid(a, b, 0)["mean"] == pytest.approx(expected, rel=1e-4)


def test_kid_is_unbiased():
    values = [set_distance.kid(*normal(60, 5, seed), seed)["mean"] for seed in range(100)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(100) and min(values) < 0
    a, b = normal(120, 5)
    far = set_distance.kid(a, b + 1, 0)
    assert 0 < far["low"] < far["mean"] < far["high"]


# --- precision, recall, density, coverage

def by_hand(a, b, k):
    """The definitions, all pairs at once."""
    around = [np.sort(pairwise_distances(x), axis=1)[:, k] for x in (a, b)]
    cross = pairwise_distances(a, b)
    near = cross < around[0][:, None]
    return {
        "precision": near.any(0).mean(),
        "recall": (cross < around[1]).any(1).mean(),
        "density": near.sum(0).mean() / k,
        "coverage": near.any(1).mean(),
    }


@pytest.mark.parametrize("chunk", [64, 0.01])
@pytest.mark.parametrize("k", [1, 5])
def test_prdc_is_its_definition_whatever_the_chunk(monkeypatch, chunk, k):
    monkeypatch.setattr(set_distance, "CHUNK_MB", chunk)
    a, b = rectified(90, 6)
    ours = set_distance.prdc(a, b, k)
    means = {name: value["mean"] for name, value in ours.items()}
    assert means == pytest.approx(by_hand(a, b, k), abs=1e-12)
    assert all(value["n"] == 90 and value["k"] == k for value in ours.values())
    assert all(value["low"] <= value["mean"] <= value["high"] for value in ours.values())


@pytest.mark.parametrize("d", [2, 70])
def test_prdc_of_a_set_with_itself_and_far_away(d):
    a = normal(300, d)[0].astype(np.float32)
    assert [one["mean"] for one in set_distance.prdc(a, a.copy()).values()] == pytest.approx(
        [1, 1, 1, 1], abs=1e-12
    )
    assert [one["mean"] for one in set_distance.prdc(a, a + 100).values()] == [0, 0, 0, 0]


def test_coverage_of_one_distribution():
    n, k = 200, 5
    found = np.mean(
        [set_distance.prdc(*normal(n, 3, seed), k)["coverage"]["mean"] for seed in range(25)]
    )
    i = np.arange(1, k + 1)
    assert found == pytest.approx(1 - np.prod((n - i) / (2 * n - i)), abs=0.008)


def test_a_memorising_and_a_collapsed_set_are_told_apart():
    a, b = normal(400, 4)
    wild, collapsed = set_distance.prdc(a, 3 * b), set_distance.prdc(a, 0.05 * b)
    assert wild["precision"]["mean"] < 0.5 < 0.95 < collapsed["precision"]["mean"]
    assert collapsed["coverage"]["mean"] < 0.2 < wild["coverage"]["mean"]


# --- all together, and refusals

def test_a_nearer_set_is_measured_as_nearer():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(200, 4))
    near, far = (
        set_distance.measures(real, shift + rng.normal(size=(200, 4)), 0) for shift in (0, 3)
    )
    assert list(near) == ["FD", "FD∞", "KID", "precision", "recall", "density", "coverage"]
    assert near["FD"]["high"] < far["FD"]["low"] == pytest.approx(36, rel=0.2)
    assert near["coverage"]["low"] > far["coverage"]["high"] and far["density"]["mean"] < 0.1


def test_counterparts_are_of_the_class_where_it_has_any():
    real, theirs = np.array([[0.0], [10.0], [5.0]]), np.array([[0.1], [9.0], [1.0]])
    positions = set_distance.counterparts(real, np.array([0, 0, 7]), theirs, np.array([1, 0, 0]))
    assert positions.tolist() == [2, 1, 1]  # of a class without images the nearest of all


@pytest.mark.parametrize("measure", [
    lambda a, b: set_distance.fd(a, b, 0), lambda a, b: set_distance.kid(a, b, 0),
    set_distance.prdc, lambda a, b: set_distance.fd_infinity(a, b, 0)])
def test_what_cannot_be_measured_is_refused(measure):
    a, b = normal(80, 3)
    with pytest.raises(SetDistanceError, match="49 images where at least 50"):
        measure(a, b[:49])
    with pytest.raises(SetDistanceError, match=r"\(80, 3\) and \(80, 2\)"):
        measure(a, b[:, :2])
    with pytest.raises(SetDistanceError, match="not finite"):
        measure(a, np.where(np.arange(80)[:, None] == 7, np.nan, b))


def test_too_many_neighbours_are_refused():
    with pytest.raises(SetDistanceError, match="from 1 to 59"):
        set_distance.prdc(*normal(60, 3), 60)
