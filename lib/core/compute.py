"""Where it runs: device, threads, seeds."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
from collections.abc import Iterator

import torch


class ComputeError(RuntimeError):
    """The machine does not have what the settings ask for."""


def device(name: str = "auto") -> torch.device:
    """The device of a setting; `auto` takes CUDA, then Apple's, then the processor."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(candidate for candidate in ("cuda", "mps", "cpu") if available[candidate])
    if not available[name]:
        raise ComputeError(
            f"device {name!r} is not on this machine; set `study.device: auto` in params/"
        )
    return torch.device(name)


def describe() -> str:
    """One line: device, its name, threads; the precision is the study's."""
    where = device()
    name = torch.cuda.get_device_name() if where.type == "cuda" else platform.machine()
    threads = torch.get_num_threads()
    return f"{where.type} ({name}), {threads} thread{'s' * (threads > 1)}"


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: sums come out alike on any number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def capacity() -> int:
    """How many processes the machine has room for: one per GPU, without GPUs one per core."""
    where = device()
    return (
        torch.cuda.device_count()
        if where.type == "cuda"
        else torch.get_num_threads()
        if where.type == "cpu"
        else 1
    )


def gpus() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    count = torch.cuda.device_count()
    return os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(str(i) for i in range(count))).split(
        ","
    )[:count]


def assign_gpus(names: list[str], processes: int) -> tuple[str, ...]:
    """One GPU a process, in turn, where there are several; else none is assigned."""
    return tuple(names[i % len(names)] for i in range(processes)) if len(names) > 1 else ()


def seed_of(*names: object) -> int:
    """A 63-bit seed from any names, the same on every machine: `seed_of(0, "train", 17)`."""
    text = "/".join(str(name) for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*names: object) -> torch.Generator:
    """A CPU generator of its own, so that draws depend on nothing but these names."""
    return torch.Generator().manual_seed(seed_of(*names))


def check() -> str:
    """Assert that the installed pair fits and works; the line that `make env` ends with."""
    import cv2
    import diffusers
    import torchvision

    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1]])
    if torchvision.ops.nms(boxes, torch.tensor([1.0, 0.5]), 0.5).tolist() != [0]:
        raise ComputeError(
            "torchvision's operators give wrong results; "
            "`rm -rf .venv && make env` installs the pair again"
        )
    return (
        f"environment ready: Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, diffusers {diffusers.__version__}, "
        f"OpenCV {cv2.__version__}; will use {describe()}"
    )


if __name__ == "__main__":
    print(check(), file=sys.stdout)
