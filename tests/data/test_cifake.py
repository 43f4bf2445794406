"""CIFAKE as folder, zip and tar: the same images whatever the form, balanced, its copies found, its damage named."""

import functools
import io
import os
import tarfile
import zipfile
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from lib.core import config as settings
from lib.core.store import Store
from lib.data import archives as archive
from lib.data import cifake as given
from lib.data import imageset as images
from lib.data import sources
from lib.data.cifake import CLASSES, open_cifake
from lib.data.sources import SourceError

PER_CLASS = {"train": 4, "test": 2}


def jpeg(shade, label):
    """A picture whose red channel is its own shade and whose blue one is its class."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (shade, 100, 25 * label)).save(buffer, "JPEG", quality=75, subsampling=0)
    return buffer.getvalue()


@functools.cache
def files():
    """All files of a small CIFAKE: two pairs of copies in train/FAKE, one test/FAKE image that is in train."""
    found = {f"{split}/{half}/{i}{f' ({label + 1})' if label else ''}.jpg":
             jpeg(20 * i + 10 + (100 if split == "test" else 0) + (5 if half == "FAKE" else 0), label)
             for split, count in PER_CLASS.items() for half in ("REAL", "FAKE") for i in range(count) for label in range(10)}
    for copy, original in (("train/FAKE/1.jpg", "train/FAKE/0.jpg"), ("train/FAKE/3 (4).jpg", "train/FAKE/2 (4).jpg"),
                           ("test/FAKE/1 (10).jpg", "train/FAKE/0 (10).jpg")):
        found[copy] = found[original]
    return found


def as_folder(where, content):
    for name, data in content.items():
        (where / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (where / "set" / name).write_bytes(data)
    return where / "set"


def as_zip(where, content):
    with zipfile.ZipFile(where / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in reversed(content.items()):
            archive.writestr(name, data)
    return where / "set.zip"


def as_tar(where, content, name="set.tar"):
    with tarfile.open(where / name, f"w:{'xz' if name.endswith('xz') else ''}") as archive:
        for name, data in content.items():
            entry = tarfile.TarInfo(f"./cifake/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return where / archive.name


def as_xz(where, content):
    return as_tar(where, content, "set.tar.xz")


def refused(match, path, half="REAL", **options):
    """The message of the error that reading all of a set ends in; its last line is the set."""
    with pytest.raises(SourceError, match=match) as caught:
        source = open_cifake(path, half, 32, **options)
        for split, count in source.splits.items():
            source.read(split, range(count))
    assert str(caught.value).splitlines()[-1] == str(path)
    return str(caught.value)


@pytest.mark.parametrize("form", [as_folder, as_zip, as_tar, as_xz])
@pytest.mark.parametrize("half", ["REAL", "FAKE"])
def test_every_form_gives_the_same_balanced_images(tmp_path, form, half):
    (tmp_path / "reference").mkdir()
    source, reference = (open_cifake(make(where, files()), half, 16, seed=3) for make, where in
                         ((form, tmp_path), (as_folder, tmp_path / "reference")))
    assert source.splits == {"train": 40, "test": 20} and source.classes == CLASSES and source.skipped == ()
    for split in source.splits:
        ours, theirs = (s.read(split, range(s.splits[split])) for s in (source, reference))
        np.testing.assert_array_equal(ours.images, theirs.images)
        np.testing.assert_array_equal(ours.labels, np.arange(len(ours)) % 10)
        assert ours.sources == theirs.sources and ours.images.shape[1:] == (16, 16, 3)
        assert len(set(ours.sources)) == len(ours) and all(name.startswith(f"{split}/{half}/") for name in ours.sources)
        np.testing.assert_allclose(ours.images[:, 8, 8, 2], 25 * ours.labels, atol=6)
    train, test = (source.read(split, range(source.splits[split])) for split in source.splits)
    assert len(set(train.seeds) | set(test.seeds)) == 60


def test_the_order_is_the_seed_s_and_positions_are_independent(tmp_path):
    path = as_zip(tmp_path, files())
    first, again, other = (open_cifake(path, "REAL", 32, seed).read("train", range(40)).sources for seed in (0, 0, 1))
    assert first == again != other and sorted(first) == sorted(other)
    assert open_cifake(path, "REAL", 32, 0).read("train", [7, 31]).sources == (first[7], first[31])


def test_an_uneven_class_ends_early_and_nothing_is_lost(tmp_path):
    content = {name: data for name, data in files().items() if name not in ("train/REAL/0 (2).jpg", "train/REAL/3 (2).jpg")}
    labels = open_cifake(as_zip(tmp_path, content), "REAL", 32).read("train", range(38)).labels
    np.testing.assert_array_equal(labels[:20], np.arange(20) % 10)
    assert np.bincount(labels).tolist() == [4, 2] + [4] * 8


def test_copies_are_found(tmp_path):
    found = given.defects(open_cifake(as_xz(tmp_path, files()), "FAKE", 32))
    assert (found["train"], found["test"], found["pairs"], found["leaks"]) == (40, 20, 2, 1)
    assert {tuple(sorted(pair)) for pair in found["first pairs"]} == {
        ("train/FAKE/0.jpg", "train/FAKE/1.jpg"), ("train/FAKE/2 (4).jpg", "train/FAKE/3 (4).jpg")}
    assert found["first leaks"] == [("test/FAKE/1 (10).jpg", "train/FAKE/0 (10).jpg")]
    store, recipe = Store(tmp_path / "store"), given.recipe(str(tmp_path / "set.tar.xz"), 10, 16, seed=0)
    assert given.defects_of(store, recipe, "FAKE")["pairs"] == 2 and given.defects_of(store, recipe, "REAL")["leaks"] == 0
    clean = given.defects(open_cifake(tmp_path / "set.tar.xz", "REAL", 32))
    assert clean["pairs"] == clean["leaks"] == 0


def test_the_source_is_the_half_that_it_is_said_to_be(tmp_path):
    wanted = settings.load("smoke").data.model_copy(update={
        "source": given.SOURCE, "path": str(as_zip(tmp_path, files())), "resolution": 16, "train": 20, "test": 10, "shift": 0})
    found = images.load(Store(tmp_path / "store").make(sources.recipes(wanted, 0)["train"]))
    assert all(name.startswith(f"train/{given.HALVES[given.SOURCE]}/") for name in found.sources)
    assert set(given.HALVES) < set(get_args(settings.Data.model_fields["source"].annotation))


def test_the_step_writes_the_fake_half_whatever_the_shards(tmp_path):
    path, store = as_zip(tmp_path, files()), Store(tmp_path / "store")
    sets = [images.load(store.make(given.recipe(str(path), 20, 16, seed=0, shard=shard))) for shard in (7, 20)]
    np.testing.assert_array_equal(sets[0].images, sets[1].images)
    assert sets[0].sources == sets[1].sources and all(name.startswith("train/FAKE/") for name in sets[0].sources)
    assert sets[0].counts().tolist() == [2] * 10
    with pytest.raises(SourceError, match="41 images are wanted of train/FAKE, which has 40"):
        given.recipe(str(path), 41, 16, seed=0)


def test_another_archive_has_another_key(tmp_path):
    before = given.recipe(str(as_zip(tmp_path, files())), 20, 16, seed=0)
    changed = files() | {"train/FAKE/0.jpg": jpeg(250, 0)}
    assert given.recipe(str(as_zip(tmp_path, changed)), 20, 16, seed=0).key != before.key


@pytest.mark.parametrize("form, share", [(as_zip, .6), (as_tar, .6), (as_xz, .6), (as_zip, .999), (as_tar, .9), (as_xz, .9)])
def test_a_half_downloaded_archive_is_named_with_what_it_holds(tmp_path, form, share):
    path = form(tmp_path, files())
    os.truncate(path, int(path.stat().st_size * share))
    message = refused(rf"{path.name} is half downloaded or damaged: \d+ of CIFAKE's 120,000 images", path)
    found = int(message.partition("damaged: ")[2].split()[0])
    assert found <= 120 and (form is as_xz or abs(found - 120 * share) < 15)


def test_a_tar_cut_between_two_files_is_not_taken_for_whole(tmp_path):
    path = as_tar(tmp_path, files())
    with tarfile.open(path) as archive:
        os.truncate(path, archive.getmembers()[60].offset)
    refused("60 of CIFAKE's", path)


def test_what_is_no_archive_and_what_is_missing_is_named(tmp_path):
    (tmp_path / "set.tar.xz").write_text("<html>please log in</html>")
    refused("half downloaded or damaged: 0 of", tmp_path / "set.tar.xz")
    assert "as a folder nowhere/ or as nowhere*.zip, *.tar, *.tar.xz" in refused(
        "nothing is there .beside it: set.tar.xz.; put your download there", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refused("an empty folder; put your download there", tmp_path / "empty")


def test_a_path_means_the_one_download_whose_name_begins_alike(tmp_path):
    path = as_xz(tmp_path, files()).rename(tmp_path / "Cifake-2023.tar.xz")
    (tmp_path / "cifake.txt").write_text("not a download")
    assert archive.located(tmp_path / "cifake", "") == path and open_cifake(tmp_path / "cifake", "REAL", 32).splits["train"] == 40
    (tmp_path / "cifake2.zip").write_bytes(b"")
    refused("2 downloads fit .Cifake-2023.tar.xz, cifake2.zip.; set data.path to one", tmp_path / "cifake")


@pytest.mark.parametrize("form", [as_folder, as_zip, as_xz])
def test_a_missing_class_or_folder_is_named(tmp_path, form):
    path = form(tmp_path, {name: data for name, data in files().items()
                           if not (name.startswith("test/REAL") and name.endswith(" (4).jpg")) and "train/FAKE" not in name})
    refused("no cat in test", path)
    refused("no airplane in train", path, "FAKE")


def test_an_eleventh_class_is_named(tmp_path):
    refused(r"train/REAL/0 \(11\).jpg: there are classes 1 to 10", as_zip(tmp_path, {**files(), "train/REAL/0 (11).jpg": b""}))


@pytest.mark.parametrize("form", [as_folder, as_zip, as_tar])
@pytest.mark.parametrize("damage", [lambda data: data[:-90], lambda data: b"", lambda data: b"not a picture"])
def test_unreadable_pictures_are_named_and_left_out_only_if_allowed(tmp_path, capsys, form, damage):
    content, bad = files(), ("train/REAL/2 (5).jpg", "test/REAL/1.jpg")
    path = form(tmp_path, content | {name: damage(content[name]) for name in bad})
    refused(r"(train/REAL/2 \(5\)|test/REAL/1).jpg is not a whole JPEG", path)
    assert bad[1] in refused("2 unreadable images where 1 are allowed", path, allowed=1)
    source = open_cifake(path, "REAL", 32, allowed=2)
    assert set(source.skipped) == set(bad) and source.splits == {"train": 39, "test": 19}
    assert "2 of 60 images are unreadable" in capsys.readouterr().err
    assert not set(bad) & set(source.read("train", range(39)).sources + source.read("test", range(19)).sources)
    known = open_cifake(path, "REAL", 32, skipped=source.skipped)  # as the step opens it: without looking for them again
    assert known.splits == source.splits and known.read("train", range(39)).sources == source.read("train", range(39)).sources
    store, wanted = Store(tmp_path / "store"), settings.load("smoke").data.model_copy(update={
        "source": "cifake", "path": str(path), "resolution": 32, "train": 39, "test": 19, "bad_files": 2, "shift": 0})
    recipe = sources.recipes(wanted, 0)["train"]
    assert set(recipe.settings["skipped"]) == set(bad) and len(images.load(store.make(recipe))) == 39


def test_a_damaged_entry_of_a_zip_is_an_unreadable_picture(tmp_path):
    path = as_zip(tmp_path, files())
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("train/REAL/0.jpg")
    with path.open("r+b") as file:
        file.seek(entry.header_offset + 60)
        file.write(bytes(40))
    refused("train/REAL/0.jpg is not a whole JPEG", path)


def test_paths_out_of_an_archive_and_strangers_are_not_images(tmp_path):
    strangers = dict.fromkeys(("../train/REAL/9.jpg", "/train/REAL/9.jpg", "a/../train/REAL/9.jpg", "train/REAL/.9.jpg",
                               "train/REAL/notes.txt", "__MACOSX/train/REAL/._9.jpg"), b"")
    path = as_zip(tmp_path, files() | strangers)
    assert open_cifake(path, "REAL", 32).splits == {"train": 40, "test": 20}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set.zip"]
