"""Artifacts: folders of files that are made once, named by the key of their spec, `manifest.json` last.

A spec is a kind, settings, the specs of the inputs, and a seed. Whoever holds a spec gets the artifact: from the store
where it is whole, else by making what is missing.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import functools
import hashlib
import importlib
import json
import os
import platform
import re
import resource
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lib.core import progress
from lib.core.fingerprint import fingerprint, kind_of
from lib.core.paths import ROOT

FileWriters = dict[str, Callable[[Path], None]]  # file name -> writes that file at the path it is given
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # disk, quota, largest file
VERSIONS = ("torch", "torchvision", "diffusers", "transformers", "numpy", "opencv-python-headless", "scikit-learn",
            "pyarrow")


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
    """Root folder of artifacts, `root/<kind>/<key>/`; may lie on a shared file system."""

    def __init__(self, root: str | Path, workers: int = 1, engine: str = "local"):
        self.root = (ROOT / root).resolve()  # an absolute root stays what it is
        self.workers = workers  # processes that lib/core/executor.py may use; 0: as many as the machine has room for
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
        with progress.track(spec.kind, len(build.writers), len(build.files), len(build.writers) == 1) as bar:
            for name in build.missing:
                build.add(name, make_file(build.folder / name, build.writers[name]))
                bar.add(1)
        return build.close()

    def found(self, spec: ArtifactSpec) -> Artifact | None:
        """The artifact if it is whole."""
        folder = self.folder(spec)
        manifest = _manifest(folder, spec)
        whole = manifest and _intact(folder, manifest["files"]) == manifest["files"]
        return Artifact(folder, manifest) if whole else None

    def state(self, spec: ArtifactSpec) -> str:
        """`whole`, `absent`, `unfinished: 3 files made` or `altered: name of the file`."""
        folder = self.folder(spec)
        manifest = _manifest(folder, spec)
        if manifest:
            lost = sorted(set(manifest["files"]) - set(_intact(folder, manifest["files"])))
            return f"altered: {', '.join(lost)}" if lost else "whole"
        finished = _intact(folder, _read_json(folder / "journal.json") or {})
        return f"unfinished: {len(finished)} files made" if folder.exists() else "absent"

    def seconds(self, spec: ArtifactSpec) -> float:
        """Seconds of work in a whole artifact, in proportion where its last run resumed an earlier one; 0 if not whole."""
        artifact = self.found(spec)
        if not artifact:
            return 0.0
        made, files = artifact.manifest["made"], len(artifact.manifest["files"])
        return made["seconds"] * files / max(1, files - made["resumed_from"])

    def prune(self, keep: Collection[str], remove: bool = False) -> dict[Path, int]:
        """Folders of artifacts whose key is not in `keep`, with their bytes; removes them if asked to.

        A folder that another run is working on is left alone.
        """
        pruned = {}
        for folder in sorted(self.root.glob("*/*")):
            if folder.name in keep or not re.fullmatch("[0-9a-f]{20}", folder.name) or not folder.is_dir():
                continue
            with locked(folder, wait=False) as ours:
                if ours:
                    pruned[folder] = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
                if ours and remove:
                    shutil.rmtree(folder)
        return pruned


class WorkerStore(Store):
    """The store as a task sees it: an input is whole or soon will be, and is never made here, since the run that handed out
    the task holds the locks."""

    def __init__(self, root: str, patience: float):
        super().__init__(root)
        self.patience = patience  # seconds in which a shared file system must show an input

    def make(self, spec: ArtifactSpec) -> Artifact:
        deadline = time.monotonic() + self.patience
        while not (artifact := self.found(spec)):
            if time.monotonic() >= deadline:
                raise StoreError(
                    f"{spec.kind} was whole when this run began and is not now: {self.state(spec)}. The same command again "
                    "mends it; if that ends here too, this worker does not see the store that the run writes (study.store "
                    f"must lie on a file system they share).\n{self.folder(spec)}")
            time.sleep(0.2)
        return artifact


class ArtifactBuild:
    """An artifact in the making, under the lock of its folder: which files are there, which are missing."""

    def __init__(self, store: Store, spec: ArtifactSpec):
        self.folder, self.spec, self.started = store.folder(spec), spec, time.time()
        manifest = _manifest(self.folder, spec)
        whole = _intact(self.folder, manifest["files"]) if manifest else {}
        self.altered = sorted(set(manifest["files"]) - set(whole)) if manifest else []
        for name in self.altered:
            progress.say(f"{self.folder / name} is not the file that was made; making it again")
        finished = whole or _intact(self.folder, _read_json(self.folder / "journal.json") or {})
        if finished:  # before the manifest goes: should mending fail, these stay known
            write_json(self.folder / "journal.json", finished)
        (self.folder / "manifest.json").unlink(missing_ok=True)
        self.writers = find(spec).writers(store, spec)
        self.files = {name: finished[name] for name in self.writers if name in finished}
        self.missing = [name for name in self.writers if name not in self.files]
        self.resumed, self.costs, self.retried = len(finished), [], {}
        for name in self.missing:
            self._clear(name)

    def _clear(self, name: str) -> None:
        """Remove what an earlier run left of a file; each temporary file is an attempt whose worker died."""
        attempts = unfinished(self.folder / name)
        self._count_retries(name, len(attempts))
        for path in [*attempts, self.folder / name]:
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
            "key": spec.key, "code": fingerprint(spec.builder),
            "input_keys": {name: source.key for name, source in spec.inputs.items()},
            "files": dict(sorted(self.files.items())), "made": self._circumstances()}
        manifest["seal"] = _seal(manifest)
        write_json(self.folder / "manifest.json", manifest)
        for path in [self.folder / "journal.json", *self.folder.glob(".*.tmp")]:
            path.unlink(missing_ok=True)
        return Artifact(self.folder, manifest)

    def _circumstances(self) -> dict[str, Any]:
        """When, how long (seconds of work, whoever did it), on what and with what; `resumed_from` files made before; `remade`
        since they were altered; `retried`: how often a file was begun by a worker that died."""
        started = datetime.datetime.fromtimestamp(self.started, datetime.UTC)
        return {"started": started.isoformat(timespec="seconds"),
                "seconds": round(sum(cost["seconds"] for cost in self.costs), 2),
                "peak_memory_mb": max((cost["peak_memory_mb"] for cost in self.costs), default=0),
                "device": next((cost["device"] for cost in self.costs), "none"), "remade": self.altered,
                "resumed_from": self.resumed, "retried": self.retried, "python": platform.python_version(),
                "versions": {name: _version(name) for name in VERSIONS}, **git()}


def make_file(path: Path, writer: Callable[[Path], None]) -> dict[str, Any]:
    """Write one file of an artifact: its hash, and what it cost. In one thread, so that the number of cores changes nothing."""
    from lib.core import compute  # torch is slow to import and not needed for reading

    began = time.monotonic()
    retried = len(unfinished(path)) + path.exists()  # whole, but its worker died before it could report it
    with compute.one_thread():
        file, device = write_file(path, writer), compute.describe()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if platform.system() == "Darwin" else 2**10)
    return {"file": file, "retried": retried, "seconds": time.monotonic() - began, "peak_memory_mb": round(peak),
            "device": device}


def unfinished(path: Path) -> list[Path]:
    """Temporary files of those who began to write a file and died over it."""
    return list(path.parent.glob(f".{path.name}.*.tmp"))


def check_unchanged(spec: ArtifactSpec, fingerprint: str) -> None:
    """Refuse to make an artifact from files that changed after its spec recorded their fingerprint."""
    recorded = spec.settings["fingerprint"]
    if fingerprint != recorded:
        raise StoreError(f"the files of {spec.kind} changed after this study recorded them ({recorded}, now {fingerprint}): "
                         "run 01_data again, which makes the new files a set of their own, or put the old files back")


def canonical(tree: Any) -> str:
    """One text for equal data: sorted keys, no blanks, finite numbers only."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_json(path: Path, tree: Any) -> None:
    """Whole or not at all."""
    text = json.dumps(tree, indent=1, allow_nan=False)
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def digest(path: Path) -> dict[str, Any]:
    """Hash and size of a file."""
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def write_file(path: Path, writer: Callable[[Path], Any]) -> dict[str, Any]:
    """Let `writer` fill a temporary file, then rename it: a reader never sees a half-written one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # unlike that of any process or machine
    try:
        temporary.touch()  # a process that dies leaves this as a sign that it began
        mode = temporary.stat().st_mode  # as the umask has it
        writer(temporary)
        temporary.chmod(mode)  # safetensors lets only the owner read, and a store may be shared
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        written = digest(temporary)
        temporary.replace(path)
        return written
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StoreError(f"no room for {path.name}: {error.strerror}. Free some, or set study.store to a larger disk; what "
                         f"was made is kept, and the same command goes on from there.\n{path.parent}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _intact(folder: Path, files: dict[str, dict]) -> dict[str, dict]:
    """Those of the recorded files that are still what was recorded; hashed only where size or time changed."""
    known = _read_json(folder / "verified.json") or {}
    seen = {name: _verified(folder / name, known.get(name)) for name in files if Path(name).name == name}  # of any name
    intact = {name: recorded for name, recorded in files.items() if seen.get(name, {}).get("digest") == recorded}
    verified = known | {name: seen[name] for name in intact}
    if verified != known:
        with contextlib.suppress(OSError, StoreError):  # a store that can only be read is hashed by each process
            write_json(folder / "verified.json", verified)
    return intact


_process_verified: dict[Path, dict[str, Any]] = {}


def _verified(path: Path, known: Any) -> dict[str, Any]:
    """Size, time and digest of a file; the digest as this process or an earlier one computed it, if the others are equal."""
    if not os.path.isfile(path):
        return {}
    status = path.stat()
    stamp = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
    for earlier in (_process_verified.get(path), known):
        if isinstance(earlier, dict) and isinstance(earlier.get("digest"), dict) and earlier == stamp | {
                "digest": earlier["digest"]}:
            return earlier
    _process_verified[path] = stamp | {"digest": digest(path)}
    return _process_verified[path]


def _manifest(folder: Path, spec: ArtifactSpec) -> dict[str, Any] | None:
    """The manifest, or None where it is not there, not of this spec, or not what was written."""
    tree = _read_json(folder / "manifest.json")
    typed = tree and isinstance(tree.get("files"), dict) and isinstance(tree.get("made"), dict)
    return tree if typed and tree.get("key") == spec.key and tree.get("seal") == _seal(tree) else None


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
def locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """One process a folder; yields whether it is this one. The kernel frees the lock of a process that died."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if not wait:
            yield False
            return
        progress.say(f"waiting for another run that is making {folder.name}")
        lock.acquire()
    try:
        yield True
    finally:
        lock.release()


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
