"""Image sets and their shards."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lib.core.store import Artifact
from lib.data import imageset as images
from lib.data.imageset import ImageSet


def some(n=7, size=9, seed=0, **columns):
    rng = np.random.default_rng(seed)
    return ImageSet(
        rng.integers(0, 256, (n, size, size, 3), np.uint8),
        np.arange(n) % 3,
        ("a", 'b "x"', "😀"),
        np.arange(n) + 2**62,
        tuple(f"s{i}" for i in range(n)),
        tuple("é" * i for i in range(n)),
        columns,
    )


def saved(folder, whole, size):
    parts = images.shards(len(whole), size)
    for name, where in parts.items():
        images.write(folder / name, whole.take(list(where)))
    return Artifact(folder, {"files": dict.fromkeys(parts, {})})


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_shards_of_any_size_give_the_same_set(tmp_path, size):
    masks = [images.picture(np.eye(9, dtype=bool), "m.png")] * 7
    whole = some(mask=masks, K=[[float(i), 0.5] for i in range(7)])
    again = images.load(saved(tmp_path, whole, size))
    for name in ("images", "labels", "seeds"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    assert (again.classes, again.sources, again.prompts) == (
        whole.classes,
        whole.sources,
        whole.prompts,
    )
    assert again.columns["K"] == whole.columns["K"]
    np.testing.assert_array_equal(again.masks(), np.stack([np.eye(9, dtype=bool)] * 7))


def test_shards_are_the_layout_that_the_datasets_library_reads(tmp_path):
    whole = some(mask=[images.picture(np.eye(9, dtype=bool), "m.png")] * 7)
    table = pq.read_table(saved(tmp_path, whole, 10).files[0])
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == features["mask"] == {"_type": "Image"}
    assert features["label"] == {"_type": "ClassLabel", "names": ["a", 'b "x"', "😀"]}
    assert features["seed"] == {"_type": "Value", "dtype": "int64"}
    cell = table["image"][2].as_py()
    assert set(cell) == {"bytes", "path"}
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(cell["bytes"]))), whole.images[2]
    )  # RGB, lossless


def test_take_keeps_everything_together():
    whole = some(K=list(range(7)))
    part = whole.take(whole.labels == 1)
    assert len(part) == 2 and part.sources == ("s1", "s4") and part.columns["K"] == [1, 4]
    assert part.counts().tolist() == [0, 2, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": np.zeros(3, int)},
        {"sources": ("a",)},
        {"columns": {"K": [1]}},
        {"images": np.zeros((7, 9, 9, 3))},
        {"images": np.zeros((7, 9, 9), np.uint8)},
        {"labels": np.full(7, 3)},
        {"labels": np.full(7, -1)},
    ],
)
def test_what_does_not_fit_is_refused(wrong):
    whole = some()
    fields = {
        name: getattr(whole, name)
        for name in ("images", "labels", "classes", "seeds", "sources", "prompts")
    }
    with pytest.raises(ValueError):
        ImageSet(**fields | wrong)


def test_further_columns_are_read_only_when_they_are_asked_for(tmp_path, monkeypatch):
    native = [images.picture(np.full((64, 64, 3), i, np.uint8), f"{i}.png") for i in range(7)]
    artifact = saved(tmp_path, some(native=native, K=[[float(i)] for i in range(7)]), 3)
    read, asked = pq.read_table, []
    monkeypatch.setattr(
        images.pq,
        "read_table",
        lambda path, columns: (
            asked.append((path.name[:12], *columns)) or read(path, columns=columns)
        ),
    )
    whole = images.load(artifact)
    assert not any("native" in columns or "K" in columns for columns in asked)
    asked.clear()
    part = whole.take([5, 0, 5])
    assert part.columns["K"] == [[5.0], [0.0], [5.0]] and asked == [
        ("images-00000", "K"),
        ("images-00001", "K"),
    ]
    assert [int(image[0, 0, 0]) for image in part.native()] == [5, 0, 5] and part.native()[
        0
    ].shape == (64, 64, 3)
    assert set(whole.columns) == {"native", "K"} and "mask" not in whole.columns
    images.write(tmp_path / "again.parquet", part)  # a stored set can be stored again


def test_a_set_of_small_images_never_loads_its_native_ones(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 512, 512, 3), np.uint8)
    native = [images.picture(image, "native.png") for image in pixels]
    artifact = saved(tmp_path, some(20, native=native), 10)
    assert sum(path.stat().st_size for path in artifact.files) > pixels.nbytes * 0.9
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        whole = images.load(artifact)
        assert len(whole.take(slice(5))) == 5 and pool.max_memory() < 2**20
        assert len(whole.take([3]).native()) == 1 and pool.max_memory() > 2**20
    finally:
        pa.set_memory_pool(before)


def test_a_process_decodes_a_set_once_and_keeps_no_more_than_it_may(tmp_path, monkeypatch):
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    first, second = (saved(folder, some(seed=i), 4) for i, folder in enumerate(folders))
    assert images.load(first) is images.load(first)
    monkeypatch.setattr(images, "MAX_DECODED", 2000)
    kept = images.load(first)
    assert images.load(second) is images.load(second) and images.load(first) is not kept


def test_png_folders_and_back(tmp_path):
    whole = some()
    whole.to_folder(tmp_path / "set")
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == [
        "a",
        "b _x_",
        "metadata.csv",
        "😀",
    ]
    again = ImageSet.from_folder(tmp_path / "set", 9)
    order = np.argsort(again.seeds)
    np.testing.assert_array_equal(again.images[order], whole.images)
    assert again.take(order).sources == whole.sources and again.take(order).prompts == whole.prompts
    assert [again.classes[k] for k in again.labels[order]] == [
        whole.classes[k] for k in whole.labels
    ]
    (tmp_path / "set" / "metadata.csv").unlink()
    assert ImageSet.from_folder(tmp_path / "set", 4).images.shape == (7, 4, 4, 3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(images.ImagesError, match="no pictures in class folders"):
        ImageSet.from_folder(tmp_path / "empty", 9)


def test_hugging_face_datasets_and_back():
    try:
        import datasets  # noqa: F401
    except ImportError:
        with pytest.raises(images.ImagesError, match="pip install datasets"):
            some().to_datasets()
        return
    again = ImageSet.from_datasets(some().to_datasets(), 9)
    np.testing.assert_array_equal(again.images, some().images)
    assert again.classes == some().classes and again.sources == some().sources
