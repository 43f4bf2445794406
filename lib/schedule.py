"""Make many artefacts side by side: each file is a task, which knows a recipe and the file's name and leaves it in the store.

The tasks run in any `concurrent.futures.Executor`; this process keeps the locks, the journals and the manifests.
"""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait

from lib import compute, progress, workers
from lib.store import Order, Recipe, Store, StoreError, canonical, find, locked, part

TRIES = 3  # of a task whose worker dies
LOOK = 1.0  # seconds between two looks at a folder that another run has locked


def make(store: Store, recipes: Iterable[Recipe]) -> None:
    """All of these artefacts; the first failure is raised when everything that does not hang on it is made."""
    for error in attempt(store, recipes).values():
        raise error


def attempt(store: Store, recipes: Iterable[Recipe]) -> dict[str, Exception]:
    """Make what can be made; why not, by the key of each recipe that could not."""
    missing = absent(store, recipes)
    count = 1 if workers.here() else store.workers or compute.rooms()
    with contextlib.ExitStack() as kept:
        run = Run(store, missing, count, kept)
        try:
            run.to_the_end()
        except BaseException:  # Ctrl-C above all: what still runs would outlive what waits for it
            run.stop()
            raise
    return run.failed


def absent(store: Store, recipes: Iterable[Recipe]) -> dict[str, Recipe]:
    """What is not whole, by key, upstream first."""
    found: dict[str, Recipe] = {}
    for recipe in recipes:
        if recipe.key not in found and not store.found(recipe):
            found |= absent(store, recipe.upstream.values()) | {recipe.key: recipe}
    return found


class Run:
    """Recipes that wait for their upstream or for another run; files to make; tasks that run; what failed."""

    def __init__(self, store: Store, missing: dict[str, Recipe], count: int, kept: contextlib.ExitStack):
        self.store, self.count, self.kept = store, count, kept
        self.waiting, self.orders, self.failed = dict(missing), {}, {}
        self.files: deque[tuple[Order, str]] = deque()
        self.tasks: dict[Future, tuple[Order, str]] = {}
        self.bar = kept.enter_context(progress.track(label(missing.values()), 0, quiet=not missing))

    def to_the_end(self) -> None:
        """Begin what can begin, hand out files, settle what is done, until nothing is left."""
        while self.waiting or self.files or self.tasks:
            for recipe in self.ready():
                self.begin(recipe)
            while self.files and len(self.tasks) < 2 * self.count:  # no more: a failure shall stop what is not begun
                self.hand_out(*self.files.popleft())
            for done in self.done():
                self.settle(done)

    def ready(self) -> list[Recipe]:
        """Waiting recipes whose upstream is there or failed; those on which others wait come first."""
        wanted = {upstream.key for recipe in self.waiting.values() for upstream in recipe.upstream.values()}
        free = [recipe for recipe in self.waiting.values()
                if not any(u.key in self.waiting or u.key in self.orders for u in recipe.upstream.values())]
        return sorted(free, key=lambda recipe: recipe.key not in wanted)

    def begin(self, recipe: Recipe) -> None:
        """Lock the folder and queue its missing files; a folder that another run holds is looked at again later."""
        lost = next((self.failed[u.key] for u in recipe.upstream.values() if u.key in self.failed), None)
        if lost is None and not self.locked(recipe):
            return
        del self.waiting[recipe.key]
        if lost is not None:
            self.failed[recipe.key] = lost
        elif not self.store.found(recipe):  # else another run has made it by now
            order = self.orders[recipe.key] = Order(self.store, recipe)
            self.bar.total += len(order.missing)
            self.files.extend((order, name) for name in order.missing)
            self.close_if_whole(order)

    def locked(self, recipe: Recipe) -> bool:
        """Whether the folder is this run's now, until its end."""
        with contextlib.ExitStack() as looked:
            ours = looked.enter_context(locked(self.store.folder(recipe), wait=False))
            self.kept.enter_context(looked.pop_all() if ours else contextlib.nullcontext())
        return ours

    def hand_out(self, order: Order, name: str) -> None:
        """One file as a task."""
        tree = canonical(order.recipe.to_json())
        self.tasks[executor(self.count).submit(task, str(self.store.root), tree, name)] = order, name

    def settle(self, done: Future) -> None:
        """Take one result, or note the failure, or queue it again where its worker died."""
        order, name = self.tasks.pop(done)
        error = done.exception()
        if isinstance(error, BrokenExecutor):
            self.again(order, name)
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
        if any(isinstance(task.exception(), BrokenExecutor) for task in found):
            wait(self.tasks)  # a pool that lost a worker ends them all; the next task starts a new one
            workers.processes.cache_clear()
            return list(self.tasks)
        return list(found)

    def again(self, order: Order, name: str) -> None:
        """Queue a file whose worker died; not for ever."""
        order.retried += 1
        if order.retried > TRIES * len(order.parts):
            raise StoreError(f"workers died {order.retried} times over {order.recipe.step}, perhaps for want of memory: set "
                             f"study.workers: 1.\n{order.folder}")
        progress.say(f"a worker died; making {order.folder.name}/{name} again")
        self.files.appendleft((order, name))

    def close_if_whole(self, order: Order) -> None:
        """The manifest, once no file is missing."""
        if len(order.files) == len(order.parts):
            order.close()
            del self.orders[order.recipe.key]

    def stop(self) -> None:
        """End what runs: what is finished stays, the rest is made next time."""
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


def executor(count: int) -> Executor:
    """Where the tasks of so many processes run."""
    return workers.processes(count) if count > 1 else Here()


def task(root: str, tree: str, name: str) -> dict:
    """Make one file of a recipe; what it is and what it cost."""
    folder, parts = opened(root, tree)
    return part(folder / name, parts[name])


@functools.lru_cache(maxsize=1)
def opened(root: str, tree: str) -> tuple:
    """Folder and parts of a recipe; kept, so that a worker loads a generator once for all shards it makes."""
    store, recipe = Store(root), Recipe.from_json(json.loads(tree))
    return store.folder(recipe), find(recipe.step).parts(store, recipe)


def label(recipes: Iterable[Recipe]) -> str:
    """`sets.prompted, conditional.trained`: what is being made."""
    names = dict.fromkeys(".".join(recipe.step.split(".")[-2:]) for recipe in recipes)
    return ", ".join(names)
