"""Reconstructions whose nearness to their sources is known."""

import numpy as np
import pytest

from lib.data.imageset import ImageSet
from lib.measure import reconstruction


def pictures(images, labels, sources):
    n = len(images)
    return ImageSet(images, np.array(labels), ("a", "b"), np.arange(n), tuple(sources), ("",) * n)


def test_reconstructions_are_found_again_among_all_real_images():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 16, 16, 3), np.uint8)
    real = pictures(images, [0, 1] * 6, [f"r/{i}" for i in range(12)])
    noise = [[[[2]]], [[[-2]]]] * 2
    near = np.clip(images[[3, 3, 5, 5]].astype(int) + noise, 0, 255).astype(np.uint8)
    rebuilt = pictures(near, [1] * 4, ["r/3", "r/3", "r/5", "r/5"])
    result = reconstruction.quality(rebuilt, rebuilt, real)
    assert result["first"]["mean"] == result["tenth"]["mean"] == 1
    assert result["rank"] == {"median": 1.0, "of": 12}
    assert result["psnr"]["n"] == 2 and result["psnr"]["low"] > 40
    assert result["psnr of another"]["high"] < 15
    assert result["seeds"]["mean"] == result["set"]["mean"] == pytest.approx(4, abs=0.1)
    assert result["class"]["mean"] == pytest.approx(255 / 6**0.5, rel=0.02)  # two uniform draws
    assert reconstruction.closest(near, images).tolist() == [3, 3, 5, 5]
