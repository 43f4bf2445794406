"""Benches, each a ratio measured in one run. What no code can beat on the machine at hand is here."""

import time

import torch

from lib.core import compute


def multiplied(cores: int, kind: torch.dtype = torch.float32, side: int = 512, tries: int = 30) -> float:
    """Operations a second if these cores did nothing but multiply, as fast as one of them multiplies large matrices now."""
    square, best = torch.randn(side, side, dtype=kind), float("inf")
    with compute.one_thread():
        for _ in range(tries):
            began = time.perf_counter()
            square @ square
            best = min(best, time.perf_counter() - began)
    return cores * 2 * side**3 / best
