"""Artefacts: folders of files made once, named by the content key of their recipe, `manifest.json` last.

A recipe is a step, its settings, the recipes of what it is made from, and a seed. It is both the order and the
reference: whoever holds a recipe gets the artefact, from the store when it is whole, else by making what is missing.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import functools
import hashlib
import importlib
import json
import os
import platform
import resource
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from lib import progress
from lib.paths import ROOT

Parts = dict[str, Callable[[Path], None]]  # file name -> writes that file at the path it is given
VERSIONS = ("torch", "torchvision", "diffusers", "transformers", "numpy", "opencv-python-headless", "scikit-learn", "pyarrow")


class StoreError(RuntimeError):
    """The store cannot give or make what was asked for; the message says what to do."""


@dataclass(frozen=True)
class Recipe:
    """What makes an artefact; equal recipes have equal keys."""

    step: str  # e.g. "lib.data.sources.real", a function decorated with @step
    settings: dict[str, Any] = field(default_factory=dict)
    upstream: dict[str, Recipe] = field(default_factory=dict)
    seed: int = 0

    @functools.cached_property
    def key(self) -> str:
        """20 hex digits over step, its version, settings, upstream keys and seed."""
        upstream = {name: recipe.key for name, recipe in self.upstream.items()}
        parts = [self.step, find(self.step).version, self.settings, upstream, self.seed]
        return hashlib.sha256(canonical(parts).encode()).hexdigest()[:20]

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` turns back."""
        upstream = {name: recipe.to_json() for name, recipe in self.upstream.items()}
        return {"step": self.step, "settings": self.settings, "upstream": upstream, "seed": self.seed}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Recipe:
        upstream = {name: cls.from_json(recipe) for name, recipe in tree["upstream"].items()}
        return cls(tree["step"], tree["settings"], upstream, tree["seed"])


@dataclass(frozen=True)
class Step:
    """A pure function of a recipe that says how each file is made; raise `version` when its result changes."""

    parts: Callable[[Store, Recipe], Parts]
    version: int

    @property
    def name(self) -> str:
        return f"{self.parts.__module__}.{self.parts.__qualname__}"

    def __call__(self, settings: dict[str, Any], seed: int = 0, **upstream: Recipe) -> Recipe:
        """The recipe of this step; nothing runs yet."""
        return Recipe(self.name, json.loads(canonical(settings)), upstream, seed)


def step(version: int) -> Callable[[Callable[[Store, Recipe], Parts]], Step]:
    """Decorator: `@step(version=1)`."""
    return lambda function: Step(function, version)


def find(name: str) -> Step:
    """The step of a name; only functions of this checkout that are decorated as steps can be named."""
    module, _, function = name.rpartition(".")
    if not (ROOT / module.partition(".")[0] / "__init__.py").is_file():
        raise StoreError(f"no step named {name!r} in this checkout")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise StoreError(f"no step named {name!r} in this checkout") from error
    if not isinstance(found, Step):
        raise StoreError(f"{name} is not a step; decorate it with @step(version=1)")
    return found


@dataclass(frozen=True)
class Artefact:
    """A whole, verified folder."""

    folder: Path
    manifest: dict[str, Any]

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def files(self) -> list[Path]:
        return [self.folder / name for name in sorted(self.manifest["files"])]


class Store:
    """Root folder of artefacts, `root/<step>/<key>/`; may be a shared file system."""

    def __init__(self, root: str | Path):
        self.root = (ROOT / root).resolve()  # an absolute root stays what it is

    def folder(self, recipe: Recipe) -> Path:
        return self.root / recipe.step.removeprefix("lib.") / recipe.key

    def make(self, recipe: Recipe) -> Artefact:
        """The artefact, verified; made, resumed or mended first where it is not whole."""
        folder = self.folder(recipe)
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            manifest = _manifest(folder, recipe)
            whole = _intact(folder, manifest["files"]) if manifest else {}
            if manifest and len(whole) == len(manifest["files"]):
                return Artefact(folder, manifest)
            return self._complete(recipe, folder, manifest, whole)

    def state(self, recipe: Recipe) -> str:
        """`whole`, `absent`, `unfinished: 3 files made` or `altered: name of the file`."""
        folder = self.folder(recipe)
        manifest = _manifest(folder, recipe)
        if manifest:
            lost = sorted(set(manifest["files"]) - set(_intact(folder, manifest["files"])))
            return f"altered: {', '.join(lost)}" if lost else "whole"
        made = _intact(folder, _read_json(folder / "journal.json") or {})
        return f"unfinished: {len(made)} files made" if folder.exists() else "absent"

    def _complete(self, recipe: Recipe, folder: Path, manifest: dict | None, whole: dict) -> Artefact:
        """Make the files that are not there or not what they were, one by one, then the manifest."""
        lost = sorted(set(manifest["files"]) - set(whole)) if manifest else []
        for name in lost:
            progress.say(f"{folder / name} is not the file that was made; making it again")
        found = whole or _intact(folder, _read_json(folder / "journal.json") or {})
        (folder / "manifest.json").unlink(missing_ok=True)
        for upstream in recipe.upstream.values():
            self.make(upstream)  # now, so that its seconds are not counted here
        started, parts = time.time(), find(recipe.step).parts(self, recipe)
        files = {name: found[name] for name in parts if name in found}
        with progress.track(recipe.step, len(parts), start=len(files), quiet=len(parts) == 1) as bar:
            for name in [name for name in parts if name not in files]:
                files[name] = _write(folder / name, parts[name])
                write_json(folder / "journal.json", files)
                bar.add(1)
        made = _circumstances(started) | {"remade": lost, "resumed_from": len(found)}
        manifest = recipe.to_json() | {"key": recipe.key, "version": find(recipe.step).version,
                                       "upstream_keys": {n: r.key for n, r in recipe.upstream.items()},
                                       "files": dict(sorted(files.items())), "made": made}
        manifest["seal"] = _seal(manifest)
        write_json(folder / "manifest.json", manifest)
        (folder / "journal.json").unlink(missing_ok=True)
        return Artefact(folder, manifest)


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        writer(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        found = digest(temporary)
        temporary.replace(path)
        return found
    finally:
        temporary.unlink(missing_ok=True)


def _intact(folder: Path, files: dict[str, dict]) -> dict[str, dict]:
    """Those of the recorded files that are still what was recorded."""
    return {name: seen for name, seen in files.items() if (folder / name).is_file() and digest(folder / name) == seen}


def _manifest(folder: Path, recipe: Recipe) -> dict[str, Any] | None:
    """The manifest, or None where it is not there, not of this recipe, or not what was written."""
    tree = _read_json(folder / "manifest.json")
    return tree if tree and tree.get("key") == recipe.key and tree.get("seal") == _seal(tree) else None


def _seal(manifest: dict[str, Any]) -> str:
    """A hash over all else that the manifest says, so that a shortened list of files is seen."""
    body = {name: value for name, value in manifest.items() if name != "seal"}
    return hashlib.sha256(canonical(body).encode()).hexdigest()


def _read_json(path: Path) -> dict[str, Any] | None:
    """The content, or None where there is no such file or not a JSON object in it (then it proves nothing)."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return tree if isinstance(tree, dict) else None


@contextlib.contextmanager
def _locked(folder: Path):
    """One process a folder; the kernel frees the lock of a process that died."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"waiting for another run that is making {folder.name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _circumstances(started: float) -> dict[str, Any]:
    """When, how long, on what and with what an artefact was made."""
    from lib import compute  # torch is slow to import and not needed for reading

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if platform.system() == "Darwin" else 2**10)
    return {"started": datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - started, 2), "peak_memory_mb": round(peak), "device": compute.describe(),
            "python": platform.python_version(), "versions": {name: _version(name) for name in VERSIONS}, **git()}


def _version(package: str) -> str:
    """Installed version; with conda a package can have another name, which is no reason to lose the work."""
    try:
        return installed(package)
    except PackageNotFoundError:
        return "not installed by this name"


@functools.cache
def git() -> dict[str, Any]:
    """Revision of the checkout and whether it had changes; `unknown` outside git."""
    def ask(*words: str) -> str | None:
        try:
            return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None
    return {"git": ask("rev-parse", "HEAD") or "unknown", "dirty": bool(ask("status", "--porcelain", "-uno"))}
