"""What a source of images is. Each file of `lib/data/sources/` opens one, under the file's name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lib.data import sources
from lib.data.imageset import ImageSet


class SourceError(ValueError):
    """Images that cannot be used; the message names the file."""


@dataclass(frozen=True)
class SourceOptions:
    """How a source is to be read."""

    root: Path  # where its files lie: a folder, a zip, a tar
    size: int  # of the images, in pixels
    seed: int = 0  # of splits and order
    max_corrupt_files: int = 0  # unreadable files that may be left out
    skipped: Sequence[str] = ()  # files known to be unreadable


@dataclass(frozen=True)
class File:
    """One file of a folder or archive."""

    size: int  # bytes
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Source:
    """Labelled images by split and position, at one size."""

    classes: tuple[str, ...]
    splits: dict[str, int]  # how many images each split can give
    read: Callable[[str, Sequence[int]], ImageSet]  # split, positions -> those images
    labels: Callable[[str, int], np.ndarray]  # split, count -> labels of its first images
    fingerprint: str = ""  # of files that could change; the same for a copy of them
    skipped: tuple[str, ...] = ()  # unreadable files that were left out
    left_out: Mapping[str, int] = field(default_factory=dict)  # reason -> number of files
    files: Mapping[str, File] = field(default_factory=dict)  # of all splits
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)  # of files, by split, in order


def names() -> list[str]:
    """Every source: the files of `lib/data/sources/`."""
    return sorted(module.name for module in pkgutil.iter_modules(sources.__path__))


def module_of(name: str):
    """The module that opens the source of a name."""
    if name not in names():
        close = difflib.get_close_matches(name, names(), 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise SourceError(
            f"no source {name!r}: {hint}There are {', '.join(names())}; "
            f"another is a file lib/data/sources/{name}.py with a function open_source(options)"
        )
    return importlib.import_module(f"{sources.__name__}.{name}")


def open_source(name: str, options: SourceOptions) -> Source:
    """The source of that name."""
    return module_of(name).open_source(options)


def from_arrays(
    images: Sequence[np.ndarray],
    labels: np.ndarray,
    classes: tuple[str, ...],
    ids: Sequence[str],
    splits: Mapping[str, np.ndarray],
) -> Source:
    """A source whose images are in memory; a seed is the position in the original set."""

    def read(split: str, positions: Sequence[int]) -> ImageSet:
        rows = splits[split][list(positions)].astype(np.int64)
        return ImageSet(
            np.stack([images[i] for i in rows]),
            labels[rows].astype(np.int64),
            classes,
            rows,
            tuple(ids[i] for i in rows),
            ("",) * len(rows),
        )

    sizes = {split: len(rows) for split, rows in splits.items()}
    return Source(classes, sizes, read, lambda split, count: labels[splits[split][:count]])
