"""JupyterLab: rooted at the checkout, tracked notebooks stay as they are in git."""

import copy
import json
import os
import subprocess
import sys
import time

import nbformat
import pytest
from jupyter_server.services.contents.largefilemanager import LargeFileManager

from lib.core import lab
from lib.core.paths import NOTEBOOKS, ROOT

NAMES = sorted(path.name for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_that_was_run_and_saved_is_unchanged(name, tmp_path):
    (tmp_path / "notebooks").mkdir()
    manager = LargeFileManager(root_dir=str(tmp_path), pre_save_hook="lib.core.lab.clean")
    content = nbformat.read(NOTEBOOKS / name, as_version=4)
    content.metadata.kernelspec.display_name = "Mine"
    content.metadata.language_info.version = "3.11.7"
    for cell in content.cells:
        cell.metadata |= {"trusted": True, "scrolled": True, "execution": {"iopub.busy": "now"}}
        if cell.cell_type == "code":
            cell.execution_count = 3
            cell.outputs = [nbformat.v4.new_output("stream", text="1/900")]
    manager.save({"type": "notebook", "content": content}, f"notebooks/{name}")
    assert (tmp_path / "notebooks" / name).read_text() == (NOTEBOOKS / name).read_text()


def test_other_notebooks_keep_their_outputs():
    model = {"type": "notebook", "content": {"metadata": {"a": 1}, "cells": []}}
    for path, content in [("reports/world/notebooks/a.ipynb", model), ("a.py", {"type": "file"})]:
        before = copy.deepcopy(content)
        lab.clean(content, path)
        assert content == before


def test_lab_opens_at_the_checkout_and_lists_the_notebooks(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "x")
    words = lab.command([])
    assert f"--ServerApp.root_dir={ROOT}" in words and "--ServerApp.ip=127.0.0.1" in words
    assert "--LabApp.default_url=/lab/tree/notebooks" in words
    assert lab.command(["a.ipynb", "--no-browser"])[-2:] == ["a.ipynb", "--no-browser"]
    environment = lab.environment()
    assert "MPLBACKEND" not in environment and environment["IPYTHONDIR"].startswith(sys.prefix)
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)


SLOW = """
import sys, time
import ipykernel.kernelapp
from lib.core import executor
from lib.core.store import Store
from tests import steps
print("begins", file=sys.stderr, flush=True)
specs = [steps.numbers({"count": 2, "pause": 3})]
executor.make(Store(sys.argv[1], workers=int(sys.argv[2])), specs)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_long_cell_shows_its_progress_within_a_second(tmp_path, workers):
    command = [sys.executable, "-c", SLOW, str(tmp_path), str(workers)]
    run = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    while b"begins" not in run.stderr.readline():
        assert run.poll() is None
    began = time.monotonic()
    shown = os.read(run.stderr.fileno(), 200).decode()
    run.kill()
    assert "numbers" in shown and "0/2" in shown and time.monotonic() - began < 1


def test_notebooks_are_written_as_jupyter_writes_them():
    for name in NAMES:
        text = (NOTEBOOKS / name).read_text()
        assert text == nbformat.writes(nbformat.reads(text, as_version=4)) + "\n", name
        assert json.loads(text)["metadata"] == lab.METADATA
