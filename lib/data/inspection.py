"""What the files of a source are, and which images repeat; of all its files, used or not."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lib.core import progress
from lib.core.store import ArtifactSpec, FileWriters, Store, artifact
from lib.data import checks, imageset, pictures, real
from lib.data.archives import DAMAGE
from lib.data.imageset import ImageSet
from lib.data.pictures import PictureError
from lib.data.source import File, Source, SourceError, module_of

BATCH = 500  # images at once


@artifact("copies")
def copies(store: Store, spec: ArtifactSpec) -> FileWriters:
    """Exact copies among all images of a source."""

    def write(path: Path) -> None:
        source = real.reopened(spec, _copies_at(spec))
        path.write_text(json.dumps(find_copies(source)), encoding="utf-8")

    return {"copies.json": write}


@artifact("source-inspection")
def inspection(store: Store, spec: ArtifactSpec) -> FileWriters:
    """Formats and sizes of the files of a source, what reading them converts, what was left out."""

    def write(path: Path) -> None:
        source = real.reopened(spec, spec.settings["resolution"])
        path.write_text(json.dumps(inspect(source)), encoding="utf-8")

    return {"inspection.json": write}


def specs(images: ArtifactSpec) -> dict[str, ArtifactSpec]:
    """`copies` where a source is known for copies, `inspection` where it has picture files."""
    settings = {name: images.settings[name] for name in real.SHARED if name in images.settings}
    kinds = {"copies": copies} if _copies_at(images) else {}
    kinds |= {"inspection": inspection} if images.settings["fingerprint"] else {}
    return {name: builder(settings, images.seed) for name, builder in kinds.items()}


def load(store: Store, images: ArtifactSpec, name: str) -> dict[str, Any]:
    """One of these of the source of a set; {} where there is none."""
    spec = specs(images).get(name)
    return json.loads(store.make(spec).files[0].read_text(encoding="utf-8")) if spec else {}


def _copies_at(spec: ArtifactSpec) -> int:
    """Pixels at which a source's images are compared; 0: it is not known for copies."""
    return getattr(module_of(spec.settings["source"]), "COPIES_AT", 0)


def find_copies(source: Source) -> dict[str, Any]:
    """Equal pixels: pairs within train, test images that equal a train image, the first of both."""
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
    """Counts of formats and conversions, the range of sizes, what was left out; headers only."""
    formats, conversions, sizes = Counter(), Counter(), []
    files = {name: file for name, file in source.files.items() if name not in source.skipped}
    for name, file in progress.each("inspect", files.items()):
        header = _header(name, file)
        formats[header.format] += 1
        conversions.update(header.conversions())
        sizes.append((header.width, header.height))
    sizes.sort(key=lambda size: size[0] * size[1])
    unreadable = {"unreadable": len(source.skipped)} if source.skipped else {}
    return {
        "files": len(files),
        "formats": dict(formats.most_common()),
        "converted": dict(conversions.most_common()),
        "smallest": list(sizes[0]) if sizes else [],
        "median": list(sizes[len(sizes) // 2]) if sizes else [],
        "largest": list(sizes[-1]) if sizes else [],
        "left_out": dict(source.left_out) | unreadable,
    }


def _header(name: str, file: File) -> pictures.Header:
    try:
        return pictures.read_header(file.read())
    except (PictureError, *DAMAGE) as error:
        raise SourceError(f"{name}: {error}") from error
