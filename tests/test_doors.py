"""Bad input at every door: what comes in is used or refused in words; nothing runs, hangs or is
written where it should not be.

`DOORS=20` in the environment tries twenty times as many cases; `make soak` does.
"""

import io
import json
import os
import signal
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from lib.classifier import arms
from lib.core import config as study
from lib.core.paths import PARAMS
from lib.core.store import Store, seal
from lib.data import imageset as images
from lib.data import pictures
from lib.data.source import SourceError, SourceOptions, open_source
from lib.diffusion import prompts
from lib.diffusion.model import Generator, GeneratorError
from lib.report import ReportError, tables
from tests import steps
from tests.classifier.toys import toy
from tests.diffusion import tiny

pytestmark = pytest.mark.doors
BASE = yaml.safe_load((PARAMS / "defaults.yaml").read_text())
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
)
EVIL = [
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "@SUM(1+1)",
    "+1+1",
    "-1+1",
    "\t=1",
    '"><img src=x onerror=a()>',
    "../../up",
    "nan",
    "{class}",
    "{0.__class__}",
    "a\x00b",
    "日本",
    "\u202egpj",
    " ",
    "a" * 300,
]
NAMES = st.sampled_from(EVIL) | st.text(max_size=12)


def cases(count):
    """So many, or with DOORS a multiple; how long one takes depends on what else the machine does.
    """
    return settings(
        max_examples=count * int(os.environ.get("DOORS", 1)),
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@pytest.fixture(autouse=True)
def nothing_hangs():
    """A door that does not answer ends the test."""
    def late(*_):
        raise TimeoutError("a door hung")
    signal.signal(signal.SIGALRM, late)
    signal.alarm(900 * int(os.environ.get("DOORS", 1)))
    yield
    signal.alarm(0)


def used_or_refused(error, door):
    """What the door gives, or None where it refuses with an error of its own that says something.
    """
    try:
        return door()
    except error as refused:
        assert len(str(refused)) > 20 and "\n\n" not in str(refused) and len(str(refused)) < 20_000
        return None


# --- settings
# ------------------------------------------------------------------------------------------------

FRAGMENTS = st.sampled_from(
    [
        "training:",
        "  epochs: 3",
        "  arms: [real",
        "]",
        "&a",
        "*a",
        "? ",
        "<<: ",
        "{",
        "}",
        "!!python/object/apply:os.system [x]",
        "'",
        '"',
        "|",
        ">",
        "- ",
        "\t",
        "2024-02-31",
        "0x",
        "1e3",
        "1_000",
        "1:99",
        "=",
        "%YAML 9",
        "---",
        "...",
        "\x85",
        "9" * 5000,
        "!!set",
        "!!timestamp x",
        "!!binary ~",
        "~",
        "[" * 200,
    ]
)


@cases(400)
@given(
    st.lists(FRAGMENTS | st.text(max_size=6), max_size=8).map("\n".join)
    | st.lists(FRAGMENTS, max_size=6).map(" ".join)
)
def test_any_text_as_a_profile(tmp_path, text):
    (tmp_path / "mine.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    read = used_or_refused(study.SettingsError, lambda: study._read(tmp_path / "mine.yaml"))
    assert read is None or isinstance(read, dict)


@cases(150)
@given(st.binary(max_size=60))
def test_any_bytes_as_a_profile(tmp_path, data):
    (tmp_path / "mine.yaml").write_bytes(data)
    used_or_refused(study.SettingsError, lambda: study._read(tmp_path / "mine.yaml"))


@cases(200)
@given(st.sampled_from(sorted(BASE)), st.data())
def test_any_value_of_any_setting(section, data):
    key = data.draw(st.sampled_from(sorted(BASE[section])))
    tree = {**BASE, section: {**BASE[section], key: data.draw(PLAIN)}}
    used_or_refused(
        study.SettingsError, lambda: study._validate(study.Settings, tree, lambda _: "here.yaml")
    )


def test_a_planted_tag_runs_nothing_and_a_bomb_does_not_go_off(tmp_path):
    for tag in (
        "object/apply:os.system",
        "object/new:os.system",
        "object/apply:subprocess.getoutput",
    ):
        text = f"study: !!python/{tag} ['touch {tmp_path}/ran']"
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises(study.SettingsError, match="could not determine a constructor"):
            study._read(tmp_path / "mine.yaml")
    assert not (tmp_path / "ran").exists()
    bomb = "study: &l0 [x, x]\n" + "".join(
        f"s{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 30)
    )
    (tmp_path / "mine.yaml").write_text(bomb)
    (tmp_path / "defaults.yaml").write_text("")
    with pytest.raises(study.SettingsError) as caught:
        study.load("mine", params=tmp_path)
    assert len(str(caught.value)) < 5000


# --- arms and prompts
# -----------------------------------------------------------------------------------------------

TERMS = (st.text("real0123456789.*+@x sdci-_٣", max_size=16) | st.text(max_size=6)
         | st.sampled_from(["real+" * 3, "9" * 400 + "*real", "sd@" + "9" * 400 + "x"]))


@cases(600)
@given(TERMS, st.integers(0, 50), st.integers(0, 10**6))
@example("sd@1e9x", 1, 1)
def test_any_text_as_an_arm(text, real, sd):
    size = used_or_refused(
        arms.ArmError, lambda: arms.size(text, {"real": real, "sd": sd, "cd": 0, "di": 7})
    )
    assert size is None or 0 <= size < 10**9


FIELDS = st.sampled_from(
    [
        "{class}",
        "{",
        "}",
        "{{",
        "{definition",
        "{class.__class__.__mro__}",
        "{class!r}",
        "{class:>99999999999}",
        "{0}",
        "{}",
        "{class[0]}",
        "{class:{definition}}",
        "{background}",
        "a photo of ",
        "{hypernym}",
        "!",
        ":",
    ]
)


@cases(500)
@given(
    st.lists(FIELDS | st.text(max_size=4), max_size=6).map("".join),
    NAMES,
    st.integers(0, 2**63 - 1),
)
def test_any_text_as_a_recipe_of_prompts(template, name, seed):
    known = prompts.Facts({name: "h"}, {name: "d"}, ("a wall",))
    said = used_or_refused(
        prompts.PromptError, lambda: prompts.build_prompt(template, name or "x", known, seed)
    )
    assert said is None or (
        len(said) <= len(template) * 310 + 310 and "<class" not in said.replace(name, "")
    )


@cases(150)
@given(PLAIN | st.fixed_dictionaries({"classes": st.lists(PLAIN | st.fixed_dictionaries(
    {"name": NAMES, "hypernym": PLAIN, "definition": NAMES}), max_size=3), "backgrounds": PLAIN}))
def test_any_file_of_facts(tmp_path, tree):
    (tmp_path / "facts.yaml").write_text(yaml.safe_dump(tree))
    used_or_refused(
        prompts.PromptError, lambda: prompts.load_facts(tmp_path / "facts.yaml", ["cube"])
    )


# --- class names in the page and its files
# --------------------------------------------------------------------------

@cases(200)
@given(st.lists(NAMES, min_size=1, max_size=4))
def test_any_name_of_a_class_in_a_table_and_its_csv(names):
    frame = pd.DataFrame({"class": names, "n": range(len(names))})
    made = used_or_refused(
        ReportError, lambda: tables.html_table(tables.Column.of(frame[c], c) for c in frame)
    )
    assert made is None or (
        "<script" not in made and "<img" not in made and made.count("<td") == len(names)
    )
    for said, name in zip(tables.flat(frame)["class"], names, strict=True):
        assert said.removeprefix("'") == name.removeprefix("'") and not said.lstrip().startswith(
            ("=", "+", "@", "|", "%", "-S")
        )


# --- image folders and archives
# -------------------------------------------------------------------------------------

def encoded(kind):
    data = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(data, kind)
    return data.getvalue()


WHOLE = {kind: encoded(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")}


@st.composite
def damaged(draw):
    """A picture with some of its bytes changed, cut off or repeated; or no picture."""
    data = bytearray(draw(st.sampled_from(sorted(WHOLE.values()))))
    for where, value in draw(
        st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=4)
    ):
        data[where] = value
    return bytes(data[:draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytes(data)


@cases(250)
@given(
    damaged()
    | st.binary(max_size=40)
    | st.sampled_from([b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n"])
)
def test_any_bytes_as_a_picture(data):
    found = used_or_refused(pictures.PictureError, lambda: pictures.decode(data))
    assert found is None or (found.dtype == np.uint8 and found.shape[2:] == (3,))


def fit_for_a_folder(name):
    """Whether a file system takes it."""
    data = name.encode("utf-8", "ignore")
    return (
        name.strip(".")
        and not set(name) & {"/", "\x00"}
        and len(data) < 200
        and data.decode() == name
    )


@cases(40)
@given(
    st.lists(NAMES.filter(fit_for_a_folder), max_size=3, unique=True),
    st.lists(damaged(), min_size=3, max_size=3),
)
def test_any_folder_of_images(tmp_path_factory, names, data):
    root = tmp_path_factory.mktemp("folder")
    for name, content in zip(names, data, strict=False):
        (root / name).mkdir()
        (root / name / "1.png").write_bytes(content)
    source = used_or_refused(SourceError, lambda: open_source("folder", SourceOptions(root, 8)))
    if source:
        used_or_refused(SourceError, lambda: source.read("train", range(source.splits["train"])))
    assert {path.name for path in root.iterdir()} == set(names[:3])


@cases(60)
@given(
    st.lists(
        st.sampled_from(
            [
                "../../out.jpg",
                "/tmp/out.jpg",
                "train/FAKE/../../out (2).jpg",
                "train/FAKE/1.jpg",
                "train/FAKE/1 (99).jpg",
                "test/FAKE/1.jpg",
                "..\\out.jpg",
                "train/FAKE/a\x00b.jpg",
                "./x/train/FAKE/2 (2).jpg",
                "\x00",
            ]
        )
        | st.text(max_size=8),
        max_size=5,
        unique=True,
    ),
    damaged(),
)
def test_any_archive(tmp_path_factory, names, data):
    root = tmp_path_factory.mktemp("archive")
    with zipfile.ZipFile(root / "set.zip", "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name.encode("utf-8", "replace").decode() or "x"), data)
    used_or_refused(
        SourceError, lambda: open_source("cifake_fake", SourceOptions(root / "set.zip", 8))
    )
    assert [path.name for path in root.iterdir()] == ["set.zip"] and not Path(
        "/tmp/out.jpg"
    ).exists()


# --- the store
# ------------------------------------------------------------------------------------------------

@cases(250)
@given(
    PLAIN
    | st.fixed_dictionaries(
        {},
        optional={
            "files": PLAIN
            | st.dictionaries(
                st.sampled_from(
                    ["0.txt", "1.txt", "../0.txt", "/etc/passwd", "", ".", "a\x00b", "x" * 300]
                ),
                PLAIN | st.just({"sha256": "0", "bytes": 1}),
            ),
            "made": PLAIN,
            "settings": PLAIN,
            "inputs": PLAIN,
        },
    ),
    st.booleans(),
    st.sampled_from(["manifest.json", "journal.json"]),
)
def test_any_manifest_or_journal(tmp_path_factory, tree, sealed, name):
    root = tmp_path_factory.mktemp("store")
    store, recipe = Store(root), steps.numbers({"count": 2})
    if sealed and isinstance(tree, dict):  # by somebody who knows how
        tree |= {"key": recipe.key}
        tree["seal"] = (
            seal(tree) if "nan" not in repr(tree).lower() and "inf" not in repr(tree) else ""
        )
    store.folder(recipe).mkdir(parents=True)
    (store.folder(recipe) / name).write_text(json.dumps(tree))
    assert store.state(recipe) and [file.read_text() for file in store.make(recipe).files] in (
        ["0", "1"],
        [],
    )


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 5000, "9" * 5000, '{"files": {"0.txt": NaN}}', '{"key": 1e999}'],
)
def test_a_manifest_without_bottom(tmp_path, text):
    store, recipe = Store(tmp_path), steps.numbers({"count": 1})
    store.folder(recipe).mkdir(parents=True)
    (store.folder(recipe) / "manifest.json").write_text(text)
    assert store.make(recipe).files[0].read_text() == "0"


CELLS = st.none() | st.sampled_from([WHOLE["PNG"], b"", b"x"]).map(
    lambda data: {"bytes": data, "path": "a"}
)


@cases(150)
@given(st.lists(CELLS, max_size=3), st.sampled_from(["label", "labels", "seed"]),
       st.lists(st.integers(-2**63, 2**63 - 1), max_size=3),
       PLAIN | st.just({"info": {"features": {"label": {"names": ["a", "b"]}}}}), st.booleans())
def test_any_parquet_file_as_a_shard(tmp_path, cells, name, numbers, about, whole):
    n = min(len(cells), len(numbers))
    columns = {
        "image": pa.array(cells[:n], images.PICTURE),
        name: pa.array(numbers[:n], pa.int64()),
    }
    columns |= {other: pa.array([""] * n) for other in ("source", "prompt")}
    columns |= {"label": pa.array([0] * n), "seed": pa.array([0] * n)} if whole else {}
    path = tmp_path / "shard.parquet"
    pq.write_table(
        pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(about)}), path
    )
    used_or_refused(images.ImagesError, lambda: images._read([path]))


@cases(100)
@given(st.integers(0, 10**6), st.integers(0, 255), st.booleans())
def test_any_harm_to_a_shard(tmp_path, where, value, cut):
    store, recipe = Store(tmp_path), toy({"n": 6, "shard": 6})
    (path,) = store.make(recipe).files
    whole = path.read_bytes()
    data = bytearray(whole)
    data[where % len(data)] = value
    path.write_bytes(data[:where % len(data)] if cut else data)
    used_or_refused(images.ImagesError, lambda: images._read([path]))  # as if its hash were right
    assert store.make(recipe).files[0].read_bytes() == whole


# --- pretrained folders
# ---------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.of_text().save(tmp_path_factory.mktemp("model"))


HOMES = (
    st.sampled_from(
        [
            ["os", "system"],
            ["antigravity", "x"],
            ["builtins", "eval"],
            ["lib.diffusion.model", "Generator"],
            ["diffusers", "DiffusionPipeline"],
            ["diffusers", "UNet2DConditionModel"],
            ["transformers", "pipeline"],
            ["transformers", "CLIPTextModel"],
            ["diffusers", "..os"],
            [None, None],
            ["evil", "Evil"],
        ]
    )
    | PLAIN
)


@cases(60)
@given(
    st.sampled_from(
        ["scheduler", "tokenizer", "unet", "vae", "text_encoder", "table", "_class_name"]
    ),
    HOMES,
)
def test_any_index_of_a_pretrained_folder(model, name, home):
    index, before = model / "model_index.json", (model / "model_index.json").read_text()
    try:
        index.write_text(json.dumps(json.loads(before) | {name: home}))
        used_or_refused(GeneratorError, lambda: Generator.load(model))
    finally:
        index.write_text(before)


@cases(60)
@given(st.sampled_from(["unet", "scheduler", "vae", "text_encoder"]), st.data())
def test_any_configuration_of_a_part(model, part, data):
    path = next(
        model / part / name
        for name in ("config.json", "scheduler_config.json")
        if (model / part / name).exists()
    )
    before = path.read_text()
    tree = json.loads(before)
    small = PLAIN.filter(lambda value: not isinstance(value, int) or abs(value) < 64)
    tree[data.draw(st.sampled_from(sorted(tree)))] = data.draw(small)
    try:
        path.write_text(
            data.draw(st.sampled_from([json.dumps(tree)] * 5 + ["", "{", "[]", "\x00"]))
        )
        used_or_refused(GeneratorError, lambda: Generator.load(model))
    finally:
        path.write_text(before)


def test_a_planted_pickle_and_planted_code_do_not_run(model, tmp_path, monkeypatch):
    import shutil

    import torch

    class Planted:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    (tmp_path / "evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\n\n\nclass Evil:\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for weights in model.glob("*/*.safetensors"):
        copy = tmp_path / weights.parent.name
        shutil.copytree(model, copy)
        (copy / weights.parent.name / weights.name).unlink()
        torch.save(
            {"x": Planted()},
            copy / weights.parent.name / weights.name.replace(".safetensors", ".bin"),
        )
        with pytest.raises(GeneratorError, match=f"part '{weights.parent.name}'"):
            Generator.load(copy)
    copy = shutil.copytree(model, tmp_path / "named")
    index = json.loads((copy / "model_index.json").read_text()) | {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["evil", "Evil"],
    }
    (copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(GeneratorError, match="evil.Evil, which is no part"):
        Generator.load(copy)
    assert not (tmp_path / "ran").exists()
