"""Files that are written whole or not at all, verified once, locked by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lib.core import progress

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # disk, quota, largest file


class StoreError(RuntimeError):
    """The store cannot give or make what was asked for; the message says what to do."""


def canonical(tree: Any) -> str:
    """One text for equal data: sorted keys, no blanks, finite numbers only."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_json(path: Path, tree: Any) -> None:
    text = json.dumps(tree, indent=1, allow_nan=False)
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any] | None:
    """The content, or None where there is no such file or no JSON object of finite numbers."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        canonical(tree)
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return tree if isinstance(tree, dict) else None


def write_file(path: Path, writer: Callable[[Path], Any]) -> dict[str, Any]:
    """Let `writer` fill a temporary file, then rename it: a reader never sees half a file."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
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
        raise StoreError(
            f"no room for {path.name}: {error.strerror}. Free some, or set study.store to a larger "
            "disk; what was made is kept, and the same command goes on from there."
            f"\n{path.parent}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def unfinished(path: Path) -> list[Path]:
    """Temporary files of those who began to write a file and died over it."""
    return list(path.parent.glob(f".{path.name}.*.tmp"))


def digest(path: Path) -> dict[str, Any]:
    """Hash and size of a file."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": sha256, "bytes": path.stat().st_size}


_verified: dict[Path, dict[str, Any]] = {}  # what this process has hashed


def intact(folder: Path, files: dict[str, dict]) -> dict[str, dict]:
    """Those of the recorded files that are still as recorded; hashed where size or time changed."""
    cache = read_json(folder / "verified.json") or {}
    current = {
        name: _stamped_digest(folder / name, cache.get(name))
        for name in files
        if Path(name).name == name  # a manifest that was tampered with names no other folder
    }
    same = {name: file for name, file in files.items() if _digest_of(current.get(name)) == file}
    updated = cache | {name: current[name] for name in same}
    if updated != cache:
        with contextlib.suppress(OSError, StoreError):  # a read-only store: every process hashes
            write_json(folder / "verified.json", updated)
    return same


def _stamped_digest(path: Path, cached: Any) -> dict[str, Any] | None:
    """Size, time and digest; an earlier digest is taken where size and time are the same."""
    if not path.is_file():
        return None
    status = path.stat()
    stamp = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
    for earlier in (_verified.get(path), cached):
        if _digest_of(earlier) and earlier == stamp | {"digest": earlier["digest"]}:
            return earlier
    _verified[path] = stamp | {"digest": digest(path)}
    return _verified[path]


def _digest_of(stamped: Any) -> dict[str, Any] | None:
    value = stamped.get("digest") if isinstance(stamped, dict) else None
    return value if isinstance(value, dict) else None


@contextlib.contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Yields whether this process has the folder; the kernel frees the lock of one that died."""
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
