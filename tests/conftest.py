"""What several tests share: a checkout of its own whose smoke study has run."""

import functools
import os
import shutil
import subprocess
import sys

import pytest
from xdist.scheduler import LoadScopeScheduling

from lib.core.paths import ROOT

STUDY_FILES = (
    "lib", "notebooks", "params", "tests", "Makefile", "CITATION.cff", "requirements-dask.txt",
)  # fmt: skip


@functools.cache
def scope(path):
    """Tests of the one smoke study belong together, others with those of their file."""
    return "house" if "(house" in (ROOT / path).read_text(encoding="utf-8") else path


class ByScope(LoadScopeScheduling):
    """One process for each scope; loadgroup cannot do it, its groups need an older pytest."""

    def _split_scope(self, nodeid):
        return scope(nodeid.partition("::")[0])


def pytest_xdist_make_scheduler(config, log):
    return ByScope(config, log)


def pytest_collection_modifyitems(items):
    """The smoke study, which takes longest, first."""
    items.sort(key=lambda item: scope(item.path.relative_to(ROOT)) != "house")


@pytest.fixture(scope="session")
def house(tmp_path_factory):
    """A copy of the checkout whose smoke study ran once, from nothing, two jobs at a time."""
    copy = tmp_path_factory.mktemp("house")
    for name in STUDY_FILES:
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
