"""One arithmetic for a whole study: float32 or bfloat16, decided once and written into every spec.

`study.precision: auto` takes bfloat16 where the hardware has it and it is clearly faster and as
exact as it can be. Otherwise float32, and on a processor without bfloat16 without timing anything:
there bfloat16 is emulated, several times slower. What was decided is kept in the store, so that
every worker and every later run computes alike; naming a precision reproduces another machine's.
"""

from __future__ import annotations

import copy
import hashlib
import json
import statistics
import time

import torch
from torch import nn

from lib.core import compute, progress
from lib.core.store import Store, canonical, locked, write_json

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ROUNDS = 5  # of both precisions in turn
SPEEDUP = 1.25  # of bfloat16 over float32, below which float32 is kept
TOLERANCE = 0.02  # relative difference between the two in output and gradient


class PrecisionError(ValueError):
    """A precision that no computation can use."""


def decide(store: Store, study, batch_size: int = 64) -> str:
    """The precision of a study: the setting, or what `auto` stands for on this machine."""
    if study.precision != "auto":
        return study.precision
    device = compute.device(study.device)
    if not supported(device):
        return "float32"
    facts = [compute.describe(), str(device), torch.__version__, batch_size]
    key = hashlib.sha256(canonical(facts).encode()).hexdigest()[:20]
    path = store.root / "precision" / f"{key}.json"
    with locked(path.parent):  # one process decides, all others read it
        decision = _read(path)
        if decision is None:
            decision = measure(device, batch_size)
            write_json(path, decision)
            progress.say(f"precision of this study: {decision['precision']}")
    return decision["precision"]


def resolved(store: Store, config):
    """The settings of a study with its precision decided, which then enters every spec."""
    study = config.study.model_copy(update={"precision": decide(store, config.study)})
    return config.model_copy(update={"study": study})


def autocast(device: torch.device | str, precision: str) -> torch.autocast:
    """Within it, networks with float32 weights compute in this precision."""
    if precision not in DTYPES:
        raise PrecisionError(
            f"precision {precision!r} is not decided: use float32 or bfloat16, or "
            "`precision.decide(store, config.study)` for auto"
        )
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16")


def supported(device: torch.device) -> bool:
    """Whether the hardware itself computes in bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(features.get("avx512_bf16") or features.get("amx_bf16") or features.get("bf16"))


def measure(device: torch.device, batch_size: int, rounds: int = ROUNDS) -> dict:
    """Seconds of a forward and backward pass in both precisions, in turn, and how far they agree."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, images = _network(), torch.randn(batch_size, 32, 16, 16)
    network, images = network.to(device), images.to(device)
    seconds, results = {name: [] for name in DTYPES}, {}
    try:
        for _ in range(rounds + 1):  # the first of each is a warm-up
            for name in DTYPES:
                began = time.perf_counter()
                results[name] = _pass(copy.deepcopy(network), images, name)
                seconds[name].append(time.perf_counter() - began)
    except RuntimeError as error:  # a kernel that is missing or out of memory
        return {"precision": "float32", "reason": " ".join(str(error).split())[:200]}
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    difference = _difference(*results.values())
    faster = medians["float32"] > SPEEDUP * medians["bfloat16"]
    chosen = "bfloat16" if faster and difference <= TOLERANCE else "float32"
    return {"precision": chosen, "seconds": medians, "difference": difference}


def _network() -> nn.Module:
    """Convolutions, normalisation and a nonlinearity, as in the study's networks."""
    layers = [
        layer
        for _ in range(4)
        for layer in (nn.Conv2d(32, 32, 3, padding=1), nn.GroupNorm(8, 32), nn.SiLU())
    ]
    return nn.Sequential(*layers)


def _pass(network: nn.Module, images: torch.Tensor, precision: str) -> torch.Tensor:
    """Output and gradient in one vector on the CPU; reading it waits for a GPU."""
    with autocast(images.device, precision):
        output = network(images)
    output.float().square().mean().backward()
    gradients = [weight.grad.float().flatten() for weight in network.parameters()]
    scaled = [vector / vector.norm().clamp_min(1e-12) for vector in (output.float().flatten(),)]
    return torch.cat([*scaled, *[g / g.norm().clamp_min(1e-12) for g in gradients]]).detach().cpu()


def _difference(expected: torch.Tensor, other: torch.Tensor) -> float:
    """Relative; infinite where a number is not finite."""
    value = float((other - expected).norm() / expected.norm())
    return value if value == value else float("inf")


def _read(path) -> dict | None:
    """An earlier decision; a damaged file is as good as none."""
    try:
        decision = json.loads(path.read_text(encoding="utf-8"))
        return decision if decision["precision"] in DTYPES else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
