"""Vanishing points against exact lines and the world's camera; identities of right angles; the
set-level probe.
"""

import cv2
import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_info

from lib import world
from lib.measure import geometry, vanishing
from lib.measure.vanishing import GeometryError, segments, vanishing_points

K = np.array([[300.0, 0, 127.5], [0, 300, 127.5], [0, 0, 1]])


def turned(seed: int) -> np.ndarray:
    """A random rotation (3, 3) whose rows are directions none of which is near the picture's plane.
    """
    rng = np.random.default_rng(seed)
    while True:
        R = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        if np.abs(R[:, 2]).min() > 0.2:
            return R


def through(points: np.ndarray, each: int, seed: int = 0, size: int = 256) -> np.ndarray:
    """Exact segments (m, 4), `each` of them from random places towards every point (k, 3)."""
    rng, lines = np.random.default_rng(seed), []
    for point in points:
        start = rng.uniform(0.1 * size, 0.9 * size, (each, 2))
        step = point[:2] - start * point[2]
        step *= rng.uniform(20, 40, (each, 1)) / np.linalg.norm(step, axis=1, keepdims=True)
        lines.append(np.concatenate([start - step / 2, start + step / 2], axis=1))
    return np.concatenate(lines)


def edge(size: int, place: np.ndarray, normal: np.ndarray, fine: int) -> np.ndarray:
    """A straight edge between two greys, each pixel the mean over its area; pixel centres at whole
    numbers.
    """
    at = (np.arange(size * fine) + 0.5) / fine - 0.5
    u, v = np.meshgrid(at, at)
    side = (u - place[0]) * normal[0] + (v - place[1]) * normal[1] > 0
    return (60 + 120 * side.reshape(size, fine, size, fine).mean(axis=(1, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def pictures():
    """Twelve world scenes and their pictures at 256 px."""
    scenes = [world.scene(seed) for seed in range(4000, 4012)]
    return scenes, [world.render(scene, 256)[0] for scene in scenes]


def test_a_known_edge_is_found_where_it_is():
    off = []
    for angle in np.linspace(0.2, 5.6, 8):
        normal = np.array([np.cos(angle), np.sin(angle)])
        place = 31.5 + 6 * normal
        for size, fine in ((64, 8), (256, 4)):
            grown = (place + 0.5) * size / 64 - 0.5  # the resizing rule
            lines = segments(edge(size, grown, normal, fine))
            ends = lines[np.hypot(*(lines[:, 2:] - lines[:, :2]).T).argmax()].reshape(2, 2)
            off.append(((ends - grown) @ normal).mean() * normal)
    # pixels; OpenCV alone is 0.125 off
    assert np.abs(np.mean(off, axis=0)).max() < 0.02 and np.abs(off).max() < 0.06


def test_places_follow_the_resizing_rule():
    scene, rng = world.scene(3), np.random.default_rng(0)
    points = np.concatenate([rng.uniform(-1, 1, (5, 2)), np.zeros((5, 1))], axis=1)
    small, large = scene.project(points, 64), scene.project(points, 256)
    np.testing.assert_allclose(large, (small + 0.5) * 4 - 0.5, atol=1e-9)
    assert (
        geometry.vp_error(scene.vanishing_points(64), scene.vanishing_points(64), scene.K(64)).max()
        < 1e-9
    )


@pytest.mark.parametrize("change", [lambda a: a[..., 0], lambda a: a[..., :1], lambda a: a / 255.0,
                                    lambda a: np.dstack([a, np.full(a.shape[:2], 9, np.uint8)])])
def test_grey_float_and_rgba_pictures_are_read(change):
    image = np.repeat(edge(64, np.array([30.0, 30]), np.array([0.6, 0.8]), 4)[..., None], 3, axis=2)
    np.testing.assert_allclose(segments(change(image)), segments(image), atol=1e-6)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.full((8, 8), 2.0), "0 to 1"),
        (np.full((8, 8), np.nan), "0 to 1"),
        (np.zeros((8, 8), int), "uint8"),
        (np.zeros((2, 8, 8, 3), np.uint8), "one by one"),
        (np.zeros((0, 8), np.uint8), "shape"),
        (np.zeros(5, np.uint8), "shape"),
    ],
)
def test_what_is_no_picture_is_refused(image, said):
    with pytest.raises(GeometryError, match=said):
        segments(image)


def test_every_shape_that_opencv_returns():
    lines = np.arange(8.0)
    assert vanishing.as_segments(None).shape == (0, 4)
    for shape in ((2, 4), (2, 1, 4)):
        np.testing.assert_array_equal(
            vanishing.as_segments(lines.reshape(shape)), lines.reshape(2, 4)
        )
    with pytest.raises(GeometryError, match="u0, v0, u1, v1"):
        vanishing.as_segments(lines.reshape(4, 2))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 1, 3)),
        np.zeros((64, 64, 3), np.uint8),
        np.ones((3, 90)),
        edge(64, np.array([31.0, 31]), np.array([0.8, 0.6]), 2),
    ],
)
def test_pictures_without_enough_lines_abstain(image):
    row = geometry.feature((image, 0))
    assert row["abstained"] and row["segments"] < vanishing.FEWEST and np.isnan(row["explained"])
    assert geometry.overlay(image)["points"] == {}


def test_exact_segments_give_their_points():
    for seed in range(6):
        true = turned(seed) @ K.T
        found = vanishing_points(through(true, 20, seed), 256)
        assert geometry.vp_error(found.points, true, K).max() < 1e-6
        np.testing.assert_allclose(np.linalg.norm(found.points, axis=1), 1)
        # some begin beside their point
        assert geometry.explained(found) > 0.9 and (found.assignment >= 0).mean() > 0.9


def test_points_need_not_be_at_right_angles():
    directions = np.array([[0.3, 0.1, 1], [0.9, 0.2, 1], [-1.0, 0.15, 1]])
    found = vanishing_points(through(directions @ K.T, 20), 256)
    assert geometry.vp_error(found.points, directions @ K.T, K).max() < 1e-6
    assert (geometry.focal_squared(found.points, (256, 256)) < 0).any()


def test_a_third_of_clutter_is_borne():
    rng, true = np.random.default_rng(1), turned(1) @ K.T
    clutter = geometry.scattered(through(true, 10, 5), rng)
    noisy = through(true, 20) + rng.normal(0, 0.1, (60, 4))
    assert (
        geometry.vp_error(
            vanishing_points(np.concatenate([noisy, clutter]), 256).points, true, K
        ).max()
        < 1
    )


def test_parallel_lines_meet_in_a_direction():
    direction = np.array([[np.cos(0.4), np.sin(0.4), 0.0]])
    found = vanishing_points(through(direction, 20), 256)
    assert len(found.points) == 1 and abs(found.points[0, 2]) < 1e-9
    np.testing.assert_allclose(np.abs(found.points[0, :2]), np.abs(direction[0, :2]), atol=1e-6)
    assert (
        geometry.checks(found)["explained"] == 1
        and geometry.horizon(found.points, (256, 256)) is None
    )
    level = geometry.horizon(np.array([[1.0, 0, 0], [0, 1, 0]]), (256, 256))
    assert level is None  # the line at infinity is no horizon


@pytest.mark.parametrize(
    "lines",
    [
        np.tile([3.0, 3, 3, 3], (12, 1)),
        np.tile([3.0, 3, 9, 5], (12, 1)),
        np.zeros((0, 4)),
        np.array([[1.0, 1, 30, 4]]),
    ],
)
def test_lines_that_say_nothing_raise_no_warning(lines):
    row = geometry.checks(vanishing_points(lines, 64))
    assert row["segments"] == len(lines) and not row["points"] > 1


def test_the_same_seed_gives_the_same_points():
    lines = geometry.scattered(through(turned(2) @ K.T, 30), np.random.default_rng(0))
    one, again, other = (
        vanishing_points(lines, 256, seed=seed, max_log_nfa=np.inf) for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(one.points, again.points)
    assert not np.array_equal(one.points, other.points)
    found = vanishing_points(through(turned(2) @ K.T, 30), 256)
    assert geometry.checks(found, seed=3) == geometry.checks(found, seed=3)


def test_right_angles_give_the_focal_length_and_the_axis():
    for seed in range(20):
        points = turned(seed) @ K.T
        np.testing.assert_allclose(
            geometry.focal_squared(points, (256, 256)) / 300**2, 1, rtol=1e-9
        )
        np.testing.assert_allclose(geometry.orthocentre(points) / 127.5, 1, rtol=1e-9)
    assert np.isnan(geometry.focal_squared(np.array([[1.0, 0, 0], [100, 50, 1]]), (256, 256))).all()
    with pytest.raises(GeometryError, match="infinity"):
        geometry.orthocentre(np.eye(3))


def test_lines_in_random_directions_have_no_vanishing_point():
    images = [
        geometry.scattered(through(turned(seed) @ K.T, 30, seed), np.random.default_rng(seed))
        for seed in range(20)
    ]
    # 120 without the stop
    assert sum(len(vanishing_points(lines, 256).points) for lines in images) <= 2
    # for a null
    assert all(
        len(vanishing_points(lines, 256, max_log_nfa=np.inf).points) == 6 for lines in images
    )


def test_few_copies_of_a_point_grow_from_its_rim(monkeypatch):
    def copies() -> int:
        noisy = (
            through(point, 60, seed) + np.random.default_rng(seed).normal(0, 0.5, (60, 4))
            for seed in range(10)
        )
        return sum(len(vanishing_points(lines, 256).points) - 1 for lines in noisy)
    point = np.array([[300.0, 100, 1]])
    few = copies()
    monkeypatch.setattr(vanishing, "HALO", 1.0)
    assert few <= 3 and copies() > 2 * few


def test_the_null_is_given_as_many_points():
    result = vanishing_points(through(turned(0) @ K.T, 20), 256)
    row = geometry.checks(result)
    assert 0.1 < row["null"] < row["explained"] and row["excess"] == row["explained"] - row["null"]


def test_a_horizon_needs_a_finite_point_and_takes_what_there_is():
    zenith, level = [130.0, -3000, 1], [300.0, 80, 1]
    assert geometry.horizon(np.zeros((0, 3)), (256, 256)) is None
    alone = geometry.horizon(np.array([level]), (256, 256))
    np.testing.assert_allclose(alone / alone[1], [0, 1, -80], atol=1e-9)  # the usual slope
    upright = geometry.horizon(np.array([zenith]), (256, 256))
    # looks up
    assert (
        upright[0] / upright[1] == pytest.approx(-2.5 / 3127.5) and -upright[2] / upright[1] > 127.5
    )
    stray = np.array([[300.0, 80, 1], [-500, 81, 1], [127.5, 4000, 1], [40, 200, 1]])
    line = geometry.horizon(stray, (256, 256), np.array([300.0, 200, 100, 250]))
    # the stray point has less support than two that agree
    assert abs(-(line[2] + line[0] * 127.5) / line[1] - 80.5) < 1
    far = geometry.horizon(
        np.array([[1e5, -9e3, 1.0], level, zenith]), (256, 256), np.array([900.0, 100, 500])
    )
    # far away: says nothing about the height
    assert abs(-(far[2] + far[0] * 300) / far[1] - 80) < 8


def test_photographs_have_a_curve_of_their_own():
    assert geometry.photograph_error(128) == pytest.approx(1.6) and geometry.photograph_error(
        2000
    ) == pytest.approx(0.6)
    assert np.isnan(geometry.photograph_error(64)) and 0.6 < geometry.photograph_error(300) < 1.6
    assert geometry.smallest_size(pd.DataFrame(), rendered=False) == 128


def test_one_worker_is_one_core(monkeypatch):
    threads = []
    def record(job):
        threads.append(
            (cv2.getNumThreads(), max(pool["num_threads"] for pool in threadpool_info()))
        )
        return {}
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    monkeypatch.setattr(geometry, "feature", record)
    try:
        geometry.features([np.zeros((8, 8), np.uint8)])
        assert threads == [(1, 1)] and cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


def test_horizon_is_the_scenes():
    for seed in range(8):
        scene = world.scene(seed)
        points = scene.vanishing_points(128)
        line = geometry.horizon(points, (128, 128))
        assert geometry.horizon_error(line, scene.horizon(128), scene.K(128)) < 1e-6
        roll = np.degrees(np.arctan2(*np.abs(scene.horizon(128)[:2])))
        assert geometry.tilt(line) == pytest.approx(roll, abs=1e-9)
    one = geometry.horizon(np.array([[300.0, 80, 1], [127.5, 2000, 1]]), (256, 256))
    # at a right angle to the upright point
    np.testing.assert_allclose(one / one[1], [0, 1, -80], atol=1e-9)


def test_errors_are_angles_and_each_estimate_serves_once():
    true = turned(0) @ K.T
    spun = cv2.Rodrigues(np.array([0, np.radians(2.0), 0]))[0]
    np.testing.assert_allclose(
        geometry.angles(np.eye(3) @ spun.T, np.eye(3)).diagonal(), [2, 0, 2], atol=1e-9
    )
    assert geometry.vp_error(-3 * true[[2, 0, 1]], true, K).max() < 1e-6
    np.testing.assert_allclose(
        np.sort(geometry.vp_error(true[[0, 0]], true, K)), [0, 90, 90], atol=1e-6
    )
    assert geometry.vp_error(np.zeros((0, 3)), true, K).tolist() == [90, 90, 90]
    assert geometry.horizon_error(None, true[0], K) == 90


def test_the_worlds_points_are_recovered_at_256(pictures):
    errors, against = [], []
    for scene, image in zip(*pictures, strict=True):
        found = vanishing_points(segments(image), 256)
        errors.append(
            geometry.vp_error(
                found.points,
                scene.vanishing_points(256)[geometry.visible_axes(scene)],
                scene.K(256),
            )
        )
        row = geometry.checks(found, repeats=2)
        against.append((row["explained"], row["null"]))
    errors = np.concatenate(errors)
    assert np.median(errors) < 0.5 and np.mean(errors < 3) > 0.8
    # every picture explains more than its own segments turned at random
    assert (np.diff(against, axis=1) < -0.1).all()


def test_bent_lines_explain_less_than_lines_sheared_as_much(pictures):
    def share(image: np.ndarray, bent: bool) -> float:
        return geometry.explained(
            vanishing_points(segments(geometry.warped(image, 1.0, bent)), 256)
        )

    assert np.mean([share(image, True) < share(image, False) for image in pictures[1]]) > 0.8


def test_straightness_counts_where_edges_go_on():
    bit = np.array([[0.0, 0, 10, 0], [11, 0, 20, 0]])
    kinked = np.array([[0.0, 0, 10, 0], [11, 0, 20, 1.2]])
    assert geometry.straightness(bit) == 1 and geometry.straightness(kinked) == 0
    assert np.isnan(geometry.straightness(bit[:1])) and np.isnan(
        geometry.straightness(bit + [[0], [90]])
    )


def test_calibration_says_from_which_size():
    table = geometry.calibrate((32, 128), scenes=4, seed=1, styles=("photo",))
    small, large = table.to_dict("records")
    assert (
        small["median"]["mean"] > 3 > large["median"]["mean"]
        and large["within_10"]["n"] >= large["scenes"]
    )
    assert geometry.smallest_size(table.iloc[:1]) is None
    result = {"mean": 1.0, "low": 0.6, "high": 1.2, "n": 9}
    highs = {32: 2, 64: 9, 128: 1, 256: 1}
    known = pd.DataFrame(
        [
            {"size": size, "median": result | {"high": high}, "bend": result}
            for size, high in highs.items()
        ]
    )
    assert geometry.smallest_size(known) == 128  # 32 px was luck, since 64 px fails
    with pytest.raises(GeometryError, match="two scenes"):
        geometry.calibrate((32,), 1, 0)


def test_auroc_counts_ties_half():
    low, high = np.array([0, 1, 1, 2]), np.array([1, 2, 3])
    assert geometry.auroc(low, high) == pytest.approx(
        np.mean((high[:, None] > low) + (high[:, None] == low) / 2)
    )


def test_the_probe_finds_a_planted_difference_and_nothing_where_there_is_none():
    rng = np.random.default_rng(0)
    one, two = (
        pd.DataFrame(
            {"abstained": False, "excess": rng.normal(0, 1, 50), "tilt": rng.normal(0, 1, 50)}
        )
        for _ in "ab"
    )
    one.loc[::7, "tilt"] = np.nan
    same, planted = (
        geometry.compare(one, other, 0, rounds=2)
        for other in (two, two.assign(excess=two["excess"] + 9))
    )
    assert planted["auroc"]["mean"] > 0.999 and planted["permuted"]["mean"] == pytest.approx(
        0.5, abs=0.15
    )
    assert same["auroc"]["mean"] == pytest.approx(0.5, abs=0.17)
    rows = planted["features"].set_index("feature")
    assert (
        rows.loc["excess", "distance"] == pytest.approx(9 / np.hypot(1, 4.5), rel=0.1)
        and rows.loc["excess", "null"] < 0.5
    )
    with pytest.raises(GeometryError, match="10 of each"):
        geometry.compare(one[:3], two, 0)


def test_features_and_drawing_of_pictures(pictures):
    images = [*pictures[1][:2], np.zeros((256, 256, 3), np.uint8)]
    table = geometry.features(images)
    assert (
        table["abstained"].tolist() == [False, False, True]
        and table.loc[:1, "support_1"].between(0.1, 1).all()
    )
    found = geometry.overlay(images[0])
    assert sum(map(len, found["segments"].values())) == table["segments"][0]
    ends = geometry.overlay(images[0], level=True)["segments"]["horizon"].reshape(2, 2)
    line = pictures[0][0].horizon(256)
    assert np.abs(ends @ line[:2] + line[2]).max() < 5  # pixels
    assert all(place.shape == (1, 2) for place in found["points"].values())
