"""Which precision, memory layout and attention this machine runs, or trains, a generator fastest in: timed, never guessed.

On two cores with AMX bfloat16 with plain attention is several times faster than float32; without AMX it is slower.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import time
from dataclasses import asdict, dataclass

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from lib.core import compute, progress
from lib.core.store import Store, canonical, locked, write_json
from lib.diffusion.model import Generator, plain

ATTENTION = {"fused": AttnProcessor2_0, "plain": AttnProcessor}
LAYOUT = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}

LEARNED = 16  # images of a batch that times learning
CLEARLY = 1.5  # times as fast as an earlier way: less is decided by what else the machine does, and images would differ by it


@dataclass(frozen=True)
class Way:
    """One way to run the noise predictor."""

    dtype: str = "float32"
    layout: str = "channels first"
    attention: str = "fused"


def ways(*dtypes: str) -> list[Way]:
    """All combinations with these precisions."""
    return [Way(*each) for each in itertools.product(dtypes, LAYOUT, ATTENTION)]


def use(generator: Generator, way: Way, learning: bool = False) -> Generator:
    """The generator, run this way from now on; while it learns its weights stay float32, and `lowered` computes in less."""
    dtype = torch.float32 if learning else getattr(torch, way.dtype)
    # torch's own `to`: that of diffusers warns of layers that must stay float32 even where there are none
    torch.nn.Module.to(generator.unet, dtype, memory_format=LAYOUT[way.layout])
    generator.unet.set_attn_processor(ATTENTION[way.attention]())
    return generator


def lowered(device: torch.device, way: Way) -> torch.autocast:
    """Within it, what weights in float32 compute is computed in the way's precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=way.dtype == "bfloat16")


def images_per_second(generator: Generator, way: Way, learning: bool = False, batch: int = 32, repeats: int = 3) -> float:
    """Passes of the noise predictor, one an image, and back if it learns; the best of some repeats, after one to warm up."""
    use(generator, way, learning).unet.requires_grad_(learning)
    device, dtype, seconds = generator.device, generator.dtype, []
    noisy = torch.zeros(batch, *generator.shape, device=device, dtype=dtype)
    condition = torch.zeros(batch, generator.tokens, generator.width, device=device, dtype=dtype)
    t = torch.full((batch,), 500, device=device)
    for _ in range(repeats + 1):
        began = time.perf_counter()
        with torch.set_grad_enabled(learning), lowered(device, way if learning else Way()):
            total = generator.predict(noisy, t, condition).sum()
        if learning:
            total.backward()
        total.item()  # the number is waited for, on a GPU too
        seconds.append(time.perf_counter() - began)
    return batch / min(seconds[1:])


def fastest(generator: Generator, candidates: list[Way], learning: bool = False, **how: int) -> tuple[Way, dict[str, float]]:
    """The generator set to the fastest of the candidates: which it is, and images/s of each."""
    kept, speeds = generator.unet, {}
    for way in candidates:
        generator.unet = copy.deepcopy(kept)  # weights that were bfloat16 for a while would draw other images ever after
        speeds[way] = images_per_second(generator, way, learning, **how)
    generator.unet, best = kept, chosen(speeds)
    use(generator, best, learning)
    return best, {f"{way.dtype}, {way.layout}, {way.attention}": round(speed, 1) for way, speed in speeds.items()}


def chosen(speeds: dict[Way, float]) -> Way:
    """The first way that no other clearly beats: two runs on one kind of machine choose alike, and so draw the same images."""
    return next(way for way, speed in speeds.items() if CLEARLY * speed >= max(speeds.values()))


def tuned(store: Store, generator: Generator) -> Generator:
    """The generator, set to what its architecture runs fastest in on this machine."""
    return use(generator, _timed(store, generator))


def learning(store: Store, generator: Generator, batch: int) -> Way:
    """The way in which it learns fastest on this machine, in batches as large; its layout and attention are set."""
    way = _timed(store, generator, learning=True, batch=min(batch, LEARNED), repeats=1)
    use(generator, way, learning=True)
    return way


def _timed(store: Store, generator: Generator, learning: bool = False, **how: int) -> Way:
    """Timed once for an architecture on a machine, then kept in the store."""
    about = [compute.describe(), str(generator.device), torch.__version__, plain(generator.unet)]
    about = canonical([*about, how] if learning else about)
    path = store.root / "probe" / f"{hashlib.sha256(about.encode()).hexdigest()[:20]}.json"
    with locked(path.parent):  # one process times, all others do as it found, so that all shards are drawn alike
        if not path.is_file():
            best, speeds = fastest(generator, candidates(generator.device, learning), learning, **how)
            work = "trains" if learning else "runs"
            progress.say(f"{work} fastest in {best.dtype}, {best.layout}, {best.attention} attention")
            write_json(path, {"way": asdict(best), "images a second": speeds})
    return Way(**json.loads(path.read_text(encoding="utf-8"))["way"])


def candidates(device: torch.device, learning: bool = False) -> list[Way]:
    """What is worth timing: half precision where it is the rule, bfloat16 beside float32 on processors.

    What learns does so in bfloat16 on a GPU: small gradients would be zero in float16."""
    half = ("bfloat16",) if learning else ("float16", "bfloat16")
    return ways(*{"cuda": half, "cpu": ("float32", "bfloat16")}.get(device.type, ("float32",)))
