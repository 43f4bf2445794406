"""Duplicates, overlap and the leak guard."""

import numpy as np
import pytest

from lib.data import checks
from tests.data.test_imageset import some


def test_planted_duplicates_are_counted():
    images = some(20).images
    images[7] = images[3]
    images[9] = images[3]
    assert checks.duplicates(images) == 2 and checks.statistics(some(20))["duplicates"] == 0


def test_one_planted_test_image_fires_the_guard():
    train, test = some(30), some(10, seed=1)
    checks.guard({"real": train}, test)
    train.images[17] = test.images[4]
    assert checks.overlap(train.images, test.images).tolist() == [17]
    with pytest.raises(checks.LeakError, match="'real' holds 1 test images, the first is s17"):
        checks.guard({"real": train}, test)


def test_one_changed_pixel_is_another_image_but_a_near_one():
    train, test = some(30, 16), some(10, 16, seed=1)
    train.images[17] = test.images[4]
    train.images[17, 0, 0, 0] ^= 1
    assert len(checks.overlap(train.images, test.images)) == 0
    near = checks.nearest(test.images, train.images)
    assert near.argmin() == 4 and near[4] < 1 < np.delete(near, 4).min()


def test_nearest_is_the_plain_double_loop():
    a, b = some(12, 16).images, some(9, 16, seed=1).images
    ta, tb = checks.thumbnails(a), checks.thumbnails(b)
    expected = [min(np.sqrt(((x - y) ** 2).mean()) for y in tb) for x in ta]
    np.testing.assert_allclose(checks.nearest(a, b), expected, rtol=1e-6)
    own = [
        min(np.sqrt(((x - y) ** 2).mean()) for j, y in enumerate(ta) if j != i)
        for i, x in enumerate(ta)
    ]
    np.testing.assert_allclose(checks.nearest(a), own, rtol=1e-6)


def test_statistics_of_a_known_set():
    whole = some(6, 4)
    whole.images[:] = (10, 20, 30)
    found = checks.statistics(whole)
    assert (found["red"], found["green"], found["blue"], found["contrast"]) == pytest.approx(
        (10, 20, 30, 0)
    )
    assert (found["images"], found["smallest class"], found["duplicates"]) == (6, 2, 5)
