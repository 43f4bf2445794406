"""Nearness on images and features whose answer is known: copies, shifted clouds, and sets too small to say anything."""

import numpy as np
import pytest

from lib.data.imageset import ImageSet
from lib.measure import set_distance as nearness


def pictures(images, labels, sources):
    n = len(images)
    return ImageSet(images, np.array(labels), ("a", "b"), np.arange(n), tuple(sources), ("",) * n)


def test_a_nearer_set_is_measured_as_nearer_and_a_small_one_not_at_all():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(200, 4))
    found = nearness.measured({"near": rng.normal(size=(200, 4)), "far": 3 + rng.normal(size=(200, 4)), "few": real[:9]}, real, 0)
    assert found["near"]["FD-judge"]["high"] < found["far"]["FD-judge"]["low"] == pytest.approx(36, rel=0.2)
    assert found["near"]["coverage"]["low"] > found["far"]["coverage"]["high"] and found["far"]["density"]["mean"] < 0.1
    assert found["few"].startswith("not run: 9 images")


def test_counterparts_are_of_the_class_where_it_has_any():
    real, theirs = np.array([[0.0], [10.0], [5.0]]), np.array([[0.1], [9.0], [1.0]])
    found = nearness.counterparts(real, np.array([0, 0, 7]), theirs, np.array([1, 0, 0]))
    assert found.tolist() == [2, 1, 1]  # not the nearer one of class 1; for a class without images the nearest of all


def test_reconstructions_are_found_again_among_all_real_images():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 16, 16, 3), np.uint8)
    real = pictures(images, [0, 1] * 6, [f"r/{i}" for i in range(12)])
    near = np.clip(images[[3, 3, 5, 5]].astype(int) + [[[[2]]], [[[-2]]]] * 2, 0, 255).astype(np.uint8)
    rebuilt = pictures(near, [1] * 4, ["r/3", "r/3", "r/5", "r/5"])
    found = nearness.again(rebuilt, rebuilt, real)
    assert found["first"]["mean"] == found["tenth"]["mean"] == 1 and found["rank"] == {"median": 1.0, "of": 12}
    assert found["psnr"]["n"] == 2 and found["psnr"]["low"] > 40 > 15 > found["psnr of another"]["high"]
    assert found["seeds"]["mean"] == found["set"]["mean"] == pytest.approx(4, abs=0.1)
    assert found["class"]["mean"] == pytest.approx(255 / 6**0.5, rel=0.02)  # two uniform draws
    assert nearness.closest(near, images).tolist() == [3, 3, 5, 5]
