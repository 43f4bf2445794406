"""Models of a hub: what of them is needed, and how to have it, whole and unaltered, before anything starts."""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import json
import os
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url, snapshot_download, try_to_load_from_cache
from huggingface_hub import errors as hub
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import build_hf_headers

from lib.core import progress

PARTS = ("unet", "scheduler", "vae", "text_encoder", "tokenizer", "table")
INDEX = "model_index.json"
FILES = ("*.json", "*.txt", "*model.safetensors", "*model-?????-of-?????.safetensors")
WANTED = [INDEX, *(f"{part}/{file}" for part in PARTS for file in FILES)]
WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5", ".onnx")
TROUBLE = (OSError, ValueError, hub.HTTPError)  # the hub's own errors, and those of the HTTP library below it
REASONS = {hub.GatedRepoError: "it wants a login: accept its terms on the hub, then `hf auth login`",
           hub.RepositoryNotFoundError: "the hub knows no public model of that name",
           hub.RevisionNotFoundError: "the model has no such revision",
           hub.OfflineModeIsEnabled: "HF_HUB_OFFLINE forbids the network"}


class GeneratorError(ValueError):
    """A generator that cannot be loaded or used; the message names the file and the way out."""


def index_file(name: str, revision: str | None) -> str:
    """Where the index of a hub id lies here, downloaded if need be."""
    try:
        return hf_hub_download(name, INDEX, revision=revision)
    except TROUBLE as error:
        raise GeneratorError(_out_of_reach(name, revision, error)) from error


def cached(name: str, revision: str | None) -> bool:
    """Whether an earlier fetch left its index here; the network is not asked."""
    return isinstance(try_to_load_from_cache(name, INDEX, revision=revision), str)


def fetch(name: str, revision: str | None) -> str:
    """Download the parts of a hub id that a generator needs; returns the folder.

    Its last component is the commit that `revision` stands for, to be written into manifests. An attempt that was cut
    off goes on where it ended; every file must have the hash that the hub lists. Half-precision and pickled copies of
    the weights stay where they are.
    """
    progress.say(f"fetch {name} at {revision or 'its newest revision'}")
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
    except TROUBLE as error:
        return _copy_here(name, revision, error)
    files = [file for file in info.siblings if any(fnmatch.fnmatchcase(file.rfilename, wanted) for wanted in WANTED)]
    _check_parts(name, [file.rfilename for file in info.siblings], [file.rfilename for file in files])
    try:
        folder = _download(name, revision, info.sha, files)
        wrong = _altered(folder, files)
        for file in wrong:
            progress.say(f"{file.rfilename} is not the file that the hub lists; removed, downloading it again")
            _remove(folder / file.rfilename)
        if wrong:
            wrong = _altered(_download(name, revision, info.sha, files), wrong)
    except TROUBLE as error:
        raise GeneratorError(_out_of_reach(name, revision, error)) from error
    for file in wrong:
        _remove(folder / file.rfilename)
    if wrong:
        raise GeneratorError(f"{wrong[0].rfilename} of {name} came twice with another hash than the hub lists. Try again later, "
                             f"or set `generation.model` to a folder of your own.\n{folder / wrong[0].rfilename}")
    return str(folder)


def _download(name: str, revision: str | None, commit: str, files: list) -> Path:
    """The snapshot of a commit in the hub's own cache."""
    for file in files:
        if file.lfs and not isinstance(try_to_load_from_cache(name, file.rfilename, revision=commit), str):
            _resume(name, commit, file)
    return Path(snapshot_download(name, revision=revision, allow_patterns=WANTED))


def _resume(name: str, commit: str, file) -> None:
    """One large file to where the hub's cache looks for it.

    By hand, because snapshot_download throws away what an attempt that was killed had brought.
    """
    blob = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"), "blobs", file.lfs.sha256)
    blob.parent.mkdir(parents=True, exist_ok=True)
    part = blob.with_suffix(".part")
    with part.open("ab") as target:
        fcntl.flock(target, fcntl.LOCK_EX)  # one process a file; the kernel frees the lock of one that died
        if blob.exists():
            return
        if os.fstat(target.fileno()).st_size > file.size:
            target.truncate(0)
        have = target.seek(0, os.SEEK_END)
        http_get(hf_hub_url(name, file.rfilename, revision=commit), target, resume_size=have, expected_size=file.size,
                 headers=build_hf_headers(), displayed_filename=f"{name}: {file.rfilename}")
        target.flush()
        part.replace(blob)


def _altered(folder: Path, files: list) -> list:
    """Those files that are not what the hub lists."""
    return [file for file in progress.each("check hashes", files) if not _as_listed(folder / file.rfilename, file)]


def _as_listed(path: Path, file) -> bool:
    """Whether a file has the hash that the hub lists: sha256 of a large one, git's own of a small one."""
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


def _check_parts(name: str, every: list[str], wanted: list[str]) -> None:
    """Refuse a model without index, and one whose weights are only pickles, which can run code when they are loaded."""
    if INDEX not in every:
        raise GeneratorError(f"{name} is not in diffusers' layout: it has no {INDEX}. Choose a model that has one, "
                             f"or convert it to a folder and set `generation.model` to that.\n{name}")
    for part in PARTS:
        weights = [file for file in every if file.startswith(f"{part}/") and file.endswith(WEIGHTS)]
        if weights and not set(weights) & set(wanted):
            raise GeneratorError(f"part {part!r} of {name} has no full-precision safetensors, only {', '.join(weights[:3])}; "
                                 "pickles are refused, since loading one can run any code. Choose a revision or a model "
                                 f"with safetensors, e.g. stable-diffusion-v1-5/stable-diffusion-v1-5.\n{name}")


def _copy_here(name: str, revision: str | None, error: Exception) -> str:
    """The copy that an earlier fetch left, where the hub cannot be asked: whole, though its hashes stay unchecked."""
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=WANTED, local_files_only=True))
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except TROUBLE:
        raise GeneratorError(_out_of_reach(name, revision, error)) from error
    if not all((folder / part).is_dir() for part in PARTS if index.get(part, [None])[0]):
        raise GeneratorError(_out_of_reach(name, revision, error)) from error
    progress.say(f"the hub does not give it ({_reason(error)}); the copy that is here serves, its hashes unchecked")
    return str(folder)


def _out_of_reach(name: str, revision: str | None, error: Exception) -> str:
    """What to do where there is neither a folder, nor a copy in the cache, nor a network."""
    return (f"`generation.model: {name}` (revision {revision}) is neither a folder nor a model that can be had from here "
            f"({_reason(error)}). Set it to a folder that exists, or with a network run "
            f"`make fetch PROFILE=…` once, which brings all that a profile needs.\n{name}")


def _reason(error: Exception) -> str:
    """In words where they are known, else as the hub says it, in one line."""
    known = [words for kind, words in REASONS.items() if isinstance(error, kind)]
    return known[0] if known else f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
