"""Buildings instead of rendered scenes: facades of exactly known vanishing points, one photograph
with edges marked by hand.
"""

import cv2
import numpy as np
import pytest
from scipy.optimize import least_squares
from sklearn.datasets import load_sample_image

from lib.measure import geometry
from lib.measure.vanishing import VanishingPoints, orthogonal, segments, vanishing_points
from lib.tools import streets

FOCAL = 1.1  # of the facades' camera, in sides of the picture
# yaw, pitch, roll in degrees
SEEN = [(0, 0, 0), (0, 0, 1.5), (0, 10, 0), (10, 0, 1), (25, 8, 2), (45, -6, 1), (60, 5, 0)]
FLAT = SEEN[:2]  # both of their points lie at infinity
CORNERS = [(-45, 0, 0), (-35, 8, 1), (-20, -8, -1), (-60, 3, 2)]

# Edges of the tower in scikit-learn's `china.jpg` (u0, v0, u1, v1; centres at whole numbers),
# marked by eye on eightfold to twenty-twofold enlargements and once corrected after being drawn
# over them; no detector took part. It has eight sides, of which three are seen: the left, front and
# right one. Ends miss the points that fit them best by a quarter of a pixel; drawn again with
# replacement the edges give points that are off by this much (median and 95 %, in degrees):
MARKED = {
    "left": [
        (75, 332.2, 172, 345),
        (120, 288.6, 168, 291.8),
        (87, 319.6, 175, 329.5),
        (130, 160, 176, 156.8),
        (132, 153.6, 180, 149.2),
        (132, 143.3, 180, 139.1),
        (128, 139.8, 182, 135.5),
        (102, 246, 176, 247),
        (115, 235.4, 176, 236),
        (103, 254, 174, 256.3),
    ],  # 0.5, 1.9
    "front": [
        (190, 135.3, 258, 136),
        (208, 138.3, 240, 138.7),
        (208, 148.7, 240, 149.2),
        (192, 156.1, 255, 156.9),
        (182, 235.9, 285, 232.3),
        (182, 246.7, 285, 242.7),
        (200, 258, 278, 253.6),
        (213, 219.6, 251, 218.4),
        # 0.9, 2.0
        (195, 344.1, 300, 332.5),
        (200, 353.6, 290, 344.7),
        (222, 324.3, 260, 320.6),
        (228, 289.4, 288, 284.8),
    ],
    "right": [
        (291, 241.5, 321, 236.5),
        (290, 232.5, 326, 227.8),
        (297, 250.6, 322, 245.2),
        (298, 245.5, 318, 241.3),
        (309, 332.5, 347, 308),
        (310, 342.5, 343, 320),
        (271, 143.4, 288, 147),
        (271.5, 152, 288, 155.7),
        (266, 132.2, 287, 137.2),
        (275, 159.1, 290, 161.3),
    ],  # 0.3, 1.3
    "upright": [
        (97.9, 198, 98, 229),
        (155.6, 200, 156.1, 228),
        (180, 195, 180.9, 229),
        (208.8, 196, 209.6, 225),
        (253.4, 196, 254.9, 225),
        (280.2, 196, 281.6, 226),
        (292.2, 196, 293.6, 226),
        (309, 200, 310, 226),
        (80.7, 295, 81.7, 325),
        (143.5, 300, 144.6, 328),
        (174.4, 300, 176.5, 330),
        (215, 300, 216.9, 335),
        # 1.4, 3.9
        (261.9, 295, 263.1, 328),
        (313.4, 285, 313.6, 318),
        (340.5, 275, 341, 305),
    ],
}
# with this focal length its three sides turn by 45 degrees
PHOTO = np.array([[480.0, 0, 319.5], [0, 480, 213], [0, 0, 1]])


def wall(seed: int, floors: int = 5, bays: int = 7, fine: int = 64) -> np.ndarray:
    """A grid of windows, each with a frame, bars and a grey of its own, and a ledge under each
    floor.
    """
    rng = np.random.default_rng(seed)
    image = rng.uniform(110, 200, 3) + rng.normal(0, 6, (floors * fine, bays * fine, 1))
    for y in range(0, floors * fine, fine):
        image[y + 58:y + 62] *= 0.7
        for x in range(0, bays * fine, fine):
            image[y + 12:y + 50, x + 16:x + 48] = 225
            image[y + 14:y + 48, x + 18:x + 46] = rng.uniform(20, 110)
            image[y + 14:y + 48, x + 31:x + 33] = image[y + 29:y + 31, x + 18:x + 46] = 225
    return image.clip(0, 255).astype(np.uint8)


def facade(
    size: int, pose: tuple[float, float, float], seed: int, corner: bool = False
) -> tuple[np.ndarray, ...]:
    """A blurred, noisy JPEG (size, size, 3) of one wall, or of two at a corner; its vanishing
    points (k, 3); its camera.
    """
    yaw, pitch, roll = (
        cv2.Rodrigues(np.radians(pose[i]) * np.eye(3)[axis])[0] for i, axis in enumerate((1, 0, 2))
    )
    R, rng, fine = roll @ pitch @ yaw, np.random.default_rng(seed), 3
    K = np.array([[FOCAL * size, 0, (size - 1) / 2], [0, FOCAL * size, (size - 1) / 2], [0, 0, 1]])
    # pixel centres at whole numbers
    grown = np.array([[fine, 0, (fine - 1) / 2], [0, fine, (fine - 1) / 2], [0, 0, 1]]) @ K
    windows = wall(seed)
    (high, wide), across = windows.shape[:2], R[:, [0, 2] if corner else [0]].T
    image = np.repeat(np.linspace(225, 170, fine * size)[:, None], fine * size, axis=1)[
        ..., None
    ] * (0.85, 0.93, 1.0)
    for along in across:
        place = np.array([0, 0, 1.35]) - R[:, 1] / 2 - along * (0 if corner else wide / high / 2)
        # the wall's height is the unit of length
        H = grown @ np.stack([along / high, R[:, 1] / high, place], axis=1)
        shown, seen = (
            cv2.warpPerspective(part, H, image.shape[:2])
            for part in (windows, np.ones_like(windows))
        )
        image = np.where(seen > 0, shown, image)
    image = cv2.GaussianBlur(
        cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), (0, 0), 0.6
    )
    image = (image + rng.normal(0, 3, image.shape)).clip(0, 255).astype(np.uint8)
    coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return cv2.imdecode(coded, cv2.IMREAD_COLOR), np.stack([*across, R[:, 1]]) @ K.T, K


def looked(size: int, poses: list, seed: int, corner: bool = False) -> list[tuple]:
    """What is found in each picture, its true points, its camera."""
    made = (facade(size, pose, seed, corner) for pose in poses)
    return [(vanishing_points(segments(image), size), true, K) for image, true, K in made]


@pytest.fixture(scope="module")
def walls():
    """Single walls from the front to sixty degrees aside, by size."""
    return {size: [one for seed in range(seeds) for one in looked(size, SEEN, seed)]
            for size, seeds in ((512, 1), (256, 2), (128, 3), (64, 3))}


@pytest.fixture(scope="module")
def corners():
    """Two walls at a right angle, by size."""
    return {
        size: [one for seed in range(2) for one in looked(size, CORNERS, seed, corner=True)]
        for size in (256, 128)
    }


def meeting(edges: list) -> tuple[np.ndarray, np.ndarray]:
    """The point (3,), in pixels, with the least squared distances of the edges' ends to the lines
    from it to their middles.
    """
    ends = np.array(edges).reshape(-1, 2, 2)
    middle, half = ends.mean(axis=1), (ends[:, 1] - ends[:, 0]) / 2

    def misses(point: np.ndarray) -> np.ndarray:
        # in units that make a point's parts alike
        way = 300 * point[:2] + (np.array([319.5, 213]) - middle) * point[2]
        return (half[:, 0] * way[:, 1] - half[:, 1] * way[:, 0]) / np.hypot(*way.T)
    guess = np.append(half[np.hypot(*half.T).argmax()], 0.1) / np.hypot(*half.T).max()
    found = least_squares(lambda point: np.append(misses(point), np.linalg.norm(point) - 1), guess)
    point = np.append(300 * found.x[:2] + np.array([319.5, 213]) * found.x[2], found.x[2])
    return point / np.linalg.norm(point), misses(found.x)


def photographed(width: int, n: int, **options) -> tuple[np.ndarray, VanishingPoints]:
    """Degrees between each marked point of the photograph and the nearest of n found in it, reduced
    to that width.
    """
    image = load_sample_image("china.jpg")
    small = (
        image
        if width == 640
        else cv2.resize(image, (width, round(427 * width / 640)), interpolation=cv2.INTER_AREA)
    )
    found = vanishing_points(segments(small), small.shape[:2], n, **options)
    x, y = width / 640, len(small) / 427
    back = np.linalg.inv(np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]]) @ PHOTO).T
    true = np.stack([meeting(edges)[0] for edges in MARKED.values()]) @ np.linalg.inv(PHOTO).T
    return geometry.angles(true, found.points @ back).min(axis=1), found


@pytest.mark.parametrize(
    ("size", "median", "most"), [(512, 0.1, 0.4), (256, 0.3, 1), (128, 0.4, 2.5), (64, 3.5, 9)]
)
def test_points_of_a_wall_from_the_front_and_aside(walls, size, median, most):
    # no focal length given
    errors = np.concatenate(
        [geometry.vp_error(found.points, true, K) for found, true, K in walls[size]]
    )
    # degrees; measured 0.02, 0.16, 0.2, 2.1 and 0.1 to 5.8
    assert np.median(errors) < median and np.quantile(errors, 0.9) < most


@pytest.mark.parametrize(("size", "most"), [(512, 0.2), (256, 1), (128, 3)])
def test_stray_lines_of_a_single_wall_do_not_tilt_its_horizon(walls, size, most):
    off = []
    for (found, _, _), (_, _, roll) in zip(walls[size], SEEN * 3, strict=False):
        off.append(
            abs(
                geometry.tilt(geometry.horizon(found.points, found.size, found.support)) - abs(roll)
            )
        )
    # degrees; up to 71 where a third point counts whatever supports it
    assert np.median(off) < most / 5 and max(off) < most


@pytest.mark.parametrize("size", [512, 256, 128])
def test_a_wall_from_the_front_says_nothing_of_the_focal_length(walls, size):
    for k, (found, _, K) in enumerate(walls[size]):
        square = geometry.focal_squared(found.points[:2], found.size)[0] / K[0, 0] ** 2
        # yaw of 25 degrees or more, and a pitch
        assert np.isnan(square) if k % len(SEEN) < 4 else 0.5 < square < 2


@pytest.mark.parametrize(
    ("size", "most", "square", "share"), [(256, 3, 3, 0.25), (128, 4.5, 5, 0.4)]
)
def test_corners_of_a_building(corners, size, most, square, share):
    errors = np.concatenate(
        [geometry.vp_error(found.points, true, K) for found, true, K in corners[size]]
    )
    assert np.median(errors) < 0.4 and errors.max() < most  # degrees
    focal = np.concatenate(
        [
            geometry.focal_squared(found.points, found.size) / K[0, 0] ** 2
            for found, _, K in corners[size]
        ]
    )
    off = np.log(focal[np.isfinite(focal)]) / 2
    # camera unknown
    assert (
        len(off) > len(focal) / 2
        and np.abs(np.median(off)) < 0.05
        and np.quantile(np.abs(off), 0.9) < share
    )
    for found, true, K in corners[size]:
        seen = found.points @ np.linalg.inv(K).T
        # camera known; degrees
        assert np.abs(geometry.angles(seen, seen)[np.triu_indices(3, 1)] - 90).max() < square
        line = np.linalg.inv(K).T @ np.linalg.inv(K) @ true[2]
        assert (
            geometry.horizon_error(
                geometry.horizon(found.points, found.size, found.support), line, K
            )
            < most
        )


def test_a_photograph_of_a_tower():
    marked = {name: meeting(edges) for name, edges in MARKED.items()}
    # pixels
    assert all(
        np.sqrt(np.mean(misses**2)) < 0.3 and np.abs(misses).max() < 0.6
        for _, misses in marked.values()
    )
    sides = (
        np.stack([marked[name][0] for name in ("left", "front", "right")]) @ np.linalg.inv(PHOTO).T
    )
    assert np.abs(geometry.angles(sides, sides)[[0, 1, 0], [1, 2, 2]] - (45, 45, 90)).max() < 7
    # tiles of the roofs and trees have points too, so that three are not enough
    off, found = photographed(640, 6)
    # degrees; measured 1.1, 2.4, 0.6, 2.3: the marks themselves are little better
    assert (off < (2.5, 3.5, 2.5, 4)).all()
    level = geometry.tilt(np.cross(marked["left"][0], marked["right"][0]))
    assert geometry.tilt(
        geometry.horizon(found.points, found.size, found.support)
    ) == pytest.approx(level, abs=0.7)


def test_the_tower_is_too_small_in_reduced_photographs():
    off = {width: np.sort(photographed(width, 6, max_log_nfa=np.inf)[0]) for width in (320, 128)}
    # the tower is 130 px wide: its points are off by 2, 2, 6 and 8 degrees …
    assert off[320][2] < 13
    # … and at 50 px lost: faces and tiles merge, as for chance lines
    assert np.median(off[320]) > 3 and np.median(off[128]) > 10


@pytest.mark.parametrize("width", [640, 512, 480, 400])
def test_the_towers_points_and_horizon_in_a_photograph_of_any_usual_size(width):
    off, found = photographed(width, 6)
    # degrees; three points alone miss one by 43 to 49
    assert (off < (2.5, 3.7, 2.5, 4)).all() and len(found.points) <= 5
    left, right = (meeting(MARKED[name])[0] for name in ("left", "right"))
    scale = np.diag([width / 640, round(427 * width / 640) / 427, 1])
    line = np.linalg.inv(scale).T @ np.cross(left, right)
    assert (
        geometry.horizon_error(
            geometry.horizon(found.points, found.size, found.support), line, scale @ PHOTO
        )
        < 0.9
    )


@pytest.fixture(scope="module", params=[640, 320])
def seen_streets(request):
    """Streets, what is measured in them, and what the earlier rule measured."""
    size = request.param
    scenes = [streets.street(seed, (size * 3 // 4, size)) for seed in range(16)]
    ours = [vanishing_points(segments(scene.image), scene.image.shape[:2]) for scene in scenes]
    return scenes, ours, [streets.three_points(scene.image) for scene in scenes]


def horizon_areas(scenes, rules) -> list[float]:
    return [
        streets.area(
            [streets.height_error(line, scene) for line, scene in zip(lines, scenes, strict=True)]
        )
        for lines in rules
    ]


def test_a_streets_truth_is_exact():
    scene = streets.street(3, (240, 320))
    # level points lie on it
    assert np.abs(scene.points[:-1] @ scene.horizon).max() < 1e-9 * np.abs(scene.points).max()
    rays = scene.points @ np.linalg.inv(scene.K).T
    np.testing.assert_allclose(rays[:-1] @ rays[-1], 0, atol=1e-9)


def test_the_horizon_of_streets_is_off_by_less_than_half_of_two_points_or_the_middle_line(
        seen_streets):
    scenes, results, earlier = seen_streets
    middle = [np.array([0, 1, -(len(scene.image) - 1) / 2]) for scene in scenes]
    ours, two_points, middle = horizon_areas(scenes, [
        [geometry.horizon(result.points, result.size, result.support) for result in results],
        map(streets.two_points, earlier), middle])
    assert 100 - ours < (100 - two_points) / 2 and 100 - ours < (100 - middle) / 2


def test_directions_of_streets_are_no_worse_than_those_of_three_points(seen_streets):
    scenes, results, earlier = seen_streets
    ours, theirs = (
        np.concatenate([geometry.vp_error(result.points, scene.points, scene.K)
                        for scene, result in zip(scenes, part, strict=True)])
        for part in (results, earlier))
    assert np.mean(ours < 5) >= np.mean(theirs < 5) and np.median(ours) <= np.median(theirs)


@pytest.mark.parametrize("size", [512, 256, 128])
def test_points_stop_where_no_more_are(walls, corners, size):
    near, missing = [], []
    for found, true, K in [*walls[size], *corners.get(size, [])]:
        back = np.linalg.inv(K).T
        near += (geometry.angles(found.points @ back, true @ back).min(axis=1) < 5).tolist()
        missing.append(len(true) - len(found.points))
    # six might come; 60 to 76 % where three are asked for
    assert np.mean(near) > 0.9 and max(missing) <= 0


def test_a_corner_is_square_without_and_with_its_focal_length(corners):
    for found, true, K in corners[256]:
        for focal in (None, K[0, 0]):
            triple = orthogonal(found, focal)
            assert geometry.vp_error(triple.points, true, K).max() < 3
            assert (triple.support == np.sort(triple.support)[::-1]).all()
        assert orthogonal(found, K[0, 0] / 4) is None


def test_a_walls_two_points_are_no_triple(walls):
    assert all(orthogonal(found) is None for found, _, _ in walls[512])
