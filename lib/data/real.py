"""The sets of real images: `train`, `test` and shift sets of a source, and what is wrong with its files."""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lib.core import progress
from lib.core.fingerprint import fingerprint
from lib.core.paths import ROOT
from lib.core.store import ArtifactSpec, FileWriters, Store, artifact
from lib.data import checks, imageset, pictures
from lib.data.archives import DAMAGE
from lib.data.imageset import ImageSet
from lib.data.pictures import PictureError
from lib.data.source import Source, SourceError, SourceOptions, module_of, open_source

PUBLISHED = "cifake_fake"  # the source of synthetic images that others published
BATCH = 500  # images at once


@artifact("real-images")
def real_images(store: Store, spec: ArtifactSpec) -> FileWriters:
    """The first `count` images of one split, as shards."""
    source = _reopened(spec, spec.settings["resolution"])

    def write(positions: range, path: Path) -> None:
        imageset.write(path, source.read(spec.settings["split"], positions))

    parts = imageset.shards(spec.settings["count"], spec.settings["shard"])
    return {name: functools.partial(write, positions) for name, positions in parts.items()}


@artifact("copies")
def copies(store: Store, spec: ArtifactSpec) -> FileWriters:
    """Exact copies among all images of a source, not only those that a study uses."""

    def write(path: Path) -> None:
        source = _reopened(spec, _copies_at(spec))
        path.write_text(json.dumps(find_copies(source)), encoding="utf-8")

    return {"copies.json": write}


@artifact("source-inspection")
def inspection(store: Store, spec: ArtifactSpec) -> FileWriters:
    """What the files of a source are: formats, sizes, what reading them converts, what was left out."""

    def write(path: Path) -> None:
        source = _reopened(spec, spec.settings["resolution"])
        path.write_text(json.dumps(inspect(source)), encoding="utf-8")

    return {"inspection.json": write}


def specs(section: Any, seed: int) -> dict[str, ArtifactSpec]:
    """`train`, `test` and the shift sets, from section `data` of the settings."""
    source = open_source(section.source, options(section, seed))
    shifts = [split for split in source.splits if split.startswith("shift-")]
    counts = {"train": section.train, "test": section.test}
    counts |= dict.fromkeys(shifts, section.shift_images)
    for split, count in counts.items():
        available = source.splits[split]
        if count > available:
            raise SourceError(
                f"data.{split} = {count}: source {section.source!r} has {available} {split} images"
            )
    shared = _shared(section.source, section.root, section.resolution, section.shard, source)
    return {
        split: real_images(shared | {"split": split, "count": count}, seed)
        for split, count in counts.items()
        if count
    }


def options(section: Any, seed: int) -> SourceOptions:
    """Section `data` of the settings as a source takes it."""
    return SourceOptions(ROOT / section.root, section.resolution, seed, section.max_corrupt_files)


def published_spec(
    root: str, count: int, size: int, seed: int, max_corrupt_files: int = 0, shard: int = BATCH
) -> ArtifactSpec:
    """Synthetic images that others published, from a CIFAKE download."""
    source = open_source(PUBLISHED, SourceOptions(ROOT / root, size, seed, max_corrupt_files))
    if count > source.splits["train"]:
        raise SourceError(
            f"{count} published images are asked for, and there are {source.splits['train']}.\n{ROOT / root}"
        )
    shared = _shared(PUBLISHED, root, size, shard, source)
    return real_images(shared | {"split": "train", "count": count}, seed)


def is_published(spec: ArtifactSpec) -> bool:
    """Whether a set consists of synthetic images that others published."""
    return spec.kind == real_images.kind and spec.settings["source"] == PUBLISHED


def _shared(name: str, root: str, size: int, shard: int, source: Source) -> dict[str, Any]:
    """Settings of every set of a source."""
    settings = {"source": name, "root": root, "resolution": size, "shard": shard}
    settings |= {"fingerprint": source.fingerprint, "code": fingerprint(f"{module_of(name).__name__}:open_source")}
    return settings | ({"skipped": list(source.skipped)} if source.skipped else {})


def _reopened(spec: ArtifactSpec, size: int) -> Source:
    """The source of a spec, if its files are still those that the spec was made from."""
    settings = spec.settings
    skipped = tuple(settings.get("skipped", ()))
    where = ROOT / settings["root"]
    source = open_source(settings["source"], SourceOptions(where, size, spec.seed, 0, skipped))
    if source.fingerprint != settings["fingerprint"]:
        raise SourceError(
            "the files changed since this study was set up, and a set is never made from two versions "
            f"of them; run it again from chapter 01.\n{where}"
        )
    return source


def copies_spec(images: ArtifactSpec) -> ArtifactSpec | None:
    """The search for copies in the source of a set; none where the source is not known for copies."""
    return copies(_of_source(images), images.seed) if _copies_at(images) else None


def _copies_at(spec: ArtifactSpec) -> int:
    """Pixels at which a source's images are compared; 0: it is not known for copies."""
    return getattr(module_of(spec.settings["source"]), "COPIES_AT", 0)


def inspection_spec(images: ArtifactSpec) -> ArtifactSpec | None:
    """The inspection of the files of a set's source; none where it has no picture files."""
    return inspection(_of_source(images), images.seed) if images.settings["fingerprint"] else None


def _of_source(images: ArtifactSpec) -> dict[str, Any]:
    names = ("source", "root", "resolution", "fingerprint", "code", "skipped")
    return {name: images.settings[name] for name in names if name in images.settings}


def load_copies(store: Store, images: ArtifactSpec) -> dict[str, Any]:
    """What `find_copies` counts in the source of a set; looked for once, {} where it is not looked for."""
    return _load_json(store, copies_spec(images), "copies.json")


def load_inspection(store: Store, images: ArtifactSpec) -> dict[str, Any]:
    """What `inspect` says of the source of a set; {} where it has no picture files."""
    return _load_json(store, inspection_spec(images), "inspection.json")


def _load_json(store: Store, spec: ArtifactSpec | None, name: str) -> dict[str, Any]:
    return json.loads(store.make(spec).path(name).read_text(encoding="utf-8")) if spec else {}


def find_copies(source: Source) -> dict[str, Any]:
    """Equal pixels: pairs within train, and test images that equal a train image; the first by name."""
    train, test = _by_hash(source, "train"), _by_hash(source, "test")
    pairs = [pair for names in train.values() for pair in itertools.combinations(names, 2)]
    leaks = [(name, train[key][0]) for key, names in test.items() if key in train for name in names]
    counts = {"pairs": len(pairs), "leaks": len(leaks)}
    return source.splits | counts | {"first_pairs": pairs[:5], "first_leaks": leaks[:5]}


def _by_hash(source: Source, split: str) -> dict[str, list[str]]:
    """Hash of the pixels -> names of the images that have it."""
    names: dict[str, list[str]] = {}
    for part in _batches(source, split):
        for key, name in zip(checks.hashes(part.images), part.sources, strict=True):
            names.setdefault(key, []).append(name)
    return names


def _batches(source: Source, split: str) -> Iterator[ImageSet]:
    positions = imageset.shards(source.splits[split], BATCH).values()
    return (source.read(split, part) for part in progress.each(f"hash {split}", positions))


def inspect(source: Source) -> dict[str, Any]:
    """Counts of formats and conversions, the range of sizes, and what was left out; headers only."""
    formats, conversions, sizes = Counter(), Counter(), []
    files = {name: read for name, read in source.files.items() if name not in source.skipped}
    for name, read in progress.each("inspect", files.items()):
        header = _header(name, read)
        formats[header.format] += 1
        conversions.update(header.conversions())
        sizes.append((header.width * header.height, header.width, header.height))
    return {
        "files": len(files),
        "formats": dict(formats.most_common()),
        "converted": dict(conversions.most_common()),
        "smallest": list(min(sizes)[1:]) if sizes else [],
        "largest": list(max(sizes)[1:]) if sizes else [],
        "left_out": dict(source.left_out) | ({"unreadable": len(source.skipped)} if source.skipped else {}),
    }


def _header(name: str, read: Callable[[], bytes]) -> pictures.Header:
    try:
        return pictures.read_header(read())
    except (PictureError, *DAMAGE) as error:
        raise SourceError(f"{name}: {error}") from error
