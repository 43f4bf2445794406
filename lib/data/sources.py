"""Where real images come from. A source knows its classes, its splits, and how to read the image at a position."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib import world
from lib.core import workers
from lib.core.compute import seed_of
from lib.core.paths import ROOT
from lib.core.store import ArtifactSpec, Store, artifact
from lib.data import imageset as images
from lib.data.imageset import ImageSet

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # not those that Pillow hands to other programs
DAMAGE = (OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError, struct.error,
          Image.DecompressionBombError, Image.DecompressionBombWarning)  # all of which Pillow's readers raise over damaged files


class SourceError(ValueError):
    """Images that cannot be used; the message names the file."""


@dataclass(frozen=True)
class Source:
    """Real images by split and position, at a given size."""

    classes: tuple[str, ...]
    splits: dict[str, int]  # how many images each split can give
    read: Callable[[str, Sequence[int]], ImageSet]  # split, positions -> those images
    print: str = ""  # fingerprint of files that could change
    skipped: tuple[str, ...] = ()  # unreadable files that were left out


@artifact("real-images")
def real(store: Store, recipe: ArtifactSpec) -> dict[str, Callable]:
    """The first `count` images of one split, as shards."""
    wanted = recipe.settings
    source = open_source(wanted["source"], wanted["path"], wanted["resolution"], recipe.seed, skipped=wanted.get("skipped", ()))

    def write(positions: range, path: Path) -> None:
        images.write(path, source.read(wanted["split"], positions))

    parts = images.shards(wanted["count"], wanted["shard"])
    return {name: functools.partial(write, positions) for name, positions in parts.items()}


def recipes(data: Any, seed: int) -> dict[str, ArtifactSpec]:
    """`train`, `test` and the shift sets of a source, as section `data` of the settings wants them."""
    source = open_source(data.source, data.path, data.resolution, seed, data.bad_files)
    shifts = [split for split in source.splits if split.startswith("shift-")]
    counts = {"train": data.train, "test": data.test} | dict.fromkeys(shifts, data.shift)
    for split, count in counts.items():
        if count > source.splits[split]:
            have = source.splits[split]
            raise SourceError(f"data.{split} = {count}: source {data.source!r} has {have} {split} images")
    shared = {"source": data.source, "path": data.path, "resolution": data.resolution, "shard": data.shard,
              "print": source.print} | ({"skipped": source.skipped} if source.skipped else {})
    return {split: real(shared | {"split": split, "count": count}, seed) for split, count in counts.items() if count}


def open_source(name: str, path: str, size: int, seed: int, bad_files: int = 0, skipped: Sequence[str] = ()) -> Source:
    """The source of that name, delivering images of size x size, without up to so many bad files, or without those named."""
    from lib.data import cifake as given
    from lib.data import downloads  # which need this module

    where = ROOT / path
    openers = {"world": lambda: _world(size, seed), "digits": lambda: _digits(size, seed),
               "cifar10": lambda: _cifar10(where, size), "folder": lambda: _folder(where, size, seed),
               "cifake": lambda: given.open_cifake(where, given.HALVES[name], size, seed, bad_files, skipped),
               "imagenette": lambda: downloads.open_imagenette(where, size, seed, bad_files, skipped),
               "ham10000": lambda: downloads.open_ham10000(where, size, seed, bad_files, skipped)}
    return openers[name]()


def _world(size: int, seed: int) -> Source:
    """Rendered scenes without end; labels go round, so every split is balanced."""
    styles = {"train": "photo", "test": "photo"} | {f"shift-{style}": style for style in world.SHIFTS}

    def read(split: str, positions: Sequence[int]) -> ImageSet:
        seeds = [seed_of(seed, "world", split, i) // 10 * 10 + i % 10 for i in positions]
        scenes = [world.scene(s, styles[split]) for s in seeds]
        many = workers.cores() if len(seeds) >= 200 else 1  # a pool is not worth its start for a few
        pictures, masks = world.render_many(seeds, styles[split], size, workers=many)
        truth = {"mask": [images.picture(m, f"{s}-mask.png") for m, s in zip(masks, seeds, strict=True)],
                 "K": [s.K(size).ravel().tolist() for s in scenes], "R": [s.R.ravel().tolist() for s in scenes],
                 "vanishing_points": [np.ravel(s.vanishing_points(size)).tolist() for s in scenes],
                 "horizon": [np.ravel(s.horizon(size)).tolist() for s in scenes],
                 "light": [np.ravel(s.light).tolist() for s in scenes], "style": [s.style for s in scenes],
                 "colour": [s.bodies[0].colour for s in scenes], "material": [s.bodies[0].material for s in scenes],
                 "floor": [s.floor.pattern for s in scenes]}
        return ImageSet(np.asarray(pictures), np.array([s.label for s in scenes], np.int64), tuple(world.CLASSES),
                        np.array(seeds, np.int64), tuple(f"world/{styles[split]}/{s}" for s in seeds),
                        tuple(s.caption() for s in scenes), truth)

    return Source(tuple(world.CLASSES), dict.fromkeys(styles, 10**9), read)


def _digits(size: int, seed: int) -> Source:
    """scikit-learn's 1,797 hand-written digits, 8 x 8, up-scaled: real data that needs no network."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(seed_of(seed, "digits")).permutation(len(digits.target))
    grey = (digits.images * (255 / 16)).round().astype(np.uint8)
    pictures = [images.fit(np.repeat(g[..., None], 3, axis=2), size) for g in grey]
    return _listed(pictures, digits.target, tuple("0123456789"), [f"digits/{i}" for i in range(len(grey))],
                   {"train": order[:1297], "test": order[1297:]})


def _cifar10(path: Path, size: int) -> Source:
    """torchvision's CIFAR-10, already downloaded."""
    from torchvision.datasets import CIFAR10

    try:
        sets = [CIFAR10(str(path), train=train) for train in (True, False)]
    except RuntimeError as error:
        raise SourceError("CIFAR-10 is not there or damaged; get it with `python -c \"from torchvision.datasets import "
                          f"CIFAR10; CIFAR10('{path.name}', download=True)\"` or set data.path to where it lies.\n"
                          f"{path / 'cifar-10-batches-py'}") from error
    pictures = [images.fit(image, size) for image in np.concatenate([s.data for s in sets])]
    labels = np.concatenate([s.targets for s in sets])
    ids = [f"cifar10/{split}/{i}" for split, s in zip(("train", "test"), sets, strict=True) for i in range(len(s))]
    return _listed(pictures, labels, tuple(sets[0].classes), ids,
                   {"train": np.arange(50000), "test": np.arange(50000, 60000)})


def _listed(pictures: Sequence[np.ndarray], labels: np.ndarray, classes: tuple[str, ...], ids: list[str],
            splits: dict[str, np.ndarray]) -> Source:
    """A source whose images lie in memory; a seed is the position in the original set."""
    def read(split: str, positions: Sequence[int]) -> ImageSet:
        where = splits[split][list(positions)]
        return ImageSet(np.stack([pictures[i] for i in where]), labels[where].astype(np.int64), classes,
                        where.astype(np.int64), tuple(ids[i] for i in where), ("",) * len(where))
    return Source(classes, {split: len(where) for split, where in splits.items()}, read)


def _folder(path: Path, size: int, seed: int) -> Source:
    """Class folders of any images: `train/<class>/` and `test/<class>/` (or `val/`), or `<class>/`, split by seed."""
    held = path / ("val" if (path / "val").is_dir() and not (path / "test").is_dir() else "test")
    splits = [path / "train", held] if (path / "train").is_dir() else [path]
    for folder in splits:
        if not folder.is_dir():
            why = "there is a folder train/, so there must be one test/" if len(splits) == 2 else "no such folder"
            raise SourceError(f"{why}; set data.path to a folder of class folders.\n{folder}")
    classes = tuple(sorted(p.name for p in splits[0].iterdir() if p.is_dir()))
    if len(classes) < 2:
        raise SourceError(f"expected at least two class folders, found {list(classes)}.\n{splits[0]}")
    listed = [_files(folder, classes) for folder in splits]
    files = [file for part in listed for file in part]
    order = np.random.default_rng(seed_of(seed, "folder")).permutation(len(files))
    cut = len(listed[0])
    positions = ({"train": order[order < cut], "test": order[order >= cut]} if len(splits) == 2 else
                 {"train": order[len(files) // 5:], "test": order[:len(files) // 5]})
    stats = [(str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]

    mode = image_mode(files[0])

    def read(split: str, wanted: Sequence[int]) -> ImageSet:
        where = positions[split][list(wanted)]
        labels = np.array([classes.index(files[i].parent.name) for i in where], np.int64)
        pictures = np.stack([images.fit(read_image(files[i], mode), size) for i in where])
        names = tuple(str(files[i].relative_to(path)) for i in where)
        return ImageSet(pictures, labels, classes, where.astype(np.int64), names, ("",) * len(where))

    return Source(classes, {split: len(where) for split, where in positions.items()}, read,
                  hashlib.sha256(repr(stats).encode()).hexdigest()[:20])


def _files(folder: Path, classes: tuple[str, ...]) -> list[Path]:
    """All files of the class folders, each class with at least one."""
    found = [sorted(p for p in (folder / name).iterdir() if p.is_file() and not p.name.startswith("."))
             if (folder / name).is_dir() else [] for name in classes]
    for name, files in zip(classes, found, strict=True):
        if not files:
            raise SourceError(f"class {name!r} has no image.\n{folder / name}")
    return [file for files in found for file in files]


def read_image(path: Path, mode: str) -> np.ndarray:
    """A picture file of the expected mode as RGB (h, w, 3) uint8."""
    found = image_mode(path)
    if found != mode:
        raise SourceError(f"mode {found} where the set's first image is {mode}; convert one to the other.\n{path}")
    try:
        with _opened(path) as image:
            return np.asarray(image.convert("RGB"))
    except DAMAGE as error:
        raise SourceError(f"damaged image ({error}); replace or remove it.\n{path}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture file; one that claims a size beyond Pillow's limit is refused, where Pillow would only warn."""
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield stack.enter_context(Image.open(path, formats=FORMATS))


def image_mode(path: Path) -> str:
    """`RGB` or `L`; other modes hide a choice (what lies behind transparency? how deep is 16 bit?), the user's own."""
    try:
        with _opened(path) as image:
            mode = image.mode
    except DAMAGE as error:
        raise SourceError(f"not an image file ({error}); replace or remove it.\n{path}") from error
    if mode not in ("RGB", "L"):
        raise SourceError(f"image mode {mode}; convert it to 8-bit RGB or grey.\n{path}")
    return mode
