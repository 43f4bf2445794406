"""One way to compute for a whole study: precision, memory layout and attention, decided once.

`study.precision: auto` times every way on this machine, a forward and a backward pass at the batch
size in use, and takes the fastest that agrees with float32. On a processor without bfloat16 nothing
is timed: float32. The decision is kept in the store, so that every worker and every later run
computes alike, and its name is part of every spec. Naming a way reproduces another machine's.
"""

from __future__ import annotations

import copy
import hashlib
import json
import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from lib.core import compute, progress
from lib.core.store import Store, canonical, locked, write_json

ROUNDS = 5  # of all ways in turn
SPEEDUP = 1.25  # over float32, below which float32 is kept
TOLERANCE = 0.02  # relative difference to float32 in output and gradient


class PrecisionError(ValueError):
    """A way that no computation can use."""


@dataclass(frozen=True)
class Way:
    """How networks compute; the layout is that of classifiers, generators have their device's."""

    dtype: torch.dtype
    channels_last: bool = True
    plain_attention: bool = False  # two matrix products and a softmax instead of the fused kernel


WAYS = {
    "float32": Way(torch.float32),
    "float32-plain": Way(torch.float32, plain_attention=True),
    "float32-first": Way(torch.float32, channels_last=False),
    "float32-first-plain": Way(torch.float32, False, True),
    "bfloat16": Way(torch.bfloat16),
    "bfloat16-plain": Way(torch.bfloat16, plain_attention=True),
    "bfloat16-first": Way(torch.bfloat16, channels_last=False),
    "bfloat16-first-plain": Way(torch.bfloat16, False, True),
}


def decide(store: Store, study, batch_size: int = 64) -> str:
    """The way of a study: the setting, or what `auto` stands for on this machine."""
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
    """The settings of a study with its way decided, which then enters every spec."""
    name = decide(store, config.study, config.training.batch_size)
    return config.model_copy(update={"study": config.study.model_copy(update={"precision": name})})


def way(name: str) -> Way:
    """By its name."""
    if name not in WAYS:
        raise PrecisionError(
            f"precision {name!r} is not decided: use {', '.join(WAYS)}, or "
            "`precision.decide(store, config.study)` for auto"
        )
    return WAYS[name]


def autocast(device: torch.device | str, name: str) -> torch.autocast:
    """Within it, networks with float32 weights compute in the precision of this way."""
    kind, enabled = torch.device(device).type, way(name).dtype == torch.bfloat16
    return torch.autocast(kind, torch.bfloat16, enabled=enabled)


def memory_format(name: str) -> torch.memory_format:
    """The layout of a classifier's weights."""
    return torch.channels_last if way(name).channels_last else torch.contiguous_format


def supported(device: torch.device) -> bool:
    """Whether the hardware itself computes in bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(features.get("avx512_bf16") or features.get("amx_bf16") or features.get("bf16"))


def measure(device: torch.device, batch_size: int, rounds: int = ROUNDS) -> dict:
    """Median seconds of a forward and backward pass in every way, in turn, and the way to take."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, images = Network().to(device), torch.randn(batch_size, 32, 16, 16).to(device)
    seconds, results, failed = {name: [] for name in WAYS}, {}, {}
    for _ in range(rounds + 1):  # the first of each is a warm-up
        for name in set(WAYS) - set(failed):
            try:
                began = time.perf_counter()
                results[name] = _pass(network, images, name)
                seconds[name].append(time.perf_counter() - began)
            except RuntimeError as error:  # a kernel that is missing or out of memory
                failed[name] = " ".join(str(error).split())[:200]
    medians = {name: statistics.median(seconds[name][1:]) for name in WAYS if name not in failed}
    differences = {name: _difference(results["float32"], results[name]) for name in medians}
    return {
        "precision": choose(medians, differences),
        "seconds": medians,
        "difference": differences,
        "failed": failed,
    }


def choose(seconds: dict[str, float], differences: dict[str, float]) -> str:
    """The fastest way that agrees with float32, where it is clearly faster than float32."""
    exact = [name for name in seconds if differences[name] <= TOLERANCE]
    fastest = min(exact, key=seconds.get, default="float32")
    return fastest if SPEEDUP * seconds[fastest] < seconds["float32"] else "float32"


class Network(nn.Module):
    """Convolutions, norms and attention, as in the study's networks."""

    def __init__(self, channels: int = 32):
        super().__init__()
        layers = []
        for _ in range(3):
            convolution = nn.Conv2d(channels, channels, 3, padding=1)
            layers += [convolution, nn.GroupNorm(8, channels), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.mix = nn.Conv2d(channels, 3 * channels, 1)

    def forward(self, x: torch.Tensor, plain: bool) -> torch.Tensor:
        x = self.body(x)
        queries, keys, values = self.mix(x).flatten(2).transpose(1, 2).chunk(3, dim=2)
        if not plain:
            return F.scaled_dot_product_attention(queries, keys, values)
        scores = queries @ keys.transpose(1, 2) / keys.shape[2] ** 0.5
        return scores.softmax(2).to(values.dtype) @ values


def _pass(network: Network, images: torch.Tensor, name: str) -> torch.Tensor:
    """Output and gradients in one vector on the CPU; reading it waits for a GPU."""
    network = copy.deepcopy(network).to(memory_format=memory_format(name))
    with autocast(images.device, name):
        output = network(images.to(memory_format=memory_format(name)), way(name).plain_attention)
    output.float().square().mean().backward()
    parts = [output, *[weight.grad for weight in network.parameters()]]
    flat = [part.detach().float().cpu().flatten() for part in parts]
    return torch.cat([part / part.norm().clamp_min(1e-12) for part in flat])


def _difference(expected: torch.Tensor, other: torch.Tensor) -> float:
    """Relative; infinite where a number is not finite."""
    value = float((other - expected).norm() / expected.norm())
    return value if value == value else float("inf")


def _read(path) -> dict | None:
    """An earlier decision; a damaged file is as good as none."""
    try:
        decision = json.loads(path.read_text(encoding="utf-8"))
        return decision if decision["precision"] in WAYS else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
