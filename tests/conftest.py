"""What several tests share: a checkout of its own whose smoke study has run."""

import os
import shutil
import subprocess
import sys

import pytest

from lib.core.paths import ROOT


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """One process for all tests of the smoke study, first; else one for each file."""
    for item in items:
        name = "house" if "house" in item.fixturenames else item.path.name
        item.add_marker(pytest.mark.xdist_group(name))
    items.sort(key=lambda item: "house" not in item.fixturenames)


@pytest.fixture(scope="session")
def house(tmp_path_factory):
    """A copy of the checkout whose smoke study ran once, from nothing, two jobs at a time."""
    copy = tmp_path_factory.mktemp("house")
    for name in ("lib", "notebooks", "params", "tests", "Makefile", "requirements-dask.txt"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
    done = make(copy, "-j2", "report")
    assert done.returncode == 0, done.stderr
    return copy


def make(house, *words, profile="smoke"):
    """`make …` in a house, as if typed there (not as a part of the make that runs the tests)."""
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    environment["OMP_WAIT_POLICY"] = "PASSIVE"
    command = ["make", *words, f"PROFILE={profile}", f"PY={sys.executable}"]
    return subprocess.run(command, cwd=house, text=True, capture_output=True, env=environment)
