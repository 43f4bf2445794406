"""One list of dependencies, locks that fit it, and an environment that survives a move."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement

from lib.core import compute
from lib.core.paths import ROOT
from lib.tools import environment, lock
from tests.conftest import make

PROJECT = lock.project()
EXTRAS = PROJECT["optional-dependencies"]


def locked(name):
    return [Requirement(lock.pin(entry)) for entry in lock.entries(ROOT / name)]


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


LOCK = locked("requirements.txt")


def test_every_package_has_its_reason():
    text = (ROOT / "pyproject.toml").read_text()
    lines = [line for line in text.splitlines() if re.match(r'  "\w', line)]
    assert len(lines) >= len(PROJECT["dependencies"]) > 25
    assert all(re.search(r'", +# \w', line) for line in lines)


def test_conda_reads_the_same_list():
    written = (ROOT / "environment.yml").read_text()
    assert written == lock.environment(PROJECT), "run `make lock`"
    *_, pip = yaml.safe_load(written)["dependencies"]
    assert pip == {"pip": PROJECT["dependencies"]}


@pytest.mark.parametrize("name", ["requirements.txt", *(f"requirements-{e}.txt" for e in EXTRAS)])
def test_a_lock_is_exact_and_hashed_and_names_no_host(name):
    entries = lock.entries(ROOT / name)
    assert entries and all(re.match(r"[\w.-]+==[\w.]+( ; .+)? \\\n", entry) for entry in entries)
    assert all("--hash=sha256:" in entry for entry in entries)
    assert not re.search(r"https?://|@|--index|--find", "".join(entries))


def test_the_lock_holds_every_direct_dependency():
    for wanted in map(Requirement, PROJECT["dependencies"]):
        pins = [r for r in LOCK if plain(r.name) == plain(wanted.name)]
        assert pins, f"{wanted.name} is not in requirements.txt; run `make lock`"
        assert all(wanted.specifier.contains(str(r.specifier).removeprefix("==")) for r in pins)


@pytest.mark.parametrize("name", EXTRAS)
def test_an_extra_adds_what_it_names_and_changes_nothing(name):
    names = {plain(r.name) for r in locked(f"requirements-{name}.txt")}
    assert set(map(plain, EXTRAS[name])) <= names
    assert not names & {plain(r.name) for r in LOCK}


def test_an_extra_that_does_not_exist_is_named():
    done = make(ROOT, "env", "EXTRAS=dusk")
    assert done.returncode != 0 and 'no extra named "dusk"; there are: dask' in done.stderr


def test_the_tests_bring_their_extra():
    command = ["make", "--dry-run", "test", "PY=.venv/bin/python"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert (ROOT / ".venv/.dask").exists() or "environment.py dask" in text


def test_the_lock_serves_three_pythons():
    for python in ("3.11.9", "3.12.9", "3.13.2"):
        facts = {"python_full_version": python, "python_version": python[:4]}
        fitting = [r for r in LOCK if r.marker is None or Marker(str(r.marker)).evaluate(facts)]
        names = [plain(r.name) for r in fitting]
        assert len(names) == len(set(names))
        assert {"torch", "numpy", "scipy", "jupyterlab", "uv"} <= set(names)


def test_what_is_installed_is_what_is_locked():
    for requirement in [*LOCK, *(r for e in EXTRAS for r in locked(f"requirements-{e}.txt"))]:
        if requirement.marker is None or requirement.marker.evaluate():
            there = version(requirement.name).partition("+")[0]
            message = f"{requirement.name} {there}; run `make env EXTRAS=dask`"
            assert requirement.specifier.contains(there), message


def test_a_moved_checkout_with_an_odd_name_uses_its_own_environment(tmp_path):
    first, second = tmp_path / "it's a \"house\" é", tmp_path / "moved $x"
    (first / "lib").mkdir(parents=True)
    (first / "lib" / "__init__.py").touch()
    environment.create(first, with_pip=False)
    first.rename(second)
    ask = [second / ".venv/bin/python", "-c", "import lib, sys; print(lib.__file__, sys.prefix)"]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    answer = subprocess.run(ask, cwd="/", env=clean, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == f"{second / 'lib' / '__init__.py'} {second / '.venv'}"


def test_make_runs_in_a_checkout_with_an_odd_name(tmp_path):
    odd = tmp_path / "it's a \"house\""
    for name in ("params", "lib/core"):
        shutil.copytree(ROOT / name, odd / name)
    for name in ("Makefile", "lib/__init__.py"):
        shutil.copy(ROOT / name, odd / name)
    probe = odd / "lib" / "core" / "run.py"
    probe.write_text("import os, sys\nprint(os.getcwd(), sys.argv[1:], sys.path[0])")
    done = make(odd, "status")
    assert done.stdout.strip() == f"{odd} ['status', '--profile', 'smoke'] {odd}", done.stderr


def test_nothing_that_is_installed_names_the_place_of_the_checkout():
    recipes = (ROOT / "Makefile").read_text().replace("export PYTHONPATH := $(CURDIR)", "")
    assert "CURDIR" not in recipes and "ipykernel install" not in recipes
    assert not re.search(r"\.venv/bin/(?!python)", recipes)  # scripts name their Python by its path


def test_without_uv_pip_installs_with_hashes(tmp_path, monkeypatch):
    commands = []
    lines = tmp_path / "requirements.txt"
    lines.write_text("a==1 \\\n    --hash=sha256:0\nuv==1 \\\n    --hash=sha256:1\nz==1\n")

    def run(command, **_):
        commands.append([str(word) for word in command])
        return subprocess.CompletedProcess(command, returncode=1)

    monkeypatch.setattr(environment.subprocess, "run", run)
    assert environment.install(sys.executable, [lines]) == "pip"
    assert "--only-binary=:all:" in commands[0] and commands[-1][-2:] == ["-r", str(lines)]


def test_the_pair_works_and_the_machine_is_named():
    line = compute.check()
    assert "torch" in line and "thread" in line and "\n" not in line


def test_style():
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "lib", "tests", "notebooks"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
