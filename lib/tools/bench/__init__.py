"""Benches, each a ratio measured in one run; here what no code can beat on this machine."""

import time

import torch

from lib.core import compute


def multiplied(cores: int, kind: torch.dtype = torch.float32, side: int = 512,
               tries: int = 30) -> float:
    """Operations a second if these cores only multiplied, as fast as one multiplies now."""
    square, best = torch.randn(side, side, dtype=kind), float("inf")
    with compute.one_thread():
        for _ in range(tries):
            began = time.perf_counter()
            square @ square
            best = min(best, time.perf_counter() - began)
    return cores * 2 * side**3 / best
