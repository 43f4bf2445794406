"""Many artifacts side by side: the same files as one by one; failures, dead workers and other runs
waste nothing else.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import psutil
import pytest

from lib.core import executor as schedule
from lib.core import workers
from lib.core.paths import ROOT
from lib.core.store import Store, locked
from tests import steps

MAKE = """
import json, sys
from lib.core import executor as schedule
from lib.core.store import ArtifactSpec, Store
specs = [ArtifactSpec.from_json(tree) for tree in json.loads(sys.argv[2])]
schedule.make(Store(sys.argv[1], workers=2), specs)
"""


@pytest.fixture(autouse=True)
def pool_of_its_own():
    yield
    workers.processes(2).shutdown()
    workers.processes.cache_clear()


def chain(log, pause=0.0):
    """Three recipes that hang together, and a loner."""
    one = steps.numbers({"count": 4, "log": str(log), "pause": pause})
    return [steps.total({"scale": 3}, twice=one, source=one), steps.total({"scale": 2}, source=one),
            steps.numbers({"count": 3, "pause": pause})]


@pytest.mark.parametrize("count", [1, 2])
def test_the_same_files_for_any_number_of_workers(tmp_path, count):
    recipes, store = chain(tmp_path / "log"), Store(tmp_path / "store", count)
    schedule.make(store, recipes)
    assert [store.make(recipe).files[0].read_text() for recipe in recipes] == ["42", "28", "0"]
    assert sorted((tmp_path / "log").read_text().split()) == ["0", "1", "2", "3"]  # each once
    made = store.found(recipes[1]).manifest["made"]
    assert made["retried"] == {} and made["device"] and made["peak_memory_mb"] > 0


def test_two_workers_work_at_once(tmp_path):
    recipe, store = (
        steps.together({"others": 2, "folder": str(tmp_path)}),
        Store(tmp_path / "store", 2),
    )
    schedule.make(store, [recipe])  # each of its files waits until the other is begun
    assert len({file.read_text() for file in store.found(recipe).files}) == 2  # by two processes


@pytest.mark.parametrize("count", [1, 2])
def test_a_failure_stops_only_what_hangs_on_it(tmp_path, count):
    store, broken, good = (
        Store(tmp_path / "store", count),
        steps.broken({}),
        steps.numbers({"count": 2}),
    )
    hangs = steps.total({"scale": 1}, source=broken)
    failed = schedule.attempt(store, [hangs, good])
    assert set(failed) == {broken.key, hangs.key} and all(
        isinstance(e, ZeroDivisionError) for e in failed.values()
    )
    assert store.found(good) and store.state(broken) == "unfinished: 1 files made"
    with pytest.raises(ZeroDivisionError):
        schedule.make(store, [hangs])


def test_a_failure_keeps_later_files_from_being_begun(tmp_path):
    store, recipe = Store(tmp_path / "store", 1), steps.numbers({"count": "many"})
    with pytest.raises(TypeError):
        schedule.make(store, [recipe])
    early = steps.early({"count": 9, "log": str(tmp_path / "log")})
    assert schedule.attempt(store, [early]) and len((tmp_path / "log").read_text().split()) <= 2


def test_a_killed_worker_loses_one_file_which_is_made_again(tmp_path):
    log, store = tmp_path / "log", Store(tmp_path / "store", 2)
    recipe = steps.numbers(
        {"count": 6, "log": str(log), "pause": 0.5, "pids": str(tmp_path / "pid")}
    )

    def kill():
        while (
            not log.exists()
            or len(log.read_text().split()) < 3
            or not (tmp_path / "pid").read_text()
        ):
            time.sleep(0.02)
        # the one that began last: it is at its file
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    thread = threading.Thread(target=kill)
    thread.start()
    schedule.make(store, [recipe])
    thread.join()
    made = store.found(recipe)
    assert [file.read_text() for file in made.files] == [str(i * i) for i in range(6)]
    assert made.manifest["made"]["retried"] and len(log.read_text().split()) > 6


def test_two_runs_share_the_work_and_make_nothing_twice(tmp_path):
    recipes = json.dumps([recipe.to_json() for recipe in chain(tmp_path / "log", 0.1)])
    runs = [
        subprocess.Popen([sys.executable, "-c", MAKE, str(tmp_path / "store"), recipes], cwd=ROOT)
        for _ in range(2)
    ]
    assert [run.wait(120) for run in runs] == [0, 0]
    assert sorted((tmp_path / "log").read_text().split()) == ["0", "1", "2", "3"]


def test_waiting_for_another_run_keeps_no_file_open(tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, "POLL", 0.01)
    store, recipe = Store(tmp_path / "store", 1), steps.numbers({"count": 1})
    opened = []

    def watch():
        time.sleep(0.5)  # about fifty looks
        opened.append(len(psutil.Process().open_files()))
        other.close()
    other = ExitStack()
    other.enter_context(locked(store.folder(recipe)))
    thread = threading.Thread(target=watch)
    before = len(psutil.Process().open_files())
    thread.start()
    schedule.make(store, [recipe])
    thread.join()
    assert store.found(recipe) and opened[0] <= before + 2


def test_kill_9_of_the_main_process_keeps_what_was_finished(tmp_path):
    log, recipe = (
        tmp_path / "log",
        steps.numbers({"count": 8, "log": str(tmp_path / "log"), "pause": 0.3}),
    )
    run = subprocess.Popen(
        [sys.executable, "-c", MAKE, str(tmp_path / "store"), json.dumps([recipe.to_json()])],
        cwd=ROOT,
    )
    while not log.exists() or len(log.read_text().split()) < 5:
        assert run.poll() is None
        time.sleep(0.02)
    run.kill()
    run.wait()
    store = Store(tmp_path / "store", 2)
    schedule.make(store, [recipe])
    assert store.found(recipe).manifest["made"]["resumed_from"] >= 1
    assert [file.read_text() for file in store.found(recipe).files] == [
        str(i * i) for i in range(8)
    ]
