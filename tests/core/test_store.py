"""The store: content keys, resume after kill -9, altered files found and made again, nothing
half-written used.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.core import files, store
from lib.core.paths import ROOT
from lib.core.store import ArtifactSpec, Store, StoreError
from tests import steps

PLAIN = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)
MAKE = """
import json, sys
from lib.core.store import ArtifactSpec, Store
Store(sys.argv[1]).make(ArtifactSpec.from_json(json.loads(sys.argv[2])))
"""


@pytest.fixture
def root(tmp_path):
    return Store(tmp_path / "store")


def contents(artifact):
    return {path.name: path.read_bytes() for path in artifact.files}


def test_made_once_then_found(root, tmp_path):
    recipe = steps.numbers({"count": 3, "log": str(tmp_path / "log")})
    first, second = root.make(recipe), root.make(recipe)
    assert contents(first) == contents(second) and len(first.files) == 3
    assert (tmp_path / "log").read_text().split() == ["0", "1", "2"]  # each file was written once


def test_the_manifest_says_what_made_it(root):
    upstream = steps.numbers({"count": 1})
    made = root.make(steps.total({"scale": 2}, seed=5, source=upstream)).manifest
    assert (
        made["kind"] == steps.total.kind and made["settings"] == {"scale": 2} and made["seed"] == 5
    )
    assert made["input_keys"] == {"source": upstream.key}
    assert {"git", "dirty", "versions", "device", "seconds", "peak_memory_mb", "started"} <= set(
        made["made"]
    )
    assert made["files"]["total.txt"]["bytes"] > 0


@given(PLAIN, PLAIN)
def test_equal_settings_equal_keys_and_only_those(one, other):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (steps.numbers({"count": one}).key == steps.numbers({"count": other}).key) == same


@given(st.dictionaries(st.text(), PLAIN, max_size=3), st.integers())
def test_a_recipe_survives_json(settings, seed):
    recipe = steps.total(settings, seed, source=steps.numbers(settings))
    again = ArtifactSpec.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe and again.key == recipe.key


def test_seed_and_inputs_change_the_key():
    one = steps.total({}, source=steps.numbers({"count": 1})).key
    assert one != steps.total({}, seed=1, source=steps.numbers({"count": 1})).key
    assert one != steps.total({}, source=steps.numbers({"count": 2})).key


@pytest.mark.parametrize("harm", [
    lambda path: path.write_bytes(path.read_bytes()[:-1]),
    lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"),
    lambda path: path.unlink(),
])
def test_a_harmed_file_is_named_and_made_again(root, capsys, harm, tmp_path):
    recipe = steps.numbers({"count": 3, "log": str(tmp_path / "log")})
    before = contents(root.make(recipe))
    harm(root.folder(recipe) / "1.txt")
    assert root.state(recipe) == "altered: 1.txt"
    again = root.make(recipe)
    assert contents(again) == before and again.manifest["made"]["remade"] == ["1.txt"]
    assert again.manifest["made"]["retried"] == {}  # nobody died
    assert "1.txt" in capsys.readouterr().err
    assert (tmp_path / "log").read_text().split() == ["0", "1", "2", "1"]  # only that one


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00\xff", '{"a": 1}', '{"files": {}}'])
def test_an_unreadable_manifest_proves_nothing(root, text):
    recipe = steps.numbers({"count": 2})
    before = contents(root.make(recipe))
    (root.folder(recipe) / "manifest.json").write_text(text, encoding="latin-1")
    assert contents(root.make(recipe)) == before


def test_a_shortened_manifest_is_not_believed(root):
    recipe = steps.numbers({"count": 3})
    before = contents(root.make(recipe))
    path = root.folder(recipe) / "manifest.json"
    tree = json.loads(path.read_text())
    del tree["files"]["2.txt"]
    path.write_text(json.dumps(tree))
    assert root.state(recipe) != "whole" and contents(root.make(recipe)) == before


@pytest.mark.parametrize("after", [0, 1, 3])
def test_kill_9_then_the_rest_is_made(root, tmp_path, after):
    log = tmp_path / "log"
    recipe = steps.numbers({"count": 5, "log": str(log), "pause": 0.4})
    child = subprocess.Popen(
        [sys.executable, "-c", MAKE, str(root.root), json.dumps(recipe.to_json())], cwd=ROOT
    )
    while not log.exists() or len(log.read_text().split()) <= after:
        assert child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (root.folder(recipe) / "manifest.json").exists()
    done = root.state(recipe)
    made = root.make(recipe)
    assert (
        done == f"unfinished: {after} files made" and made.manifest["made"]["resumed_from"] == after
    )
    assert made.manifest["made"]["retried"] == {f"{after}.txt": 1}
    assert {name: data.decode() for name, data in contents(made).items()} == {
        f"{i}.txt": str(i * i) for i in range(5)
    }
    assert len(log.read_text().split()) == 6  # the one that was cut off came twice


def test_a_failing_step_leaves_no_half_file(root):
    with pytest.raises(ZeroDivisionError):
        root.make(steps.broken({}))
    folder = root.folder(steps.broken({}))
    assert sorted(p.name for p in folder.iterdir()) == [".lock", "good.txt", "journal.json"]
    assert root.state(steps.broken({})) == "unfinished: 1 files made"


def test_a_mending_that_fails_forgets_nothing_that_was_whole(root, tmp_path):
    recipe = steps.numbers({"count": 3, "log": str(tmp_path / "log")})
    root.make(recipe)
    (root.folder(recipe) / "1.txt").write_text("9")
    (tmp_path / "log").unlink()
    (tmp_path / "log").mkdir()  # now every file that is made again fails
    with pytest.raises(IsADirectoryError):
        root.make(recipe)
    assert root.state(recipe) == "unfinished: 2 files made"


def test_files_are_hashed_once_and_again_only_when_they_change(root, monkeypatch):
    spec, hashed = steps.numbers({"count": 2}), []
    digest = files.digest
    monkeypatch.setattr(files, "digest", lambda path: hashed.append(path.name) or digest(path))
    root.make(spec)
    root.found(spec)
    hashed.clear()
    assert root.found(spec) and hashed == []
    files._verified.clear()  # as in a new process
    assert root.found(spec) and hashed == []
    os.utime(root.folder(spec) / "1.txt", (1, 1))  # as in a copied store
    assert root.found(spec) and "1.txt" in hashed and "0.txt" not in hashed


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
def test_files_have_the_rights_that_the_umask_leaves(root, mask):
    before = os.umask(mask)
    try:
        (path,) = root.make(steps.numbers({"count": 1})).files
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_prune_removes_what_is_not_kept_and_nothing_in_use(root):
    kept, old, used = (steps.numbers({"count": n}) for n in (1, 2, 3))
    for spec in (kept, old, used):
        root.make(spec)
    (root.root / "probe").mkdir()
    (root.root / "probe" / "way.json").write_text("{}")
    with store.locked(root.folder(used)):
        listed = root.prune({kept.key})
        assert (
            list(listed) == [root.folder(old)] and listed[root.folder(old)] > 0 and root.found(old)
        )
        assert list(root.prune({kept.key}, remove=True)) == list(listed)
    assert root.found(kept) and root.found(used) and root.state(old) == "absent"
    assert (root.root / "probe" / "way.json").exists()


def test_seconds_count_the_files_of_an_earlier_run_in_proportion(root):
    spec = steps.numbers({"count": 2, "pause": 0.1})
    assert root.seconds(spec) == 0
    assert root.make(spec) and root.seconds(spec) >= 0.2


def test_two_processes_on_one_artifact_make_it_once(root, tmp_path):
    log = tmp_path / "log"
    recipe = steps.numbers({"count": 4, "log": str(log), "pause": 0.1})
    both = [
        subprocess.Popen(
            [sys.executable, "-c", MAKE, str(root.root), json.dumps(recipe.to_json())], cwd=ROOT
        )
        for _ in range(2)
    ]
    assert [child.wait(60) for child in both] == [0, 0]
    assert sorted(log.read_text().split()) == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    "location",
    [
        "",
        "lib.no:builder",
        "lib.core.store:canonical",
        "os:system",
        "..os:system",
        "antigravity:x",
        "tests.steps:sees",
        "tests.steps:total",
        "tests.steps:os.system",
    ],
)
def test_only_builders_of_this_checkout_can_be_named(location):
    tree = {"kind": "numbers", "settings": {}, "inputs": {}, "seed": 0, "builder": location}
    with pytest.raises(StoreError, match="decorate it with @artifact"):
        store.find(ArtifactSpec.from_json(tree | {"kind": "sees"}))
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("kind", ["", "Real", "real images", "../real", "real-"])
def test_a_kind_is_a_plain_name(kind):
    with pytest.raises(StoreError, match="a kind is words of a-z"):
        store.artifact(kind)


def test_two_builders_cannot_make_one_kind():
    with pytest.raises(StoreError, match="both make 'numbers'"):
        store.artifact("numbers")(lambda store, spec: {})


def test_a_key_needs_no_import_and_is_the_same_with_it():
    """The generators' modules import for seconds; whoever only names their artifacts must not pay
    for it.
    """
    ask = (
        "import sys; from lib.core.store import ArtifactSpec; "
        "print(ArtifactSpec('prompted-images', {'count': 3}, "
        "builder='lib.diffusion.sets:prompted_images').key, 'diffusers' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    from lib.diffusion import sets
    assert answer == [sets.prompted_images({"count": 3}).key, "False"]


def test_no_pickle_and_no_unsafe_load_anywhere():
    for path in [*(ROOT / "lib").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]:
        text = path.read_text()
        assert "import pickle" not in text and "allow_pickle" not in text  # np.load refuses pickles
        assert "torch.load(" not in text or "weights_only=True" in text


def test_a_kept_report_that_is_made_again_is_no_change_of_the_code(tmp_path):
    for name in ("reports", "lib"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("before")
    for words in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -qm one"):
        subprocess.run(["git", *words.split()], cwd=tmp_path, check=True)
    (tmp_path / "reports" / "file").write_text("after")
    store.git.cache_clear()
    assert not store.git(tmp_path)["dirty"]
    (tmp_path / "lib" / "file").write_text("after")
    store.git.cache_clear()
    assert store.git(tmp_path)["dirty"]
