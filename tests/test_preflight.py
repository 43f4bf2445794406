"""What cannot work is said before anything runs: each row is one way a study failed late."""

import numpy as np
import pytest

from lib import preflight
from lib.core import config as settings
from lib.core import freshness, plan
from lib.core.paths import ROOT
from lib.data import source as sources
from tests.data.archive_files import as_folder, class_folders, encoded

FOLDER = {
    "inversion": {"num_embedded": 0},
    "generation": {"sets": ["cd"], "init_from": "scratch", "sweep_num_images": 0},
    "training": {"arms": ["real", "cd", "real+cd"], "equal_epoch_arms": [], "scaling_sets": []},
    "representation": {"feature_images": 40},
    "repair": {"base": "cd"},
}


def found(profile="smoke", **sections):
    """Problems by key."""
    config = settings.load(profile, sections)
    return {problem.key: str(problem) for problem in preflight.problems(config)}


def in_folder(path, train=60, test=40, **sections):
    data = {"source": "folder", "root": str(path), "train": train, "test": test, "shift_images": 0}
    merged = {name: FOLDER.get(name, {}) | sections.get(name, {}) for name in {*FOLDER, *sections}}
    merged["data"] = data | sections.get("data", {})
    merged["repair"] = {"num_real": 20, "num_real_curve": []} | merged["repair"]
    return found(**merged)


def photos(count=50, **more):
    files = {
        f"train/{name}/{i}.png": encoded((i, k, 7))
        for k, name in enumerate("ab")
        for i in range(count)
    }
    files |= {
        f"test/{name}/{i}.png": encoded((i, k, 99))
        for k, name in enumerate("ab")
        for i in range(count // 2)
    }
    return files | more


@pytest.mark.parametrize("profile", settings.profiles())
def test_profiles_that_ship_lack_nothing_but_downloads(profile):
    problems = list(preflight.problems(settings.load(profile)))
    assert [str(problem) for problem in problems if not problem.download] == []


@pytest.mark.parametrize(("key", "value", "allowed"), [
    ("repair.base", "zz", "one of sd, cd, di"),
    ("repair.base", "real", "one of sd, cd, di"),
    ("repair.remedies", ["recalibrate", "mixx"], "did you mean 'mix'?"),
    ("repair.num_real", 5000, "at most 160"),
    ("repair.num_real_curve", [30, 500], "at most 160"),
    ("repair.unfreeze_last", [1, 60], "at most 5"),
    ("training.arms", ["real", "sd", "zz"], "no image set 'zz'"),
    ("training.arms", ["real", "sd@4x"], "needs 800 images"),
    ("training.equal_epoch_arms", ["real+published"], "no image set 'published'"),
    ("training.scaling_sets", ["published"], "one of the sets of this profile: sd, cd, di"),
    ("training.synthetic_ratios", [4.0], "cd@4x needs 800 images"),
    ("training.architecture", "resnet55", "resnet50"),
    ("generation.scheduler", "DPMSolver+++", "DPMSolver++, DDIM"),
    ("inversion.scheduler", "nope", "DPMSolver++, DDIM"),
    ("generation.class_info", "digitz", "what prompts can say of the classes"),
    ("generation.class_info", "cifar10", "no hypernym and definition for"),
    ("generation.prompt_template", "a {colour} thing", "uses {colour}"),
    ("generation.sweep_prompts", ["{class"], "cannot be read"),
    ("generation.num_images", 3, "at least 10, one per class"),
    ("generation.sweep_num_images", 10, "0, or at least 11"),
    ("generation.model", "scratch", "a text-to-image model"),
    ("generation.init_from", "./nowhere", "a folder that is there"),
    ("inversion.num_images", 3, "at least 10, one per class"),
    ("inversion.num_embedded", 300, "0, or 10 to 200"),
    ("inversion.num_embedded", 3, "0, or 10 to 200"),
    ("data.train", 3, "20 to"),
    ("data.test", 3, "10 to"),
    ("data.train", 10**9, "20 to"),
    ("study.store", "~/x", "without ~ or $"),
    ("study.store", "$HOME/x", "without ~ or $"),
    ("study.device", "mps", "auto, or a device of this machine"),
    ("representation.feature_images", 400, "at most 100"),
    ("representation.attack_images", 90, "at most 40"),
    ("gradcam.sanity_images", 400, "at most 100"),
])  # fmt: skip
def test_what_cannot_work_is_named_with_key_value_and_what_is_allowed(key, value, allowed):
    section, name = key.split(".")
    if key == "data.train" and value == 10**9:
        name, value, key, allowed = "shard", 1, "data.shard", "at least 10,000"
        problems = found(data={"train": 10**9, "shard": 1})
    else:
        problems = found(**{section: {name: value}})
    assert key in problems and allowed in problems[key]
    assert problems[key].startswith(f"{key} = ")


def test_all_that_is_wrong_is_in_one_list():
    config = settings.load(
        "smoke",
        {"repair": {"base": "zz", "num_real": 5000}, "training": {"architecture": "resnet55"}},
    )
    with pytest.raises(preflight.PreflightError) as caught:
        preflight.check(config, "smoke")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("3 settings cannot work; nothing has been started")
    assert len(lines) == 5 and lines[-1] == str(ROOT / "params/smoke.yaml")


def test_a_published_set_needs_its_files():
    problems = found(
        generation={"sets": ["sd", "cd"], "model": "published", "sweep_num_images": 0},
        training={"train_on_sweep": False},
    )
    assert "where the published images lie" in problems["generation.published_path"]


def test_too_many_seeds_are_refused_with_the_settings():
    with pytest.raises(settings.SettingsError, match="less than or equal to 1000"):
        settings.load("smoke", {"study": {"seeds": 10**8}})


# a folder of one's own


def test_a_folder_that_fits_has_no_problem(tmp_path):
    assert in_folder(as_folder(tmp_path, photos())) == {}


def test_counts_beyond_a_folder_are_listed_together(tmp_path):
    problems = in_folder(
        as_folder(tmp_path, photos()), train=2000, test=500, repair={"num_real_curve": [800]}
    )
    assert "4 to 100 (there are 100 train images of 2 classes" in problems["data.train"]
    assert "2 to 50" in problems["data.test"]
    assert "at most 80" in problems["repair.num_real_curve"]


@pytest.mark.parametrize("section", ["generation", "inversion"])
def test_a_generator_of_another_kind_of_image_is_refused(tmp_path, section):
    changes = {
        "generation": {"generation": {"sets": ["sd", "cd"]}},
        "inversion": {"inversion": {"num_embedded": 12, "model": "shipped"}},
    }[section]
    problems = in_folder(as_folder(tmp_path, photos()), **changes)
    assert "was trained on world" in problems[f"{section}.model"]
    way_out = {"generation": "text-to-image", "inversion": "scratch"}[section]
    assert way_out in problems[f"{section}.model"]


def test_cd_does_not_start_from_the_world_s_model_on_photographs(tmp_path):
    problems = in_folder(as_folder(tmp_path, photos()), generation={"init_from": "shipped"})
    assert "scratch" in problems["generation.init_from"]


def test_a_class_with_one_training_image_is_named(tmp_path):
    lonely = {"train/rare/0.png": encoded(), "test/rare/0.png": encoded((1, 1, 1))}
    problems = in_folder(as_folder(tmp_path, photos() | lonely))
    assert "add images of 'rare'" in problems["data.root"]


def test_a_class_without_a_test_image_and_one_class_are_named(tmp_path):
    problems = in_folder(as_folder(tmp_path, photos() | {"train/late/0.png": encoded()}))
    assert "1 class has no test image: 'late'" in problems["data.root"]
    (tmp_path / "one").mkdir()
    problems = in_folder(as_folder(tmp_path / "one", class_folders(classes=("red",))))
    assert "at least two class folders" in problems["data.root"]


def test_images_shared_by_train_and_test_are_named(tmp_path):
    files = photos()
    problems = in_folder(as_folder(tmp_path, files | {"test/a/7.png": files["train/a/7.png"]}))
    assert "1 test files equal a training file" in problems["data.root"]
    assert "test/a/7.png = train/a/7.png" in problems["data.root"]


def test_files_that_are_no_pictures_are_listed(tmp_path):
    path = as_folder(tmp_path, photos() | {"train/a/x.png": b"hello", "train/b/y.jpg": b""})
    problem = in_folder(path)["data.max_corrupt_files"]
    assert "at least 2" in problem and "train/a/x.png" in problem and "train/b/y.jpg" in problem


def test_nothing_there_and_an_unknown_source(tmp_path):
    assert "a download of your own" in in_folder(tmp_path / "nowhere")["data.root"]
    problems = found(data={"source": "foldr", "root": str(tmp_path)})
    assert "did you mean 'folder'?" in problems["data.source"]


def test_200_classes_need_200_images_of_each_set(tmp_path):
    classes = [f"c{k}" for k in range(200)]
    files = class_folders("train/", "test/", count=2, classes=classes)
    files = {name: encoded((i % 251, i % 13, i % 17)) for i, name in enumerate(files)}
    problems = in_folder(as_folder(tmp_path, files), train=400, test=400)
    assert "at least 200, one per class" in problems["generation.num_images"]


# where it is asked


def test_make_asks_before_a_kernel_starts(monkeypatch, tmp_path):
    config = settings.load("smoke", {"repair": {"base": "zz"}})
    monkeypatch.setattr(settings, "load", lambda *_: config)
    monkeypatch.setattr(freshness, "REPORTS", tmp_path)
    for ask in (lambda: freshness.write_stamps("smoke"), lambda: plan.plan("smoke")):
        with pytest.raises(preflight.PreflightError, match="repair.base = 'zz'"):
            ask()


def test_labels_are_known_without_reading_images():
    for name in ("world", "digits"):
        source = sources.open_source(name, sources.SourceOptions("", 8))
        images = source.read("train", range(12))
        np.testing.assert_array_equal(source.labels("train", 12), images.labels)
