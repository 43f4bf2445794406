"""Every command in the README does what it says, and its figures are those of the runs that are
kept.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import yaml

from lib.core import config as settings
from lib.core.paths import ROOT
from tests.conftest import make
from tests.tools.test_new import pictures

TEXT = (ROOT / "README.md").read_text()
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.S)
    for line in block.splitlines()
]
MINE = "PROFILE=mine"  # what the worked example makes
MAKE = [shlex.split(line)[1:] for line in COMMANDS if line.startswith("make ")]


def test_all_commands_are_of_a_kind_that_is_tried_here():
    assert COMMANDS[:2] == ["make report", "make test"]
    assert all(
        line.startswith(("make ", ".venv/bin/papermill ", ".venv/bin/dask ")) for line in COMMANDS
    )


@pytest.mark.parametrize(
    "words", [w for w in MAKE if w[0] not in ("lab", "test") and MINE not in w], ids=" ".join)
def test_make_commands(house, words):
    # in smoke's sizes
    done = make(house, *[word for word in words if not word.startswith("PROFILE=")])
    assert done.returncode == 0, done.stderr
    for word in words:
        if word.startswith("PROFILE="):
            assert word.removeprefix("PROFILE=") in settings.profiles()
    if words[0] == "pdf":
        assert (house / "reports/smoke/report.pdf").read_bytes().startswith(b"%PDF")


def test_make_test_is_what_runs_now():
    assert make(ROOT, "--dry-run", "test").stdout.split()[1:4] == ["-m", "pytest", "tests"]


def test_papermill_by_hand_leaves_the_study_alone(house, tmp_path):
    before = (house / "reports/smoke/results/04_training.json").read_text()
    words = next(shlex.split(line) for line in COMMANDS if "papermill" in line)
    out = tmp_path / "out.ipynb"
    words = [str(out) if word.startswith("/tmp/") else word for word in words[1:]]
    words = [str(house / word) if word.startswith("notebooks/") else word for word in words]
    done = subprocess.run([sys.executable, "-m", "papermill", *words], cwd=tmp_path, text=True,
                          # from any folder
                          capture_output=True, env={**os.environ, "PYTHONPATH": str(house)})
    assert done.returncode == 0, done.stderr
    assert (house / "reports/smoke/results/04_training.json").read_text() == before
    assert '"epochs": 3' in out.read_text() or "epochs = 3" in out.read_text()
    assert (house / "reports/smoke/scratch/results/04_training.json").exists()


def test_make_lab_listens_here_alone_and_asks_for_its_token(house):
    command = ["make", "lab", f"PY={sys.executable}", "LAB=--no-browser --allow-root --port=0"]
    server = subprocess.Popen(
        command, cwd=house, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        urls = [re.search(r"http://\S+", line)[0] for line in _until(server.stderr, "?token=")]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)
    assert (
        all(re.match(r"http://(127\.0\.0\.1|localhost):\d+/", url) for url in urls)
        and "?token=" in urls[-1]
    )


def _until(lines, mark):
    """Lines with an address, up to the first that has the mark."""
    found = []
    for line in lines:
        if "http://" in line:
            found.append(line)
        if mark in line:
            return found
    raise AssertionError("JupyterLab ended without naming an address")


@pytest.fixture
def mine(house):
    """The pictures of the worked example, where it says that they are; nothing is left behind."""
    folder = house / "data" / "mine"
    for name, data in pictures(train=40, test=60).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    yield house
    shutil.rmtree(house / "data")
    shutil.rmtree(house / "reports/mine", ignore_errors=True)
    for name in ("mine.yaml", "classes/mine.yaml"):
        (house / "params" / name).unlink(missing_ok=True)


def worked_example(house, *kinds):
    """Run these commands of the README's example as they are printed."""
    for words in (words for words in MAKE if MINE in words and words[0] in kinds):
        done = make(house, *[word for word in words if word != MINE], profile="mine")
        assert done.returncode == 0, done.stderr
        yield words[0], done


def test_the_worked_example_finds_writes_and_plans(mine):
    outputs = dict(worked_example(mine, "new", "plan"))
    assert "4 classes, 400 readable pictures" in outputs["new"].stdout
    assert "04_training" in outputs["plan"].stdout
    assert (mine / "params/mine.yaml").read_text().startswith("# Made by `make new`")


@pytest.mark.soak
def test_the_worked_example_to_its_page_in_smokes_sizes(mine):
    assert len(list(worked_example(mine, "new"))) == 1
    path = mine / "params/mine.yaml"
    small = yaml.safe_load((mine / "params/smoke.yaml").read_text())
    profile = yaml.safe_load(path.read_text())
    for name in small.keys() - {"data"}:
        profile[name] |= {
            key: small[name][key] for key in small[name].keys() & profile[name].keys()
        }
    profile["repair"] |= {"num_real": 30, "num_real_curve": [20], "unfreeze_last_curve": [0]}
    path.write_text(yaml.safe_dump(profile))
    assert len(list(worked_example(mine, "plan", "report", "export"))) == 3
    assert (mine / "reports/mine/report.html").stat().st_size > 10**5
    assert (mine / "data/mine-di/metadata.csv").is_file()


def test_every_file_that_the_readme_names_exists():
    for path in re.findall(r"`((?:lib|params|tests)/[\w./]+)`", TEXT):
        assert (ROOT / path).exists(), path
    for image in re.findall(r"!\[.*?\]\((.*?)\)", TEXT):
        assert (ROOT / image).exists(), image


def test_every_profile_is_listed():
    for profile in settings.profiles():
        own = (settings.PARAMS / f"{profile}.yaml").read_text().startswith("# Made by `make new`")
        assert own or f"`{profile}`" in TEXT


@pytest.mark.parametrize(
    "profile", sorted(path.parent.name for path in ROOT.glob("reports/*-small/results"))
)
def test_the_tables_of_kept_runs_are_what_these_runs_found(profile):
    section = TEXT.partition(f"(reports/{profile}/report.html)")[2].partition("/report.html)")[0]
    lines = [[cell.strip() for cell in line.split("|")[1:]] for line in section.splitlines()]
    rows = {cells[0]: cells[1:3] for cells in lines if len(cells) > 3}
    found = json.loads((ROOT / "reports" / profile / "results" / "04_training.json").read_text())[
        "numbers"
    ]
    for arm, sets in found["accuracy"].items():
        wanted = [
            interval(sets["test"], ""),
            interval(found["gaps"][arm], "+") if arm in found["gaps"] else "",
        ]
        assert rows[arm] == wanted, arm


def interval(found, sign):
    """A share as the README writes it."""
    return f"{100 * found['mean']:{sign}.1f} ± {50 * (found['high'] - found['low']):.1f}".replace(
        "-", "−"
    )
