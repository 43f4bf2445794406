"""Measures of planted maps and closed forms; differences paired by seed and image where they are
the same.
"""

import numpy as np
import pytest

from lib.data import imageset
from lib.data.imageset import ImageSet
from lib.measure import attention, stats
from lib.measure.attention import AttentionError

RNG = np.random.default_rng(0)


@pytest.fixture
def part():
    mask = np.zeros((16, 16), bool)
    mask[:8] = True
    images = np.random.default_rng(0).integers(0, 255, (6, 16, 16, 3), np.uint8)
    return ImageSet(images, np.arange(6) % 3, ("a", "b", "c"), np.arange(6), ("",) * 6, ("",) * 6,
                    {"mask": [imageset.picture(mask, "m.png")] * 6})


def explained(maps, seed=0):
    logits = np.random.default_rng(seed).normal(size=(6, 3)).astype(np.float32)
    return {"maps": np.float32(maps), "logits": logits}


def test_mass_counts_the_covered_part_of_a_cell_also_where_sides_do_not_divide():
    single = np.zeros((1, 4, 4), np.float32)
    single[0, 1, 2], mask = 3, np.zeros((1, 32, 32), bool)
    mask[0, 8:12, 16:24] = True
    assert attention.mass(single, mask) == pytest.approx(0.5)
    odd = RNG.random((2, 50, 45)) < 0.3
    even = attention.mass(np.ones((2, 7, 7)), odd)
    np.testing.assert_allclose(even, odd.mean((1, 2)), atol=1e-5)


def test_even_maps_one_cell_and_a_two_level_map_have_known_gini_and_spread():
    even, single = np.ones((4, 4)), np.eye(16)[5].reshape(4, 4)
    maps = np.stack([even, single, np.repeat([[1, 0]], 8, axis=0).reshape(4, 4)])
    np.testing.assert_allclose(attention.spread(maps), [1, 1 / 16, 1 / 2])
    np.testing.assert_allclose(attention.gini(maps), [0, 15 / 16, 1 / 2], atol=1e-12)


def test_a_hundredfold_map_is_a_hundred_times_as_intense_and_otherwise_the_same():
    maps, masks = RNG.random((5, 4, 4)), RNG.random((5, 16, 16)) < 0.4
    logits, labels = RNG.normal(size=(40, 3)), np.array([0, 1, 2, 0, 1])
    for measure in (attention.spread, attention.gini, lambda m: attention.mass(m, masks)):
        np.testing.assert_allclose(measure(100 * maps), measure(maps), rtol=1e-12)
    weak = attention.intensity(maps, logits, labels)
    np.testing.assert_allclose(attention.intensity(100 * maps, logits, labels), 100 * weak)
    np.testing.assert_allclose(weak, maps.mean((1, 2)) / logits.std(0)[labels])
    posters = [attention.poster(m, (4, 4))["intensity"] for m in (100 * maps, maps)]
    np.testing.assert_allclose(*posters, rtol=1e-4)


def test_the_posters_three_by_hand():
    values = attention.poster(np.array([[[1, 2], [3, 5]]], np.float32), (2, 2))  # 0, 1/4, 1/2, 1
    assert {name: float(value[0]) for name, value in values.items()} == pytest.approx(
        {"focus": 0.4375, "intensity": 0.4375, "spread": 0.25}, abs=1e-6)


def test_a_map_of_nothing_has_no_focus_and_is_left_out():
    maps = np.stack([np.zeros((4, 4)), np.ones((4, 4)), np.eye(4)])
    spread = attention.spread(maps)
    assert (
        np.isnan(attention.gini(maps)).tolist() == np.isnan(spread).tolist() == [True, False, False]
    )
    estimate = stats.mean(np.stack([spread, spread]))
    assert estimate["n_images"] == 2 and estimate["mean"] == pytest.approx(0.625)


def test_focus_is_the_mass_on_the_mask_or_the_gini_coefficient(part):
    """All in the upper half: 1; even: the mask's share; without a mask an even map has Gini 0."""
    upper, even = np.zeros((6, 4, 4)), np.ones((6, 4, 4))
    upper[:, 0] = 1
    seeds = [explained(upper), explained(even)]
    table = attention.measured(seeds, part, seeds[0]["logits"])
    np.testing.assert_allclose(table["focus"], [[1] * 6, [0.5] * 6])
    assert attention.means(table)["focus"]["mean"] == pytest.approx(0.75)
    plain = ImageSet(part.images, part.labels, part.classes, part.seeds, part.sources, part.prompts)
    assert np.allclose(attention.measured(seeds, plain, seeds[0]["logits"])["focus"][1], 0)
    double = attention.measured(seeds, part, 2 * seeds[0]["logits"])
    np.testing.assert_allclose(double["intensity"], table["intensity"] / 2)


def test_differences_of_the_same_images_are_paired_and_of_others_not():
    images = RNG.normal(0, 5, 40)  # what differs by image, in every seed
    base = {name: images + RNG.normal(0, 0.1, (4, 40)) for name in attention.MEASURES}
    ours = {name: values + RNG.normal(1, 0.1, values.shape) for name, values in base.items()}
    paired, unpaired = (attention.differences({"real": base, "sd": ours}, "real", how)
                        for how in (True, False))
    assert [row["measure"] for row in paired] == list(attention.MEASURES)
    for tight, loose in zip(paired, unpaired, strict=True):
        assert tight["difference"]["low"] > 0 > loose["difference"]["low"]
        assert tight["difference"]["mean"] == pytest.approx(loose["difference"]["mean"])
        assert tight["difference"]["family"] == 3


def test_disagreements_are_where_only_the_base_is_right():
    labels = np.array([0, 0, 1, 1])
    base = np.array([[2.0, 0], [9, 0], [0, 5], [5, 0]])
    ours = np.array([[0.0, 1], [0, 1], [0, 1], [0, 1]])
    assert list(attention.disagreements(ours, base, labels, 5)) == [1, 0]


def test_inverted_images_are_compared_with_their_own_sources(part):
    """Sources in another order, one image of unknown source: the pairs are found."""
    facts = part.images, part.labels, part.classes, part.seeds
    real = ImageSet(*facts, tuple("abcdef"), part.prompts, part.columns)
    inverted = ImageSet(*facts, ("f", "a", "a", "x", "b", "c"), part.prompts)
    even, peaked = explained(np.ones((6, 4, 4))), np.zeros((6, 4, 4))
    unit = even["logits"]
    same = attention.against_sources(inverted, [even] * 2, real, [even] * 2, unit)
    assert [row["difference"]["n_images"] for row in same] == [5] * 3
    assert same[1]["difference"]["mean"] == 0
    peaked[:5, 0, 0], peaked[5] = 1, 1  # only the last source, of the first image, is even
    sources = [explained(peaked)] * 2
    spread = attention.against_sources(inverted, [even] * 2, real, sources, unit)[1]
    assert abs(spread["difference"]["mean"] - 4 / 5 * (1 - 1 / 16)) < 1e-6


def test_measures_refuse_what_they_cannot_measure():
    with pytest.raises(AttentionError, match="none below 0"):
        attention.spread(-np.ones((1, 2, 2)))
    with pytest.raises(AttentionError, match="as many masks"):
        attention.mass(np.ones((2, 4, 4)), np.ones((1, 16, 16), bool))
    with pytest.raises(AttentionError, match="logits of more images"):
        attention.intensity(np.ones((2, 4, 4)), np.ones((1, 3)), np.array([0, 1]))
