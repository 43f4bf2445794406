"""Every command in the README does what it says, and its figures are those of the runs that are kept."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys

import pytest

from lib.core import config as settings
from lib.core.paths import ROOT
from tests.conftest import make

TEXT = (ROOT / "README.md").read_text()
COMMANDS = [line.partition("#")[0].strip() for block in re.findall(r"```sh\n(.*?)```", TEXT, re.S) for line in block.splitlines()]
MAKE = [shlex.split(line)[1:] for line in COMMANDS if line.startswith("make ")]


def test_all_commands_are_of_a_kind_that_is_tried_here():
    assert COMMANDS[:2] == ["make report", "make test"]
    assert all(line.startswith(("make ", ".venv/bin/papermill ", ".venv/bin/dask ")) for line in COMMANDS)


@pytest.mark.parametrize("words", [w for w in MAKE if w[0] not in ("lab", "test")], ids=" ".join)
def test_make_commands(house, words):
    done = make(house, *[word for word in words if not word.startswith("PROFILE=")])  # in smoke's sizes
    assert done.returncode == 0, done.stderr
    for word in words:
        if word.startswith("PROFILE="):
            assert word.removeprefix("PROFILE=") in settings.profiles()
    if words[0] == "pdf":
        assert (house / "reports/smoke/report.pdf").read_bytes().startswith(b"%PDF")


def test_make_test_is_what_runs_now():
    assert make(ROOT, "--dry-run", "test").stdout.strip().endswith("-m pytest tests")


def test_papermill_by_hand_leaves_the_study_alone(house, tmp_path):
    before = (house / "reports/smoke/results/04_training.json").read_text()
    words = next(shlex.split(line) for line in COMMANDS if "papermill" in line)
    out = tmp_path / "out.ipynb"
    words = [str(out) if word.startswith("/tmp/") else word for word in words[1:]]
    words = [str(house / word) if word.startswith("notebooks/") else word for word in words]
    done = subprocess.run([sys.executable, "-m", "papermill", *words], cwd=tmp_path, text=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": str(house)})  # from any folder
    assert done.returncode == 0, done.stderr
    assert (house / "reports/smoke/results/04_training.json").read_text() == before
    assert '"epochs": 3' in out.read_text() or "epochs = 3" in out.read_text()
    assert (house / "reports/smoke/scratch/results/04_training.json").exists()


def test_make_lab_listens_here_alone_and_asks_for_its_token(house):
    command = ["make", "lab", f"PY={sys.executable}", "LAB=--no-browser --allow-root --port=0"]
    server = subprocess.Popen(command, cwd=house, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        urls = [re.search(r"http://\S+", line)[0] for line in _until(server.stderr, "?token=")]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)
    assert all(re.match(r"http://(127\.0\.0\.1|localhost):\d+/", url) for url in urls) and "?token=" in urls[-1]


def _until(lines, mark):
    """Lines with an address, up to the first that has the mark."""
    found = []
    for line in lines:
        if "http://" in line:
            found.append(line)
        if mark in line:
            return found
    raise AssertionError("JupyterLab ended without naming an address")


def test_the_worked_profile_is_one(tmp_path):
    (tmp_path / "defaults.yaml").write_text((settings.PARAMS / "defaults.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(re.search(r"```yaml\n(.*?)```", TEXT, re.S)[1])
    config = settings.load("mine", params=tmp_path)
    assert config.data.source == "folder" and config.training.arms == ["real", "cd", "real+cd"]
    assert config.repair.base == "cd" and config.inversion.num_embedded == 0


def test_every_file_that_the_readme_names_exists():
    for path in re.findall(r"`((?:lib|params|tests)/[\w./]+)`", TEXT):
        assert (ROOT / path).exists(), path
    for image in re.findall(r"!\[.*?\]\((.*?)\)", TEXT):
        assert (ROOT / image).exists(), image


def test_every_profile_is_listed():
    for profile in settings.profiles():
        assert f"`{profile}`" in TEXT


@pytest.mark.parametrize("profile", sorted(path.parent.name for path in ROOT.glob("reports/*-small/results")))
def test_the_tables_of_kept_runs_are_what_these_runs_found(profile):
    section = TEXT.partition(f"(reports/{profile}/report.html)")[2].partition("/report.html)")[0]
    lines = [[cell.strip() for cell in line.split("|")[1:]] for line in section.splitlines()]
    rows = {cells[0]: cells[1:3] for cells in lines if len(cells) > 3}
    found = json.loads((ROOT / "reports" / profile / "results" / "04_training.json").read_text())["numbers"]
    for arm, sets in found["accuracy"].items():
        wanted = [interval(sets["test"], ""), interval(found["gaps"][arm], "+") if arm in found["gaps"] else ""]
        assert rows[arm] == wanted, arm


def interval(found, sign):
    """A share as the README writes it."""
    return f"{100 * found['mean']:{sign}.1f} ± {50 * (found['high'] - found['low']):.1f}".replace("-", "−")
