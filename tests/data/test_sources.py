"""Sources: disjoint splits, any folder of images, and errors that name the file."""

import numpy as np
import pytest
from PIL import Image

from lib.core import config as settings
from lib.core.store import Store
from lib.data import imageset as images
from lib.data import sources
from lib.data.imageset import fit
from lib.data.sources import SourceError, open_source


def picture(path, colour=(200, 30, 30), size=(20, 14), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    for i in range(10):
        picture(tmp_path / "red" / f"{i}.png", (200 + i, 30, 30))
        picture(tmp_path / "blue & <b>" / f"{i}.jpg", (30, 30, 200 + i), (31, 50))
    return tmp_path


def test_a_folder_is_split_by_seed_without_overlap(folder):
    source = open_source("folder", str(folder), 8, seed=3)
    train, test = (source.read(split, range(source.splits[split])) for split in ("train", "test"))
    assert train.classes == ("blue & <b>", "red") and train.images.shape == (16, 8, 8, 3) and len(test) == 4
    assert not set(train.sources) & set(test.sources) and len(set(train.sources + test.sources)) == 20
    for part in (train, test):
        reddish = part.images[:, 4, 4, 0] > part.images[:, 4, 4, 2]
        np.testing.assert_array_equal(reddish, part.labels == 1)
    again, other = open_source("folder", str(folder), 8, 3), open_source("folder", str(folder), 8, 4)
    assert again.read("train", range(16)).sources == train.sources != other.read("train", range(16)).sources


def test_train_and_test_folders_are_kept_apart(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for name in ("a", "b"):
            for i in range(count):
                picture(tmp_path / split / name / f"{i}.png")
    source = open_source("folder", str(tmp_path), 8, 0)
    assert source.splits == {"train": 6, "test": 4}
    assert all(name.startswith("test/") for name in source.read("test", range(4)).sources)


def test_a_changed_folder_changes_the_key(folder):
    ours = {"source": "folder", "path": str(folder), "train": 5, "test": 2}
    data = settings.load("smoke").data.model_copy(update=ours)
    before = sources.recipes(data, 0)["train"].key
    assert sources.recipes(data, 0)["train"].key == before
    picture(folder / "red" / "11.png")
    assert sources.recipes(data, 0)["train"].key != before


def refused(path, match):
    with pytest.raises(SourceError, match=match) as caught:
        source = open_source("folder", str(path), 8, 0)
        for split, count in source.splits.items():
            source.read(split, range(count))
    return str(caught.value).splitlines()[-1]


def test_a_file_that_is_no_image_is_named(folder):
    (folder / "red" / "notes.txt").write_text("hello")
    assert refused(folder, "not an image file") == str(folder / "red" / "notes.txt")


def test_a_truncated_image_is_named(folder):
    path = picture(folder / "red" / "big.png", size=(200, 200))
    path.write_bytes(path.read_bytes()[:-40])
    assert refused(folder, "damaged image") == str(path)


def test_an_image_that_claims_to_be_huge_is_named(folder):
    path = folder / "red" / "huge.bmp"
    Image.new("RGB", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    data[18:22] = (11_206_664).to_bytes(4, "little")  # the width: 90 million pixels, where Pillow warns and goes on
    path.write_bytes(data)
    assert refused(folder, "decompression bomb") == str(path)


def test_an_empty_class_is_named(folder):
    (folder / "green").mkdir()
    assert refused(folder, "class 'green' has no image") == str(folder / "green")


@pytest.mark.parametrize("mode, match", [
    ("L", "mode L where the set's first image is RGB"), ("RGBA", "image mode RGBA"), ("I;16", "image mode I;16"),
    ("P", "image mode P")])
def test_mixed_modes_are_named(folder, mode, match):
    path = folder / "red" / "odd.png"
    Image.fromarray(np.zeros((9, 9), np.uint16) if mode == "I;16" else np.zeros((9, 9), np.uint8)).convert(
        mode).save(path)
    assert refused(folder, match) == str(path)


def test_a_missing_folder_and_one_class_are_named(tmp_path):
    assert refused(tmp_path / "nowhere", "no such folder") == str(tmp_path / "nowhere")
    picture(tmp_path / "only" / "1.png")
    assert refused(tmp_path, "at least two class folders") == str(tmp_path)


def test_a_missing_download_says_how_to_get_it(tmp_path):
    with pytest.raises(SourceError, match="download=True") as caught:
        open_source("cifar10", str(tmp_path), 32, 0)
    assert str(caught.value).splitlines()[-1] == str(tmp_path / "cifar-10-batches-py")


def test_more_images_than_there_are(folder):
    data = settings.load("smoke").data.model_copy(update={"source": "digits", "train": 5000})
    with pytest.raises(SourceError, match="data.train = 5000: source 'digits' has 1297 train images"):
        sources.recipes(data, 0)


def test_digits_are_real_and_split():
    source = open_source("digits", "", 16, 0)
    train, test = source.read("train", range(1297)), source.read("test", range(500))
    assert len(set(train.sources) | set(test.sources)) == 1797
    assert set(np.unique(train.labels)) == set(range(10)) and train.images.max() == 255


@pytest.mark.parametrize("source", ["world", "digits"])
def test_shard_size_changes_nothing(tmp_path, source):
    store, sets = Store(tmp_path), []
    for shard in (4, 10):
        data = settings.load("smoke").data.model_copy(
            update={"source": source, "train": 10, "test": 4, "shift": 0, "shard": shard, "resolution": 16})
        sets.append(images.load(store.make(sources.recipes(data, 0)["train"])))
    np.testing.assert_array_equal(sets[0].images, sets[1].images)
    np.testing.assert_array_equal(sets[0].seeds, sets[1].seeds)


def test_the_world_offers_balanced_disjoint_splits_with_truth():
    source = open_source("world", "", 16, 0)
    train, test = source.read("train", range(20)), source.read("test", range(20))
    assert train.counts().tolist() == [2] * 10 and not set(train.seeds) & set(test.seeds)
    assert any(name.startswith("shift-") for name in source.splits)
    assert len(train.columns["K"][0]) == len(train.columns["R"][0]) == len(train.columns["vanishing_points"][0]) == 9
    assert train.masks().shape == (20, 16, 16) and 0.02 < train.masks().mean() < 0.9


def test_fit_takes_the_centre_and_the_mean():
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:6] = 100
    image[:2, 2:4] = 200
    np.testing.assert_array_equal(fit(image, 2)[..., 0], [[200, 100], [100, 100]])
    assert fit(image, 16).shape == (16, 16, 3) and fit(image[:, :4], 4) is not None
