"""Artifacts: folders of files made once, named by the content key of their recipe, `manifest.json` last.

A recipe is a step, its settings, the recipes of what it is made from, and a seed. It is both the order and the
reference: whoever holds a recipe gets the artifact, from the store when it is whole, else by making what is missing.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import functools
import hashlib
import importlib
import json
import os
import platform
import re
import resource
import secrets
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from lib.core import progress
from lib.core.fingerprint import fingerprint, kind_of
from lib.core.paths import ROOT

FileWriters = dict[str, Callable[[Path], None]]  # file name -> writes that file at the path it is given
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # disk, quota, largest file
VERSIONS = ("torch", "torchvision", "diffusers", "transformers", "numpy", "opencv-python-headless", "scikit-learn", "pyarrow")


class StoreError(RuntimeError):
    """The store cannot give or make what was asked for; the message says what to do."""


@dataclass(frozen=True)
class ArtifactSpec:
    """What makes an artifact; equal specs have equal keys."""

    kind: str  # e.g. "real-images", the name in @artifact("real-images")
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, ArtifactSpec] = field(default_factory=dict)
    seed: int = 0
    builder: str = field(default="", compare=False, repr=False)  # where it lives, "lib.data.sources:real"; not in the key

    def __post_init__(self) -> None:
        object.__setattr__(self, "builder", self.builder or BUILDERS.get(self.kind, ""))

    @functools.cached_property
    def key(self) -> str:
        """20 hex digits over kind, code, settings, keys of the inputs and seed."""
        if not KIND.fullmatch(self.kind) or kind_of(self.builder) != self.kind:
            raise StoreError(f"no function of this checkout makes {self.kind!r} ({self.builder or 'no builder named'}); "
                             'decorate it with @artifact("its-kind") and import its module before the spec is made')
        inputs = {name: spec.key for name, spec in self.inputs.items()}
        parts = [self.kind, fingerprint(self.builder), self.settings, inputs, self.seed]
        return hashlib.sha256(canonical(parts).encode()).hexdigest()[:20]

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` turns back."""
        inputs = {name: spec.to_json() for name, spec in self.inputs.items()}
        return {"kind": self.kind, "settings": self.settings, "inputs": inputs, "seed": self.seed, "builder": self.builder}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> ArtifactSpec:
        inputs = {name: cls.from_json(spec) for name, spec in tree["inputs"].items()}
        return cls(tree["kind"], tree["settings"], inputs, tree["seed"], tree["builder"])


@dataclass(frozen=True)
class Builder:
    """A pure function of a spec that says how each file is made; its code is part of the key."""

    kind: str
    writers: Callable[[Store, ArtifactSpec], FileWriters]

    @property
    def location(self) -> str:
        return f"{self.writers.__module__}:{self.writers.__qualname__}"

    def __call__(self, settings: dict[str, Any], seed: int = 0, **inputs: ArtifactSpec) -> ArtifactSpec:
        """The spec of such an artifact; nothing runs yet."""
        return ArtifactSpec(self.kind, json.loads(canonical(settings)), inputs, seed, self.location)


BUILDERS: dict[str, str] = {}  # kind -> location, of the modules that are imported
KIND = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def artifact(kind: str) -> Callable[[Callable[[Store, ArtifactSpec], FileWriters]], Builder]:
    """Decorator of a builder: `@artifact("real-images")` above `def real(store, spec) -> FileWriters`."""
    if not KIND.fullmatch(kind):
        raise StoreError(f'a kind is words of a-z and 0-9 with hyphens, e.g. "real-images", not {kind!r}')

    def decorate(function: Callable[[Store, ArtifactSpec], FileWriters]) -> Builder:
        builder = Builder(kind, function)
        if BUILDERS.setdefault(kind, builder.location) != builder.location:
            raise StoreError(f"{builder.location} and {BUILDERS[kind]} both make {kind!r}; give one of them another kind")
        return builder
    return decorate


def find(spec: ArtifactSpec) -> Builder:
    """The builder of a spec; only functions of this checkout that are decorated with @artifact are ever imported."""
    spec.key  # noqa: B018, checks the location before anything is imported
    module, _, function = spec.builder.partition(":")
    return getattr(importlib.import_module(module), function)


@dataclass(frozen=True)
class Artifact:
    """A whole, verified folder."""

    folder: Path
    manifest: dict[str, Any]

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def files(self) -> list[Path]:
        return [self.folder / name for name in sorted(self.manifest["files"])]


class Store:
    """Root folder of artifacts, `root/<step>/<key>/`; may be a shared file system."""

    def __init__(self, root: str | Path, workers: int = 1, engine: str = "local"):
        self.root = (ROOT / root).resolve()  # an absolute root stays what it is
        self.workers = workers  # processes that lib/core/executor.py may use; 0: as many as the machine has room for
        self.engine = engine  # and what runs them

    def folder(self, recipe: ArtifactSpec) -> Path:
        return self.root / recipe.kind / recipe.key

    def make(self, recipe: ArtifactSpec) -> Artifact:
        """The artifact, verified; made, resumed or mended first where it is not whole."""
        found = self.found(recipe)
        if found:
            return found
        for upstream in recipe.inputs.values():
            self.make(upstream)  # first, so that its seconds are not counted here
        with locked(self.folder(recipe)):
            return self.found(recipe) or self._complete(recipe)

    def found(self, recipe: ArtifactSpec) -> Artifact | None:
        """The artifact if it is whole."""
        manifest = _manifest(self.folder(recipe), recipe)
        whole = manifest and _intact(self.folder(recipe), manifest["files"]) == manifest["files"]
        return Artifact(self.folder(recipe), manifest) if whole else None

    def state(self, recipe: ArtifactSpec) -> str:
        """`whole`, `absent`, `unfinished: 3 files made` or `altered: name of the file`."""
        folder = self.folder(recipe)
        manifest = _manifest(folder, recipe)
        if manifest:
            lost = sorted(set(manifest["files"]) - set(_intact(folder, manifest["files"])))
            return f"altered: {', '.join(lost)}" if lost else "whole"
        made = _intact(folder, _read_json(folder / "journal.json") or {})
        return f"unfinished: {len(made)} files made" if folder.exists() else "absent"

    def share(self, recipe: ArtifactSpec) -> float:
        """How much of an artifact is there: 1 where it is whole."""
        if self.found(recipe):
            return 1.0
        known = _read_json(self.folder(recipe) / "journal.json") or {}
        return len(_intact(self.folder(recipe), known)) / len(find(recipe).writers(self, recipe)) if known else 0.0

    def seconds(self, recipe: ArtifactSpec) -> float:
        """Seconds of work that went into a whole artifact; where its last run found files of an earlier one, in proportion."""
        made = self.make(recipe).manifest
        return made["made"]["seconds"] * len(made["files"]) / max(1, len(made["files"]) - made["made"]["resumed_from"])

    def _complete(self, recipe: ArtifactSpec) -> Artifact:
        """Make the files that are not there or not what they were, one by one, then the manifest."""
        order = ArtifactBuild(self, recipe)
        total = len(order.files) + len(order.missing)
        with progress.track(recipe.kind, total, start=len(order.files), quiet=total == 1) as bar:
            for name in order.missing:
                order.took(name, part(self.folder(recipe) / name, order.parts[name]))
                bar.add(1)
        return order.close()


class WorkerStore(Store):
    """The store as a task sees it: what the task needs is whole or soon will be, and is never made by it. Whoever handed the
    task out holds the locks, so that waiting for one here would be waiting for ever."""

    def __init__(self, root: str, late: float):
        super().__init__(root)
        self.late = late  # seconds after which it must have come

    def make(self, recipe: ArtifactSpec) -> Artifact:
        deadline = time.monotonic() + self.late
        while not (found := self.found(recipe)):
            if time.monotonic() >= deadline:
                raise StoreError(f"{recipe.kind} was whole when this run began and is not now: {self.state(recipe)}. The same "
                                 "command again mends it; if that ends here too, this worker does not see the store that the run "
                                 f"writes (study.store must lie on a file system they share).\n{self.folder(recipe)}")
            time.sleep(0.2)
        return found


class ArtifactBuild:
    """One artifact on its way, under the lock of its folder: which files are there, which are missing."""

    def __init__(self, store: Store, recipe: ArtifactSpec):
        self.folder, self.recipe, self.started = store.folder(recipe), recipe, time.time()
        manifest = _manifest(self.folder, recipe)
        whole = _intact(self.folder, manifest["files"]) if manifest else {}
        self.lost = sorted(set(manifest["files"]) - set(whole)) if manifest else []
        for name in self.lost:
            progress.say(f"{self.folder / name} is not the file that was made; making it again")
        found = whole or _intact(self.folder, _read_json(self.folder / "journal.json") or {})
        if found:
            write_json(self.folder / "journal.json", found)  # before the manifest goes: should mending fail, these stay known
        (self.folder / "manifest.json").unlink(missing_ok=True)
        self.parts = find(recipe).writers(store, recipe)
        self.files = {name: found[name] for name in self.parts if name in found}
        self.missing = [name for name in self.parts if name not in self.files]
        self.resumed, self.costs, self.retried = len(found), [], {}
        for name in self.missing:
            left = begun(self.folder / name)  # by a run that died
            self._note(name, len(left))
            for path in [*left, self.folder / name]:
                path.unlink(missing_ok=True)

    def took(self, name: str, made: dict[str, Any]) -> None:
        """One file is there."""
        self.files[name] = made.pop("file")
        self._note(name, made.pop("retried"))
        self.costs.append(made)
        write_json(self.folder / "journal.json", self.files)

    def _note(self, name: str, times: int) -> None:
        """So many times a file was begun in vain."""
        if times:
            self.retried[name] = self.retried.get(name, 0) + times

    def close(self) -> Artifact:
        """All files are there: the manifest, last."""
        recipe = self.recipe
        manifest = recipe.to_json() | {"key": recipe.key, "code": fingerprint(recipe.builder),
                                       "input_keys": {n: r.key for n, r in recipe.inputs.items()},
                                       "files": dict(sorted(self.files.items())), "made": self._circumstances()}
        manifest["seal"] = _seal(manifest)
        write_json(self.folder / "manifest.json", manifest)
        for left in [self.folder / "journal.json", *self.folder.glob(".*.tmp")]:
            left.unlink(missing_ok=True)
        return Artifact(self.folder, manifest)

    def _circumstances(self) -> dict[str, Any]:
        """When, how long (seconds of work, whoever did it), on what and with what; `resumed_from` files made before; `remade`
        since they were altered; `retried`: how often a file was begun by a worker that died."""
        return {"started": datetime.datetime.fromtimestamp(self.started, datetime.UTC).isoformat(timespec="seconds"),
                "seconds": round(sum(cost["seconds"] for cost in self.costs), 2),
                "peak_memory_mb": max((cost["peak_memory_mb"] for cost in self.costs), default=0),
                "device": next((cost["device"] for cost in self.costs), "none"), "remade": self.lost,
                "resumed_from": self.resumed, "retried": self.retried, "python": platform.python_version(),
                "versions": {name: _version(name) for name in VERSIONS}, **git()}


def part(path: Path, writer: Callable[[Path], None]) -> dict[str, Any]:
    """Write one file of an artifact: its hash, and what it cost. One thread, so that the cores there are change nothing."""
    from lib.core import compute  # torch is slow to import and not needed for reading

    began, retried = time.monotonic(), len(begun(path)) + path.exists()  # whole, but its worker died before it could say so
    with compute.one_thread():
        file, device = _write(path, writer), compute.describe()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if platform.system() == "Darwin" else 2**10)
    seconds = time.monotonic() - began
    return {"file": file, "retried": retried, "seconds": seconds, "peak_memory_mb": round(peak), "device": device}


def begun(path: Path) -> list[Path]:
    """What those left who began to write a file and died over it."""
    return list(path.parent.glob(f".{path.name}.*.tmp"))


def canonical(tree: Any) -> str:
    """One text for equal data: sorted keys, no blanks, finite numbers only."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_json(path: Path, tree: Any) -> None:
    """Whole or not at all."""
    _write(path, lambda temporary: temporary.write_text(json.dumps(tree, indent=1, allow_nan=False), encoding="utf-8"))


def digest(path: Path) -> dict[str, Any]:
    """Hash and size of a file."""
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def _write(path: Path, writer: Callable[[Path], Any]) -> dict[str, Any]:
    """Let `writer` fill a temporary file, then rename it: a reader never sees a half-written one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # unlike the one of any other process or machine
    try:
        temporary.touch()  # a process that dies leaves this to say that it began
        writer(temporary)
        temporary.chmod(0o644)  # safetensors lets only the owner read, and a store may be shared
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        found = digest(temporary)
        temporary.replace(path)
        return found
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StoreError(f"no room for {path.name}: {error.strerror}. Free some, or set study.store to a larger disk; what was "
                         f"made is kept, and the same command goes on from there.\n{path.parent}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _intact(folder: Path, files: dict[str, dict]) -> dict[str, dict]:
    """Those of the recorded files that are still what was recorded."""
    return {name: seen for name, seen in files.items()
            if Path(name).name == name and os.path.isfile(folder / name) and digest(folder / name) == seen}  # of any name


def _manifest(folder: Path, recipe: ArtifactSpec) -> dict[str, Any] | None:
    """The manifest, or None where it is not there, not of this recipe, or not what was written."""
    tree = _read_json(folder / "manifest.json")
    typed = tree and isinstance(tree.get("files"), dict) and isinstance(tree.get("made"), dict)
    return tree if typed and tree.get("key") == recipe.key and tree.get("seal") == _seal(tree) else None


def _seal(manifest: dict[str, Any]) -> str:
    """A hash over all else that the manifest says, so that a shortened list of files is seen."""
    body = {name: value for name, value in manifest.items() if name != "seal"}
    return hashlib.sha256(canonical(body).encode()).hexdigest()


def _read_json(path: Path) -> dict[str, Any] | None:
    """The content, or None where there is no such file or not a JSON object in it (then it proves nothing)."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        canonical(tree)  # what this project writes has finite numbers and a bottom
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return tree if isinstance(tree, dict) else None


@contextlib.contextmanager
def locked(folder: Path, wait: bool = True):
    """One process a folder; yields whether it is this one. The kernel frees the lock of a process that died."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            progress.say(f"waiting for another run that is making {folder.name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield True


def _version(package: str) -> str:
    """Installed version; with conda a package can have another name, which is no reason to lose the work."""
    try:
        return installed(package)
    except PackageNotFoundError:
        return "not installed by this name"


@functools.cache
def git(root: Path = ROOT) -> dict[str, Any]:
    """Revision of the checkout and whether it had changes, but for reports/, where runs write; `unknown` outside git."""
    def ask(*words: str) -> str | None:
        try:
            return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None
    changed = ask("status", "--porcelain", "-uno", "--", ".", ":!reports")
    return {"git": ask("rev-parse", "HEAD") or "unknown", "dirty": bool(changed)}
