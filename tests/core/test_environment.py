"""One list of dependencies, a lock that fits it, and an environment that is what the lock says."""

import re
import subprocess
import sys
from importlib.metadata import version

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement

from lib.core import compute
from lib.core.paths import ROOT
from lib.tools.lock import direct, extras
from tests.conftest import make


def locked(name):
    return [Requirement(line) for line in (ROOT / name).read_text().splitlines() if line and line[0] != "#"]


LOCK = locked("requirements.txt")
EXTRAS = {name: locked(f"requirements-{name}.txt") for name in extras()}


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_package_has_its_reason():
    lines = (ROOT / "environment.yml").read_text().splitlines()
    entries = [line for line in lines if re.match(r"      - ", line)]
    assert len(entries) == len(direct()) > 25 and all(re.search(r"\S +# \w", line) for line in entries)


def test_the_lock_holds_every_direct_dependency_exactly():
    locked = {plain(r.name): r for r in LOCK}
    for wanted in map(Requirement, direct()):
        pins = [r for r in LOCK if plain(r.name) == plain(wanted.name)]
        assert pins, f"{wanted.name} is not in requirements.txt; run `make lock`"
        assert all(wanted.specifier.contains(str(r.specifier).removeprefix("==")) for r in pins)
    assert all(str(r.specifier).startswith("==") for r in locked.values())


@pytest.mark.parametrize("name", EXTRAS)
def test_an_extra_adds_what_it_names_and_changes_nothing(name):
    pins = {plain(r.name): r for r in EXTRAS[name]}
    assert {plain(wanted) for wanted in extras()[name]} <= set(pins) and not set(pins) & {plain(r.name) for r in LOCK}
    assert all(str(r.specifier).startswith("==") for r in pins.values())


def test_an_extra_that_there_is_not_is_said():
    done = make(ROOT, "env", "EXTRAS=dusk")
    assert done.returncode != 0 and 'no extra named "dusk"; there are: dask' in done.stderr


def test_the_tests_bring_their_extra():
    command = ["make", "--dry-run", "test", "PY=.venv/bin/python"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert (ROOT / ".venv/.dask").exists() or "-r requirements.txt -r requirements-dask.txt" in said


def test_the_lock_serves_three_pythons_and_names_no_host():
    for python in ("3.11.9", "3.12.9", "3.13.2"):
        environment = {"python_full_version": python, "python_version": python[:4]}
        names = [plain(r.name) for r in LOCK if r.marker is None or Marker(str(r.marker)).evaluate(environment)]
        assert len(names) == len(set(names)) and {"torch", "numpy", "scipy", "jupyterlab"} <= set(names)
    assert not re.search(r"https?://|@|--index|--find", (ROOT / "requirements.txt").read_text())


def test_what_is_installed_is_what_is_locked():
    for requirement in sum(EXTRAS.values(), LOCK):
        if requirement.marker is None or requirement.marker.evaluate():
            found = version(requirement.name).partition("+")[0]
            assert requirement.specifier.contains(found), f"{requirement.name} {found}; run `make env EXTRAS=dask`"


def test_conda_reads_the_same_list():
    tree = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert tree["channels"] == ["conda-forge"] and any(str(e).startswith("python ") for e in tree["dependencies"])


def test_the_pair_works_and_the_machine_is_named():
    line = compute.check()
    assert "torch" in line and "thread" in line and "\n" not in line


def test_style():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", "lib", "tests", "notebooks"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
