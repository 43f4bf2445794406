"""Make, papermill and the settings agree; failures are loud, kept, and never taken as done."""

import ast
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from lib.core import config as settings
from lib.core import freshness, run
from lib.core.config import Settings
from lib.core.paths import NOTEBOOKS, ROOT
from lib.core.plan import PlannedStudy
from lib.core.store import ArtifactSpec, Store
from tests.conftest import make
from tests.report.checks import assert_report_is_sound, check_in_browser


def ran(done):
    """The notebooks that a call of make executed."""
    return [line.split()[1] for line in done.stderr.splitlines() if line.startswith("✓")]


def edit(house, old, new, file="params/smoke.yaml"):
    text = (house / file).read_text()
    assert old in text
    (house / file).write_text(text.replace(old, new))


# --- notebooks
# ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", run.names())
def test_notebooks_are_thin_and_clean(name):
    text = (NOTEBOOKS / f"{name}.ipynb").read_text()
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert [cell.id for cell in notebook.cells] == sorted({cell.id for cell in notebook.cells})
    for cell in code:
        lines = cell.source.splitlines()
        assert "parameters" in cell.metadata.get("tags", []) or len(lines) <= 12
        assert not any(
            line.lstrip().startswith(("def ", "class ", "with open", "while ")) for line in lines
        )


@pytest.mark.parametrize("name", run.names())
def test_notebooks_open_alike(name):
    first, second = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells[:2]
    lines = [line for line in first.source.splitlines() if line]
    assert lines[0].startswith("# ") and lines[1].startswith("**") and lines[1].endswith("**")
    assert 3 <= sum(line.startswith("- ") for line in first.source.splitlines()) <= 5
    assert second.metadata.tags == ["parameters"]


def test_no_room_imports_from_a_floor_above():
    floors = [
        "core",
        "data world",
        "diffusion classifier",
        "measure",
        "remedies",
        "report",
        "study",
        "preflight",
        "tools",
    ]
    height = {room: i for i, rooms in enumerate(floors) for room in rooms.split()}
    above = {"run", "plan", "notebook", "fetch"}  # of core/: what Make calls
    for path in (ROOT / "lib").rglob("*.py"):
        room = path.relative_to(ROOT / "lib").parts[0].removesuffix(".py")
        if room != "__init__" and not (room == "core" and path.stem in above):
            for other in imported_rooms(path):
                assert height[other] <= height[room], f"{path} imports from {other}"


def imported_rooms(path):
    """The rooms of lib/ that a file's import statements name."""
    dotted = [
        name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [a.name for a in node.names]
        )
        if name != "lib" or not isinstance(node, ast.ImportFrom)
    ]
    return {name.split(".")[1] for name in dotted if name.startswith("lib.")}


# --- what a stamp holds
# -----------------------------------------------------------------------------------------------

def test_a_stamp_holds_keys_settings_cells_text_and_facts():
    study = PlannedStudy(settings.load("digits"), "digits")
    seen = freshness.stamp("04_training", study)
    assert seen["settings"]["epochs"] == study.config.training.epochs
    assert "classifier" in seen["artifacts"] and "engine" not in seen["settings"]
    files = (
        "notebooks/04_training.ipynb",
        "lib/measure/stats.py",
        "lib/report/tables.py",
        "params/classes/world.yaml",
    )
    assert set(files) <= set(seen["files"])


def test_differences_are_stated():
    seen = {"settings": {"epochs": 2}, "artifacts": {"classifier": "a"}, "files": {"x.py": "1"}}
    now = {
        "settings": {"epochs": 1},
        "artifacts": {"classifier": "b"},
        "files": {"x.py": "1", "y.py": "2"},
    }
    assert freshness.changes(seen, now) == [
        "epochs: 2 is now 1", "settings, inputs or code of classifier changed", "y.py changed"]
    assert freshness.changes(now, now) == []


def test_a_replaced_image_is_noticed(tmp_path):
    image = tmp_path / "a.png"
    image.write_bytes(b"one")
    before = freshness.listing([str(tmp_path)])
    assert freshness.listing([str(tmp_path)]) == before
    os.utime(image, (1, 1))
    assert freshness.listing([str(tmp_path)]) != before


def test_kernels_see_nothing_of_the_users_ipython_and_killed_runs_leave_nothing(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(run, "REPORTS", tmp_path)
    for name in (
        "MPLBACKEND",
        "IPYTHONDIR",
        run.RUN,
        "PYTHONPATH",
        "OMP_WAIT_POLICY",
        run.progress.STATE,
    ):
        monkeypatch.setenv(name, "x")
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    (tmp_path / f".progress.{ended.stdout.strip()}").write_text("{}")
    with run.watched("01_data"):
        assert "MPLBACKEND" not in os.environ and not list(Path(os.environ["IPYTHONDIR"]).iterdir())
        assert [path.name for path in tmp_path.iterdir()] == [f".progress.{os.getpid()}"]
    assert not list(tmp_path.iterdir())


# --- make
# ------------------------------------------------------------------------------------------------

def test_the_smoke_study_leaves_a_sound_report(house):
    out = house / "reports" / "smoke"
    assert_report_is_sound(out / "report.html")
    names = sorted(path.stem for path in (out / "results").glob("*.json"))
    assert names == sorted([*run.names(), "run"])
    summary = json.loads((out / "results" / "run.json").read_text())
    assert set(summary["seconds"]) == set(run.names()) and summary["total"] > 0 and "git" in summary
    assert not list((out / "notebooks").glob("*.partial.ipynb")) + list(
        (out / "notebooks").glob("*.failed.ipynb")
    )


def test_the_report_in_a_real_browser(house):
    check_in_browser(house / "reports" / "smoke" / "report.html")


def test_every_figure_has_its_numbers_beside_it(house):
    figures = house / "reports" / "smoke" / "figures"
    assert len(list(figures.glob("*.svg"))) >= 6
    assert {p.stem for p in figures.glob("*.svg")} <= {p.stem for p in figures.glob("*.csv")}


def test_nothing_changed_nothing_runs_in_a_second(house):
    make(house, "report")
    seconds = []
    for _ in range(3):
        before = cpu_seconds()
        done = make(house, "report")
        seconds.append(cpu_seconds() - before)
        assert done.returncode == 0 and ran(done) == [] and "open" not in done.stdout
    assert min(seconds) < 1


def cpu_seconds():
    """Of all ended child processes: other tests on this machine do not count."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_a_comment_changes_nothing(house):
    edit(house, "training:", "# a remark\ntraining:")
    assert ran(make(house, "report")) == []


def test_a_failed_notebook_is_kept_and_runs_again_with_what_follows(house):
    """A setting is changed and a shard is damaged, and at first the notebook fails."""
    shard, whole = damage_shard(house)
    edit(house, "  epochs: 2", "  epochs: 1")
    opening = 'study = Study.open(\\"04_training\\", globals())'
    ready = house / "ready"
    checked = f"{opening}; open('{ready}')"
    edit(house, opening, checked, "notebooks/04_training.ipynb")
    before = make(house, "status").stdout
    assert "stale: epochs: 2 is now 1" in before and f"altered: {shard.name}" in before

    failed = make(house, "report")
    kept = "reports/smoke/notebooks/04_training.failed.ipynb"
    lines = [line for line in failed.stderr.splitlines() if not line.startswith("make")]
    assert failed.returncode != 0 and ran(failed) == []
    assert "FileNotFoundError" in lines[-3]
    assert lines[-2:] == [f"file:    {kept}", f"reopen:  make lab NOTEBOOK={kept}"]
    assert (house / kept).exists()
    assert "failed: 04_training.failed.ipynb" in make(house, "status").stdout

    ready.touch()
    again = make(house, "report")
    readers = ["04_training", "05_gradcam", "07_representation", "08_repair", "00_summary"]
    assert ran(again) == readers  # and not the others, which read none of this
    assert str(shard) in again.stderr and shard.read_bytes() == whole
    assert not (house / kept).exists()
    after = make(house, "status").stdout
    assert "stale" not in after and "altered" not in after and "failed" not in after


def damage_shard(house):
    """Cut a shard of the training images short; its path and what it held."""
    result = json.loads((house / "reports/smoke/results/01_data.json").read_text())
    spec = ArtifactSpec.from_json(result["specs"]["train"])
    shard = next(Store(house / ".store").folder(spec).glob("*.parquet"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:1000])
    return shard, whole


def test_a_failure_of_a_change_that_is_taken_back_leaves_no_trace(house):
    kept = house / "reports/smoke/notebooks/06_geometry.failed.ipynb"
    kept.write_text("{}")
    status = make(house, "status").stdout
    kept.unlink()
    assert "06_geometry        fresh" in status


def test_a_lost_result_and_damaged_stamps_are_made_again(house):
    make(house, "report")
    out = house / "reports" / "smoke"
    for name in ("stamps/inputs", "stamps/00_summary", "stamps/report", "results/00_summary"):
        (out / f"{name}.json").write_text("{")
    assert "its result is lost" in make(house, "status").stdout
    assert ran(make(house, "report")) == ["00_summary"]
    assert json.loads((out / "results" / "00_summary.json").read_text())["results"]


@pytest.mark.parametrize("words", ["a b", "", "%", "x;y", "./smoke", "defaults", "nope"])
def test_what_is_no_profile_stops_make(words):
    done = make(ROOT, "status", profile=words)
    assert done.returncode != 0 and set(
        done.stderr.partition("there are: ")[2].split(".")[0].split()
    ) == set(settings.profiles())


@pytest.mark.parametrize("old, new, said", [
    ("  batch_size: 32", "  batch_sizes: 32", "did you mean 'batch_size'?"),
    ("  batch_size: 32", "  batch_size: 1e1", "write 1.0e-3"),
    ("  batch_size: 32", "  batch: 32", "training.batch is now called training.batch_size"),
    ("small: true", "small: yes please", "boolean"),
])
def test_a_bad_setting_stops_make_with_file_and_key(house, old, new, said):
    edit(house, old, new)
    done = make(house, "report")
    edit(house, new, old)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode != 0 and said in done.stderr and "Traceback" not in done.stderr
    assert lines[-1].startswith(str(house / "params" / "smoke.yaml")) and ran(done) == []


def test_a_training_set_of_no_image_set_stops_make_before_a_kernel_starts(house):
    edit(house, "[real, sd", "[reel, sd", "params/defaults.yaml")
    done = make(house, "report")
    edit(house, "[reel, sd", "[real, sd", "params/defaults.yaml")
    assert done.returncode != 0 and ran(done) == [] and "Traceback" not in done.stderr
    assert "arm 'reel': no image set 'reel'; did you mean 'real'?" in done.stderr


def test_help_lists_every_command():
    text = make(ROOT, "help").stdout
    for command in (
        "report",
        "test",
        "lab",
        "env",
        "notebooks",
        "pdf",
        "bench",
        "status",
        "plan",
        "clean",
    ):
        assert f"make {command} " in text
    assert all(name in text for name in settings.profiles())


def test_settings_have_a_notebook_each():
    rooms = {settings.section_of(name) for name in run.names()}
    assert set(Settings.model_fields) - {"study"} <= rooms
