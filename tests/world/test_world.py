"""The rendered world against closed forms: intersections, camera, light, masks, and that a scene is
its seed.
"""

import collections

import numpy as np
import pytest
import yaml

from lib import world
from lib.core import workers
from lib.core.paths import ROOT
from lib.world import scenes, shading, shapes

STYLES = world.STYLES


def facing(origin, target=(0.0, 0.0, 0.0)):
    """One ray (3, 1), (3, 1) float32 from a point to a target, unit speed."""
    o, d = np.array(origin, float), np.array(target, float) - origin
    return o[:, None].astype(np.float32), (d / np.linalg.norm(d))[:, None].astype(np.float32)


def bundle(count=4000, seed=0, spread=0.9):
    """Rays (3, n) from one distant point into the neighbourhood of the origin."""
    rng = np.random.default_rng(seed)
    o = np.array([2.5, -3.1, 1.7])
    d = rng.uniform(-spread, spread, (count, 3)) - o
    return o[:, None].astype(np.float32), (d / np.linalg.norm(d, axis=1)[:, None]).T.astype(
        np.float32
    )


def signed(part, p):
    """Zero on a solid's surface, negative inside, for points p (3, n): written from the solid's
    definition.
    """
    x, y, z = p
    flat = np.hypot(x, y)
    if isinstance(part, shapes.Ball):
        return np.sqrt(x * x + y * y + z * z) - part.radius
    if isinstance(part, shapes.Pill):
        return np.hypot(flat, z - np.clip(z, -part.half, part.half)) - part.radius
    if isinstance(part, shapes.Ring):
        return np.hypot(flat - part.major, z) - part.minor
    if isinstance(part, shapes.Lathe):
        wall = part.top + (part.base - part.top) * (part.half - z) / (2 * part.half)
        return np.maximum(flat - wall, np.abs(z) - part.half)
    across = part.normals @ p
    return np.maximum(across - part.high[:, None], part.low[:, None] - across).max(axis=0)


SOLIDS = {name: scenes.build(name, np.random.default_rng(5)) for name in world.CLASSES}


@pytest.mark.parametrize(("solid", "origin", "expected"), [
    ((shapes.Ball(1.0),), (3, 0, 0), 2.0),
    ((shapes.box(1, 1, 1),), (0, 4, 0), 3.0),
    ((shapes.box(1, 1, 1),), (3, 3, 3), 2 * np.sqrt(3)),
    ((shapes.Lathe(1, 1, 2),), (0, 5, 0), 4.0),
    ((shapes.Lathe(1, 0, 1),), (0, 0, 5), 4.0),
    ((shapes.Lathe(1, 0, 1),), (4, 0, 0), 3.5),
    ((shapes.Pill(0.5, 1),), (0, 0, 4), 2.5),
    ((shapes.Ring(1, 0.25),), (4, 0, 0), 2.75),
    ((shapes.octahedron(1, 1),), (2, 2, 2), np.linalg.norm([2, 2, 2]) - 1 / np.sqrt(3)),
    ((shapes.hexagonal_prism(1, 1),), (0, 3, 0), 3 - np.sqrt(3) / 2),
    ((shapes.pyramid(1, 1),), (0, 0, -4), 3.0),
    (scenes.cross(0.3, 0.2), (0, 3, 0), 2.8),
])
def test_depth_is_the_closed_form(solid, origin, expected):
    t, _ = shapes.trace(solid, *facing(origin))
    assert t[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", world.CLASSES)
def test_hits_lie_on_the_surface_and_misses_stay_outside(name):
    solid = SOLIDS[name]
    o, d = bundle(spread=1.6)
    t, face = shapes.trace(solid, o, d)
    hit = t < shapes.FAR
    assert 0.1 < hit.mean() < 0.9
    on = np.min([signed(part, (o + t * d)[:, hit].astype(float)) for part in solid], axis=0)
    assert np.abs(on).max() < 1e-4
    along = np.linspace(0, 8, 400)[:, None, None] * d[:, ~hit] + o  # (400, 3, n)
    gap = np.min(
        [signed(part, along.transpose(1, 0, 2).reshape(3, -1).astype(float)) for part in solid],
        axis=0,
    )
    assert gap.min() > -2e-3


@pytest.mark.parametrize("name", world.CLASSES)
def test_normals_are_the_gradient_of_the_surface(name):
    solid, step = SOLIDS[name], 1e-4
    o, d = bundle(seed=1)
    t, face = shapes.trace(solid, o, d)
    at = t < shapes.FAR
    p = (o + t * d)[:, at].astype(float)
    n = shapes.normals(solid, face[at], p.astype(np.float32), d[:, at])
    assert np.abs(np.linalg.norm(n, axis=0) - 1).max() < 1e-3
    assert (shapes.dot(n, d[:, at]) < 1e-3).all()
    far, near = (np.min([signed(part, q) for part in solid], axis=0) for q in (p + step * n, p))
    rise = (far - near) / step
    # a cone's distance is measured level, so its slope is below one
    assert np.quantile(rise, 0.02) > 0.8


@pytest.mark.parametrize("name", world.CLASSES)
def test_support_function_bounds_the_outline(name):
    rng = np.random.default_rng(2)
    for direction in rng.normal(size=(20, 3)):
        direction /= np.linalg.norm(direction)
        exact, sampled = (
            shapes.reach(SOLIDS[name], direction),
            (shapes.outline(SOLIDS[name]) @ direction).max(),
        )
        assert sampled <= exact + 1e-6
        assert sampled > exact - 0.03


@pytest.mark.parametrize("style", STYLES)
def test_bodies_rest_on_the_floor_and_stand_free(style):
    for seed in range(40):
        bodies = world.scene(seed, style).bodies
        for body in bodies:
            lowest = body.centre[2] - shapes.reach(body.solid, body.turn.T @ [0.0, 0.0, -1.0])
            assert abs(lowest) < 1e-6
        for i, one in enumerate(bodies):
            for other in bodies[i + 1:]:
                assert np.linalg.norm((one.centre - other.centre)[:2]) > 0.9 * max(
                    one.radius, other.radius
                )


def test_known_points_project_by_K_and_R():
    scene = world.scene(3)
    inside = np.array([[0.2, -0.1, 0.4], [1.0, 0.5, 0.0], [-0.7, 0.3, 1.2]])
    rays = world.rays(scene, 64, 1)
    for point, (u, v) in zip(inside, scene.project(inside, 64), strict=True):
        p = scene.K(64) @ scene.R @ (point - scene.eye)
        assert np.allclose(p[:2] / p[2], (u, v), atol=1e-9)
        if 0 <= round(u) < 64 and 0 <= round(v) < 64:
            ray = rays.d[:, round(v) * 64 + round(u)]
            away = (point - scene.eye) / (scene.R[2] @ (point - scene.eye)) - ray
            assert np.abs(away).max() < 1.0 / (64 * scene.focal)


@pytest.mark.parametrize("style", STYLES)
def test_far_points_reach_the_vanishing_points_and_the_horizon(style):
    for seed in range(12):
        scene = world.scene(seed, style)
        line = scene.horizon(64)
        for axis, point in enumerate(scene.vanishing_points(64)):
            far = scene.project(1e9 * np.sign(point[2]) * np.eye(3)[axis][None], 64)[0]
            assert np.allclose(point[:2] / point[2], far, rtol=1e-5, atol=1e-3)
            if axis < 2:
                assert abs(line @ point) / np.linalg.norm(point) < 1e-9


def test_resizing_follows_the_pixel_convention():
    scene, s = world.scene(11), 4.0
    small, large = (
        scene.project(np.array([[0.3, 0.2, 0.5]]), 64),
        scene.project(np.array([[0.3, 0.2, 0.5]]), 256),
    )
    assert np.allclose((small + 0.5) * s - 0.5, large, atol=1e-9)
    assert scene.K(256)[0, 0] == pytest.approx(s * scene.K(64)[0, 0])


def test_focal_length_from_orthogonal_vanishing_points():
    for seed in range(50):
        scene = world.scene(seed, "web" if seed % 2 else "photo")
        K, points = scene.K(64), scene.vanishing_points(64)
        x, y, z = ((p[:2] / p[2] - K[:2, 2]) for p in points)
        for a, b in ((x, y), (y, z), (x, z)):
            assert -a @ b / K[0, 0] ** 2 == pytest.approx(
                1, abs=1e-9 * max(1, np.abs(a).max() * np.abs(b).max())
            )
        assert (
            np.allclose(scene.R @ scene.R.T, np.eye(3), atol=1e-12) and np.linalg.det(scene.R) > 0
        )


def test_a_shadowed_floor_point_sees_the_object_against_the_sun():
    found = 0
    for seed in range(30):
        scene = world.scene(seed)
        main, toward = scene.bodies[0], scene.light
        # where the centre's shadow falls
        shadow = main.centre[:2] - toward[:2] / toward[2] * main.centre[2]
        point = np.array([[shadow[0]], [shadow[1]], [0.0]], np.float32)
        if main.name == "torus":
            continue  # the sun may shine through its hole
        start, sun = (main.turn.T @ (point - main.centre[:, None])), (main.turn.T @ toward)[:, None]
        assert shapes.blocks(main.solid, start.astype(np.float32), sun.astype(np.float32))[0]
        found += 1
    assert found > 20


def test_shadow_makes_the_floor_darker_where_the_sun_is_hidden():
    scene = world.scene(0)
    main = scene.bodies[0]
    shadow = main.centre[:2] - scene.light[:2] / scene.light[2] * main.centre[2]
    points = np.array([[*shadow, 0], [*(main.centre[:2] + 50 * scene.light[:2]), 0]], np.float32).T
    assert shading.unshadowed(scene, points, shading.suns(scene, 1), None, None).tolist() == [
        0.0,
        1.0,
    ]


@pytest.mark.parametrize("style", ["photo", "web"])
def test_the_mask_is_where_the_object_is(style):
    for seed in range(20):
        scene = world.scene(seed, style)
        _, mask = world.render(scene)
        low, high = scenes.extent(scene.bodies[0], scene.R, scene.focal, scene.eye) * 64
        rows, columns = np.nonzero(mask)
        assert mask.any()
        assert columns.min() >= low[0] - 1.5 and columns.max() <= high[0] + 0.5
        assert rows.min() >= low[1] - 1.5 and rows.max() <= high[1] + 0.5
        if len(scene.bodies) == 1:
            assert columns.max() - columns.min() > 0.93 * min(high[0], 64) - max(low[0], 0) - 3


def fills(name, style):
    """Bounding boxes (n, 2) of the main object in frame sides, over 30 seeds."""
    label = world.CLASSES.index(name)
    drawn = [world.scene(seed, style, label) for seed in range(30)]
    return np.array(
        [np.diff(scenes.extent(s.bodies[0], s.R, s.focal, s.eye), axis=0)[0] for s in drawn]
    )


@pytest.mark.parametrize("name", world.CLASSES)
def test_every_class_fills_the_frame(name):
    """The bounding box takes 35-75 % of the frame's area, and 35-75 % of its side as the root of
    that area.
    """
    sides = np.concatenate([fills(name, "photo"), fills(name, "web")])
    area = sides.prod(axis=1)
    assert area.min() > 0.35 and area.max() < 0.58
    assert sides.max() < 0.92


def test_most_of_the_main_object_is_in_view():
    for seed in range(60):
        scene = world.scene(seed)
        alone = scenes.dataclasses.replace(scene, bodies=scene.bodies[:1])
        assert world.render(scene, 32)[1].sum() > 0.65 * world.render(alone, 32)[1].sum()


def test_the_image_is_its_seed_alone():
    seeds = [5, 3, 17, 3]
    images, masks = world.render_many(seeds, "web", 48)
    other, _ = world.render_many(seeds[::-1], "web", 48, pool=workers.processes(2))
    for i, seed in enumerate(seeds):
        image, mask = world.render(world.scene(seed, "web"), 48)
        assert image.tobytes() == images[i].tobytes() == other[-1 - i].tobytes()
        assert mask.tobytes() == masks[i].tobytes()
    assert images.dtype == np.uint8 and masks.dtype == bool and images.shape == (4, 48, 48, 3)
    assert not np.array_equal(images[0], images[1])


def test_a_style_shift_keeps_the_layout():
    photo, night, web = (world.scene(8, style) for style in ("photo", "night", "web"))
    assert np.array_equal(world.render(photo)[1], world.render(night)[1])
    assert np.array_equal(photo.eye, night.eye) and not np.array_equal(photo.eye, web.eye)
    assert world.render(night)[0].mean() < 0.6 * world.render(photo)[0].mean()


@pytest.mark.parametrize("style", ["photo", "drawing", "render"])
def test_another_resolution_shows_the_same_scene(style):
    for seed in range(10):
        scene = world.scene(seed, style)
        small = world.render(scene, 64)[0].astype(float)
        large = world.render(scene, 128)[0].astype(float).reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
        stranger = world.render(world.scene(seed + 10, style), 64)[0]
        gap = np.abs(small - large).mean()
        assert gap < 7 and gap < 0.3 * np.abs(small - stranger).mean()


def test_antialiasing_is_a_mean_of_sub_pixels():
    scene = world.scene(4, "render")
    alone = scenes.dataclasses.replace(
        scene, finish=scenes.dataclasses.replace(scene.finish, noise=0.0)
    )
    soft, hard = (
        world.render(alone, 64, 2)[0].astype(float),
        world.render(alone, 64, 1)[0].astype(float),
    )
    truth = world.render(alone, 64, 6)[0].astype(float)
    assert np.square(soft - truth).mean() < 0.5 * np.square(hard - truth).mean()


def test_classes_are_balanced_over_consecutive_seeds():
    counts = collections.Counter(world.scene(seed).label for seed in range(70, 110))
    assert set(counts.values()) == {4} and len(counts) == 10
    assert world.scene(3, label=8).name == "octahedron"


@pytest.mark.parametrize("style", STYLES)
def test_captions_name_what_is_there(style):
    for seed in range(30):
        scene = world.scene(seed, style)
        words = scene.caption()
        assert scene.name in words and words == world.scene(seed, style).caption()
        assert not any(f" {bad}" in words for bad in ("a orange", "an red", "a octahedron"))
    mentioned = [world.scene(seed, style) for seed in range(100)]
    named = sum(s.bodies[0].colour in s.caption() for s in mentioned)
    assert 60 < named < 100


def test_web_differs_from_photo_in_statistics():
    photo, web = (
        world.render_many(range(60), style, 32)[0].astype(float) for style in ("photo", "web")
    )
    chroma = [np.ptp(images, axis=-1).mean(axis=(1, 2)) for images in (photo, web)]
    assert chroma[1].std() > 1.5 * chroma[0].std()
    assert {world.scene(s, "web").look for s in range(60)} == {
        "drawing",
        "render",
        "stock",
        "vintage",
    }


def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match="photo, web, drawing"):
        world.scene(0, "phto")
    with pytest.raises(ValueError, match="whole number"):
        world.scene(-1)
    with pytest.raises(ValueError, match="0 to 9"):
        world.scene(0, label=10)


def test_drawn_colours_stay_finite_at_every_size():
    for size in (8, 33, 96):
        image, mask = world.render(world.scene(14, "night"), size)
        assert image.shape == (size, size, 3) and mask.shape == (size, size) and image.std() > 2


@pytest.mark.parametrize("source", ["world", "cifar10", "imagenette", "ham10000"])
def test_class_facts_are_complete(source):
    facts = yaml.safe_load((ROOT / "params" / "classes" / f"{source}.yaml").read_text())
    names = [c["name"] for c in facts["classes"]]
    assert len(set(names)) == len(names) == (7 if source == "ham10000" else 10)
    assert all(
        c[key].strip() for c in facts["classes"] for key in ("name", "hypernym", "definition")
    )
    assert len(facts["backgrounds"]) >= 5
    if source == "world":
        assert tuple(names) == world.CLASSES
