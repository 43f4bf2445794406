"""CIFAKE as folder, zip and tar: the same images in every form, copies listed, damage named."""

import functools
import io
import os
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from lib.core import config as settings
from lib.core.store import Store
from lib.data import archives, inspection, real
from lib.data import imageset as images
from lib.data.source import SourceError, SourceOptions
from lib.data.sources.cifake import CLASSES, open_half
from tests.data.archive_files import FORMS, as_folder, as_tar, as_xz, as_zip

PER_CLASS = {"train": 4, "test": 2}


def jpeg(shade, label):
    """A picture whose red channel is its own shade and whose blue one is its class."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (shade, 100, 25 * label)).save(
        buffer, "JPEG", quality=75, subsampling=0
    )
    return buffer.getvalue()


@functools.cache
def files():
    """A small CIFAKE: two pairs of copies in train/FAKE, one test/FAKE image that is in train."""
    listed = {
        f"{split}/{half}/{i}{f' ({label + 1})' if label else ''}.jpg": jpeg(
            20 * i + 10 + (100 if split == "test" else 0) + (5 if half == "FAKE" else 0), label
        )
        for split, count in PER_CLASS.items()
        for half in ("REAL", "FAKE")
        for i in range(count)
        for label in range(10)
    }
    for copy, original in (
        ("train/FAKE/1.jpg", "train/FAKE/0.jpg"),
        ("train/FAKE/3 (4).jpg", "train/FAKE/2 (4).jpg"),
        ("test/FAKE/1 (10).jpg", "train/FAKE/0 (10).jpg"),
    ):
        listed[copy] = listed[original]
    return listed


def open_cifake(path, half="REAL", size=32, seed=0, allowed=0, skipped=()):
    return open_half(SourceOptions(path, size, seed, allowed, skipped), half)


def refused(match, path, half="REAL", **options):
    """The message of the error that reading all of a set ends in; its last line is the set."""
    with pytest.raises(SourceError, match=match) as caught:
        source = open_cifake(path, half, 32, **options)
        for split, count in source.splits.items():
            source.read(split, range(count))
    assert str(caught.value).splitlines()[-1] == str(path)
    return str(caught.value)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("half", ["REAL", "FAKE"])
def test_every_form_gives_the_same_balanced_images(tmp_path, form, half):
    (tmp_path / "reference").mkdir()
    source, reference = (
        open_cifake(make(where, files()), half, 16, seed=3)
        for make, where in ((form, tmp_path), (as_folder, tmp_path / "reference"))
    )
    assert (
        source.splits == {"train": 40, "test": 20}
        and source.classes == CLASSES
        and source.skipped == ()
    )
    for split in source.splits:
        ours, theirs = (s.read(split, range(s.splits[split])) for s in (source, reference))
        np.testing.assert_array_equal(ours.images, theirs.images)
        np.testing.assert_array_equal(ours.labels, np.arange(len(ours)) % 10)
        assert ours.sources == theirs.sources and ours.images.shape[1:] == (16, 16, 3)
        assert len(set(ours.sources)) == len(ours) and all(
            name.startswith(f"{split}/{half}/") for name in ours.sources
        )
        np.testing.assert_allclose(ours.images[:, 8, 8, 2], 25 * ours.labels, atol=6)
    train, test = (source.read(split, range(source.splits[split])) for split in source.splits)
    assert len(set(train.seeds) | set(test.seeds)) == 60


def test_the_order_is_the_seed_s_and_positions_are_independent(tmp_path):
    path = as_zip(tmp_path, files())
    first, again, other = (
        open_cifake(path, "REAL", 32, seed).read("train", range(40)).sources for seed in (0, 0, 1)
    )
    assert first == again != other and sorted(first) == sorted(other)
    assert open_cifake(path, "REAL", 32, 0).read("train", [7, 31]).sources == (first[7], first[31])


def test_an_uneven_class_ends_early_and_nothing_is_lost(tmp_path):
    content = {
        name: data
        for name, data in files().items()
        if name not in ("train/REAL/0 (2).jpg", "train/REAL/3 (2).jpg")
    }
    labels = open_cifake(as_zip(tmp_path, content), "REAL", 32).read("train", range(38)).labels
    np.testing.assert_array_equal(labels[:20], np.arange(20) % 10)
    assert np.bincount(labels).tolist() == [4, 2] + [4] * 8


def test_copies_are_found(tmp_path):
    listed = inspection.find_copies(open_cifake(as_xz(tmp_path, files()), "FAKE", 32))
    assert (listed["train"], listed["test"], listed["pairs"], listed["leaks"]) == (40, 20, 2, 1)
    assert {tuple(sorted(pair)) for pair in listed["first_pairs"]} == {
        ("train/FAKE/0.jpg", "train/FAKE/1.jpg"),
        ("train/FAKE/2 (4).jpg", "train/FAKE/3 (4).jpg"),
    }
    assert listed["first_leaks"] == [("test/FAKE/1 (10).jpg", "train/FAKE/0 (10).jpg")]
    store, recipe = (
        Store(tmp_path / "store"),
        real.published_spec(str(tmp_path / "set.tar.xz"), 10, 16, seed=0),
    )
    assert (
        inspection.load(store, recipe, "copies")["pairs"] == 2
    )  # at the size they were published at, whatever the study's
    clean = inspection.find_copies(open_cifake(tmp_path / "set.tar.xz", "REAL", 32))
    assert clean["pairs"] == clean["leaks"] == 0


def test_the_source_is_the_half_that_it_is_said_to_be(tmp_path):
    wanted = settings.load("smoke").data.model_copy(
        update={
            "source": "cifake",
            "root": str(as_zip(tmp_path, files())),
            "resolution": 16,
            "train": 20,
            "test": 10,
            "shift_images": 0,
        }
    )
    listed = images.load(Store(tmp_path / "store").make(real.specs(wanted, 0)["train"]))
    assert all(name.startswith("train/REAL/") for name in listed.sources)


def test_the_step_writes_the_fake_half_whatever_the_shards(tmp_path, monkeypatch):
    path, store, sets = as_zip(tmp_path, files()), Store(tmp_path / "store"), []
    for shard in (7, 20):
        monkeypatch.setattr(real, "SHARD", shard)
        sets.append(images.load(store.make(real.published_spec(str(path), 20, 16, seed=0))))
    np.testing.assert_array_equal(sets[0].images, sets[1].images)
    assert sets[0].sources == sets[1].sources and all(
        name.startswith("train/FAKE/") for name in sets[0].sources
    )
    assert sets[0].counts().tolist() == [2] * 10
    with pytest.raises(SourceError, match="41 published images are asked for, and there are 40"):
        real.published_spec(str(path), 41, 16, seed=0)


def test_another_archive_has_another_key(tmp_path):
    before = real.published_spec(str(as_zip(tmp_path, files())), 20, 16, seed=0)
    changed = files() | {"train/FAKE/0.jpg": jpeg(250, 0)}
    assert real.published_spec(str(as_zip(tmp_path, changed)), 20, 16, seed=0).key != before.key


@pytest.mark.parametrize(
    "form, share",
    [(as_zip, 0.6), (as_tar, 0.6), (as_xz, 0.6), (as_zip, 0.999), (as_tar, 0.9), (as_xz, 0.9)],
)
def test_a_half_downloaded_archive_is_named_with_what_it_should_hold(tmp_path, form, share):
    path = form(tmp_path, files())
    os.truncate(path, int(path.stat().st_size * share))
    refused(
        rf"{path.name} is half downloaded or damaged .* It should hold CIFAKE's 120,000 images",
        path,
    )


def test_a_tar_cut_between_two_files_is_not_taken_for_whole(tmp_path):
    path = as_tar(tmp_path, files())
    with tarfile.open(path) as archive:
        os.truncate(path, archive.getmembers()[60].offset)
    refused("half downloaded or damaged .the end is missing.", path)


def test_what_is_no_archive_and_what_is_missing_is_named(tmp_path):
    (tmp_path / "set.tar.xz").write_text("<html>please log in</html>")
    refused(
        "half downloaded or damaged .the content is not that of a .tar.xz file",
        tmp_path / "set.tar.xz",
    )
    assert "as a folder nowhere/ or as nowhere*.zip, *.tar, *.tar.xz" in refused(
        "nothing is there .beside it: set.tar.xz.; put your files there", tmp_path / "nowhere"
    )
    (tmp_path / "empty").mkdir()
    refused("an empty folder; put your files there", tmp_path / "empty")


def test_a_path_means_the_one_download_whose_name_begins_alike(tmp_path):
    path = as_xz(tmp_path, files()).rename(tmp_path / "Cifake-2023.tar.xz")
    (tmp_path / "cifake.txt").write_text("not a download")
    assert archives.located(tmp_path / "cifake", "") == path
    assert open_cifake(tmp_path / "cifake", "REAL", 32).splits["train"] == 40
    (tmp_path / "cifake2.zip").write_bytes(b"")
    refused(
        "2 downloads fit .Cifake-2023.tar.xz, cifake2.zip.; set data.root to one",
        tmp_path / "cifake",
    )


@pytest.mark.parametrize("form", [as_folder, as_zip, as_xz])
def test_a_missing_class_or_folder_is_named(tmp_path, form):
    path = form(
        tmp_path,
        {
            name: data
            for name, data in files().items()
            if not (name.startswith("test/REAL") and name.endswith(" (4).jpg"))
            and "train/FAKE" not in name
        },
    )
    refused("1 class has no test image: 'cat'", path)
    refused("10 classes have no train image: 'airplane'", path, "FAKE")


def test_an_eleventh_class_is_named(tmp_path):
    refused(
        r"train/REAL/0 \(11\).jpg: there are classes 1 to 10",
        as_zip(tmp_path, {**files(), "train/REAL/0 (11).jpg": b""}),
    )


@pytest.mark.parametrize("form", [as_folder, as_zip, as_tar])
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-90], lambda data: b"", lambda data: b"not a picture"]
)
def test_unreadable_pictures_are_named_and_left_out_only_if_allowed(tmp_path, capsys, form, damage):
    content, bad = files(), ("train/REAL/2 (5).jpg", "test/REAL/1.jpg")
    path = form(tmp_path, content | {name: damage(content[name]) for name in bad})
    for match, allowed in (
        ("2 unreadable images where 0 may be", 0),
        ("2 unreadable images where 1 may be", 1),
    ):
        message = refused(match, path, allowed=allowed)
        assert all(name in message for name in bad)
    source = open_cifake(path, "REAL", 32, allowed=2)
    assert set(source.skipped) == set(bad) and source.splits == {"train": 39, "test": 19}
    assert "2 of 60 images left out as unreadable" in capsys.readouterr().err
    assert not set(bad) & set(
        source.read("train", range(39)).sources + source.read("test", range(19)).sources
    )
    known = open_cifake(
        path, "REAL", 32, skipped=source.skipped
    )  # as the step opens it: without looking for them again
    assert (
        known.splits == source.splits
        and known.read("train", range(39)).sources == source.read("train", range(39)).sources
    )
    store, wanted = (
        Store(tmp_path / "store"),
        settings.load("smoke").data.model_copy(
            update={
                "source": "cifake",
                "root": str(path),
                "resolution": 32,
                "train": 39,
                "test": 19,
                "max_corrupt_files": 2,
                "shift_images": 0,
            }
        ),
    )
    recipe = real.specs(wanted, 0)["train"]
    assert (
        set(recipe.settings["skipped"]) == set(bad) and len(images.load(store.make(recipe))) == 39
    )


def test_a_damaged_entry_of_a_zip_is_an_unreadable_picture(tmp_path):
    path = as_zip(tmp_path, files())
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("train/REAL/0.jpg")
    with path.open("r+b") as file:
        file.seek(entry.header_offset + 60)
        file.write(bytes(40))
    refused("1 unreadable images where 0 may be left out(.|\n)*train/REAL/0.jpg: ", path)


def test_paths_out_of_an_archive_and_strangers_are_not_images(tmp_path):
    strangers = dict.fromkeys(
        (
            "../train/REAL/9.jpg",
            "/train/REAL/9.jpg",
            "a/../train/REAL/9.jpg",
            "train/REAL/.9.jpg",
            "train/REAL/notes.txt",
            "__MACOSX/train/REAL/._9.jpg",
        ),
        b"",
    )
    path = as_zip(tmp_path, files() | strangers)
    assert open_cifake(path, "REAL", 32).splits == {"train": 40, "test": 20}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set.zip"]
