"""Class folders of any pictures, in a folder, a zip or a tar.

`train/<class>/` and `test/<class>/` (or `val/`), or `<class>/`, of which a fifth is for testing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from lib.data.archives import Download, open_download
from lib.data.files import Entry, from_files
from lib.data.pictures import SUFFIXES
from lib.data.source import Source, SourceError, SourceOptions

SPLITS = {"train": "train", "test": "test", "val": "test", "valid": "test", "validation": "test"}


def open_source(options: SourceOptions) -> Source:
    download = open_download(options.root, "folders of pictures, one per class")
    left_out: Counter = Counter()
    places = _places(download, left_out)
    if not places:
        endings = ", ".join(SUFFIXES)
        raise SourceError(f"no picture in a class folder ({endings}).\n{download.path}")
    classes = tuple(sorted({name for _, name in places.values()}))
    if len(classes) < 2:
        reason = f"at least two class folders are needed, there is only {classes[0]!r}"
        raise SourceError(f"{reason}.\n{download.path}")
    splits = _splits(places, download.path)
    entries = {
        file: Entry(splits[file], classes.index(name), download.files[file])
        for file, (_, name) in places.items()
    }
    return from_files(download, entries, classes, options, left_out)


def _places(download: Download, left_out: Counter) -> dict[str, tuple[str, str]]:
    """Split folder ('' without one) and class of every picture."""
    parts = {name: PurePosixPath(name).parts for name in download.files}
    depth = _common_depth(parts.values())
    places: dict[str, tuple[str, str]] = {}
    with_splits = any(path[depth] == "train" and len(path) > depth + 2 for path in parts.values())
    for name, path in parts.items():
        path = path[depth:]
        reason = _not_a_picture(path, with_splits)
        if reason:
            left_out[reason] += 1
        else:
            places[name] = (path[0], path[1]) if with_splits else ("", path[0])
    return places


def _common_depth(paths: Iterable[tuple[str, ...]]) -> int:
    """How many folders lie around all class folders; `train` and its like are no such folders."""
    paths, depth = list(paths), 0
    while (
        all(len(path) > depth + 2 for path in paths)
        and len({path[depth] for path in paths}) == 1
        and paths[0][depth] not in SPLITS
    ):
        depth += 1
    return depth


def _not_a_picture(path: tuple[str, ...], with_splits: bool) -> str:
    """Why a file is none of the images; empty for one that is."""
    folders = path[:-1]
    if with_splits and (not folders or folders[0] not in SPLITS):
        return "outside train/ and test/"
    depth = 2 if with_splits else 1
    if len(folders) != depth:
        return "not directly in a class folder"
    return "" if path[-1].lower().endswith(SUFFIXES) else "not a picture"


def _splits(places: dict[str, tuple[str, str]], path: Path) -> dict[str, str]:
    """`train` or `test` for every file; '' where there are no such folders."""
    folders = {folder for folder, _ in places.values()}
    if folders == {""}:
        return dict.fromkeys(places, "")
    if "test" in folders:
        places = {file: place for file, place in places.items() if place[0] in ("train", "test")}
        return {file: SPLITS[folder] for file, (folder, _) in places.items()}
    if len(folders) < 2:
        raise SourceError(f"there is a folder train/, so there must be one test/ or val/.\n{path}")
    return {f: SPLITS[folder] for f, (folder, _) in places.items()}
