"""One study whoever opens it: the same keys and numbers in JupyterLab, by papermill and by Make."""

import functools
import json
import os
import subprocess
import sys

import pytest

from lib.core import config as settings
from lib.core import freshness
from lib.core.plan import PlannedStudy
from lib.study import Study
from tests.conftest import make

LAB = """
import nbformat, sys
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
cell.source = cell.source.replace('profile = "world"', 'profile = "smoke"')
NotebookClient(notebook, resources={"metadata": {"path": "notebooks"}}).execute()
"""


@functools.cache
def by_make(profile):
    return PlannedStudy(settings.load(profile), profile)


@pytest.mark.parametrize("chapter", freshness.names())
@pytest.mark.parametrize("profile", ["digits", "smoke"])
def test_lab_papermill_and_make_need_the_same_artifacts(chapter, profile):
    variables = {}
    # JupyterLab, where the student writes the profile's name
    exec(settings.cell(chapter), variables)
    lab = settings.resolve(chapter, variables | {"profile": profile})
    papermill = settings.resolve(chapter, {"profile": profile})
    method = f"{settings.section_of(chapter)}_artifacts"
    keys = [
        [spec.key for spec in getattr(study, method, list)()]
        for study in (Study(lab.config), Study(papermill.config), by_make(profile))
    ]
    assert keys[0] == keys[1] == keys[2] and (keys[0] or chapter in ("00_summary", "02_inversion"))


def test_a_notebook_run_in_lab_has_the_keys_and_numbers_of_make(house):
    inherited = {name: value for name, value in os.environ.items() if name != settings.RUN}
    command = [sys.executable, "-c", LAB, "notebooks/01_data.ipynb"]
    environment = inherited | {"PYTHONPATH": str(house)}
    subprocess.run(command, cwd=house, env=environment, check=True)
    out = house / "reports" / "smoke"
    paths = out / "results/01_data.json", out / "scratch/results/01_data.json"
    make_run, lab_run = (json.loads(path.read_text()) for path in paths)
    for part in ("settings", "artifacts", "results", "specs"):
        assert lab_run[part] == make_run[part], part


@pytest.mark.parametrize("name", freshness.names())
def test_what_make_ran_is_what_lab_would_need(house, name):
    """Kernels know the images, `make status` counts ahead: both have the same keys."""
    result = json.loads((house / f"reports/smoke/results/{name}.json").read_text())
    planned = PlannedStudy(settings.load("smoke", params=house / "params"), "smoke")
    needed = planned.chapters.get(name, [])
    assert result["artifacts"] == freshness.artifact_keys(needed)


def test_comments_and_docstrings_of_lib_rerun_nothing(house):
    for name in ("lib/measure/stats.py", "lib/report/figures.py", "lib/core/executor.py"):
        text = (house / name).read_text()
        (house / name).write_text(text.replace('"""', '"""Edited. ', 1) + "\n# a remark\n")
    done = make(house, "report")
    assert done.returncode == 0 and "✓" not in done.stderr, done.stderr
