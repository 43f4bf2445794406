"""Worker processes for work that is plain numpy: they import no more than they are given to do."""

from __future__ import annotations

import atexit
import concurrent.futures
import functools
import multiprocessing
import os
import signal
import threading


@functools.cache
def processes(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    """Workers that stay for as long as this process; spawned, since forked ones can hang where torch runs threads."""
    pool = concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_serve)
    atexit.register(pool.shutdown, cancel_futures=True)
    return pool


def _serve() -> None:
    """A worker leaves Ctrl-C to its parent and ends with it, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent) -> None:
    parent.join()
    os._exit(1)
