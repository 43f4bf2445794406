"""Damages grow with severity, attacks climb the loss within their bounds, and the tables count what
is left.
"""

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lib import world
from lib.classifier.model import normal
from lib.classifier.train import TrainConfig, train
from lib.data.imageset import ImageSet
from lib.measure import robustness, stats
from lib.measure.robustness import SEVERITIES, STRENGTHS, RobustnessError

SETTINGS = {
    "arm": "real",
    "base_width": 8,
    "batch_size": 16,
    "lr": 0.05,
    "label_smoothing": 0.1,
    "steps": 25,
    "flip": True,
    "device": "cpu",
}


def blobs(n, seed, size=8):
    """Three classes that differ in colour, by less than the noise of one pixel."""
    rng, labels = np.random.default_rng(seed), np.arange(n) % 3
    pixels = rng.integers(40, 160, (n, size, size, 3))
    pixels[np.arange(n), :, :, labels] += 25
    return ImageSet(
        pixels.astype(np.uint8),
        labels,
        ("red", "green", "blue"),
        np.arange(n),
        ("",) * n,
        ("",) * n,
    )


@pytest.fixture(scope="module")
def models():
    return [
        train(blobs(60, 0).images, blobs(60, 0).labels, TrainConfig.of(SETTINGS), seed)
        for seed in range(2)
    ]


@pytest.fixture(scope="module")
def scenes():
    return world.render_many(range(6), size=64)[0]


def losses(model, images, labels):
    with torch.inference_mode():
        return F.cross_entropy(
            model(normal(torch.tensor(images))), torch.as_tensor(labels), reduction="none"
        ).numpy()


def damage(images, others):
    """Mean distance (n,) in grey levels."""
    return np.abs(images.astype(float) - others).mean(axis=(1, 2, 3))


@pytest.mark.parametrize("kind", STRENGTHS)
def test_damage_grows_with_severity_in_every_image(kind, scenes):
    damaged = [robustness.corrupt(scenes, kind, severity, 0) for severity in SEVERITIES]
    assert all(d.dtype == np.uint8 and d.shape == scenes.shape for d in damaged)
    assert (
        np.diff([np.zeros(len(scenes)), *(damage(scenes, d) for d in damaged)], axis=0) > 0
    ).all()


@pytest.mark.parametrize("kind", STRENGTHS)
def test_an_images_damage_is_its_own_and_repeats(kind, scenes):
    before = scenes.copy()
    whole = robustness.corrupt(scenes, kind, 3, 7)
    np.testing.assert_array_equal(whole[4:1:-1], robustness.corrupt(scenes[4:1:-1], kind, 3, 7))
    assert np.array_equal(scenes, before)
    assert np.array_equal(whole, robustness.corrupt(scenes, kind, 3, 8)) == (kind != "noise")


def test_the_damages_are_what_they_say():
    grey = np.full((1, 64, 64, 3), 128, np.uint8)
    noise = robustness.corrupt(grey, "noise", 1, 0)[0] / 255
    assert noise.std() == pytest.approx(0.04, rel=0.05) and noise.mean() == pytest.approx(
        128 / 255, abs=0.002
    )
    # every channel its own
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.06
    white = robustness.corrupt(np.full_like(grey, 255), "noise", 1, 0)
    # cut off, never wrapped around
    assert white.min() > 200 and (white == 255).mean() == pytest.approx(0.5, abs=0.05)
    # 128 + 0.2 * 255
    assert robustness.corrupt(grey, "brightness", 2, 0)[0, 0, 0].tolist() == [179] * 3
    colour = np.full((1, 8, 8, 3), (200, 100, 0), np.uint8)
    # full value, hue and shade kept
    assert robustness.corrupt(colour, "brightness", 5, 0)[0, 0, 0].tolist() == [255, 128, 0]
    half = np.zeros((1, 64, 64, 3), np.uint8)
    half[:, 32:, :, 0] = 200
    # 100 -+ 0.4 * 100
    assert np.unique(robustness.corrupt(half, "contrast", 1, 0)[..., 0]).tolist() == [60, 140]
    for size, deviation in ((64, 0.5), (128, 1.0), (16, 0.5)):
        dot = np.zeros((1, size, size, 3), np.uint8)
        dot[:, size // 2, size // 2] = 255
        expected = cv2.GaussianBlur(dot[0], (0, 0), deviation)
        np.testing.assert_array_equal(robustness.corrupt(dot, "blur", 1, 0)[0], expected)
    red = np.tile(np.array([250, 10, 10], np.uint8), (1, 16, 16, 1))
    # channels keep their order
    assert np.abs(robustness.corrupt(red, "jpeg", 1, 0).astype(int) - red).max() < 12


def test_an_unknown_damage_is_refused():
    with pytest.raises(RobustnessError, match="no corruption 'fog' of severity 1; kinds are noise"):
        robustness.corrupt(np.zeros((1, 8, 8, 3), np.uint8), "fog", 1, 0)
    with pytest.raises(RobustnessError, match="severities 1 to 5"):
        robustness.corrupt(np.zeros((1, 8, 8, 3), np.uint8), "blur", 6, 0)


def test_pgd_climbs_higher_than_fgsm_and_fgsm_higher_than_nothing(models):
    seen = blobs(60, 1)
    given = (models[0], seen.images, seen.labels, 4)
    clean, fast, slow = (losses(models[0], x, seen.labels)
                         for x in (seen.images, robustness.fgsm(*given), robustness.pgd(*given)))
    assert clean.mean() + 0.01 < fast.mean() and fast.mean() < slow.mean()
    assert (fast > clean).mean() > 0.95 and (slow >= fast - 1e-4).mean() > 0.8


def test_fgsm_on_a_linear_classifier_is_the_closed_form():
    """A network that only averages colours: the gradient's sign is that of W's rows against the
    softmax.
    """
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 4)
    )
    images = np.random.default_rng(0).integers(20, 230, (5, 8, 8, 3)).astype(np.uint8)
    labels = np.array([0, 1, 2, 3, 0])
    weight = model[2].weight.detach().numpy()
    with torch.inference_mode():
        chance = model(normal(torch.tensor(images))).softmax(1).numpy()
    slope = (chance - np.eye(4)[labels]) @ weight  # (n, 3)
    expected = images + 3 * np.sign(slope)[:, None, None]
    np.testing.assert_array_equal(robustness.fgsm(model, images, labels, 3), expected)
    # linear: the corner is the best
    np.testing.assert_allclose(robustness.pgd(model, images, labels, 3), expected, atol=1e-4)


def test_attacks_stay_in_the_ball_and_among_the_grey_levels(models):
    seen = blobs(12, 1)
    extreme = np.where(seen.images > 100, 255, 0).astype(np.uint8)
    for images in (seen.images, extreme):
        for eps in (0.5, 3):
            for moved in (robustness.fgsm(models[0], images, seen.labels, eps),
                          robustness.pgd(models[0], images, seen.labels, eps, steps=3)):
                assert moved.min() >= 0 and moved.max() <= 255 and moved.dtype == np.float32
                distance = np.abs(moved - images.astype(np.float32))
                assert distance.max() <= eps + 1e-5 and distance.mean() > 0.2 * eps


def test_no_distance_changes_nothing_and_a_negative_one_is_refused(models):
    seen = blobs(6, 1)
    for attack in (robustness.fgsm, robustness.pgd):
        np.testing.assert_array_equal(attack(models[0], seen.images, seen.labels, 0), seen.images)
        with pytest.raises(RobustnessError, match="at least 0"):
            attack(models[0], seen.images, seen.labels, -1)
    with pytest.raises(RobustnessError, match="at least one"):
        robustness.pgd(models[0], seen.images, seen.labels, 1, steps=0)


def test_an_attack_does_not_depend_on_the_batch_but_on_the_seed(models):
    seen = blobs(20, 1)
    models[0].zero_grad()
    weights = {name: value.clone() for name, value in models[0].state_dict().items()}
    given = (models[0], seen.images, seen.labels, 2, 2)
    whole, parts, other = (
        robustness.pgd(*given, **options) for options in ({}, {"batch": 3}, {"seed": 1})
    )
    # a sign may flip where the gradient is nearly 0
    assert (np.abs(whole - parts) < 1e-4).mean() > 0.995
    assert np.abs(whole - other).mean() > 0.05
    assert all(torch.equal(weights[name], value) for name, value in models[0].state_dict().items())
    assert all(parameter.grad is None for parameter in models[0].parameters())


def test_accuracy_under_attack_falls_with_the_distance(models):
    seen = blobs(45, 1)
    correct = robustness.attack(models[1], seen.images, seen.labels, [0, 2, 12], 4, 0)
    clean = robustness.is_correct(models[1], seen.images, seen.labels)
    moved = {"fgsm": robustness.fgsm(models[1], seen.images, seen.labels, 2),
             "pgd": robustness.pgd(models[1], seen.images, seen.labels, 2, 4, 0)}
    for kind, images in moved.items():
        hits = models[1](normal(torch.tensor(images))).argmax(1).numpy() == seen.labels
        np.testing.assert_array_equal(correct[f"{kind}-2"], hits)
        np.testing.assert_array_equal(correct[f"{kind}-0"], clean)
        assert clean.mean() >= hits.mean() >= correct[f"{kind}-12"].mean()
    assert correct["pgd-12"].mean() < 0.5 < clean.mean()


def test_tables_and_what_is_retained_of_the_clean_accuracy():
    rng = np.random.default_rng(0)
    correct = {"clean": rng.random((3, 200)) < 0.8, "noise-1": rng.random((3, 200)) < 0.4,
               "noise-3": rng.random((3, 200)) < 0.4, "pgd-4": rng.random((3, 50)) < 0.2}
    table = robustness.table({"real": correct})["real"]
    assert list(table) == ["clean", "noise", "pgd"] and list(table["noise"]) == ["1", "3"]
    assert table["noise"]["3"] == stats.accuracy(correct["noise-3"])
    retained = robustness.retained(correct)
    assert list(retained) == ["corruptions", "attacks"]
    expected = np.mean([correct["noise-1"], correct["noise-3"]]) / correct["clean"].mean()
    assert retained["corruptions"]["mean"] == pytest.approx(expected)
    assert retained["attacks"]["n_images"] == 50
    nothing = correct | {"clean": np.zeros((3, 200))}
    assert robustness.retained(nothing)["attacks"].startswith("not computed: no ratio")
