"""Images that somebody else made, read where they lie; first CIFAKE: CIFAR-10 as JPEG and as many of Stable Diffusion 1.4.

A folder, a zip or a tar (plain, .xz, .gz) of `train/REAL`, `train/FAKE`, `test/REAL`, `test/FAKE`. The end of a file's name
is its class: none airplane, ` (2)` automobile … ` (10)` truck. Nothing is written to disk.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lib.core import progress
from lib.core.paths import ROOT
from lib.core.store import ArtifactSpec, FileWriters, Store, artifact
from lib.data import archives as archive
from lib.data import checks
from lib.data import imageset as images
from lib.data.sources import Source, SourceError

SIZE = 32  # pixels a side, as they were published
SOURCE = "cifake"  # the source of real images that is read from it
HALVES = {SOURCE: "REAL"}  # sources that are one half of a published whole, whose copies are known flaws
CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
NAME = re.compile(r"(?:\./)?(?:\w[^/]*/)?(?P<name>(?P<split>train|test)/(?P<half>REAL|FAKE)/[^/.][^/]*?"
                  r"(?: \((?P<label>\d+)\))?\.(?i:jpe?g))")


@artifact("published-images")
def given(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """The first `count` images of CIFAKE's synthetic training half, as shards."""
    wanted = recipe.settings
    source = open_cifake(ROOT / wanted["path"], "FAKE", wanted["size"], recipe.seed, skipped=wanted["skipped"])
    return {name: functools.partial(lambda where, path: images.write(path, source.read("train", where)), positions)
            for name, positions in images.shards(wanted["count"], wanted["shard"]).items()}


def recipe(path: str, count: int, size: int, seed: int, allowed: int = 0, shard: int = 500) -> ArtifactSpec:
    """Of the set `given`; `path` relative to the checkout or absolute."""
    source = open_cifake(ROOT / path, "FAKE", size, seed, allowed)
    if count > source.splits["train"]:
        raise SourceError(f"{count} images are wanted of train/FAKE, which has {source.splits['train']}.\n{ROOT / path}")
    return given({"path": path, "count": count, "size": size, "shard": shard, "skipped": source.skipped, "print": source.print},
                 seed)


def open_cifake(path: Path, half: Literal["REAL", "FAKE"], size: int, seed: int = 0, allowed: int = 0,
                skipped: Sequence[str] = ()) -> Source:
    """One half of CIFAKE, size x size; position i has class i % 10 while there are such; up to `allowed` bad files go."""
    files, fingerprint = archive.opened(path, "CIFAKE's 120,000 images (train/REAL/0001 (2).jpg and so on)")
    return archive.source(path, _named(files, half, path), CLASSES, fingerprint, size, seed, allowed, skipped)


@artifact("exact-copies")
def copies(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """Exact copies in one whole half, at its own size."""
    wanted = recipe.settings

    def write(path: Path) -> None:
        source = open_cifake(ROOT / wanted["path"], wanted["half"], SIZE, recipe.seed, skipped=wanted["skipped"])
        path.write_text(json.dumps(defects(source)), encoding="utf-8")
    return {"defects.json": write}


def defects_of(store: Store, images: ArtifactSpec, half: Literal["REAL", "FAKE"]) -> dict[str, Any]:
    """What `defects` finds in the whole half that a set's images came from; looked for once."""
    return json.loads(store.make(copies_of(images, half)).path("defects.json").read_text(encoding="utf-8"))


def copies_of(images: ArtifactSpec, half: Literal["REAL", "FAKE"]) -> ArtifactSpec:
    """The search for copies in the half that a set's images came from."""
    known = {name: images.settings.get(name, default) for name, default in (("path", ""), ("print", ""), ("skipped", []))}
    return copies(known | {"half": half}, images.seed)


def defects(source: Source) -> dict[str, Any]:
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


def _named(found: archive.Files, half: str, path: Path) -> dict[str, archive.Entry]:
    """Those that are images of one half, by their place in it; a folder around all of them does not matter."""
    matches = {match: read for name, read in found.items() if (match := NAME.fullmatch(name)) and match["half"] == half}
    for match in matches:
        if not 1 <= int(match["label"] or 1) <= len(CLASSES):
            raise SourceError(f"{match['name']}: there are classes 1 to 10, not {match['label']}; rename or remove it.\n{path}")
    return {match["name"]: archive.Entry(match["split"], int(match["label"] or 1) - 1, read) for match, read in matches.items()}
