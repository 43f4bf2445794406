"""Worker processes: each computes with one thread and ends with its parent."""

from __future__ import annotations

import ast
import atexit
import concurrent.futures
import ctypes
import functools
import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path

MAIN_GUARD = """Worker processes import the script that starts them, so its work must stand below
    if __name__ == "__main__":
or every worker would begin the study anew. Indent it below that line, or set study.workers: 1."""


class WorkerError(RuntimeError):
    """Worker processes cannot be started; the message says what to change."""


@functools.cache
def processes(workers: int, gpus: tuple[str, ...] = ()) -> concurrent.futures.ProcessPoolExecutor:
    """Workers that stay as long as this process, each with a GPU where some are named.

    They are spawned, since forked ones can hang where torch runs threads.
    """
    check_main_guard()
    context = multiprocessing.get_context("spawn")
    own = context.SimpleQueue()
    for gpu in gpus:
        own.put(gpu)
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, context, initializer=_serve, initargs=(own if gpus else None,)
    )
    atexit.register(pool.shutdown, cancel_futures=True)
    return pool


def here() -> bool:
    """Whether this is a worker, which starts none of its own."""
    return multiprocessing.parent_process() is not None


def check_main_guard() -> None:
    """Refuse to start processes from a script that would run again in each of them."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    if not script or not script.endswith(".py") or not Path(script).is_file():
        return
    tree = ast.parse(Path(script).read_text(encoding="utf-8"))
    if not any(
        isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in tree.body
    ):
        raise WorkerError(f"{MAIN_GUARD}\n{script}")


def check_started() -> None:
    """Refuse to work while this process imports its parent's script: both would wait for ever."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise WorkerError(MAIN_GUARD)


def cores() -> int:
    """Processes that plain work may take here: one a core, in a worker one."""
    return 1 if here() else os.cpu_count() or 1


def _serve(gpus: multiprocessing.SimpleQueue | None) -> None:
    """A worker leaves Ctrl-C to its parent and ends with it, however that ends."""
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus.get()
    os.environ.update(
        dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    )  # before numpy comes
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_memory()
    threading.Thread(
        target=_end_with, args=(multiprocessing.parent_process(),), daemon=True
    ).start()


def keep_memory(most: int = 2**28) -> bool:
    """Whether the C library could be told to keep up to `most` freed bytes.

    Each training step takes the same megabytes again; empty pages for them cost a twentieth of it.
    """
    library, trim, own_mapping = ctypes.CDLL(None), -1, -3  # glibc: M_TRIM_THRESHOLD, M_MMAP_…
    return hasattr(library, "mallopt") and all(
        [library.mallopt(what, most) for what in (trim, own_mapping)]
    )


def _end_with(parent) -> None:
    parent.join()
    os._exit(1)
