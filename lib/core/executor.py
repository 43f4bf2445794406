"""Make many artifacts side by side: each file is a task, which knows a recipe and the file's name and leaves it in the store.

The tasks run in any `concurrent.futures.Executor`; this process keeps the locks, the journals and the manifests.
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
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait

from lib.core import cluster, compute, progress, workers
from lib.core.store import ArtifactBuild, ArtifactSpec, Store, StoreError, WorkerStore, canonical, find, locked, part

TRIES = 3  # workers that may die over one file
LOOK = 1.0  # seconds between two looks at a folder that another run has locked
LATE = 60  # seconds in which a shared file system shows other machines what was written
ALONE = threading.RLock()  # torch's threads and its random state are the process's: a worker makes one file at a time


def make(store: Store, recipes: Iterable[ArtifactSpec]) -> None:
    """All of these artifacts; the first failure is raised when everything that does not hang on it is made."""
    for error in attempt(store, recipes).values():
        raise error


def attempt(store: Store, recipes: Iterable[ArtifactSpec]) -> dict[str, Exception]:
    """Make what can be made; why not, by the key of each recipe that could not."""
    missing = absent(store, recipes)
    with contextlib.ExitStack() as kept:
        run = Run(store, missing, kept)
        try:
            run.to_the_end()
        except BaseException:  # Ctrl-C above all: what still runs would outlive what waits for it
            run.stop()
            raise
    return run.failed


def absent(store: Store, recipes: Iterable[ArtifactSpec]) -> dict[str, ArtifactSpec]:
    """What is not whole, by key, upstream first."""
    found: dict[str, ArtifactSpec] = {}
    for recipe in recipes:
        if recipe.key not in found and not store.found(recipe):
            found |= absent(store, recipe.inputs.values()) | {recipe.key: recipe}
    return found


class Run:
    """Recipes that wait for their upstream or for another run; files to make; tasks that run; what failed."""

    def __init__(self, store: Store, missing: dict[str, ArtifactSpec], kept: contextlib.ExitStack):
        self.store, self.kept = store, kept
        self.engine = "local" if workers.here() else store.engine  # a worker starts none of its own
        self.count = 1 if workers.here() else store.workers or compute.rooms()
        self.waiting, self.orders, self.failed = dict(missing), {}, {}
        self.files: deque[tuple[ArtifactBuild, str]] = deque()
        self.tasks: dict[Future, tuple[ArtifactBuild, str]] = {}
        self.deaths: Counter[tuple[str, str]] = Counter()  # of workers, by what they were at
        self.bar = kept.enter_context(progress.track(label(missing.values()), 0, quiet=not missing))

    def to_the_end(self) -> None:
        """Begin what can begin, hand out files, settle what is done, until nothing is left."""
        while self.waiting or self.files or self.tasks:
            for recipe in self.ready():
                self.begin(recipe)
            while self.files and len(self.tasks) < self.room():
                self.hand_out(*self.files.popleft())
            for done in self.done():
                self.settle(done)

    def ready(self) -> list[ArtifactSpec]:
        """Waiting recipes whose upstream is there or failed; those on which others wait come first."""
        wanted = {upstream.key for recipe in self.waiting.values() for upstream in recipe.inputs.values()}
        free = [recipe for recipe in self.waiting.values()
                if not any(u.key in self.waiting or u.key in self.orders for u in recipe.inputs.values())]
        return sorted(free, key=lambda recipe: recipe.key not in wanted)

    def begin(self, recipe: ArtifactSpec) -> None:
        """Lock the folder and queue its missing files; a folder that another run holds is looked at again later."""
        lost = next((self.failed[u.key] for u in recipe.inputs.values() if u.key in self.failed), None)
        if lost is None and not self.locked(recipe):
            return
        del self.waiting[recipe.key]
        if lost is not None:
            self.failed[recipe.key] = lost
        elif not self.store.found(recipe):  # else another run has made it by now
            order = self.orders[recipe.key] = ArtifactBuild(self.store, recipe)
            self.bar.total += len(order.missing)
            self.files.extend((order, name) for name in order.missing)
            self.close_if_whole(order)

    def locked(self, recipe: ArtifactSpec) -> bool:
        """Whether the folder is this run's now, until its end."""
        with contextlib.ExitStack() as looked:
            ours = looked.enter_context(locked(self.store.folder(recipe), wait=False))
            self.kept.enter_context(looked.pop_all() if ours else contextlib.nullcontext())
        return ours

    def room(self) -> int:
        """How many tasks to have out: enough to keep all workers busy, no more, so that a failure stops what is not begun."""
        return 2 * (self.count if self.engine == "local" else cluster.rooms(self.engine, self.count))

    def hand_out(self, order: ArtifactBuild, name: str) -> None:
        """One file as a task."""
        recipe, late = order.recipe, LATE if self.engine != "local" else 0
        given = str(self.store.root), canonical(recipe.to_json()), recipe.key, name, late
        self.tasks[executor(self.engine, self.count).submit(task, *given)] = order, name

    def settle(self, done: Future) -> None:
        """Take one result, or note the failure, or queue it again where its worker died."""
        order, name = self.tasks.pop(done)
        error = failure(done)
        if (died := deaths(error)) is not None:
            self.again(order, name, died)
        elif error is not None:
            self.failed.setdefault(order.recipe.key, error)
            self.orders.pop(order.recipe.key, None)
            self.files = deque(pair for pair in self.files if pair[0] is not order)
        else:
            order.took(name, done.result())  # also beside a file that failed: next time it need not be made again
            self.bar.add(1)
            self.close_if_whole(order)

    def done(self) -> list[Future]:
        """Tasks at an end; waits for one, but not for long, since another run may have freed a folder meanwhile."""
        if not self.tasks:
            time.sleep(LOOK if self.waiting else 0)
        found = wait(self.tasks, LOOK, FIRST_COMPLETED).done
        if any(isinstance(failure(task), BrokenExecutor) for task in found):
            wait(self.tasks)  # a pool that lost a worker ends them all; the next task starts a new one
            workers.processes.cache_clear()
            return list(self.tasks)
        return list(found)

    def again(self, order: ArtifactBuild, name: str, died: int) -> None:
        """Queue a file whose worker died, but not for ever, or whose scheduler went away."""
        self.deaths[order.recipe.key, name] += died
        if self.deaths[order.recipe.key, name] > TRIES:
            raise StoreError(f"{self.deaths[order.recipe.key, name]} workers died over {order.recipe.kind}, perhaps for want of "
                             f"memory: set study.workers: 1.\n{order.folder / name}")
        progress.say(f"a worker or its scheduler is gone; making {order.folder.name}/{name} again")
        self.files.appendleft((order, name))

    def close_if_whole(self, order: ArtifactBuild) -> None:
        """The manifest, once no file is missing."""
        if len(order.files) == len(order.parts):
            order.close()
            del self.orders[order.recipe.key]

    def stop(self) -> None:
        """End what runs: what is finished stays, the rest is made next time."""
        if self.engine != "local":
            cluster.close(self.engine, self.count)
            return
        for child in multiprocessing.active_children():
            child.terminate()
        workers.processes.cache_clear()


class Here(Executor):
    """The executor of a single process: a task is done when it is submitted."""

    def submit(self, function: Callable, /, *args) -> Future:
        done = Future()
        try:
            done.set_result(function(*args))
        except Exception as error:  # noqa: BLE001, whatever it is, it is the task's result, as in every executor
            done.set_exception(error)
        return done


def executor(engine: str, count: int) -> Executor:
    """Where tasks run: here, in so many processes, or on a cluster."""
    if engine != "local":
        return cluster.executor(engine, count)
    gpus = compute.dealt(compute.gpus(), count)
    return Here() if count == 1 else workers.processes(count, gpus) if gpus else workers.processes(count)


def failure(done: Future) -> BaseException | None:
    """Why a task came to nothing, a scheduler that forgot it included."""
    return CancelledError() if done.cancelled() else done.exception()


def deaths(error: BaseException | None) -> int | None:
    """How many workers a task lost: none where its scheduler forgot it; not a number where it ended by itself."""
    if type(error).__name__ == "KilledWorker":  # Dask's, which is not imported here: it gave up handing it out
        return error.allowed_failures + 1
    return 0 if isinstance(error, CancelledError) else 1 if isinstance(error, BrokenExecutor) else None


def task(root: str, tree: str, key: str, name: str, late: float) -> dict:
    """Make one file of a recipe; what it is and what it cost."""
    with ALONE:
        folder, parts = opened(root, tree, key, late)
        return part(folder / name, parts[name])


@functools.lru_cache(maxsize=1)
def opened(root: str, tree: str, key: str, late: float) -> tuple:
    """Folder and parts of a recipe; kept, so that a worker loads a generator once for all shards it makes."""
    store, recipe = WorkerStore(root, late), ArtifactSpec.from_json(json.loads(tree))
    if workers.here():
        workers.keep_memory()  # Dask's worker, too, which did not begin as ours do
    if recipe.key != key:
        raise StoreError(f"this worker's checkout has another version of {recipe.kind} or of what it is made from: bring all "
                         f"machines to the same commit.\n{store.folder(recipe)}")
    return store.folder(recipe), find(recipe).writers(store, recipe)


def label(recipes: Iterable[ArtifactSpec]) -> str:
    """`prompted-images, class-conditional-model`: what is being made."""
    return ", ".join(dict.fromkeys(recipe.kind for recipe in recipes))
