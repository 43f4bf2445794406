"""The generators that settings name: `shipped`, a diffusers folder, or a hub id; each loaded once in a process."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from lib.core import compute
from lib.core.paths import ROOT
from lib.diffusion.hub import INDEX
from lib.diffusion.model import SHIPPED, Generator


@functools.lru_cache(maxsize=2)
def loaded(model: str, revision: str, device: str, size: int = 0, compute_in: str = "float32") -> Generator:
    """The generator of a setting, at its own size or at `size` pixels a side."""
    found = Generator.load(source(model), revision or None, compute.device(device))
    if size:
        found.unet.register_to_config(sample_size=size * found.shape[1] // found.resolution)
    return found.use(compute_in)


def loaded_for(settings: dict) -> Generator:
    """The generator that an artifact's settings name, in its precision."""
    size = settings.get("size", 0)
    return loaded(
        settings["model"], settings["revision"], settings["device"], size, settings["precision"]
    )


def source(model: str) -> str | Path:
    """`shipped` is the model in this project; a path that exists is a folder; all else is a hub id."""
    return SHIPPED if model == "shipped" else ROOT / model if (ROOT / model).is_dir() else model


def fingerprint(model: str) -> str:
    """A hash over the parts of a local model, so that other weights make other sets; a hub id has its revision."""
    where = source(model)
    if not isinstance(where, Path):
        return ""
    files = [where / INDEX, *sorted(path for path in where.glob("*/*") if path.suffix in (".json", ".safetensors", ".txt"))]
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()[:20]
