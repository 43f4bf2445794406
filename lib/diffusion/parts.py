"""The parts of a generator on disk: a diffusers folder or hub id, or one file with all of them.

Not loaded by `StableDiffusionPipeline.from_pretrained`: class tables have no pipeline, weights that
are missing must be an error, and a file must not choose which code runs.
"""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from pydantic import BaseModel, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from lib.diffusion.hub import INDEX, PARTS, GeneratorError, index_file

OURS = ("lib.diffusion.model", "lib.diffusion.autoencoder")
KINDS = (diffusers.ModelMixin, diffusers.SchedulerMixin, transformers.PreTrainedModel,
         transformers.PreTrainedTokenizerBase)
DAMAGE = (OSError, ValueError, RuntimeError, TypeError, LookupError, AttributeError,
          ArithmeticError, ImportError, MemoryError, SafetensorError,
          StrictDataclassError)  # what the libraries raise on damaged configurations
Home = tuple[str | None, str | None]  # library and class


class IndexFile(BaseModel):
    """model_index.json, as far as it is read."""

    pipeline: str = Field("", alias="_class_name")
    unet: Home = (None, None)
    scheduler: Home = (None, None)
    vae: Home = (None, None)
    text_encoder: Home = (None, None)
    tokenizer: Home = (None, None)
    table: Home = (None, None)


def load_parts(source: str | Path, revision: str | None, dtype: torch.dtype) -> dict[str, Any]:
    """Every part that the index of a folder or hub id names."""
    index = read_index(source, revision)
    return {name: _load_part(source, name, index[name], revision, dtype)
            for name in PARTS if index[name][0]}


def save_parts(parts: dict[str, Any], folder: Path, half: bool) -> None:
    """A diffusers folder; with text and an autoencoder it is one of StableDiffusionPipeline."""
    index: dict[str, Any] = {}
    for name in PARTS:
        part = parts[name]
        index[name] = [None, None] if part is None else _home(part)
        if part is not None:
            halved = half and isinstance(part, nn.Module)
            (copy.deepcopy(part).half() if halved else part).save_pretrained(folder / name)
            _clean(folder / name / "config.json")
    pipeline = parts["vae"] is not None and parts["tokenizer"] is not None
    if pipeline:
        del index["table"]  # a name that the pipeline's constructor does not know
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None],
                  "requires_safety_checker": False}
    kind = {"_class_name": "StableDiffusionPipeline" if pipeline else "Generator"}
    (folder / INDEX).write_text(json.dumps(kind | index, indent=2) + "\n", encoding="utf-8")


def pack(parts: dict[str, Any], path: Path, facts: dict[str, Any]) -> None:
    """One file of a class-conditional generator: its weights, and configurations as metadata."""
    networks = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
    tensors = {f"{name}/{key}": value.detach().cpu().contiguous()
               for name, part in networks.items() for key, value in part.state_dict().items()}
    configs = {name: [_home(part), _config(part)] for name, part in parts.items()
               if name in networks or name == "scheduler"}
    save_file(tensors, path, {"parts": json.dumps(configs), "facts": json.dumps(facts)})


def unpack(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts of such a file, and the facts that were written with them."""
    with safe_open(path, "pt") as file:
        configs, facts = (json.loads(file.metadata()[name]) for name in ("parts", "facts"))
        parts = {name: part_class(home, path).from_config(config)
                 for name, (home, config) in configs.items()}
        for name in set(parts) - {"scheduler"}:
            keys = [key for key in file.keys() if key.startswith(f"{name}/")]  # noqa: SIM118
            weights = {key.removeprefix(f"{name}/"): file.get_tensor(key) for key in keys}
            parts[name].load_state_dict(weights)
    return parts, facts


def read_index(source: str | Path, revision: str | None) -> dict[str, Any]:
    """The library and class of each part of a folder or hub id."""
    folder = Path(source)
    if folder.is_dir() and not (folder / INDEX).is_file():
        raise GeneratorError(
            f"this folder holds no diffusers model: {INDEX} is missing.\n{folder / INDEX}")
    path = folder / INDEX if folder.is_dir() else index_file(str(source), revision)
    try:
        index = IndexFile.model_validate_json(Path(path).read_bytes()).model_dump()
    except ValueError as error:
        raise GeneratorError(
            f"not an index of a diffusers model: {_short(error)}\n{path}") from error
    unet, text = (index[name][1] for name in ("unet", "text_encoder"))
    if unet != "UNet2DConditionModel" or text not in (None, "CLIPTextModel"):
        raise GeneratorError(
            f"{index['pipeline']} is another architecture: expected a UNet2DConditionModel with a "
            f"CLIPTextModel or a class table, got unet {unet}, text encoder {text}.\n{path}")
    if None in index["scheduler"]:
        raise GeneratorError(
            f"the index names no scheduler, without which nothing can be sampled.\n{path}")
    return index


def part_class(home: Home, where: Path) -> type:
    """The class that an index names: of diffusers, transformers or this project, and no other."""
    library, name = home
    allowed = library in (*OURS, "diffusers", "transformers")
    kind = getattr(importlib.import_module(library), str(name), None) if allowed else None
    if not (isinstance(kind, type) and issubclass(kind, KINDS)):
        raise GeneratorError(f"the index names {library}.{name}, which is no part of diffusers, "
                             f"transformers or this project.\n{where}")
    return kind


def _load_part(source: str | Path, name: str, home: Home, revision: str | None,
               dtype: torch.dtype) -> Any:
    """One part by the class that the index names; incomplete weights are an error."""
    where = Path(source) / name
    kind = part_class(home, where)
    options = {"subfolder": name, "revision": revision}
    dtype_name = "dtype" if home[0] == "transformers" else "torch_dtype"
    try:
        if not issubclass(kind, nn.Module):
            return kind.from_pretrained(source, **options)
        part, info = kind.from_pretrained(
            source, **options, output_loading_info=True, use_safetensors=True,
            **{dtype_name: dtype})  # safetensors alone: a pickle could run code
    except DAMAGE as error:
        raise GeneratorError(
            f"part {name!r} of the model cannot be loaded as {home[1]}: {_short(error)}\n"
            f"Restore the folder, or fetch the model again.\n{where}") from error
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if wrong:
        raise GeneratorError(f"the weights of {name!r} do not fit {home[1]}: {len(wrong)} tensors, "
                             f"first {wrong[0]!r}.\n{where}")
    return part


def _home(part: Any) -> list[str]:
    """The library and class that an index names for a part."""
    module = type(part).__module__
    library = module if module.startswith("lib.") else module.split(".")[0]
    return [library, type(part).__name__]


def _config(part: Any) -> dict[str, Any]:
    """The configuration of a part, without where it came from."""
    return {name: value for name, value in part.config.items() if not name.startswith("_")}


def _clean(path: Path) -> None:
    """A configuration without the folder it was loaded from; float32, else transformers would load
    half-precision files as half-precision networks."""
    if not path.is_file():
        return
    config = json.loads(path.read_text(encoding="utf-8"))
    cleaned = {name: value for name, value in config.items() if name != "_name_or_path"}
    cleaned |= {"dtype": "float32"} if "dtype" in config else {}
    if cleaned != config:
        path.write_text(json.dumps(cleaned, indent=2) + "\n", encoding="utf-8")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
