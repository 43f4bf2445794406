"""The picture files of a download as a source: splits, order, what cannot be read, what repeats."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np

from lib.core import progress
from lib.core.compute import seed_of
from lib.data import pictures
from lib.data.archives import DAMAGE, Download
from lib.data.imageset import ImageSet
from lib.data.pictures import PictureError
from lib.data.source import File, Source, SourceError, SourceOptions

TEST_FRACTION = 5  # where a download has no test folder: one image in so many
MAX_LISTED = 50  # files in one error


@dataclass(frozen=True)
class Entry:
    """One picture of a download."""

    split: str  # train or test; '': decided by seed
    label: int
    file: File


def from_files(
    download: Download,
    entries: Mapping[str, Entry],
    classes: tuple[str, ...],
    options: SourceOptions,
    left_out: Mapping[str, int] | None = None,
) -> Source:
    """Pictures as a source; within a split they are shuffled by seed and the classes take turns."""
    positions = {name: i for i, name in enumerate(sorted(entries))}
    files = {name: entries[name].file for name in positions}
    skipped = tuple(options.skipped)
    if options.max_corrupt_files and not skipped:
        skipped = _allowed(download, files, options.max_corrupt_files)
    usable = {name: entry for name, entry in entries.items() if name not in skipped}
    usable = _with_splits(download, usable, options.seed)
    order = {
        split: _in_turn(download, usable, split, classes, options.seed)
        for split in ("train", "test")
    }

    def labels_of(names: Sequence[str]) -> np.ndarray:
        return np.array([entries[name].label for name in names], np.int64)

    def read(split: str, rows: Sequence[int]) -> ImageSet:
        names = tuple(order[split][i] for i in rows)
        pixels = np.stack([_pixels(download, files, name, options.size) for name in names])
        seeds = np.array([positions[name] for name in names], np.int64)
        return ImageSet(pixels, labels_of(names), classes, seeds, names, ("",) * len(names))

    return Source(
        classes,
        {split: len(names) for split, names in order.items()},
        read,
        lambda split, count: labels_of(order[split][:count]),
        download.fingerprint,
        skipped,
        Counter(download.left_out) + Counter(left_out or {}),
        files,
        order,
    )


def _pixels(download: Download, files: Mapping[str, File], name: str, size: int) -> np.ndarray:
    try:
        return pictures.fit(pictures.decode(files[name].read()), size)
    except (PictureError, *DAMAGE):
        raise _unreadable_error(download, unreadable(download, files), 0) from None


def unreadable(download: Download, files: Mapping[str, File]) -> dict[str, str]:
    """Every file that cannot be decoded, and why."""
    return _unreadable(download.fingerprint, download.path.name, tuple(files.items()))


@functools.lru_cache(maxsize=8)
def _unreadable(key: str, name: str, files: tuple[tuple[str, File], ...]) -> dict[str, str]:
    with ThreadPoolExecutor() as pool:
        reasons = pool.map(_reason, (file for _, file in files))
        results = zip(files, progress.each(f"check {name}", reasons, len(files)), strict=True)
        return {name: reason for (name, _), reason in results if reason}


def _reason(file: File) -> str:
    """Why a file cannot be decoded; empty where it can."""
    try:
        pictures.decode(file.read())
    except (PictureError, *DAMAGE) as error:
        return str(error)
    return ""


def _allowed(download: Download, files: Mapping[str, File], limit: int) -> tuple[str, ...]:
    """Names of the unreadable files, if they are no more than may be left out."""
    corrupt = unreadable(download, files)
    if len(corrupt) > limit:
        raise _unreadable_error(download, corrupt, limit)
    if corrupt:
        names = ", ".join(itertools.islice(corrupt, MAX_LISTED))
        count = f"{len(corrupt)} of {len(files)} images left out as unreadable"
        progress.say(f"{download.path.name}: {count}, {names}")
    return tuple(corrupt)


def _unreadable_error(download: Download, corrupt: Mapping[str, str], limit: int) -> SourceError:
    lines = [f"  {name}: {reason}" for name, reason in corrupt.items()]
    if len(lines) > MAX_LISTED:
        lines[MAX_LISTED:] = [f"  and {len(lines) - MAX_LISTED:,} more"]
    return SourceError(
        f"{len(corrupt):,} unreadable images where {limit} may be left out. Replace or remove "
        "them, or set data.max_corrupt_files to at least as many:\n"
        + "\n".join([*lines, str(download.path)])
    )


def _with_splits(download: Download, entries: Mapping[str, Entry], seed: int) -> dict[str, Entry]:
    """Entries without a split get one: a fifth of each class is for testing, by name and seed.

    Files with the same bytes stay together, so that no test image is a training image too.
    """
    undecided: dict[int, list[str]] = {}
    for name, entry in entries.items():
        if not entry.split:
            undecided.setdefault(entry.label, []).append(name)
    splits: dict[str, str] = {}
    for names in undecided.values():
        names.sort(key=lambda name: seed_of(seed, "folder", *PurePosixPath(name).parts[-2:]))
        count = max(1, len(names) // TEST_FRACTION) if len(names) > 1 else 0
        splits |= dict.fromkeys(names[:count], "test") | dict.fromkeys(names[count:], "train")
    files = tuple((name, entries[name].file) for name in sorted(splits))
    for group in _equal_files(download.fingerprint, files):
        first = {entries[name].label: name for name in reversed(group)}  # of each class
        splits |= {name: splits[first[entries[name].label]] for name in group}
    return {
        name: replace(entry, split=splits.get(name, entry.split)) for name, entry in entries.items()
    }


def _in_turn(
    download: Download,
    entries: Mapping[str, Entry],
    split: str,
    classes: tuple[str, ...],
    seed: int,
) -> list[str]:
    """Names of one split, shuffled by seed within their class, from each class in turn."""
    groups: list[list[str]] = [[] for _ in classes]
    for name in sorted(entries):
        if entries[name].split == split:
            groups[entries[name].label].append(name)
    empty = [repr(name) for name, group in zip(classes, groups, strict=True) if not group]
    if empty:
        kind = "class has" if len(empty) == 1 else "classes have"
        raise SourceError(
            f"{len(empty)} {kind} no {split} image: {', '.join(empty[:20])}; add images of it, "
            f"or remove the class from all splits.\n{download.path}"
        )
    for k, group in enumerate(groups):
        np.random.default_rng(seed_of(seed, "download", split, k)).shuffle(group)
    turns = itertools.zip_longest(*groups)
    return [name for turn in turns for name in turn if name is not None]


def equal_files(files: Mapping[str, File]) -> list[list[str]]:
    """Groups of files with the same bytes; only files of equal size are read."""
    by_size: dict[int, list[str]] = {}
    for name, file in files.items():
        by_size.setdefault(file.size, []).append(name)
    by_content: dict[str, list[str]] = {}
    for name in (name for names in by_size.values() if len(names) > 1 for name in names):
        digest = hashlib.sha256(files[name].read()).hexdigest()
        by_content.setdefault(digest, []).append(name)
    return [names for names in by_content.values() if len(names) > 1]


@functools.lru_cache(maxsize=8)
def _equal_files(key: str, files: tuple[tuple[str, File], ...]) -> list[list[str]]:
    return equal_files(dict(files))


def leaks(source: Source, counts: Mapping[str, int]) -> list[tuple[str, str]]:
    """Test files that equal a training file, of the first `counts` of each: (test, train)."""
    splits = {split: set(names[: counts.get(split)]) for split, names in source.names.items()}
    used = set().union(*splits.values())
    groups = equal_files({name: file for name, file in source.files.items() if name in used})
    pairs = []
    for group in groups:
        train = [name for name in group if name in splits["train"]]
        pairs += [(name, train[0]) for name in group if train and name in splits["test"]]
    return pairs


def not_pictures(files: Mapping[str, File]) -> dict[str, str]:
    """Files whose header cannot be read, and why; quick, since nothing is decoded."""
    reasons = {}
    for name, file in files.items():
        try:
            pictures.read_header(file.read())
        except (PictureError, *DAMAGE) as error:
            reasons[name] = str(error)
    return reasons
