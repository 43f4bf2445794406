"""`make new`: what it finds, what it writes, what it refuses. `make export` and `make prune`."""

import csv
import dataclasses
import io
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from lib import preflight
from lib import study as studies
from lib.core import config as settings
from lib.core.paths import PARAMS, ROOT
from lib.core.plan import PlannedStudy
from lib.data import imageset
from lib.data.source import SourceError
from lib.diffusion import prompts
from lib.tools import export, new, prune
from tests.conftest import make
from tests.data.archive_files import FORMS, as_folder, class_folders, encoded

NAMES = ("two words", "a \"quoted\" 'one'", "😀", "<script>alert(1)</script>".replace("/", ""))


@pytest.fixture
def params(tmp_path):
    folder = tmp_path / "params"
    (folder / "classes").mkdir(parents=True)
    shutil.copy(PARAMS / "defaults.yaml", folder)
    return folder


def noise(seed, size=(40, 30), mode="RGB", kind="PNG", **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def pictures(classes=NAMES, train=20, test=10):
    files = {}
    for split, count in (("train", train), ("test", test)):
        for k, name in enumerate(classes):
            for i in range(count):
                files[f"{split}/{name}/{i}.png"] = noise(i + 1000 * k + 10**6 * (split == "test"))
    return files


def junk():
    """What lies in real folders."""
    turned = Image.Exif()
    turned[0x0112] = 6
    first = NAMES[0]
    return {
        f"train/{first}/grey.jpg": noise(1, mode="L", kind="JPEG"),
        f"train/{first}/rgba.png": noise(2, mode="RGBA"),
        f"train/{first}/cmyk.jpg": noise(3, mode="CMYK", kind="JPEG"),
        f"train/{first}/palette.gif": noise(4, mode="P", kind="GIF"),
        f"train/{first}/phone.jpg": noise(5, kind="JPEG", exif=turned),
        f"train/{first}/copy.png": noise(0),  # equals 0.png
        f"train/{first}/broken.jpg": noise(6, kind="JPEG")[:200],
        f"train/{first}/text.png": b"not a picture",
        f"train/{first}/Thumbs.db": b"x",
        f"train/{first}/notes.txt": b"x",
        "__MACOSX/train/a/._0.png": b"x",
    }


@pytest.mark.parametrize("form", FORMS)
def test_a_profile_that_fits_is_written_for_any_form(tmp_path, params, form):
    path = form(tmp_path, pictures() | junk())
    lines = new.write("mine", path, params)
    text = "\n".join(lines)
    assert "4 classes, 126 readable pictures" in text and "2 unreadable" in text
    assert "1 files have the bytes of another one" in text and "3 system file" not in text
    assert "1 turned upright by EXIF orientation" in text and "1 CMYK converted to RGB" in text
    config = settings.load("mine", params=params)
    assert (config.data.train, config.data.test, config.data.max_corrupt_files) == (86, 40, 2)
    assert config.data.resolution == 32 and config.training.class_weights == "balanced"
    assert config.training.arms == ["real", "cd", "di", "real+cd", "real+di"]
    assert config.generation.init_from == config.inversion.model == "scratch"
    assert list(preflight.problems(config)) == []
    source = studies.Study(config, "mine").source
    assert source.classes == tuple(sorted(NAMES))


def test_the_stub_of_class_facts_is_one_and_says_what_is_missing(tmp_path, params):
    new.write("mine", as_folder(tmp_path, pictures()), params)
    path = params / "classes" / "mine.yaml"
    names = [row["name"] for row in yaml.safe_load(path.read_text())["classes"]]
    assert names == sorted(NAMES)
    with pytest.raises(prompts.PromptError, match="no hypernym and definition for"):
        prompts.load_facts(path, names)


def test_nothing_is_overwritten(tmp_path, params):
    path = as_folder(tmp_path, pictures())
    new.write("mine", path, params)
    before = (params / "mine.yaml").read_text()
    with pytest.raises(new.NewError, match="is not overwritten"):
        new.write("mine", path, params)
    (params / "mine.yaml").unlink()
    with pytest.raises(new.NewError, match="is not overwritten"):
        new.write("mine", path, params)
    assert not (params / "mine.yaml").exists() and before
    for name in ("defaults", "../x", "a b", ""):
        with pytest.raises(new.NewError, match="letters, digits"):
            new.write(name, path, params)


@pytest.mark.parametrize(("content", "reason"), [
    ({"a/x.txt": b"x"}, "no picture in a class folder"),
    (class_folders(classes=("red",)), "at least two class folders"),
    (class_folders(count=2), "2 train images; a study needs at least 40"),
    ({**class_folders(count=50), "lone/0.png": encoded()}, "1 class has no test image: 'lone'"),
    ({**pictures(), "test/😀/same.png": noise(2000)}, "1 test images are training images too"),
    ({**pictures(), "train/x/0.png": noise(7), "test/x/0.png": noise(8)},
     "fewer than 2 train images of 'x'"),
])  # fmt: skip
def test_what_cannot_make_a_study_is_refused_and_nothing_written(tmp_path, params, content, reason):
    with pytest.raises((new.NewError, SourceError)) as caught:
        new.write("mine", as_folder(tmp_path, content), params)
    assert reason in str(caught.value)
    assert [path.name for path in params.glob("*.yaml")] == ["defaults.yaml"]


def test_200_classes_and_ten_megapixels(tmp_path, params):
    files = pictures([f"c{k}" for k in range(200)], train=3, test=1)
    files["train/c0/large.jpg"] = encoded(size=(3648, 2736), kind="JPEG")
    text = "\n".join(new.write("mine", as_folder(tmp_path, files), params))
    assert "and 170 more classes" in text and "3648 x 2736" in text
    assert settings.load("mine", params=params).generation.num_images >= 200


def test_make_new_writes_once_and_asks_for_the_pictures(tmp_path, house):
    path = as_folder(tmp_path, pictures(train=15))
    try:
        first = make(house, "new", f"DATA={path}", profile="mine")
        assert first.returncode == 0, first.stderr
        again = make(house, "new", f"DATA={path}", profile="mine")
        assert again.returncode != 0 and "is not overwritten" in again.stderr
        assert "where are the pictures?" in make(house, "new", profile="other").stderr
    finally:
        for name in ("mine.yaml", "classes/mine.yaml"):
            (house / "params" / name).unlink(missing_ok=True)


# --- afterwards -----------------------------------------------------------------------------------


def test_export_writes_png_folders_and_a_csv(house, tmp_path):
    out = tmp_path / "a b"
    done = make(house, "export", "SET=di", f"OUT={out}")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((out / "metadata.csv").open()))
    assert len(rows) == 20 and set(rows[0]) == {"file_name", "label", "seed", "source", "prompt"}
    assert all((out / row["file_name"]).is_file() and row["source"] for row in rows)
    again = make(house, "export", "SET=di", f"OUT={out}")
    assert again.returncode != 0 and "not empty" in again.stderr
    wrong = make(house, "export", "SET=zz", f"OUT={tmp_path / 'c'}")
    assert wrong.returncode != 0 and "profile smoke has train, test" in wrong.stderr


def test_a_stored_set_opens_with_one_line_of_pandas(tmp_path):
    config = settings.load("smoke", {"study": {"store": str(tmp_path)}, "data": {"test": 20}})
    study = studies.Study(config, "smoke")
    artifact = study.store.make(study.real["test"])
    table = pd.concat(map(pd.read_parquet, artifact.folder.glob("*.parquet")))
    images = imageset.load(artifact)
    assert table["label"].tolist() == images.labels.tolist()
    pixels = np.asarray(Image.open(io.BytesIO(table["image"].iloc[0]["bytes"])))
    np.testing.assert_array_equal(pixels, images.images[0])


def test_what_is_not_made_is_not_exported(tmp_path):
    with pytest.raises(export.ExportError, match="has not been made yet"):
        export.export("digits", "cd", tmp_path / "out")


def test_prune_says_how_much_before_it_removes(tmp_path, monkeypatch):
    config = settings.load("smoke", {"study": {"store": str(tmp_path)}})
    study = PlannedStudy(config, "smoke")
    spec = study.real["test"]
    used = study.store.make(spec)
    stray = study.store.make(dataclasses.replace(spec, settings=spec.settings | {"count": 10}))
    monkeypatch.setattr(settings, "profiles", lambda: ["smoke"])
    monkeypatch.setattr(settings, "load", lambda *_: config)
    lines = prune.prune(remove=False)
    assert "1 artifacts that no profile uses" in lines[-2] and "REMOVE=yes" in lines[-1]
    assert stray.folder.exists()
    assert "removed" in prune.prune(remove=True)[-1] and not stray.folder.exists()
    assert used.folder.exists() and prune.prune(remove=True)[-1] == "nothing to remove"


def test_prune_refuses_where_a_report_s_artifacts_cannot_be_listed(tmp_path, monkeypatch):
    config = settings.load("smoke", {"repair": {"base": "zz"}})
    (tmp_path / "smoke" / "results").mkdir(parents=True)
    monkeypatch.setattr(settings, "profiles", lambda: ["smoke"])
    monkeypatch.setattr(settings, "load", lambda *_: config)
    monkeypatch.setattr(prune, "REPORTS", tmp_path)
    with pytest.raises(prune.PruneError, match="make clean PROFILE=smoke"):
        prune.prune(remove=False)


def test_the_templates_are_in_the_checkout():
    assert new.TEMPLATE.is_relative_to(ROOT / "lib/tools") and new.STUB.is_file()
