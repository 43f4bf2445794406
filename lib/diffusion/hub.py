"""Models of a hub: which of their files are needed, and how to have them, whole and unaltered."""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import json
import os
from pathlib import Path

from huggingface_hub import (
    HfApi,
    constants,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub import errors as hub
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import build_hf_headers

from lib.core import progress

PARTS = ("unet", "scheduler", "vae", "text_encoder", "tokenizer", "table")
INDEX = "model_index.json"
FILES = ("*.json", "*.txt", "*model.safetensors", "*model-?????-of-?????.safetensors")
NEEDED = [INDEX, *(f"{part}/{file}" for part in PARTS for file in FILES)]
WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5", ".onnx")
ERRORS = (OSError, ValueError, hub.HTTPError)  # of the hub and of the HTTP library below it
REASONS = {
    hub.GatedRepoError: "it needs a login: accept its terms on the hub, then `hf auth login`",
    hub.RepositoryNotFoundError: "the hub knows no public model of that name",
    hub.RevisionNotFoundError: "the model has no such revision",
    hub.OfflineModeIsEnabled: "HF_HUB_OFFLINE forbids the network",
}


class GeneratorError(ValueError):
    """A generator that cannot be loaded or used; the message names the file and the way out."""


def index_file(name: str, revision: str | None) -> str:
    """The local path of the index of a hub id, downloaded if need be."""
    try:
        return hf_hub_download(name, INDEX, revision=revision)
    except ERRORS as error:
        raise GeneratorError(_unavailable(name, revision, error)) from error


def cached(name: str, revision: str | None) -> bool:
    """Whether an earlier fetch left its index here; the network is not asked."""
    return isinstance(try_to_load_from_cache(name, INDEX, revision=revision), str)


def fetch(name: str, revision: str | None) -> str:
    """Download the parts of a hub id that a generator needs; returns the folder.

    Its last component is the commit that `revision` stands for, for the manifests. Interrupted
    downloads resume; every file must have the hash that the hub lists. Half-precision and pickled
    copies of the weights are left out.
    """
    progress.say(f"fetch {name} at {revision or 'its newest revision'}")
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
    except ERRORS as error:
        return _local_copy(name, revision, error)
    files = [file for file in info.siblings
             if any(fnmatch.fnmatchcase(file.rfilename, pattern) for pattern in NEEDED)]
    _check_parts(name, [file.rfilename for file in info.siblings],
                 [file.rfilename for file in files])
    try:
        folder = _download(name, revision, info.sha, files)
        altered = _altered(folder, files)
        for file in altered:
            progress.say(f"{file.rfilename} is not the file that the hub lists; removed, "
                         "downloading it again")
            _remove(folder / file.rfilename)
        if altered:
            altered = _altered(_download(name, revision, info.sha, files), altered)
    except ERRORS as error:
        raise GeneratorError(_unavailable(name, revision, error)) from error
    for file in altered:
        _remove(folder / file.rfilename)
    if altered:
        path = altered[0].rfilename
        raise GeneratorError(
            f"{path} of {name} came twice with another hash than the hub lists. Try again later, "
            f"or set `generation.model` to a folder of your own.\n{folder / path}")
    return str(folder)


def _download(name: str, revision: str | None, commit: str, files: list) -> Path:
    """The snapshot of a commit in the hub's own cache."""
    for file in files:
        local = try_to_load_from_cache(name, file.rfilename, revision=commit)
        if file.lfs and not isinstance(local, str):
            _resume(name, commit, file)
    return Path(snapshot_download(name, revision=revision, allow_patterns=NEEDED))


def _resume(name: str, commit: str, file) -> None:
    """One large file to where the hub's cache looks for it.

    By hand, because snapshot_download discards what a killed attempt had downloaded.
    """
    folder = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"))
    blob = folder / "blobs" / file.lfs.sha256
    blob.parent.mkdir(parents=True, exist_ok=True)
    part = blob.with_suffix(".part")
    with part.open("ab") as target:
        fcntl.flock(target, fcntl.LOCK_EX)  # the kernel releases the lock of a process that died
        if blob.exists():
            return
        if os.fstat(target.fileno()).st_size > file.size:
            target.truncate(0)
        start = target.seek(0, os.SEEK_END)
        http_get(hf_hub_url(name, file.rfilename, revision=commit), target, resume_size=start,
                 expected_size=file.size, headers=build_hf_headers(),
                 displayed_filename=f"{name}: {file.rfilename}")
        target.flush()
        part.replace(blob)


def _altered(folder: Path, files: list) -> list:
    """Those files that are not what the hub lists."""
    return [file for file in progress.each("check hashes", files)
            if not _as_listed(folder / file.rfilename, file)]


def _as_listed(path: Path, file) -> bool:
    """Whether a file has its listed hash: sha256 of a large one, git's own of a small one."""
    with path.open("rb") as opened:
        if file.lfs:
            return hashlib.file_digest(opened, "sha256").hexdigest() == file.lfs.sha256
        data = opened.read()
    return hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest() == file.blob_id


def _remove(path: Path) -> None:
    """A file of the cache with what it links to."""
    while path.is_symlink():
        target = path.parent / path.readlink()
        path.unlink()
        path = target
    path.unlink(missing_ok=True)


def _check_parts(name: str, available: list[str], needed: list[str]) -> None:
    """Refuse a model without index, and weights that are only pickles, which can run code."""
    if INDEX not in available:
        raise GeneratorError(
            f"{name} is not in diffusers' layout: it has no {INDEX}. Choose a model that has one, "
            f"or convert it to a folder and set `generation.model` to that.\n{name}")
    for part in PARTS:
        weights = [file for file in available
                   if file.startswith(f"{part}/") and file.endswith(WEIGHTS)]
        if weights and not set(weights) & set(needed):
            raise GeneratorError(
                f"part {part!r} of {name} has no full-precision safetensors, only "
                f"{', '.join(weights[:3])}; pickles are refused, since loading one can run any "
                "code. Choose a revision or a model with safetensors, e.g. "
                f"stable-diffusion-v1-5/stable-diffusion-v1-5.\n{name}")


def _local_copy(name: str, revision: str | None, error: Exception) -> str:
    """What an earlier fetch left, where the hub cannot be asked: whole, its hashes unchecked."""
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=NEEDED,
                                        local_files_only=True))
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except ERRORS:
        raise GeneratorError(_unavailable(name, revision, error)) from error
    if not all((folder / part).is_dir() for part in PARTS if index.get(part, [None])[0]):
        raise GeneratorError(_unavailable(name, revision, error)) from error
    progress.say(f"the hub cannot be asked ({_reason(error)}); the local copy is used, its hashes "
                 "unchecked")
    return str(folder)


def _unavailable(name: str, revision: str | None, error: Exception) -> str:
    """What to do where there is neither a folder, nor a copy in the cache, nor a network."""
    return (f"`generation.model: {name}` (revision {revision}) is neither a folder nor a model "
            f"that can be had from here ({_reason(error)}). Set it to a folder that exists, or "
            "with a network run `make fetch PROFILE=…` once, which brings all that a profile "
            f"needs.\n{name}")


def _reason(error: Exception) -> str:
    """In words where they are known, else as the hub says it, in one line."""
    known = [reason for kind, reason in REASONS.items() if isinstance(error, kind)]
    return known[0] if known else f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
