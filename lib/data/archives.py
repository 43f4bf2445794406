"""The files of a folder, a zip or a tar (plain, .xz, .gz), read in place: nothing is unpacked to disk."""

from __future__ import annotations

import functools
import hashlib
import itertools
import lzma
import re
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from lib.core import progress
from lib.core.compute import seed_of
from lib.data import pictures
from lib.data.imageset import ImageSet
from lib.data.pictures import PictureError
from lib.data.source import Source, SourceError, SourceOptions

DAMAGE = (
    OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, tarfile.TarError,
)  # fmt: skip
MAGIC = {".zip": b"PK", ".tar": b"", ".tar.xz": b"\xfd7zXZ\0", ".tar.gz": b"\x1f\x8b", ".tgz": b"\x1f\x8b"}
MAX_FILE = 2**27  # bytes of one file: a few kilobytes can unpack to more than there is memory
MAX_UNPACKED = 2**32  # bytes of all files of a compressed tar, which are held in memory
TEST_FRACTION = 5  # where a set has no test folder: one image in so many
SAMPLE = 2**15  # bytes at both ends of a file that its fingerprint covers
JUNK = {"thumbs.db", "desktop.ini", "__macosx", "@eadir"}  # what systems leave in folders of pictures
DRIVE = re.compile("[A-Za-z]:$")
Read = Callable[[], bytes]


@dataclass(frozen=True)
class Download:
    """The files of a folder or archive by their names in it, and what was passed over."""

    path: Path
    files: Mapping[str, Read]
    fingerprint: str  # of names and contents, not of times: a copy has the same
    left_out: Counter = field(default_factory=Counter)


@dataclass(frozen=True)
class Entry:
    """One picture of a download."""

    split: str  # train or test; '': drawn by seed
    label: int
    read: Read


def listed(
    download: Download,
    entries: Mapping[str, Entry],
    classes: tuple[str, ...],
    options: SourceOptions,
    left_out: Mapping[str, int] | None = None,
) -> Source:
    """Pictures as a source; within a split they are shuffled by seed and the classes take turns."""
    names = sorted(entries)
    numbers = {name: i for i, name in enumerate(names)}
    files = {name: entries[name].read for name in names}
    skipped = tuple(options.skipped)
    if options.max_corrupt_files and not skipped:
        skipped = _allowed(download, files, options.max_corrupt_files)
    usable = {name: entry for name, entry in entries.items() if name not in skipped}
    usable = _with_splits(usable, options.seed)
    order = {
        split: _in_turn(usable, split, classes, options.seed, download.path)
        for split in ("train", "test")
    }

    def read(split: str, positions: Sequence[int]) -> ImageSet:
        chosen = tuple(order[split][i] for i in positions)
        pixels = [_read_one(download, name, files, options.size) for name in chosen]
        labels = np.array([entries[name].label for name in chosen], np.int64)
        seeds = np.array([numbers[name] for name in chosen], np.int64)
        return ImageSet(np.stack(pixels), labels, classes, seeds, chosen, ("",) * len(chosen))

    splits = {split: len(chosen) for split, chosen in order.items()}
    passed_over = Counter(download.left_out) + Counter(left_out or {})
    return Source(classes, splits, read, download.fingerprint, skipped, passed_over, files)


def _read_one(download: Download, name: str, files: Mapping[str, Read], size: int) -> np.ndarray:
    try:
        return pictures.fit(pictures.decode(files[name]()), size)
    except (PictureError, *DAMAGE):
        raise _unreadable_error(download, unreadable(download, files), 0) from None


def _allowed(download: Download, files: Mapping[str, Read], most: int) -> tuple[str, ...]:
    """Names of the unreadable files, if they are no more than may be left out."""
    corrupt = unreadable(download, files)
    if len(corrupt) > most:
        raise _unreadable_error(download, corrupt, most)
    names = "".join(f", {name}" for name in corrupt)
    progress.say(f"{download.path.name}: {len(corrupt)} of {len(files)} images left out as unreadable{names}")
    return tuple(corrupt)


@functools.lru_cache(maxsize=8)
def _unreadable(fingerprint: str, name: str, files: tuple[tuple[str, Read], ...]) -> dict[str, str]:
    corrupt = {}
    for file, read in progress.each(f"check {name}", files):
        try:
            pictures.decode(read())
        except (PictureError, *DAMAGE) as error:
            corrupt[file] = str(error)
    return corrupt


def unreadable(download: Download, files: Mapping[str, Read]) -> dict[str, str]:
    """Every file that cannot be decoded, and why."""
    return _unreadable(download.fingerprint, download.path.name, tuple(files.items()))


def _unreadable_error(download: Download, corrupt: Mapping[str, str], most: int) -> SourceError:
    lines = [f"  {name}: {reason}" for name, reason in itertools.islice(corrupt.items(), 50)]
    lines += [f"  and {len(corrupt) - 50:,} more"] if len(corrupt) > 50 else []
    return SourceError(
        f"{len(corrupt):,} unreadable images where {most} may be left out. Replace or remove them, "
        "or set data.max_corrupt_files to at least as many:\n"
        + "\n".join(lines)
        + f"\n{download.path}"
    )


def _with_splits(entries: Mapping[str, Entry], seed: int) -> dict[str, Entry]:
    """Entries without a split get one: of each class a fifth is for testing, by the hash of its name."""
    undecided: dict[int, list[str]] = {}
    for name, entry in entries.items():
        if not entry.split:
            undecided.setdefault(entry.label, []).append(name)
    splits: dict[str, str] = {}
    for names in undecided.values():
        names.sort(key=lambda name: seed_of(seed, "folder", *PurePosixPath(name).parts[-2:]))
        count = max(1, len(names) // TEST_FRACTION) if len(names) > 1 else 0
        splits |= dict.fromkeys(names[:count], "test") | dict.fromkeys(names[count:], "train")
    return {name: replace(entry, split=splits.get(name, entry.split)) for name, entry in entries.items()}


def _in_turn(
    entries: Mapping[str, Entry], split: str, classes: tuple[str, ...], seed: int, path: Path
) -> list[str]:
    """Names of one split, shuffled by seed within their class and taken from the classes in turn."""
    groups: list[list[str]] = [[] for _ in classes]
    for name in sorted(entries):
        if entries[name].split == split:
            groups[entries[name].label].append(name)
    empty = [repr(name) for name, group in zip(classes, groups, strict=True) if not group]
    if empty:
        kind = "class has" if len(empty) == 1 else "classes have"
        raise SourceError(
            f"{len(empty)} {kind} no {split} image: {', '.join(empty[:20])}; add images of it, "
            f"or remove the class from all splits.\n{path}"
        )
    for k, group in enumerate(groups):
        np.random.default_rng(seed_of(seed, "download", split, k)).shuffle(group)
    turns = itertools.zip_longest(*groups)
    return [name for turn in turns for name in turn if name is not None]


def located(path: Path, description: str) -> Path:
    """The download that a path means: itself, or the only one beside it whose name begins alike."""
    if path.exists():
        return path
    beside = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    prefix = path.name.lower()
    candidates = [
        other
        for other in beside
        if other.name.lower().startswith(prefix) and (other.is_dir() or _suffix(other))
    ]
    if len(candidates) == 1:
        return candidates[0]
    names = ", ".join(other.name for other in (candidates or beside)[:8]) or "nothing"
    reason = (
        f"{len(candidates)} downloads fit ({names}); set data.root to one of them"
        if candidates
        else f"nothing is there (beside it: {names}); put your files there, or set data.root to where they lie"
    )
    endings = ", *".join(MAGIC)
    raise SourceError(
        f"{reason}. It should hold {description}, as a folder {path.name}/ or as {path.name}*{endings}."
        f"\n{path}"
    )


def open_download(path: Path, description: str) -> Download:
    """All files of a folder or archive; `description` says in errors what there should be."""
    path = located(path, description)
    stat = path.stat()
    if path.is_file():
        return _open_archive(path, stat.st_size, stat.st_mtime_ns, description)
    found = [file for file in sorted(path.rglob("*")) if file.is_file()]
    members = [(file.relative_to(path).as_posix(), file.stat().st_size, file) for file in found]
    kept, left_out = _sift((name, size, file.read_bytes) for name, size, file in members)
    if not kept:
        raise SourceError(
            f"an empty folder; put your files there, or set data.root to where they lie. "
            f"It should hold {description}.\n{path}"
        )
    files = {name: file for name, _, file in members if name in kept}
    times = tuple((name, file, file.stat().st_mtime_ns) for name, file in files.items())
    return Download(path, kept, _folder_fingerprint(times), left_out)


@functools.lru_cache(maxsize=4)
def _folder_fingerprint(files: tuple[tuple[str, Path, int], ...]) -> str:
    """Of names, sizes, and the first and last bytes; times only say when to look again."""
    total = hashlib.sha256()
    for name, path, _ in files:
        size = path.stat().st_size
        with path.open("rb") as file:
            ends = file.read(SAMPLE)
            if size > 2 * SAMPLE:
                file.seek(-SAMPLE, 2)
            ends += file.read(SAMPLE)
        total.update(repr((name, size, hashlib.sha256(ends).hexdigest())).encode())
    return total.hexdigest()[:20]


def _sift(members: Iterable[tuple[str, int, Read]]) -> tuple[dict[str, Read], Counter]:
    """The files that can be used, and how many could not, by reason."""
    kept, left_out = {}, Counter()
    for name, size, read in members:
        reason = _unusable(name, size)
        if reason:
            left_out[reason] += 1
        else:
            kept[name.removeprefix("./")] = read
    return kept, left_out


def _unusable(name: str, size: int) -> str:
    """Why a file is passed over; empty for one that is kept."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or DRIVE.match(parts[0]):
        return "path that leaves the archive"
    if any(part.lower() in JUNK or part.startswith(".") for part in parts):
        return "system file"
    return "larger than 128 MB" if size > MAX_FILE else ""


def _suffix(path: Path) -> str:
    """The ending by which a file is an archive; empty where it is none."""
    return next((end for end in sorted(MAGIC, key=len, reverse=True) if path.name.endswith(end)), "")


@functools.lru_cache(maxsize=1)  # both halves of a set and several specs share one reading
def _open_archive(path: Path, size: int, changed: int, description: str) -> Download:
    """All files of a zip or plain tar, read when they are needed, or of a packed tar, read at once."""
    suffix = _suffix(path)
    if not suffix:
        raise SourceError(f"neither a folder nor one of *{', *'.join(MAGIC)}.\n{path}")
    try:
        with path.open("rb") as file:
            if not file.read(8).startswith(MAGIC[suffix]):
                raise tarfile.ReadError(f"the content is not that of a {suffix} file")
            file.seek(0)
            fingerprint = hashlib.file_digest(file, "sha256").hexdigest()[:20]
        kept, left_out = _sift(_zip_members(path) if suffix == ".zip" else _tar_members(path, suffix))
    except DAMAGE as error:
        raise SourceError(
            f"{path.name} is half downloaded or damaged ({error}). It should hold {description}; "
            f"download it again.\n{path}"
        ) from error
    return Download(path, kept, fingerprint, left_out)


def _zip_members(path: Path) -> Iterable[tuple[str, int, Read]]:
    archive = zipfile.ZipFile(path)  # stays open: its files are read when they are needed
    for info in archive.infolist():
        if info.filename and not info.is_dir():  # a name may be empty
            yield info.filename, info.file_size, functools.partial(archive.read, info)


def _tar_members(path: Path, suffix: str) -> Iterable[tuple[str, int, Read]]:
    """Of a plain tar where its files lie; of a packed one their contents, since it cannot be entered midway."""
    plain, total = suffix == ".tar", 0
    if plain and not _ends_whole(path):
        raise tarfile.ReadError("the end is missing")
    mode = {".tar": "r:", ".tar.xz": "r:xz"}.get(suffix, "r:gz")
    with tarfile.open(path, mode) as archive:
        for info in archive:
            total += 0 if plain else info.size
            if total > MAX_UNPACKED:
                limit = f"{MAX_UNPACKED / 2**30:.0f} GB"
                raise SourceError(
                    f"{path.name} unpacks to more than {limit}; unpack it into a folder, and set "
                    f"data.root to that.\n{path}"
                )
            if info.isreg() and plain:
                yield info.name, info.size, functools.partial(_slice, path, info.offset_data, info.size)
            elif info.isreg():
                data = b"" if _unusable(info.name, info.size) else archive.extractfile(info).read()
                yield info.name, info.size, functools.partial(bytes, data)


def _slice(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


def _ends_whole(path: Path) -> bool:
    """A whole tar ends with empty blocks."""
    with path.open("rb") as file:
        file.seek(-min(512, path.stat().st_size), 2)
        return file.read() == bytes(512)
