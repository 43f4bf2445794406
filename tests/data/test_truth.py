"""Drawn truth against projected points of a known scene."""

import numpy as np
import pytest

from lib import world
from lib.data import truth
from lib.data.source import SourceOptions, open_source


@pytest.mark.parametrize("seed", range(8))
def test_heading_is_where_projected_points_go(seed):
    scene = world.scene(seed)
    start, size = np.array([0.1, -0.2, 0.0]), 64
    at = scene.project(start[None], size)[0]
    for axis, point in enumerate(scene.vanishing_points(size)):
        moved = scene.project((start + 1e-5 * np.eye(3)[axis])[None], size)[0] - at
        np.testing.assert_allclose(
            truth.heading(point, at), moved / np.linalg.norm(moved), atol=1e-4
        )


@pytest.mark.parametrize("seed", range(8))
def test_shadows_fall_where_a_dropped_point_lands(seed):
    scene, size = world.scene(seed), 64
    top = np.array([0.0, 0.0, 0.05])
    landed = top - scene.light * (
        top[2] / scene.light[2]
    )  # along the ray from the sun to the floor
    base, end = scene.project(np.stack([[0.0, 0, 0], landed]), size)
    expected = truth.heading(truth.shadow(scene.K(size), scene.R, scene.light), base)
    moved = (end - base) / np.linalg.norm(end - base)
    assert expected @ moved == pytest.approx(1, abs=1e-6)


def test_overlays_of_a_set():
    images = open_source("world", SourceOptions("", 32, 0)).read("train", range(4))
    found = truth.overlays(images, [1, 3])
    assert truth.has_truth(images) and len(found) == 2
    np.testing.assert_array_equal(found[1]["mask"], images.masks()[3])
    u, v = found[0]["segments"]["horizon"][0][:2]
    assert np.dot(images.columns["horizon"][1], [u, v, 1]) == pytest.approx(0, abs=1e-9)
    assert not truth.has_truth(open_source("digits", SourceOptions("", 16)).read("train", range(3)))


def test_foot_of_a_mask():
    mask = np.zeros((9, 9), bool)
    mask[3:6, 2:5] = True
    assert truth.foot(mask).tolist() == [3, 5] and truth.foot(np.zeros((9, 9), bool)).tolist() == [
        4,
        4,
    ]
