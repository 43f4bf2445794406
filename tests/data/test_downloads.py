"""Imagenette and HAM10000 as downloaded: classes, splits by lesion, what is missing is named."""

import csv
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from lib.data.source import SourceError, SourceOptions, open_source
from lib.data.sources.ham10000 import split_of

FISH, DOG = "n01440764", "n02102040"
OTHERS = (
    "n02979186",
    "n03000684",
    "n03028079",
    "n03394916",
    "n03417042",
    "n03425413",
    "n03445777",
    "n03888257",
)
KINDS = ("nv", "nv", "bkl", "mel", "bcc")


def jpeg(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (20, 12), (shade % 256, 100, 50)).save(buffer, "JPEG")
    return buffer.getvalue()


def zipped(where, files):
    with zipfile.ZipFile(where / "set.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return where / "set.zip"


def imagenette(count=3):
    return {
        f"imagenette2-160/{split}/{folder}/ILSVRC2012_val_{i:08}.JPEG": jpeg(40 * k + i)
        for split in ("train", "val")
        for k, folder in enumerate((FISH, DOG, *OTHERS))
        for i in range(count)
    }


def ham(lesions=200, pictures=3):
    rows = [
        (f"HAM_{k:07}", f"ISIC_{k * pictures + i:07}", KINDS[k % len(KINDS)])
        for k in range(lesions)
        for i in range(1 + k % pictures)
    ]
    table = io.StringIO()
    csv.writer(table).writerows([("lesion_id", "image_id", "dx"), *rows])
    files = {
        f"HAM10000_images_part_{1 + i % 2}/{name}.jpg": jpeg(i)
        for i, (_, name, _) in enumerate(rows)
    }
    return files | {"HAM10000_metadata.csv": table.getvalue().encode()}, rows


def test_imagenette_has_its_classes_by_name_and_val_for_testing(tmp_path):
    source = open_source("imagenette", SourceOptions(zipped(tmp_path, imagenette()), 16))
    assert source.classes[:2] == ("tench", "English springer") and source.splits == {
        "train": 30,
        "test": 30,
    }
    part = source.read("test", range(20))
    assert part.images.shape == (20, 16, 16, 3) and part.labels.tolist() == [*range(10)] * 2
    assert all("/val/" in name for name in part.sources) and FISH in part.sources[0]


def test_a_lesion_is_in_one_split_only(tmp_path):
    files, rows = ham()
    source = open_source("ham10000", SourceOptions(zipped(tmp_path, files), 16))
    lesion = {name: lesion for lesion, name, _ in rows}
    kind = {name: kind for _, name, kind in rows}
    shown = {split: source.read(split, range(count)) for split, count in source.splits.items()}
    seen = {
        split: {lesion[name.split("/")[-1][:-4]] for name in part.sources}
        for split, part in shown.items()
    }
    assert (
        sum(source.splits.values()) == len(rows)
        and not seen["train"] & seen["test"]
        and all(seen.values())
    )
    for part in shown.values():
        assert [
            kind[name.split("/")[-1][:-4]] == "mel" for name in part.sources
        ] == part.labels.astype(bool).tolist()
        assert part.labels[:4].tolist() == [
            0,
            1,
            0,
            1,
        ]  # balanced for as long as there are melanomas


def test_about_a_fifth_of_the_lesions_is_for_testing_and_the_seed_says_which():
    splits = [split_of(f"HAM_{k}", 0) for k in range(5000)]
    assert abs(splits.count("test") / 5000 - 0.2) < 0.02
    assert splits != [split_of(f"HAM_{k}", 1) for k in range(5000)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda files: files.pop("HAM10000_metadata.csv"),
            "expected one file HAM10000_metadata.csv, there are 0",
        ),
        (
            lambda files: files.pop("HAM10000_images_part_1/ISIC_0000000.jpg"),
            "ISIC_0000000 is in the table, but its image is missing",
        ),
        (
            lambda files: files.update({"HAM10000_metadata.csv": b"a,b\n1,2\n"}),
            "has no column dx, image_id, lesion_id",
        ),
        (lambda files: files.update({"HAM10000_metadata.csv": b"\xff\xfe\x00"}), "has no column"),
    ],
)
def test_what_is_missing_of_ham10000_is_named(tmp_path, change, message):
    files, _ = ham()
    change(files)
    with pytest.raises(SourceError, match=message) as caught:
        open_source("ham10000", SourceOptions(zipped(tmp_path, files), 16))
    assert str(caught.value).endswith(str(tmp_path / "set.zip"))


def test_a_class_folder_that_is_missing_or_strange_is_named(tmp_path):
    files = {name: data for name, data in imagenette().items() if f"train/{DOG}" not in name}
    with pytest.raises(SourceError, match="no train image: 'English springer'"):
        open_source("imagenette", SourceOptions(zipped(tmp_path, files), 16))
    with pytest.raises(SourceError, match="n99999999 is not a class of Imagenette"):
        open_source(
            "imagenette",
            SourceOptions(
                zipped(tmp_path, imagenette() | {"x/train/n99999999/a.JPEG": jpeg(1)}), 16
            ),
        )


def test_unreadable_pictures_are_left_out_only_where_allowed(tmp_path, capsys):
    bad = f"imagenette2-160/train/{DOG}/ILSVRC2012_val_00000001.JPEG"
    path = zipped(tmp_path, imagenette() | {bad: jpeg(1)[:200]})
    with pytest.raises(SourceError, match=bad):
        open_source("imagenette", SourceOptions(path, 16)).read("train", range(30))
    allowed = open_source("imagenette", SourceOptions(path, 16, max_corrupt_files=1))
    assert (
        allowed.skipped == (bad,)
        and allowed.splits["train"] == 29
        and bad in capsys.readouterr().err
    )
    assert np.isin(bad, allowed.read("train", range(29)).sources).sum() == 0
