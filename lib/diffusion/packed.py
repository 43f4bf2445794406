"""A generator in one file: weights of all its networks, and in the metadata what they are. For what the store keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lib.diffusion.autoencoder import PatchAutoencoder
from lib.diffusion.model import ClassTable, Generator, GeneratorError, plain

OURS = {"PatchAutoencoder": PatchAutoencoder, "ClassTable": ClassTable}


def pack(generator: Generator, path: Path, facts: dict[str, Any]) -> None:
    """Write a class-conditional generator and what is to be known of it; words have no place in such a file."""
    parts = generator.parts()
    tensors = {f"{name}/{key}": value.detach().cpu().contiguous()
               for name, part in parts.items() for key, value in part.state_dict().items()}
    about = {name: [type(part).__name__, plain(part)] for name, part in parts.items()}
    about["scheduler"] = [type(generator.scheduler).__name__, plain(generator.scheduler)]
    save_file(tensors, path, {"parts": json.dumps(about), "facts": json.dumps(facts)})


def unpack(path: Path, device: torch.device | str = "cpu") -> tuple[Generator, dict[str, Any]]:
    """The generator of a file and what was said of it."""
    with safe_open(path, "pt") as file:
        about, facts = (json.loads(file.metadata()[name]) for name in ("parts", "facts"))
        parts = {name: kind_of(kind).from_config(config) for name, (kind, config) in about.items()}
        for name in set(parts) - {"scheduler"}:
            keys = [key for key in file.keys() if key.startswith(f"{name}/")]  # noqa: SIM118 (it is no dict)
            parts[name].load_state_dict({key.removeprefix(f"{name}/"): file.get_tensor(key) for key in keys})
    return Generator(**parts).to(device), facts


def kind_of(name: str) -> type:
    """A class of this project or of diffusers, by its name alone: a file cannot name code of its own."""
    kind = OURS.get(name) or getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.ConfigMixin)):
        raise GeneratorError(f"a packed generator names {name!r}, which is no class of diffusers or of this project")
    return kind
