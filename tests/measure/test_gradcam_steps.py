"""Tables of maps: one row an image, differences that are paired where the images are the same, disagreements sorted."""

import numpy as np
import pandas as pd
import pytest

from lib.data import imageset as images
from lib.data.imageset import ImageSet
from lib.measure import gradcam_steps as attended


@pytest.fixture
def part():
    rng = np.random.default_rng(0)
    mask = np.zeros((16, 16), bool)
    mask[:8] = True
    cells = [images.picture(mask, "m.png")] * 6
    return ImageSet(rng.integers(0, 255, (6, 16, 16, 3), np.uint8), np.arange(6) % 3, ("a", "b", "c"), np.arange(6), ("",) * 6,
                    ("",) * 6, {"mask": cells})


def found(maps, seed=0):
    return {"maps": np.float32(maps), "logits": np.random.default_rng(seed).normal(size=(6, 3)).astype(np.float32)}


def test_focus_is_the_mass_on_the_mask(part):
    """All in the upper half: focus 1; even: the mask's share; the mean of two classifiers is their mean."""
    upper, even = np.zeros((6, 4, 4)), np.ones((6, 4, 4))
    upper[:, 0] = 1
    one, two = (attended.measured([found(maps)], part) for maps in (upper, even))
    assert np.allclose(one["focus"], 1) and np.allclose(two["focus"], 0.5) and np.allclose(two["spread"], 1)
    assert np.allclose(attended.measured([found(upper), found(even)], part)["focus"], 0.75)
    plain = ImageSet(part.images, part.labels, part.classes, part.seeds, part.sources, part.prompts)
    bare = attended.measured([found(even)], plain)
    assert np.allclose(bare["focus"], 0)  # Gini of an even map


def test_differences_are_paired(part):
    base = pd.DataFrame({name: np.arange(6.0) for name in attended.MEASURES})
    rows = attended.differences({"real": base, "sd": base + 1}, "real", 0, pairs=True)
    assert [row["measure"] for row in rows] == list(attended.MEASURES)
    assert all(row["difference"]["low"] == row["difference"]["high"] == 1.0 for row in rows)
    loose = attended.differences({"real": base, "sd": base + 1}, "real", 0, pairs=False)
    assert loose[0]["difference"]["low"] < 0.5 < 1.5 < loose[0]["difference"]["high"]


def test_disagreements_are_where_only_the_base_is_right():
    labels = np.array([0, 0, 1, 1])
    base = np.array([[2.0, 0], [9, 0], [0, 5], [5, 0]])
    ours = np.array([[0.0, 1], [0, 1], [0, 1], [0, 1]])
    assert list(attended.disagreements(ours, base, labels, 5)) == [1, 0]


def test_inverted_images_are_held_against_their_own_sources(part):
    """Sources in another order, one image of unknown source: the pairs are found, even against peaked maps differ in spread."""
    real = ImageSet(part.images, part.labels, part.classes, part.seeds, tuple("abcdef"), part.prompts, part.columns)
    drawn = ImageSet(part.images, part.labels, part.classes, part.seeds, ("f", "a", "a", "x", "b", "c"), part.prompts)
    even = found(np.ones((6, 4, 4)))
    same = attended.paired(drawn, [even], real, [even], even["logits"], 0)
    assert [row["difference"]["n"] for row in same] == [5] * 3 and same[1]["difference"]["mean"] == 0
    peaked = np.zeros((6, 4, 4))
    peaked[:5, 0, 0], peaked[5] = 1, 1  # only the last source, which the first image comes from, is even
    spread = attended.paired(drawn, [even], real, [found(peaked)], even["logits"], 0)[1]
    assert abs(spread["difference"]["mean"] - 4 / 5 * (1 - 1 / 16)) < 1e-6
