"""Artifacts: folders of files made once, named by the key of their spec, `manifest.json` last.

A spec is a kind, settings, the specs of the inputs, and a seed. Whoever holds a spec gets the
artifact: from the store where it is whole, else by making what is missing.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib
import json
import platform
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from lib.core import progress
from lib.core.files import (
    StoreError,
    canonical,
    intact,
    locked,
    read_json,
    unfinished,
    write_file,
    write_json,
)
from lib.core.fingerprint import fingerprint, kind_of
from lib.core.paths import ROOT

__all__ = [
    "Artifact", "ArtifactSpec", "Builder", "FileWriters", "Store", "StoreError", "WorkerStore",
    "artifact", "canonical", "locked", "read_json", "write_json",
]  # fmt: skip
FileWriters = dict[str, Callable[[Path], None]]  # file name -> writes that file at this path
PACKAGES = "torch torchvision diffusers transformers numpy opencv-python-headless".split()
PACKAGES += ["scikit-learn", "pyarrow"]  # whose versions the manifest records
KEY = re.compile("[0-9a-f]{20}")
KIND = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
BUILDERS: dict[str, str] = {}  # kind -> "module:function", of the modules that are imported


@dataclass(frozen=True)
class ArtifactSpec:
    """What makes an artifact; equal specs have equal keys."""

    kind: str  # e.g. "real-images", the name in @artifact("real-images")
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, ArtifactSpec] = field(default_factory=dict)
    seed: int = 0
    builder: str = field(default="", compare=False, repr=False)  # "module:function", not in the key

    def __post_init__(self) -> None:
        object.__setattr__(self, "builder", self.builder or BUILDERS.get(self.kind, ""))

    @functools.cached_property
    def key(self) -> str:
        """20 hex digits over kind, code, settings, keys of the inputs and seed."""
        if not KIND.fullmatch(self.kind) or kind_of(self.builder) != self.kind:
            raise StoreError(
                f"no function of this checkout makes {self.kind!r} "
                f"({self.builder or 'no builder named'}); "
                'decorate it with @artifact("its-kind") and import its module before the spec'
            )
        inputs = {name: spec.key for name, spec in self.inputs.items()}
        parts = [self.kind, fingerprint(self.builder), self.settings, inputs, self.seed]
        return hashlib.sha256(canonical(parts).encode()).hexdigest()[:20]

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` turns back."""
        inputs = {name: spec.to_json() for name, spec in self.inputs.items()}
        own = {name: getattr(self, name) for name in ("kind", "settings", "seed", "builder")}
        return own | {"inputs": inputs}

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

    def __call__(
        self, settings: dict[str, Any], seed: int = 0, **inputs: ArtifactSpec
    ) -> ArtifactSpec:
        """The spec of such an artifact; nothing runs yet."""
        plain = json.loads(canonical(settings))
        return ArtifactSpec(self.kind, plain, inputs, seed, self.location)


def artifact(kind: str) -> Callable[[Callable[[Store, ArtifactSpec], FileWriters]], Builder]:
    """Decorator of a builder: `@artifact("real-images")` above `def real(store, spec)`."""
    if not KIND.fullmatch(kind):
        raise StoreError(
            f'a kind is words of a-z and 0-9 with hyphens, e.g. "real-images", not {kind!r}'
        )

    def decorate(function: Callable[[Store, ArtifactSpec], FileWriters]) -> Builder:
        builder = Builder(kind, function)
        other = BUILDERS.setdefault(kind, builder.location)
        if other != builder.location:
            raise StoreError(
                f"{builder.location} and {other} both make {kind!r}; give one another kind"
            )
        return builder

    return decorate


def find(spec: ArtifactSpec) -> Builder:
    """The builder of a spec; only functions of this checkout with @artifact are ever imported."""
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
    """Root folder of artifacts, `root/<kind>/<key>/`; may be on a shared file system."""

    def __init__(self, root: str | Path, workers: int = 1, engine: str = "local"):
        self.root = (ROOT / root).resolve()  # an absolute root stays what it is
        self.workers = workers  # processes that the executor may use; 0: as many as there is room
        self.engine = engine  # and what runs them

    def folder(self, spec: ArtifactSpec) -> Path:
        return self.root / spec.kind / spec.key

    def make(self, spec: ArtifactSpec) -> Artifact:
        """The artifact; made, resumed or mended first where it is not whole."""
        artifact = self.found(spec)
        if artifact:
            return artifact
        for source in spec.inputs.values():
            self.make(source)  # first, so that its seconds are not counted here
        with locked(self.folder(spec)):
            return self.found(spec) or self._build(spec)

    def _build(self, spec: ArtifactSpec) -> Artifact:
        """Make the missing files one by one, then the manifest."""
        build = ArtifactBuild(self, spec)
        count = len(build.writers)
        with progress.track(spec.kind, count, len(build.files), quiet=count == 1) as bar:
            for name in build.missing:
                build.add(name, make_file(build.folder / name, build.writers[name]))
                bar.add(1)
        return build.close()

    def found(self, spec: ArtifactSpec) -> Artifact | None:
        """The artifact if it is whole."""
        folder = self.folder(spec)
        manifest = read_manifest(folder, spec)
        if manifest and intact(folder, manifest["files"]) == manifest["files"]:
            return Artifact(folder, manifest)
        return None

    def state(self, spec: ArtifactSpec) -> str:
        """`whole`, `absent`, `unfinished: 3 files made` or `altered: name of the file`."""
        folder = self.folder(spec)
        manifest = read_manifest(folder, spec)
        if manifest:
            lost = sorted(set(manifest["files"]) - set(intact(folder, manifest["files"])))
            return f"altered: {', '.join(lost)}" if lost else "whole"
        finished = intact(folder, read_json(folder / "journal.json") or {})
        return f"unfinished: {len(finished)} files made" if folder.exists() else "absent"

    def seconds(self, spec: ArtifactSpec) -> float:
        """Seconds of work in a whole artifact, in proportion where its last run resumed; else 0."""
        artifact = self.found(spec)
        if not artifact:
            return 0.0
        made, files = artifact.manifest["made"], len(artifact.manifest["files"])
        return made["seconds"] * files / max(1, files - (made.get("resumed_from") or 0))

    def prune(self, keep: Collection[str], remove: bool = False) -> dict[Path, int]:
        """Folders of artifacts whose key is not in `keep`, with their bytes; removed if asked to.

        A folder on which another run works is left alone.
        """
        pruned = {}
        for folder in sorted(self.root.glob("*/*")):
            if folder.name in keep or not KEY.fullmatch(folder.name) or not folder.is_dir():
                continue
            with locked(folder, wait=False) as ours:
                if ours:
                    files = [path for path in folder.rglob("*") if path.is_file()]
                    pruned[folder] = sum(path.stat().st_size for path in files)
                if ours and remove:
                    shutil.rmtree(folder)
        return pruned


class WorkerStore(Store):
    """The store as a task sees it: an input is whole or soon will be, and is never made here.

    The run that handed out the task holds the locks.
    """

    def __init__(self, root: str, patience: float):
        super().__init__(root)
        self.patience = patience  # seconds in which a shared file system must show an input

    def make(self, spec: ArtifactSpec) -> Artifact:
        deadline = time.monotonic() + self.patience
        while not (artifact := self.found(spec)):
            if time.monotonic() >= deadline:
                raise StoreError(
                    f"{spec.kind} was whole when this run began and is not now: {self.state(spec)}."
                    " The same command again mends it; if that ends here too, this worker does not "
                    "see the store that the run writes (study.store must be on a file system that "
                    f"they share).\n{self.folder(spec)}"
                )
            time.sleep(0.2)
        return artifact


class ArtifactBuild:
    """An artifact in the making, under the lock of its folder."""

    def __init__(self, store: Store, spec: ArtifactSpec):
        self.folder, self.spec, self.started = store.folder(spec), spec, time.time()
        finished = self._finished_files()
        self.writers = find(spec).writers(store, spec)
        self.files = {name: finished[name] for name in self.writers if name in finished}
        self.missing = [name for name in self.writers if name not in self.files]
        self.resumed, self.costs, self.retried = len(finished), [], {}
        for name in self.missing:
            self._clear(name)

    def _finished_files(self) -> dict[str, dict]:
        """What an earlier run left intact; the manifest goes, the journal keeps them."""
        journal = self.folder / "journal.json"
        manifest = read_manifest(self.folder, self.spec)
        recorded = manifest["files"] if manifest else read_json(journal) or {}
        finished = intact(self.folder, recorded)
        self.altered = sorted(set(recorded) - set(finished)) if manifest else []
        for name in self.altered:
            progress.say(f"{self.folder / name} is not the file that was made; making it again")
        if finished:
            write_json(journal, finished)
        (self.folder / "manifest.json").unlink(missing_ok=True)
        return finished

    def _clear(self, name: str) -> None:
        """Remove what an earlier run left; each temporary file is a try whose worker died."""
        tries = unfinished(self.folder / name)
        self._count_retries(name, len(tries))
        for path in [*tries, self.folder / name]:
            path.unlink(missing_ok=True)

    def add(self, name: str, cost: dict[str, Any]) -> None:
        """Record a file that is there."""
        self.files[name] = cost.pop("file")
        self._count_retries(name, cost.pop("retried"))
        self.costs.append(cost)
        write_json(self.folder / "journal.json", self.files)

    def _count_retries(self, name: str, times: int) -> None:
        if times:
            self.retried[name] = self.retried.get(name, 0) + times

    def close(self) -> Artifact:
        """All files are there: write the manifest, last."""
        spec = self.spec
        manifest = spec.to_json() | {
            "key": spec.key,
            "code": fingerprint(spec.builder),
            "input_keys": {name: source.key for name, source in spec.inputs.items()},
            "files": dict(sorted(self.files.items())),
            "made": self._circumstances(),
        }
        manifest["seal"] = seal(manifest)
        write_json(self.folder / "manifest.json", manifest)
        for path in [self.folder / "journal.json", *self.folder.glob(".*.tmp")]:
            path.unlink(missing_ok=True)
        return Artifact(self.folder, manifest)

    def _circumstances(self) -> dict[str, Any]:
        """When, how long, where and with what; files resumed, made again, or begun twice."""
        started = datetime.datetime.fromtimestamp(self.started, datetime.UTC)
        return {
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(sum(cost["seconds"] for cost in self.costs), 2),  # of all workers
            "peak_memory_mb": max((cost["peak_memory_mb"] for cost in self.costs), default=0),
            "device": next((cost["device"] for cost in self.costs), "none"),
            "resumed_from": self.resumed,  # files that were there
            "remade": self.altered,
            "retried": self.retried,  # how often a file was begun by a worker that died
            "python": platform.python_version(),
            "versions": {name: version_of(name) for name in PACKAGES},
            **git(),
        }


def make_file(path: Path, writer: Callable[[Path], None]) -> dict[str, Any]:
    """Write one file of an artifact, in one thread: its hash, and what it cost."""
    from lib.core import compute  # torch is slow to import and not needed for reading

    began = time.monotonic()
    retried = len(unfinished(path)) + path.exists()  # whole, but its worker died before it reported
    with compute.one_thread():  # so that the number of cores changes nothing
        file, device = write_file(path, writer), compute.describe()
    unit = 2**20 if platform.system() == "Darwin" else 2**10
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
    cost = {"seconds": time.monotonic() - began, "peak_memory_mb": peak, "device": device}
    return cost | {"file": file, "retried": retried}


def read_manifest(folder: Path, spec: ArtifactSpec) -> dict[str, Any] | None:
    """None where there is no manifest, or it is not of this spec or not as it was written."""
    tree = read_json(folder / "manifest.json") or {}
    typed = isinstance(tree.get("files"), dict) and isinstance(tree.get("made"), dict)
    genuine = typed and tree.get("key") == spec.key and tree.get("seal") == seal(tree)
    return tree if genuine else None


def seal(manifest: dict[str, Any]) -> str:
    """A hash over all else in the manifest, so that a shortened list of files is noticed."""
    body = {name: value for name, value in manifest.items() if name != "seal"}
    return hashlib.sha256(canonical(body).encode()).hexdigest()


def version_of(package: str) -> str:
    """With conda a package can have another name, which is no reason to lose the work."""
    try:
        return installed_version(package)
    except PackageNotFoundError:
        return "not installed by this name"


@functools.cache
def git(root: Path = ROOT) -> dict[str, Any]:
    """Revision of the checkout and whether it had changes outside reports/."""

    def ask(*words: str) -> str | None:
        command = ["git", *words]
        try:
            done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    changed = ask("status", "--porcelain", "-uno", "--", ".", ":!reports")
    return {"git": ask("rev-parse", "HEAD") or "unknown", "dirty": bool(changed)}
