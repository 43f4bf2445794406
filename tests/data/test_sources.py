"""Sources: disjoint splits, any folder or archive of pictures, and errors that name the files."""

import shutil

import numpy as np
import pytest

from lib.core import config
from lib.core.store import Store
from lib.data import archives, files, imageset, inspection, real
from lib.data import sources as registry
from lib.data.source import SourceError, SourceOptions, names, open_source
from tests.data.archive_files import FORMS, as_folder, as_tar, as_zip, class_folders, encoded


def opened(path, seed=0, size=8, **options):
    return open_source("folder", SourceOptions(path, size, seed, **options))


def settings_for(path, **changes):
    data = config.load("smoke").data
    return data.model_copy(
        update={"source": "folder", "root": str(path), "shift_images": 0} | changes
    )


def refused(path, match, **options):
    with pytest.raises(SourceError, match=match) as caught:
        source = opened(path, **options)
        for split, count in source.splits.items():
            source.read(split, range(count))
    return str(caught.value)


@pytest.mark.parametrize("form", FORMS)
def test_class_folders_of_any_form_are_split_by_seed_without_overlap(tmp_path, form):
    path = form(tmp_path, class_folders())
    source = opened(path, seed=3)
    train, test = (source.read(split, range(source.splits[split])) for split in ("train", "test"))
    assert train.classes == ("blue & <b>", "red") and train.images.shape == (8, 8, 8, 3)
    assert len(test) == 2 and set(train.sources).isdisjoint(test.sources)
    for part in (train, test):
        reddish = part.images[:, 4, 4, 0] > part.images[:, 4, 4, 2]
        np.testing.assert_array_equal(reddish, part.labels == 1)
    again, other = opened(path, seed=3), opened(path, seed=4)
    assert again.read("train", range(8)).sources == train.sources
    assert other.read("train", range(8)).sources != train.sources


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("held_out", ["test", "val"])
def test_train_and_test_folders_are_kept_apart(tmp_path, form, held_out):
    source = opened(
        form(tmp_path, class_folders("train/", count=3) | class_folders(f"{held_out}/", count=2))
    )
    assert source.splits == {"train": 6, "test": 4}
    assert all(f"{held_out}/" in name for name in source.read("test", range(4)).sources)


def test_every_class_of_a_flat_folder_has_test_images(tmp_path):
    content = class_folders(count=40) | class_folders(count=3, classes=("rare",))
    source = opened(as_folder(tmp_path, content))
    assert source.read("test", range(source.splits["test"])).counts().tolist() == [8, 1, 8]
    assert source.read("train", range(source.splits["train"])).counts().tolist() == [32, 2, 32]


def test_copies_in_a_flat_folder_stay_in_one_split(tmp_path):
    content = class_folders(count=30)
    content |= {name.replace(".png", " copy.png"): data for name, data in content.items()}
    source = opened(as_folder(tmp_path, content))
    assert sum(source.splits.values()) == 120 and files.leaks(source, source.splits) == []


def test_folders_around_an_archive_do_not_matter(tmp_path):
    content = class_folders("my photos/set 1/train/", "my photos/set 1/test/")
    assert opened(as_zip(tmp_path, content)).classes == ("blue & <b>", "red")


@pytest.mark.parametrize("form", FORMS)
def test_system_files_are_passed_over_and_counted(tmp_path, form):
    junk = (
        "red/Thumbs.db",
        "red/.hidden.png",
        "__MACOSX/red/._0.png",
        "red/desktop.ini",
        ".DS_Store",
    )
    content = (
        class_folders()
        | dict.fromkeys(junk, b"x")
        | {"red/notes.txt": b"x", "red/more/1.png": encoded()}
    )
    source = opened(form(tmp_path, content))
    assert sum(source.splits.values()) == 10
    assert source.left_out == {
        "system file": 5,
        "not a picture": 1,
        "not directly in a class folder": 1,
    }


def test_all_bad_files_are_listed_at_once(tmp_path):
    bad = {"red/a.png": b"hello", "blue & <b>/b.jpg": encoded(kind="JPEG")[:300], "red/c.png": b""}
    message = refused(
        as_folder(tmp_path, class_folders() | bad), "3 unreadable images where 0 may be left out"
    )
    assert all(name in message for name in bad)


@pytest.mark.parametrize("form", FORMS)
def test_bad_files_are_left_out_where_the_profile_allows_it(tmp_path, form):
    path = form(tmp_path, class_folders() | {"red/a.png": b"hello", "red/b.png": b""})
    refused(path, "2 unreadable images where 1 may be left out", max_corrupt_files=1)
    source = opened(path, max_corrupt_files=2)
    assert len(source.skipped) == 2 and sum(source.splits.values()) == 10
    spec = real.specs(settings_for(path, train=8, test=2, max_corrupt_files=2, resolution=8), 0)[
        "train"
    ]
    assert len(imageset.load(Store(tmp_path / "store").make(spec))) == 8


def test_a_picture_that_claims_to_be_huge_is_refused_before_it_is_decoded(tmp_path):
    data = bytearray(encoded(size=(8, 8), kind="BMP"))
    data[18:22] = (11_206_664).to_bytes(4, "little")  # the width
    message = refused(
        as_zip(tmp_path, class_folders() | {"red/huge.jpg": bytes(data)}), "decompression bomb"
    )
    assert "red/huge.jpg" in message


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_UNPACKED", 10_000)
    path = as_tar(tmp_path, class_folders() | {"red/zeros.bin": bytes(20_000)}, "set.tar.xz")
    refused(path, "unpacks to more than")


def test_zeros_are_no_archive(tmp_path):
    for name in ("a.zip", "b.tar.xz", "c.tar.gz"):
        (tmp_path / name).write_bytes(bytes(100_000))
        refused(tmp_path / name, "half downloaded or damaged")
    (tmp_path / "d.tar").write_bytes(bytes(100_000))
    refused(tmp_path / "d.tar", "no picture in a class folder")


@pytest.mark.parametrize("form", [as_zip, as_tar])
def test_paths_that_leave_an_archive_are_passed_over_and_counted(tmp_path, form):
    strangers = {"../red/9.png": encoded(), "a/../../red/8.png": encoded()}
    source = opened(form(tmp_path, class_folders() | strangers))
    assert (
        sum(source.splits.values()) == 10 and source.left_out["path that leaves the archive"] == 2
    )
    assert {path.name for path in tmp_path.iterdir()} <= {"set.zip", "set.tar"}


def test_classes_without_train_or_test_images_are_named(tmp_path):
    only_test = class_folders("train/", "test/") | class_folders("test/", classes=("late",))
    refused(as_folder(tmp_path, only_test), "1 class has no train image: 'late'")
    lonely = class_folders(classes=("one",), count=1) | class_folders()
    refused(as_zip(tmp_path, lonely), "1 class has no test image: 'one'")


def test_a_missing_folder_one_class_and_no_picture_are_named(tmp_path):
    assert refused(tmp_path / "nowhere", "nothing is there").splitlines()[-1] == str(
        tmp_path / "nowhere"
    )
    refused(as_folder(tmp_path, class_folders(classes=("red",))), "at least two class folders")
    refused(as_zip(tmp_path, {"a/b.txt": b"x"}), "no picture in a class folder")
    refused(as_tar(tmp_path, class_folders("train/")), "there must be one test/ or val/")


def test_a_copy_has_the_same_fingerprint_and_a_change_another(tmp_path):
    path = as_folder(tmp_path, class_folders())
    shutil.copytree(path, tmp_path / "copy")  # with other times
    before, copy = opened(path).fingerprint, opened(tmp_path / "copy").fingerprint
    assert before == copy
    target = tmp_path / "copy/red/0.png"
    target.write_bytes(
        encoded((1, 2, 3)).ljust(target.stat().st_size, b"\0")[: target.stat().st_size]
    )
    assert opened(tmp_path / "copy").fingerprint != before
    keys = [real.specs(settings_for(path, train=5, test=2), 0)["train"].key]
    (path / "red/11.png").write_bytes(encoded())
    keys.append(real.specs(settings_for(path, train=5, test=2), 0)["train"].key)
    assert len(set(keys)) == 2


def test_a_set_is_never_made_from_other_files_under_its_old_key(tmp_path):
    path = as_folder(tmp_path, class_folders())
    spec = real.specs(settings_for(path, train=5, test=2), 0)["train"]
    (path / "red/0.png").write_bytes(encoded((9, 9, 9)))
    with pytest.raises(SourceError, match="the files changed since"):
        Store(tmp_path / "store").make(spec)


def test_an_inspection_counts_formats_conversions_and_what_was_left_out(tmp_path):
    odd = {"red/grey.png": encoded(mode="L"), "red/wide.jpg": encoded(kind="JPEG", size=(90, 30))}
    path = as_zip(tmp_path, class_folders() | odd | {"red/Thumbs.db": b"", "red/bad.png": b"x"})
    spec = real.specs(settings_for(path, train=5, test=2, max_corrupt_files=1), 0)["train"]
    found = inspection.load(Store(tmp_path / "store"), spec, "inspection")
    assert found["files"] == 12 and found["formats"] == {"PNG": 11, "JPEG": 1}
    assert found["converted"] == {"L converted to RGB": 1} and found["largest"] == [90, 30]
    assert found["left_out"] == {"system file": 1, "unreadable": 1}


def test_a_source_of_one_s_own_is_a_file_and_an_unknown_one_is_named(monkeypatch):
    from lib.data.sources import digits

    assert names() == sorted(
        ["cifake", "cifake_fake", "cifar10", "digits", "folder", "ham10000", "imagenette", "world"]
    )
    with pytest.raises(SourceError, match="did you mean 'digits'"):
        open_source("digit", SourceOptions("", 8))
    monkeypatch.setattr("lib.data.source.names", lambda: ["mine"])
    monkeypatch.setitem(__import__("sys").modules, f"{registry.__name__}.mine", digits)
    assert open_source("mine", SourceOptions("", 8)).splits["train"] == 1297


def test_a_missing_download_says_how_to_get_it(tmp_path):
    with pytest.raises(SourceError, match="download=True") as caught:
        open_source("cifar10", SourceOptions(tmp_path, 32))
    assert str(caught.value).splitlines()[-1] == str(tmp_path / "cifar-10-batches-py")


def test_more_images_than_there_are():
    data = config.load("smoke").data.model_copy(update={"source": "digits", "train": 5000})
    with pytest.raises(
        SourceError, match="data.train = 5000: source 'digits' has 1297 train images"
    ):
        real.specs(data, 0)


def test_digits_are_real_and_split():
    source = open_source("digits", SourceOptions("", 16))
    train, test = source.read("train", range(1297)), source.read("test", range(500))
    assert len(set(train.sources) | set(test.sources)) == 1797
    assert set(np.unique(train.labels)) == set(range(10)) and train.images.max() == 255


@pytest.mark.parametrize("source", ["world", "digits"])
def test_shard_size_changes_nothing(tmp_path, source):
    store, sets = Store(tmp_path), []
    for shard in (4, 10):
        changes = {"source": source, "train": 10, "test": 4, "shard": shard, "resolution": 16}
        sets.append(imageset.load(store.make(real.specs(settings_for("", **changes), 0)["train"])))
    np.testing.assert_array_equal(sets[0].images, sets[1].images)
    np.testing.assert_array_equal(sets[0].seeds, sets[1].seeds)


def test_the_world_offers_balanced_disjoint_splits_with_truth():
    source = open_source("world", SourceOptions("", 16))
    train, test = source.read("train", range(20)), source.read("test", range(20))
    assert train.counts().tolist() == [2] * 10 and not set(train.seeds) & set(test.seeds)
    assert any(name.startswith("shift-") for name in source.splits)
    assert len(train.columns["K"][0]) == len(train.columns["R"][0]) == 9
    assert len(train.columns["vanishing_points"][0]) == 9
    assert train.masks().shape == (20, 16, 16) and 0.02 < train.masks().mean() < 0.9


def test_each_scene_is_drawn_once(monkeypatch):
    from lib import world

    calls, draw = [], world.scene
    monkeypatch.setattr(world, "scene", lambda *args: calls.append(args) or draw(*args))
    open_source("world", SourceOptions("", 8)).read("train", range(5))
    assert len(calls) == 5
