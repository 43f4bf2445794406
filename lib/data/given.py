"""Images that somebody else made, read where they lie; first CIFAKE: CIFAR-10 as JPEG and as many of Stable Diffusion 1.4.

A folder, a zip or a tar (plain, .xz, .gz) of `train/REAL`, `train/FAKE`, `test/REAL`, `test/FAKE`. The end of a file's name
is its class: none airplane, ` (2)` automobile … ` (10)` truck. Nothing is written to disk.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from lib import progress
from lib.compute import seed_of
from lib.data import checks, images
from lib.data.images import ImageSet
from lib.data.sources import Source, SourceError
from lib.paths import ROOT
from lib.store import Recipe, Store, digest, step

CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
NAME = re.compile(r"(?:\./)?(?:\w[^/]*/)?((?:train|test)/(?:REAL|FAKE)/[^/.][^/]*?(?: \((\d+)\))?\.(?i:jpe?g))")
DAMAGE = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, tarfile.TarError)
Entries = dict[str, tuple[int, Callable[[], bytes]]]  # e.g. `train/REAL/0 (2).jpg` -> its class, and what reads the file


@dataclass(frozen=True)
class Given(Source):
    """A source that may have left some unreadable images out."""

    skipped: tuple[str, ...] = ()


@step(version=1)
def given(store: Store, recipe: Recipe) -> dict[str, Callable]:
    """The first `count` images of CIFAKE's synthetic training half, as shards."""
    wanted = recipe.settings
    source = open_cifake(ROOT / wanted["path"], "FAKE", wanted["size"], recipe.seed, wanted["allowed"])
    return {name: functools.partial(lambda where, path: images.write(path, source.read("train", where)), positions)
            for name, positions in images.shards(wanted["count"], wanted["shard"]).items()}


def recipe(path: str, count: int, size: int, shard: int, seed: int, allowed: int = 0) -> Recipe:
    """Of the set `given`; `path` relative to the checkout or absolute."""
    source = open_cifake(ROOT / path, "FAKE", size, seed, allowed)
    if count > source.splits["train"]:
        raise SourceError(f"{count} images are wanted of train/FAKE, which has {source.splits['train']}.\n{ROOT / path}")
    return given({"path": path, "count": count, "size": size, "shard": shard, "allowed": allowed, "print": source.print}, seed)


def open_cifake(path: Path, half: Literal["REAL", "FAKE"], size: int, seed: int = 0, allowed: int = 0) -> Given:
    """One half of CIFAKE, size x size; position i has class i % 10 while there are such; up to `allowed` bad files go."""
    entries, fingerprint = _entries(path)
    ours = {name: entries[name] for name in sorted(entries) if name.split("/")[1] == half}
    numbers = {name: i for i, name in enumerate(ours)}
    skipped = _unreadable(path, ours, allowed) if allowed else ()  # else the first that is wanted stops the run
    labels = {name: label for name, (label, _) in ours.items() if name not in skipped}
    order = {split: _order(labels, f"{split}/{half}", seed, path) for split in ("train", "test")}

    def picture(name: str) -> np.ndarray:
        image = _decode(ours[name][1])
        if image is None:
            raise SourceError(f"{name} is not a whole JPEG; replace it, download the set again, or allow bad files.\n{path}")
        return images.fit(image, size)

    def read(split: str, positions: Sequence[int]) -> ImageSet:
        names = tuple(order[split][i] for i in positions)
        known, seeds = np.array([(labels[name], numbers[name]) for name in names], np.int64).T
        return ImageSet(np.stack([picture(name) for name in names]), known, CLASSES, seeds, names, ("",) * len(names))

    return Given(CLASSES, {split: len(found) for split, found in order.items()}, read, fingerprint, skipped)


def defects(source: Source) -> dict[str, object]:
    """Exact copies by decoded pixels: pairs within train, and test images that equal a train image; some by name."""
    train, test = _hashed(source, "train"), _hashed(source, "test")
    pairs = [pair for names in train.values() for pair in itertools.combinations(names, 2)]
    leaks = [(name, train[key][0]) for key, names in test.items() if key in train for name in names]
    return source.splits | {"pairs": len(pairs), "leaks": len(leaks), "first pairs": pairs[:5], "first leaks": leaks[:5]}


def _hashed(source: Source, split: str) -> dict[str, list[str]]:
    """Hash of the pixels -> where those images came from."""
    found: dict[str, list[str]] = {}
    for positions in progress.each(f"hash {split}", images.shards(source.splits[split], 500).values()):
        part = source.read(split, positions)
        for key, name in zip(checks.hashes(part.images), part.sources, strict=True):
            found.setdefault(key, []).append(name)
    return found


def _order(labels: dict[str, int], folder: str, seed: int, path: Path) -> list[str]:
    """Names of one split, shuffled by seed within their class and taken from the classes in turn."""
    classes = [[name for name in labels if labels[name] == k and name.startswith(f"{folder}/")] for k in range(len(CLASSES))]
    for k, names in enumerate(classes):
        if not names:
            raise SourceError(f"no {CLASSES[k]} in {folder}, such as `0{f' ({k + 1})' * (k > 0)}.jpg`; get CIFAKE again.\n{path}")
        np.random.default_rng(seed_of(seed, "cifake", folder, k)).shuffle(names)
    return [name for turn in itertools.zip_longest(*classes) for name in turn if name is not None]


def _decode(read: Callable[[], bytes]) -> np.ndarray | None:
    """One picture (h, w, 3) RGB, None where it is damaged; OpenCV: five times as fast as Pillow, the same pixels."""
    try:
        data = np.frombuffer(read(), np.uint8)
    except DAMAGE:
        return None
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if len(data) else None


def _unreadable(path: Path, entries: Entries, allowed: int) -> tuple[str, ...]:
    """Names of the images that cannot be decoded, if they are no more than allowed."""
    bad = tuple(name for name, (_, read) in progress.each(f"read {path.name}", entries.items()) if _decode(read) is None)
    if len(bad) > allowed:
        raise SourceError(f"{len(bad)} unreadable images where {allowed} are allowed, the first is {bad[0]}.\n{path}")
    progress.say(f"{path.name}: {len(bad)} of {len(entries)} images are unreadable and left out{''.join(f', {n}' for n in bad)}")
    return bad


def _entries(path: Path) -> tuple[Entries, str]:
    """All images of a folder or archive, and a fingerprint of it."""
    if path.is_file():
        return _archive(path, path.stat().st_mtime_ns)
    files = {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*")) if file.is_file()}
    if not files:
        raise SourceError(f"no such folder or archive, or an empty one; say where your download of CIFAKE lies.\n{path}")
    stats = repr([(name, file.stat().st_size, file.stat().st_mtime_ns) for name, file in files.items()])
    return _named({name: file.read_bytes for name, file in files.items()}, path), hashlib.sha256(stats.encode()).hexdigest()[:20]


@functools.lru_cache(maxsize=1)  # both halves and several recipes share one reading
def _archive(path: Path, changed: int) -> tuple[Entries, str]:
    """All images of a zip, read when they are wanted, or of a tar, read at once; and a fingerprint of it."""
    found, cause = {}, None
    try:
        if tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                for entry in filter(tarfile.TarInfo.isreg, archive):
                    found[entry.name] = functools.partial(bytes, archive.extractfile(entry).read())
        else:
            archive = zipfile.ZipFile(path)
            found = {name: functools.partial(archive.read, name) for name in archive.namelist()}
    except DAMAGE as error:
        cause = error
    if cause or (path.suffix == ".tar" and path.read_bytes()[-512:] != bytes(512)):  # a whole tar ends with empty blocks
        count = len(found) or path.read_bytes().count(b"PK\3\4")  # a zip's table of contents, which stands last, is lost
        raise SourceError(f"{path.name} is half downloaded or damaged: {count:,} of CIFAKE's 120,000 images found; download "
                          f"it again.\n{path}") from cause
    return _named(found, path), digest(path)["sha256"][:20]


def _named(found: dict[str, Callable[[], bytes]], path: Path) -> Entries:
    """Those that are CIFAKE's images, by their place in it; a folder around all of them does not matter."""
    matches = {match: read for name, read in found.items() if (match := NAME.fullmatch(name))}
    for match in matches:
        if not 1 <= int(match[2] or 1) <= len(CLASSES):
            raise SourceError(f"{match[1]}: there are classes 1 to 10, not {match[2]}; rename or remove it.\n{path}")
    return {match[1]: (int(match[2] or 1) - 1, read) for match, read in matches.items()}
