"""Clusters: the same sets as on one machine, seed by seed; what workers and schedulers do wrong; no
import unless asked for.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from lib import world
from lib.classifier import comparison
from lib.core import cluster, workers
from lib.core import config as settings
from lib.core import executor as schedule
from lib.core.paths import ROOT
from lib.core.store import Store, StoreError
from lib.data import imageset as images
from lib.data import real as real_data
from lib.diffusion import embeddings, sets
from tests import steps
from tests.diffusion import tiny
from tests.test_readme import COMMANDS

DATA = {"classes": list(world.CLASSES), "resolution": 12, "flip": True}
TRAINING = SimpleNamespace(
    arms=["real", "real+sd"],
    base_width=8,
    batch_size=16,
    lr=0.05,
    label_smoothing=0.1,
    architecture="resnet8",
)
MAKE = """
import json, sys
from lib.core import executor as schedule
from lib.core.store import ArtifactSpec, Store
if __name__ == "__main__":
    specs = [ArtifactSpec.from_json(tree) for tree in json.loads(sys.argv[3])]
    schedule.make(Store(sys.argv[1], 2, sys.argv[2]), specs)
"""


@pytest.fixture(scope="module")
def dask():
    """The engine of two processes; it starts with the first task."""
    yield "dask"
    cluster.close("dask", 2)


def tiny_study(folder, store):
    """Recipes of everything heavy, in the smallest sizes: embeddings, two synthetic sets, two arms
    with two seeds each.
    """
    smoke, model = settings.load("smoke"), {"model": str(folder / "model")}
    tiny.of_text().save(folder / "model")
    real = real_data.real_images(
        {
            "source": "world",
            "root": "",
            "resolution": 12,
            "shard": 30,
            "fingerprint": "",
            "split": "train",
            "count": 60,
        }
    )
    inversion = smoke.inversion.model_copy(update=model | {
        "num_embedded": 6, "shard_size": 3, "num_images": 9, "batch_size": 1, "eval_images": 2})
    generation = smoke.generation.model_copy(
        update=model | {"num_images": 20, "batch_size": 2, "prompt_template": "{class}"}
    )
    study = smoke.study.model_copy(update={"device": "cpu", "seeds": 3})
    labels = images.load(store.make(real)).labels
    made = {"real": real, "sd": sets.prompted_spec(generation, study, DATA),
            **embeddings.specs(inversion, study, DATA, real, labels)}
    arms = comparison.specs_of(TRAINING, study, 3, True, {"real": real, "sd": made["sd"]})
    return made | {f"{arm} {i}": one for arm, seeds in arms.items() for i, one in enumerate(seeds)}


def test_any_engine_gives_the_same_sets_seed_by_seed(tmp_path, dask):
    here = Store(tmp_path / "here")
    recipes = tiny_study(tmp_path, here)
    schedule.make(here, recipes.values())
    there = Store(tmp_path / "there", 2, dask)
    (there.root / "probe").mkdir(parents=True)
    # of one machine: which way is fastest is timed once
    for found in (here.root / "probe").glob("*.json"):
        (there.root / "probe" / found.name).write_text(found.read_text())
    schedule.make(there, reversed(recipes.values()))
    for name in ("real", "sd", "di"):
        one, other = ({seed: i for i, seed in enumerate(s.seeds)} | {"set": s} for s in
                      (images.load(store.make(recipes[name])) for store in (here, there)))
        assert set(one) == set(other) and len(one) > 9
        for seed in set(one) - {"set"}:
            assert np.array_equal(one["set"].images[one[seed]], other["set"].images[other[seed]]), (
                f"{name}, seed {seed}"
            )
    for name, recipe in recipes.items():  # embeddings, weights and all else, to the byte
        assert here.make(recipe).manifest["files"] == there.make(recipe).manifest["files"], name


def test_a_worker_killed_in_mid_shard_is_said_in_the_manifest(tmp_path, dask):
    log, store = tmp_path / "log", Store(tmp_path / "store", 2, dask)
    recipe = steps.numbers(
        {"count": 5, "log": str(log), "pause": 1.0, "pids": str(tmp_path / "pid")}
    )

    def kill():
        while not (tmp_path / "pid").exists():
            time.sleep(0.02)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    thread = threading.Thread(target=kill)
    thread.start()
    schedule.make(store, [recipe])
    thread.join()
    made = store.found(recipe)
    assert [file.read_text() for file in made.files] == [str(i * i) for i in range(5)]
    # the one that was begun, and no other
    assert sum(made.manifest["made"]["retried"].values()) == 1
    assert len(log.read_text().split()) == 6 and not list(made.folder.glob(".*.tmp"))


def test_a_failure_over_there_is_the_step_s_own(tmp_path, dask):
    store, broken = Store(tmp_path / "store", 2, dask), steps.broken({})
    assert isinstance(schedule.attempt(store, [broken])[broken.key], ZeroDivisionError)
    assert store.state(broken) == "unfinished: 1 files made"


# --- a scheduler of its own
# -----------------------------------------------------------------------------------------

def free_port():
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


def started(command, address, log, *more):
    """A command of the README at another address, in a group of its own so that all of it can be
    ended.
    """
    words = [
        sys.executable,
        "-m",
        *command.removeprefix(".venv/bin/").removesuffix("&").split(),
        *more,
    ]
    words = [
        word.replace("tcp://127.0.0.1:8786", address).replace("8786", address.rpartition(":")[2])
        for word in words
    ]
    return subprocess.Popen(
        words, cwd=ROOT, start_new_session=True, stdout=log.open("w"), stderr=subprocess.STDOUT
    )


def ended(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.soak
def test_a_scheduler_that_goes_away_and_comes_back_costs_what_was_begun(tmp_path):
    address, log = f"tcp://127.0.0.1:{free_port()}", tmp_path / "log"
    commands = [command for command in COMMANDS if command.startswith(".venv/bin/dask ")]
    scheduler = lambda name: started(commands[0], address, tmp_path / name)  # noqa: E731
    folder = ("--local-directory", str(tmp_path))
    worker = lambda name: started(commands[1], address, tmp_path / name, *folder)  # noqa: E731
    recipe = steps.numbers({"count": 6, "log": str(log), "pause": 0.5})
    running = [scheduler("s1"), worker("w1")]
    while "Scheduler at" not in (tmp_path / "s1").read_text():
        time.sleep(0.1)
    run = subprocess.Popen(
        [
            sys.executable,
            "-c",
            MAKE,
            str(tmp_path / "store"),
            address,
            json.dumps([recipe.to_json()]),
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not log.exists() or len(log.read_text().split()) < 2:
            assert run.poll() is None, run.stderr.read()
            time.sleep(0.02)
        for process in running:
            ended(process)
        running = [scheduler("s2"), worker("w2")]
        said = run.communicate(timeout=300)[1]
    finally:
        run.kill()
        for process in running:
            ended(process)
    store = Store(tmp_path / "store")
    assert run.returncode == 0 and "a worker or its scheduler is gone" in said, said
    assert [file.read_text() for file in store.found(recipe).files] == [
        str(i * i) for i in range(6)
    ]
    assert store.found(recipe).manifest["made"]["retried"]


def test_no_scheduler_there_is_said_with_its_address(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER", 1)
    address = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(
        cluster.ClusterError,
        match=f"no Dask scheduler answers at {address}.*\nstudy.engine in params/",
    ):
        schedule.make(Store(tmp_path, 2, address), [steps.numbers({"count": 1})])


# --- what a task may take for granted
# -------------------------------------------------------------------------------

def test_a_task_waits_for_what_its_file_system_shows_late_and_not_for_ever(tmp_path):
    """As on a network file system: the manifest that one machine wrote appears to others seconds
    later.
    """
    store, one = Store(tmp_path), steps.numbers({"count": 2})
    recipe = steps.total({"scale": 2}, source=one)
    late = store.make(one).path("manifest.json")
    late.rename(tmp_path / "aside")
    store.folder(recipe).mkdir(parents=True)
    given = str(store.root), json.dumps(recipe.to_json()), recipe.key, "total.txt"
    with pytest.raises(StoreError, match="does not see the store that the run writes"):
        schedule.make_task(*given, 0.3)
    schedule.open_build.cache_clear()
    with subprocess.Popen(["sh", "-c", f"sleep 1; mv {tmp_path / 'aside'} {late}"]):
        assert schedule.make_task(*given, 30)["file"]["bytes"] == 1  # "2"


def test_other_code_over_there_writes_nothing(tmp_path):
    recipe = steps.numbers({"count": 1})
    with pytest.raises(StoreError, match="another version of numbers"):
        schedule.make_task(str(tmp_path), json.dumps(recipe.to_json()), "0" * 20, "0.txt", 0)
    assert not list(tmp_path.rglob("*.txt"))


def test_what_a_task_needs_and_lost_meanwhile_ends_the_run_and_the_next_run_mends_it(tmp_path):
    """It once waited for ever: for the lock that the run itself holds."""
    store, one = Store(tmp_path / "store"), steps.numbers({"count": 2})
    spoilt = steps.spoils({"path": str(store.folder(one) / "1.txt")}, source=one)
    recipes = [spoilt, steps.total({"scale": 3}, source=one, after=spoilt)]
    failed = schedule.attempt(store, recipes)
    assert set(failed) == {recipes[1].key} and "altered: 1.txt" in str(failed[recipes[1].key])
    schedule.make(store, recipes)
    assert store.found(recipes[1]).files[0].read_text() == "3" and store.found(one).manifest[
        "made"
    ]["remade"] == ["1.txt"]


def test_each_process_sees_its_own_gpu():
    from lib.core import compute

    assert compute.assign_gpus(["2", "5"], 4) == ("2", "5", "2", "5")
    assert compute.assign_gpus(["0"], 4) == compute.assign_gpus([], 4) == ()
    pool = workers.processes(2, ("2", "5"))
    seen = set(pool.map(steps.sees, ["CUDA_VISIBLE_DEVICES"] * 2, [1.0] * 2))
    pool.shutdown()
    workers.processes.cache_clear()
    assert seen == {"2", "5"}


# --- an extra
# ------------------------------------------------------------------------------------------------

def test_no_run_on_this_machine_imports_dask(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nfrom lib.core import executor as schedule, notebook, run\n"
        "from lib.diffusion import sets\n"
        "from lib.core.store import Store\nfrom tests import steps\n"
        f"schedule.make(Store({str(tmp_path)!r}), [steps.numbers({{'count': 1}})])\n"
        "print({'dask', 'distributed'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, script], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stdout == "set()\n", done.stderr


def test_a_missing_dask_is_said_with_the_command_that_brings_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)  # as where it is not installed
    with pytest.raises(cluster.ClusterError, match="make env EXTRAS=dask"):
        schedule.make(Store(tmp_path, 1, "tcp://127.0.0.1:1"), [steps.numbers({"count": 1})])


def test_nobody_else_can_hand_tasks_to_processes_of_this_machine(dask):
    address = cluster.connected("dask", 2).cluster.scheduler_address
    listening = {c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN"
                 and c.laddr.port == int(address.rpartition(":")[2])}
    assert address.startswith("tls://127.0.0.1:") and listening == {"127.0.0.1"}
