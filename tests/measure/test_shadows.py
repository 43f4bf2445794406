"""Shadows: the true direction is that of projected floor points, renders agree with it, and no
shadow is no answer.
"""

import numpy as np
import pytest

from lib import world
from lib.data import imageset as images
from lib.data import truth
from lib.data.imageset import ImageSet
from lib.measure import shadows

SEEDS = range(7_000_000_000, 7_000_000_016)


@pytest.fixture(scope="module")
def scenes():
    return [world.scene(seed, "photo") for seed in SEEDS]


def test_the_tangent_is_that_of_a_floor_point_that_moves_away_from_the_light(scenes):
    for scene in scenes[:5]:
        foot = np.array([*scene.bodies[0].centre[:2], 0.0])
        moved = foot - 1e-6 * np.array([*scene.light[:2], 0.0])
        start, end = scene.project(np.stack([foot, moved]), 64)
        way = (end - start) / np.linalg.norm(end - start)
        fall = truth.shadow(scene.K(64), scene.R, scene.light)
        assert np.allclose(truth.heading(fall, start), way, atol=1e-4)


def test_shadows_of_renders_fall_where_the_light_says(scenes):
    pictures, masks = zip(*(world.render(scene, 64) for scene in scenes), strict=True)
    columns = {
        "mask": [images.picture(mask, "m.png") for mask in masks],
        "K": [s.K(64).ravel().tolist() for s in scenes],
        "R": [s.R.ravel().tolist() for s in scenes],
        "light": [s.light.tolist() for s in scenes],
        "horizon": [np.ravel(s.horizon(64)).tolist() for s in scenes],
    }
    part = ImageSet(
        np.stack(pictures),
        np.array([s.label for s in scenes]),
        world.CLASSES,
        np.arange(16),
        ("",) * 16,
        ("",) * 16,
        columns,
    )
    found = shadows.errors(part)
    assert np.isfinite(found).mean() > 0.6 and np.nanmedian(found) < 45  # by chance 90
    against = ImageSet(
        **{
            **vars(part),
            "columns": columns | {"light": [[-x, -y, z] for x, y, z in columns["light"]]},
        }
    )
    assert np.allclose(shadows.errors(against), 180 - found, equal_nan=True)


@pytest.mark.parametrize("shade", [0, 200])
def test_an_even_picture_has_no_shadow(shade):
    mask = np.zeros((64, 64), bool)
    mask[20:50, 20:40] = True
    assert (
        shadows.cast(
            np.full((64, 64, 3), shade, np.uint8),
            mask,
            shadows.standing(mask),
            np.array([0, -1.0, 10]),
        )
        is None
    )
