"""The files of a folder, a zip or a tar (plain, .xz, .gz); nothing is unpacked to disk."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import lzma
import mmap
import operator
import re
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lib.data.source import File, SourceError

DAMAGE = (
    OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
    tarfile.TarError,
)  # fmt: skip
MAGIC = {
    ".zip": b"PK",
    ".tar": b"",
    ".tar.xz": b"\xfd7zXZ\0",
    ".tar.gz": b"\x1f\x8b",
    ".tgz": b"\x1f\x8b",
}
MAX_FILE = 2**27  # bytes of one file: a few kilobytes can unpack to more than there is memory
MAX_UNPACKED = 2**32  # bytes of all files of a compressed tar, which are held in memory
CHUNK = 2**24  # bytes that are decompressed at once
SAMPLE = 2**15  # bytes at both ends of a file that its fingerprint covers
JUNK = {"thumbs.db", "desktop.ini", "__macosx", "@eadir"}  # left by systems among pictures
DRIVE = re.compile("[A-Za-z]:$")


@dataclass(frozen=True)
class Download:
    """The files of a folder or archive by their names in it, and what was passed over."""

    path: Path
    files: Mapping[str, File]
    fingerprint: str  # of names and contents, not of times: a copy has the same
    left_out: Counter = field(default_factory=Counter)


def open_download(path: Path, description: str) -> Download:
    """All files of a folder or archive; `description` says in errors what there should be."""
    path = located(path, description)
    if path.is_file():
        stat = path.stat()
        return _open_archive(path, stat.st_size, stat.st_mtime_ns, description)
    files, left_out = _sift(_folder_members(path))
    if not files:
        raise SourceError(
            f"an empty folder; put your files there, or set data.root to where they lie. "
            f"It should hold {description}.\n{path}"
        )
    times = tuple((name, (path / name).stat().st_mtime_ns) for name in files)
    return Download(path, files, _folder_fingerprint(path, times), left_out)


def located(path: Path, description: str) -> Path:
    """The download that a path means: itself, or the only one beside it whose name begins alike."""
    if path.exists():
        return path
    beside = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    similar = [other for other in beside if other.name.lower().startswith(path.name.lower())]
    candidates = [other for other in similar if other.is_dir() or _suffix(other)]
    if len(candidates) == 1:
        return candidates[0]
    names = ", ".join(other.name for other in (candidates or beside)[:8]) or "nothing"
    reason = (
        f"{len(candidates)} downloads fit ({names}); set data.root to one of them"
        if candidates
        else f"nothing is there (beside it: {names}); put your files there, or set data.root to "
        "where they lie"
    )
    raise SourceError(
        f"{reason}. It should hold {description}, as a folder {path.name}/ or as "
        f"{path.name}*{', *'.join(MAGIC)}.\n{path}"
    )


def _sift(members: Iterable[tuple[str, File]]) -> tuple[dict[str, File], Counter]:
    """The files that can be used, and how many could not, by reason."""
    kept, left_out = {}, Counter()
    for name, file in members:
        reason = _unusable(name, file.size)
        if reason:
            left_out[reason] += 1
        else:
            kept[name.removeprefix("./")] = file
    return kept, left_out


def _unusable(name: str, size: int) -> str:
    """Why a file is passed over; empty for one that is kept."""
    path = name.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or path.startswith("/") or ".." in parts or DRIVE.match(parts[0]):
        return "path that leaves the archive"
    if any(part.lower() in JUNK or part.startswith(".") for part in parts):
        return "system file"
    return "larger than 128 MB" if size > MAX_FILE else ""


def _folder_members(path: Path) -> Iterator[tuple[str, File]]:
    for file in sorted(path.rglob("*")):
        if file.is_file():
            yield file.relative_to(path).as_posix(), File(file.stat().st_size, file.read_bytes)


@functools.lru_cache(maxsize=4)
def _folder_fingerprint(folder: Path, times: tuple[tuple[str, int], ...]) -> str:
    """Of names, sizes, first and last bytes; the times only say when to look again."""
    total = hashlib.sha256()
    for name, _ in times:
        with (folder / name).open("rb") as file:
            size, ends = (folder / name).stat().st_size, file.read(SAMPLE)
            file.seek(max(SAMPLE, size - SAMPLE))
            ends += file.read(SAMPLE)
        total.update(repr((name, size, hashlib.sha256(ends).hexdigest())).encode())
    return total.hexdigest()[:20]


def _suffix(path: Path) -> str:
    """The ending by which a file is an archive; empty where it is none."""
    endings = sorted(MAGIC, key=len, reverse=True)
    return next((ending for ending in endings if path.name.lower().endswith(ending)), "")


@functools.lru_cache(maxsize=1)  # both halves of a set and several specs share one reading
def _open_archive(path: Path, size: int, changed: int, description: str) -> Download:
    """All files of a zip or plain tar, read when needed, or of a compressed tar, read at once."""
    suffix = _suffix(path)
    if not suffix:
        raise SourceError(f"neither a folder nor one of *{', *'.join(MAGIC)}.\n{path}")
    try:
        with path.open("rb") as file:
            if not file.read(8).startswith(MAGIC[suffix]):
                raise tarfile.ReadError(f"the content is not that of a {suffix} file")
            file.seek(0)
            fingerprint = hashlib.file_digest(file, "sha256").hexdigest()[:20]
        files, left_out = _sift(_members(path, suffix))
    except DAMAGE as error:
        raise SourceError(
            f"{path.name} is half downloaded or damaged ({error}). It should hold {description}; "
            f"download it again.\n{path}"
        ) from error
    return Download(path, files, fingerprint, left_out)


def _members(path: Path, suffix: str) -> Iterator[tuple[str, File]]:
    if suffix == ".zip":
        return _zip_members(path)
    return _tar_members(_mapped(path) if suffix == ".tar" else _decompressed(path, suffix))


def _zip_members(path: Path) -> Iterator[tuple[str, File]]:
    archive = zipfile.ZipFile(path)  # stays open: its files are read when they are needed
    for info in archive.infolist():
        if info.filename and not info.is_dir():  # a name may be empty
            yield info.filename, File(info.file_size, functools.partial(archive.read, info))


def _tar_members(content: mmap.mmap | bytes) -> Iterator[tuple[str, File]]:
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for info in archive:
            archive.members.clear()  # a kilobyte each, kept for random access
            if info.isreg():
                start = info.offset_data
                part = functools.partial(operator.getitem, content, slice(start, start + info.size))
                yield info.name, File(info.size, part)


def _mapped(path: Path) -> mmap.mmap:
    """The bytes of a plain tar, where they lie on the disk."""
    if not path.stat().st_size:
        raise tarfile.ReadError("it is empty")
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if content[-512:].strip(b"\0"):  # a whole tar ends with empty blocks
        raise tarfile.ReadError("the end is missing")
    return content


def _decompressed(path: Path, suffix: str) -> bytes:
    """A compressed tar in memory, since it cannot be entered midway."""
    content, opened = io.BytesIO(), lzma.open if suffix == ".tar.xz" else gzip.open
    with opened(path) as file:
        while chunk := file.read(CHUNK):
            content.write(chunk)
            if content.tell() > MAX_UNPACKED:
                raise SourceError(
                    f"{path.name} unpacks to more than {MAX_UNPACKED / 2**30:.0f} GB; unpack it "
                    f"into a folder, and set data.root to that.\n{path}"
                )
    return content.getvalue()
