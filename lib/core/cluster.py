"""Dask as the executor: processes of this machine, or whatever workers a running scheduler has.

Dask is an extra, so it is imported only where a profile asks for it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from concurrent.futures import Executor
from typing import Any

from lib.core import compute, progress, workers

ANSWER = 10  # seconds in which a scheduler answers
RETURN = 600  # seconds in which one that went away is waited for


class ClusterError(RuntimeError):
    """No cluster to work on; the message says how to start one."""


def executor(engine: str, count: int) -> Executor:
    """Dask's own executor; a client that lost its scheduler waits for it, but not for ever."""
    client = connected(engine, count)
    if client.status not in ("running", "connecting"):
        close(engine, count)
        raise ClusterError(
            f"the Dask scheduler {engine} went away and was not back in "
            f"{progress.clock(RETURN)}; start it and its workers again: the same command then goes "
            "on where it was.\nstudy.engine in params/"
        )
    return client.get_executor(
        pure=False
    )  # not pure: a file that is handed out again shall be made again


def capacity(engine: str, count: int) -> int:
    """How many tasks can run at once: workers of a cluster come and go."""
    return (
        count
        if engine == "dask"
        else max(1, _workers(engine, count, int(time.monotonic() / ANSWER)))
    )


@functools.lru_cache(maxsize=1)
def _workers(engine: str, count: int, _now: int) -> int:
    """Workers of the scheduler; asked once in ANSWER seconds."""
    client, available = connected(engine, count), 0
    with contextlib.suppress(OSError):  # the scheduler goes away just now
        available = len(client.nthreads()) if client.status == "running" else 0
    if not available:
        progress.say(
            f"no worker at {engine}; waiting for one "
            f"(`dask worker {engine} --nthreads 1` starts it)"
        )
    return available


@functools.lru_cache(maxsize=1)
def connected(engine: str, count: int) -> Any:
    """The client of `count` processes here, or of a scheduler; kept as long as this process."""
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise ClusterError(
            f"engine {engine!r} needs Dask, which is an extra: `make env EXTRAS=dask` installs it, "
            "`engine: local` does without.\nstudy.engine in params/"
        ) from error
    if engine == "dask":
        return Client(_cluster(count), set_as_default=False)
    try:
        Client(engine, timeout=ANSWER, set_as_default=False).close()  # is one there at all?
        return Client(engine, timeout=RETURN, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {engine}: {error}. Start one there (`dask scheduler`), "
            "or correct the address.\nstudy.engine in params/"
        ) from error


def close(engine: str, count: int) -> None:
    """End the connection, and the cluster where it is this process's own."""
    if connected.cache_info().currsize:
        client = connected(engine, count)
        connected.cache_clear()
        client.close()
        if client.cluster:
            client.cluster.close()


def _cluster(count: int) -> Any:
    """Processes of this machine, one thread each, and one GPU where there are several.

    Nobody else on the machine can talk to them: whoever talks to a Dask scheduler runs code.
    """
    from distributed import Nanny, Scheduler, Security, SpecCluster

    workers.check_main_guard()
    secret = Security.temporary()
    here = {"host": "127.0.0.1", "protocol": "tls://", "security": secret}
    worker = here | {"nthreads": 1, "memory_limit": 0, "silence_logs": logging.ERROR}
    gpus = compute.assign_gpus(compute.gpus(), count)
    environments = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}] * count
    nannies = {
        i: {"cls": Nanny, "options": worker | {"env": env}} for i, env in enumerate(environments)
    }
    scheduler = {
        "cls": Scheduler,
        "options": here | {"port": 0, "dashboard_address": "127.0.0.1:0", "dashboard": False},
    }
    return SpecCluster(nannies, scheduler, security=secret, silence_logs=logging.ERROR)
