"""Make many artifacts side by side: each file is a task, which leaves it in the store.

The tasks run in any `concurrent.futures.Executor`; this process keeps locks and manifests.
"""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    wait,
)
from graphlib import TopologicalSorter

from lib.core import cluster, compute, progress, workers
from lib.core.store import (
    ArtifactBuild,
    ArtifactSpec,
    Store,
    StoreError,
    WorkerStore,
    canonical,
    find,
    locked,
    make_file,
)

TRIES = 3  # workers that may die over one file
POLL = 1.0  # seconds between two attempts at a folder that another run has locked
PATIENCE = 60  # seconds in which a shared file system shows other machines what was written
# torch's threads and random state are the process's: a worker makes one file at a time
ONE_AT_A_TIME = threading.RLock()


def make(store: Store, specs: Iterable[ArtifactSpec]) -> None:
    """All of these; a failure is raised when everything that does not depend on it is made."""
    for error in attempt(store, specs).values():
        raise error


def attempt(store: Store, specs: Iterable[ArtifactSpec]) -> dict[str, Exception]:
    """Make what can be made; the error of each spec that could not, by its key."""
    workers.check_started()
    with contextlib.ExitStack() as locks:
        run = Run(store, absent(store, specs), locks)
        try:
            run.run()
        except BaseException:  # Ctrl-C above all: what still runs would outlive what waits for it
            run.stop()
            raise
    return run.failed


def absent(store: Store, specs: Iterable[ArtifactSpec]) -> dict[str, ArtifactSpec]:
    """What is not whole, by key, inputs first."""
    missing: dict[str, ArtifactSpec] = {}
    whole: set[str] = set()

    def visit(spec: ArtifactSpec) -> None:
        if spec.key in missing or spec.key in whole:
            return
        if store.found(spec):
            whole.add(spec.key)
            return
        for source in spec.inputs.values():
            visit(source)
        missing[spec.key] = spec

    for spec in specs:
        visit(spec)
    return missing


class Run:
    """Specs whose inputs are whole, files to make, tasks that run, and what failed."""

    def __init__(self, store: Store, missing: dict[str, ArtifactSpec], locks: contextlib.ExitStack):
        self.store, self.missing, self.locks = store, missing, locks
        self.engine = "local" if workers.here() else store.engine  # a worker starts none of its own
        self.count = 1 if workers.here() else store.workers or compute.capacity()
        inputs = {
            key: [source.key for source in spec.inputs.values() if source.key in missing]
            for key, spec in missing.items()
        }
        self.needed = {key for keys in inputs.values() for key in keys}
        self.graph = TopologicalSorter(inputs)
        self.graph.prepare()
        self.ready: list[ArtifactSpec] = []
        self.builds: dict[str, ArtifactBuild] = {}
        self.files: deque[tuple[ArtifactBuild, str]] = deque()
        self.tasks: dict[Future, tuple[ArtifactBuild, str]] = {}
        self.deaths: Counter[tuple[str, str]] = (
            Counter()
        )  # of workers, by the file they were making
        self.failed: dict[str, BaseException] = {}
        kinds = ", ".join(dict.fromkeys(spec.kind for spec in missing.values()))
        self.bar = locks.enter_context(progress.track(kinds, 0, quiet=not missing))

    def run(self) -> None:
        """Begin what can begin, submit files, settle finished tasks, until nothing is left."""
        while self.graph.is_active() or self.tasks:
            self.ready += [self.missing[key] for key in self.graph.get_ready()]
            self.ready.sort(
                key=lambda spec: spec.key not in self.needed
            )  # first what others wait for
            self.ready = [spec for spec in self.ready if not self.begin(spec)]
            while self.files and len(self.tasks) < self.capacity():
                self.submit(*self.files.popleft())
            for task in self.finished():
                self.settle(task)

    def begin(self, spec: ArtifactSpec) -> bool:
        """Lock the folder and queue its missing files; False where another run holds it."""
        error = next(
            (
                self.failed[source.key]
                for source in spec.inputs.values()
                if source.key in self.failed
            ),
            None,
        )
        if error is not None:
            self.failed[spec.key] = error
            self.graph.done(spec.key)
            return True
        with contextlib.ExitStack() as lock:
            if not lock.enter_context(locked(self.store.folder(spec), wait=False)):
                return False
            self.locks.enter_context(lock.pop_all())
        if self.store.found(spec):  # another run has made it by now
            self.graph.done(spec.key)
            return True
        build = self.builds[spec.key] = ArtifactBuild(self.store, spec)
        self.bar.total += len(build.missing)
        self.bar.add(0)  # something is seen before the first file is there
        self.files.extend((build, name) for name in build.missing)
        self.close_if_whole(build)
        return True

    def capacity(self) -> int:
        """Tasks to have out: enough to keep all workers busy, so that a failure stops the rest."""
        return 2 * (
            self.count if self.engine == "local" else cluster.capacity(self.engine, self.count)
        )

    def submit(self, build: ArtifactBuild, name: str) -> None:
        """One file as a task."""
        patience = PATIENCE if self.engine != "local" else 0
        arguments = (
            str(self.store.root),
            canonical(build.spec.to_json()),
            build.spec.key,
            name,
            patience,
        )
        self.tasks[executor(self.engine, self.count).submit(make_task, *arguments)] = build, name

    def finished(self) -> list[Future]:
        """Tasks at an end; waits for one, but not for long: another run may free a folder."""
        if not self.tasks:
            time.sleep(POLL if self.ready and not self.files else 0)
        done = wait(self.tasks, POLL, FIRST_COMPLETED).done
        if any(isinstance(task_error(task), BrokenExecutor) for task in done):
            wait(
                self.tasks
            )  # a pool that lost a worker ends them all; the next task starts a new one
            workers.processes.cache_clear()
            return list(self.tasks)
        return list(done)

    def settle(self, task: Future) -> None:
        """Record a file, or a failure, or queue the file again where its worker died."""
        build, name = self.tasks.pop(task)
        error = task_error(task)
        died = count_deaths(error)
        if died is not None:
            self.retry(build, name, died)
        elif error is not None:
            self.fail(build, error)
        else:
            build.add(
                name, task.result()
            )  # also beside a file that failed: next time it need not be made again
            self.bar.add(1)
            self.close_if_whole(build)

    def fail(self, build: ArtifactBuild, error: BaseException) -> None:
        """Give up an artifact; its files that are not begun are dropped."""
        self.failed.setdefault(build.spec.key, error)
        self.files = deque(pair for pair in self.files if pair[0] is not build)
        if self.builds.pop(build.spec.key, None):
            self.graph.done(build.spec.key)

    def retry(self, build: ArtifactBuild, name: str, died: int) -> None:
        """Queue a file whose worker died, but not for ever, or whose scheduler went away."""
        self.deaths[build.spec.key, name] += died
        deaths = self.deaths[build.spec.key, name]
        if deaths > TRIES:
            raise StoreError(
                f"{deaths} workers died over {build.spec.kind}, perhaps for want of memory: "
                f"set study.workers: 1.\n{build.folder / name}"
            )
        progress.say(f"a worker or its scheduler is gone; making {build.folder.name}/{name} again")
        self.files.appendleft((build, name))

    def close_if_whole(self, build: ArtifactBuild) -> None:
        """The manifest, once no file is missing."""
        if len(build.files) == len(build.writers) and self.builds.pop(build.spec.key, None):
            build.close()
            self.graph.done(build.spec.key)

    def stop(self) -> None:
        """End what runs: what is finished stays, the rest is made next time."""
        if self.engine != "local":
            cluster.close(self.engine, self.count)
            return
        for child in multiprocessing.active_children():
            child.terminate()
        workers.processes.cache_clear()


class InProcess(Executor):
    """The executor of a single process: a task is done when it is submitted."""

    def submit(self, function: Callable, /, *args) -> Future:
        task = Future()
        try:
            task.set_result(function(*args))
        except Exception as error:  # noqa: BLE001, it is the task's result
            task.set_exception(error)
        return task


def executor(engine: str, count: int) -> Executor:
    """Where tasks run: here, in so many processes, or on a cluster."""
    if engine != "local":
        return cluster.executor(engine, count)
    if count == 1:
        return InProcess()
    gpus = compute.assign_gpus(compute.gpus(), count)
    return workers.processes(count, gpus) if gpus else workers.processes(count)


def task_error(task: Future) -> BaseException | None:
    """Why a task failed; also where its scheduler forgot it."""
    return CancelledError() if task.cancelled() else task.exception()


def count_deaths(error: BaseException | None) -> int | None:
    """Workers that a task lost: 0 where its scheduler forgot it; None where the task ended."""
    if (
        type(error).__name__ == "KilledWorker"
    ):  # Dask's, which is not imported here: it gave up submitting the task
        return error.allowed_failures + 1
    return (
        0 if isinstance(error, CancelledError) else 1 if isinstance(error, BrokenExecutor) else None
    )


def make_task(root: str, tree: str, key: str, name: str, patience: float) -> dict:
    """Make one file of a spec; what it is and what it cost."""
    with ONE_AT_A_TIME:
        folder, writers = open_build(root, tree, key, patience)
        return make_file(folder / name, writers[name])


@functools.lru_cache(maxsize=1)
def open_build(root: str, tree: str, key: str, patience: float) -> tuple:
    """Folder and writers of a spec; kept, so that a worker loads a generator once."""
    store, spec = WorkerStore(root, patience), ArtifactSpec.from_json(json.loads(tree))
    if workers.here():
        workers.keep_memory()  # Dask's worker, too, which did not begin as ours do
    if spec.key != key:
        raise StoreError(
            f"this worker's checkout has another version of {spec.kind} or of its inputs: bring "
            f"all machines to the same commit.\n{store.folder(spec)}"
        )
    return store.folder(spec), find(spec).writers(store, spec)
