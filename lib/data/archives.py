"""The files of a download, read where they lie: a folder, a zip, or a tar (plain, .xz, .gz). Nothing is written to disk."""

from __future__ import annotations

import functools
import hashlib
import itertools
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from lib.core import progress
from lib.core.compute import seed_of
from lib.core.store import digest
from lib.data import imageset as images
from lib.data.imageset import ImageSet
from lib.data.sources import Source, SourceError

DAMAGE = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, tarfile.TarError)
ENDS = (".zip", ".tar", ".tar.xz", ".tar.gz", ".tgz")  # of archives
LARGEST = 2**27  # bytes of a file; a few kilobytes can be packed so that they unfold to more than the memory
Files = dict[str, Callable[[], bytes]]  # name within the download -> what reads the file


@dataclass(frozen=True)
class Entry:
    """One picture of a download."""

    split: str  # train or test
    label: int
    read: Callable[[], bytes]


def source(path: Path, entries: dict[str, Entry], classes: tuple[str, ...], mark: str, size: int, seed: int,
           allowed: int, skipped: Sequence[str]) -> Source:
    """The pictures as a source of size x size; in each split classes come in turn.

    Up to `allowed` bad files are looked for and left out; those `skipped` are known to be bad.
    """
    names = sorted(entries)
    numbers = {name: i for i, name in enumerate(names)}
    reads = {name: entries[name].read for name in names}
    skipped = unreadable(path, reads, allowed) if allowed else tuple(skipped)  # else the first that is wanted stops the run
    good = {name: entries[name] for name in names if name not in skipped}
    order = {split: in_turn(good, split, classes, seed, path) for split in ("train", "test")}

    def read_one(name: str) -> np.ndarray:
        image = picture(entries[name].read)
        if image is None:
            raise SourceError(f"{name} is not a whole JPEG; replace it, download the set again, or allow bad files with "
                              f"data.bad_files.\n{path}")
        return images.fit(image, size)

    def read(split: str, positions: Sequence[int]) -> ImageSet:
        found = tuple(order[split][i] for i in positions)
        labels, seeds = np.array([(entries[name].label, numbers[name]) for name in found], np.int64).T
        return ImageSet(np.stack([read_one(name) for name in found]), labels, classes, seeds, found, ("",) * len(found))

    return Source(classes, {split: len(found) for split, found in order.items()}, read, mark, skipped)


def in_turn(entries: dict[str, Entry], split: str, classes: tuple[str, ...], seed: int, path: Path) -> list[str]:
    """Names of one split, shuffled by seed within their class and taken from the classes in turn."""
    groups = [[name for name, entry in entries.items() if (entry.split, entry.label) == (split, k)]
              for k in range(len(classes))]
    for k, names in enumerate(groups):
        if not names:
            raise SourceError(f"no {classes[k]} in {split}; get the set again.\n{path}")
        np.random.default_rng(seed_of(seed, "download", split, k)).shuffle(names)
    return [name for turn in itertools.zip_longest(*groups) for name in turn if name is not None]


def located(path: Path, what: str) -> Path:
    """The download that a path means: itself, or the one folder or archive beside it whose name begins alike."""
    if path.exists():
        return path
    there = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    fit = [one for one in there if one.name.lower().startswith(path.name.lower()) and (one.is_dir() or one.name.endswith(ENDS))]
    if len(fit) == 1:
        return fit[0]
    found = ", ".join(one.name for one in (fit or there)[:8]) or "nothing"
    why = f"{len(fit)} downloads fit ({found}); set data.path to one of them" if fit else \
        f"nothing is there (beside it: {found}); put your download there, or set data.path to where it lies"
    raise SourceError(f"{why}. It should hold {what}, as a folder {path.name}/ or as {path.name}*{', *'.join(ENDS)}.\n{path}")


def opened(path: Path, what: str) -> tuple[Files, str]:
    """All files of a folder or archive, and a fingerprint of it; `what` says in errors what there should be."""
    path = located(path, what)
    if path.is_file():
        return _archive(path, path.stat().st_mtime_ns, what)
    files = {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*")) if file.is_file()}
    if not files:
        raise SourceError(f"an empty folder; put your download there, or set data.path to where it lies. It should hold {what}."
                          f"\n{path}")
    stats = repr([(name, file.stat().st_size, file.stat().st_mtime_ns) for name, file in files.items()])
    return {name: file.read_bytes for name, file in files.items()}, hashlib.sha256(stats.encode()).hexdigest()[:20]


@functools.lru_cache(maxsize=1)  # both halves of a set and several recipes share one reading
def _archive(path: Path, changed: int, what: str) -> tuple[Files, str]:
    """All files of a zip, read when they are wanted, or of a tar, read at once; and a fingerprint of it."""
    found, cause = {}, None
    try:
        if tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                for entry in (one for one in archive if one.isreg() and one.size <= LARGEST):
                    found[entry.name] = functools.partial(bytes, archive.extractfile(entry).read())
        else:
            archive = zipfile.ZipFile(path)
            found = {one.filename: functools.partial(archive.read, one) for one in archive.infolist()
                     if one.filename and not one.is_dir() and one.file_size <= LARGEST}  # a name may be empty
    except DAMAGE as error:
        cause = error
    if cause or (path.suffix == ".tar" and path.read_bytes()[-512:] != bytes(512)):  # a whole tar ends with empty blocks
        count = len(found) or path.read_bytes().count(b"PK\3\4")  # a zip's table of contents, which stands last, is lost
        raise SourceError(f"{path.name} is half downloaded or damaged: {count:,} of {what} found; download it again.\n{path}"
                          ) from cause
    return found, digest(path)["sha256"][:20]


def picture(read: Callable[[], bytes]) -> np.ndarray | None:
    """One picture (h, w, 3) RGB, None where it is damaged; OpenCV: five times as fast as Pillow, the same pixels."""
    try:
        data = np.frombuffer(read(), np.uint8)
    except DAMAGE:
        return None
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if len(data) else None


def unreadable(path: Path, files: Files, allowed: int) -> tuple[str, ...]:
    """Names of the images that cannot be decoded, if they are no more than allowed."""
    bad = tuple(name for name, read in progress.each(f"read {path.name}", files.items()) if picture(read) is None)
    if len(bad) > allowed:
        raise SourceError(f"{len(bad)} unreadable images where {allowed} are allowed, the first is {bad[0]}.\n{path}")
    progress.say(f"{path.name}: {len(bad)} of {len(files)} images are unreadable and left out{''.join(f', {n}' for n in bad)}")
    return bad
