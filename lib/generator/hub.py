"""Models of a hub: what of them is needed, and how to have it before anything starts."""

from __future__ import annotations

from huggingface_hub import hf_hub_download, snapshot_download

from lib import progress

PARTS = ("unet", "scheduler", "vae", "text_encoder", "tokenizer", "table")
INDEX = "model_index.json"
WANTED = [INDEX, *(f"{part}/{file}" for part in PARTS for file in ("*.json", "*.txt", "*model.safetensors"))]


class GeneratorError(ValueError):
    """A generator that cannot be loaded or used; the message names the file and the way out."""


def index_file(name: str, revision: str | None) -> str:
    """Where the index of a hub id lies here, downloaded if need be."""
    try:
        return hf_hub_download(name, INDEX, revision=revision)
    except (OSError, ValueError) as error:  # every one of the hub's own errors is one of these
        raise GeneratorError(_out_of_reach(name, revision, error)) from error


def fetch(name: str, revision: str | None) -> str:
    """Download the parts of a hub id that a generator needs, resumable, hashes checked; returns the folder.

    Its last component is the commit that `revision` stands for, to be written into manifests. Half-precision and pickled
    copies of the weights stay where they are.
    """
    progress.say(f"fetch {name} at {revision or 'its newest revision'}")
    try:
        return snapshot_download(name, revision=revision, allow_patterns=WANTED)
    except (OSError, ValueError) as error:
        raise GeneratorError(_out_of_reach(name, revision, error)) from error


def _out_of_reach(name: str, revision: str | None, error: Exception) -> str:
    """What to do where there is neither a folder, nor a copy in the cache, nor a network."""
    return (f"`generation.model: {name}` (revision {revision}) is neither a folder nor a model that can be had from here "
            f"({type(error).__name__}). Set it to a folder that exists, or with a network run "
            f"`make fetch PROFILE=…` once, which brings all that a profile needs.\n{name}")
