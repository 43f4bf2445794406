"""A full disk, a clock that goes backwards, two reports at once: nothing is lost, nothing is half,
and what happened is said.

Workers and runs that die are in test_executor.py, test_store.py and test_cluster.py, as are files
that are altered or come late.
"""

import json
import os
import shutil
import subprocess
import sys
import time

import nbformat
import pytest

from lib.core.paths import ROOT
from tests.conftest import make

FULL = """
import os, resource, sys
from pathlib import Path
from lib.core.store import Store, StoreError
from tests import steps
root, how = Path(sys.argv[1]), sys.argv[2]
store, recipe = Store(root / "store"), steps.blocks({"count": 6, "size": 40_000})
ballast = root / "ballast"
if how == "disk":
    ballast.write_bytes(bytes(100_000))
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
try:
    store.make(recipe)
except StoreError as error:
    print(str(error).splitlines()[0])
names = sorted(path.name for path in store.folder(recipe).iterdir())
halves = [name for name in names if name.endswith(".tmp") or name == "manifest.json"]
print(store.state(recipe), not halves)
ballast.unlink(missing_ok=True)
if how != "disk":
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
made = store.make(recipe)
whole = all(file.read_bytes() == bytes([i]) * 40_000 for i, file in enumerate(made.files))
print(made.manifest["made"]["resumed_from"], whole)
"""
SUMMARY = (
    'from lib.study import Study\nstudy = Study.open("00_summary", globals())\n'
    'study.write_results({"source": study.result("01_data")["results"]["source"]}, {})\n'
    'print("whole")'
)


# --- a full disk
# ------------------------------------------------------------------------------------------------

def test_a_file_that_finds_no_room_is_not_begun_for_later_eyes(tmp_path):
    """A limit on the size of files: it needs no rights and stops a write half-way, as a quota does.
    """
    said = full(tmp_path, "limit").splitlines()
    assert said[0].startswith("no room for 0.bin: File too large. Free some")
    assert said[1:] == ["unfinished: 0 files made True", "0 True"]


def test_a_disk_that_fills_up_keeps_what_was_made(tmp_path):
    """A file system of 300 kB, mounted where nobody else sees it."""
    room = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
            'mount -t tmpfs -o size=300k tmpfs "$0" && exec "$@"', tmp_path]
    # where that is forbidden, the quota's way must do
    if subprocess.run([*room, "true"], capture_output=True).returncode:
        return test_a_file_that_finds_no_room_is_not_begun_for_later_eyes(tmp_path)
    said = full(tmp_path, "disk", *room).splitlines()
    assert said[0].endswith(
        ": No space left on device. Free some, or set study.store to a larger disk; "
        "what was made is kept, "
        "and the same command goes on from there."
    ) and said[1].endswith("files made True")
    assert said[2].endswith("True") and int(said[2].split()[0]) == int(said[1].split()[1]) > 0


def full(folder, how, *room):
    """What the program above says."""
    done = subprocess.run(
        [*room, sys.executable, "-c", FULL, folder, how],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- a clock that goes backwards
# ------------------------------------------------------------------------------------

def test_a_clock_set_back_hides_no_change_from_make(tmp_path):
    """Everything was made tomorrow: Make would take it for newer than whatever changes today."""
    for name in ("lib", "notebooks", "params", "Makefile"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    assert make(tmp_path, "stamps").returncode == 0
    out = tmp_path / "reports" / "smoke"
    (out / "notebooks").mkdir()
    (out / "results").mkdir()
    names = sorted(path.stem for path in (tmp_path / "notebooks").glob("*.ipynb"))
    # as if run, in the order of the graph, a day ahead of now
    for i, name in enumerate([*names[1:], names[0]]):
        (out / "results" / f"{name}.json").write_text("{}")
        (out / "notebooks" / f"{name}.ipynb").touch()
        os.utime(out / "notebooks" / f"{name}.ipynb", (time.time() + 86_400 + i,) * 2)
    assert stale(tmp_path) == []
    text = (tmp_path / "params/smoke.yaml").read_text()
    (tmp_path / "params/smoke.yaml").write_text(text.replace("  epochs: 2", "  epochs: 1"))
    assert stale(tmp_path) == [
        "04_training",
        "05_gradcam",
        "07_representation",
        "08_repair",
        "00_summary",
    ]


def stale(house):
    """What Make runs, in this order."""
    done = make(
        house, "notebooks", "run=sh -c 'echo $$1 $$2; touch reports/smoke/notebooks/$$2.ipynb' run"
    )
    assert done.returncode == 0, done.stderr
    return [line.split()[1] for line in done.stdout.splitlines() if line.startswith("notebook ")]


# --- two reports at once
# --------------------------------------------------------------------------------------------

@pytest.mark.soak
def test_two_reports_at_once_on_one_store(tmp_path):
    """Two chapters are enough: the second run waits for each notebook, neither spoils the other's
    files.
    """
    for name in ("lib", "params", "Makefile", "tests"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks/01_data.ipynb", tmp_path / "notebooks")
    whole = nbformat.read(ROOT / "notebooks/00_summary.ipynb", as_version=4)
    whole.cells = [*whole.cells[:2], nbformat.v4.new_code_cell(SUMMARY, id=whole.cells[2].id)]
    nbformat.write(whole, tmp_path / "notebooks/00_summary.ipynb")
    environment = {
        k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    command = ["make", "report", "PROFILE=smoke", f"PY={sys.executable}"]
    runs = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    said = [run.communicate(timeout=1800)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    out = tmp_path / "reports/smoke"
    assert any("waiting for another run" in text for text in said), said
    assert json.loads((out / "results/00_summary.json").read_text())["results"] == {
        "source": "world"
    }
    for name in ("00_summary", "01_data"):
        nbformat.validate(nbformat.read(out / f"notebooks/{name}.ipynb", as_version=4))
    assert "whole" in (out / "report.html").read_text() and not list(
        out.rglob("*.partial.ipynb")
    ) + list(out.rglob("*.tmp"))
    assert make(tmp_path, "report").stderr.count("✓") == 0  # and both left it done
    manifests = [
        json.loads(path.read_text()) for path in (tmp_path / ".store").rglob("manifest.json")
    ]
    assert manifests and all(
        one["made"]["remade"] == [] and one["made"]["retried"] == {} for one in manifests
    )
