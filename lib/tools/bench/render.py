"""World images a second at 64 px, 2 x 2 anti-aliasing: all processor cores against one process."""

import os
import time
from concurrent.futures import Executor

import numpy as np

from lib import world
from lib.core import workers

SCENES = 600


def run() -> dict:
    """Rounds in turn, so that a machine that slows down slows both; the best of each counts."""
    cores = os.cpu_count()
    pool = workers.processes(cores)
    world.render_many(range(cores * 8), pool=pool)  # start the processes
    rounds = [(timed(None), timed(pool)) for _ in range(3)]
    single = min((pair[0] for pair in rounds), key=lambda result: result[0])
    pooled = min((pair[1] for pair in rounds), key=lambda result: result[0])
    return {
        "unit": "images/s",
        "ours": round(SCENES / pooled[0], 1),
        "reference": round(SCENES / single[0], 1),
        "ratio": round(single[0] / pooled[0], 2),
        "equal": bool(np.array_equal(single[1], pooled[1])),
        "cores": cores,
    }


def timed(pool: Executor | None) -> tuple[float, np.ndarray]:
    """Seconds and images."""
    started = time.perf_counter()
    images, _ = world.render_many(range(SCENES), pool=pool)
    return time.perf_counter() - started, images
