"""The sets of real images: `train`, `test` and shift sets of a source."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from lib.core.fingerprint import fingerprint
from lib.core.paths import ROOT
from lib.core.store import ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset
from lib.data.source import Source, SourceError, SourceOptions, module_of, open_source

PUBLISHED = "cifake_fake"  # the source of synthetic images that others published
SHARD = 500  # images per file of a published set
SHARED = ("source", "root", "resolution", "fingerprint", "code", "skipped")  # by sets of a source


@artifact("real-images")
def real_images(store: Store, spec: ArtifactSpec) -> FileWriters:
    """The first `count` images of one split, as shards."""
    source = reopened(spec, spec.settings["resolution"])

    def write(positions: range, path: Path) -> None:
        imageset.write(path, source.read(spec.settings["split"], positions))

    parts = imageset.shards(spec.settings["count"], spec.settings["shard"])
    return {name: functools.partial(write, positions) for name, positions in parts.items()}


def specs(section: Any, seed: int, source: Source | None = None) -> dict[str, ArtifactSpec]:
    """`train`, `test` and the shift sets, from section `data` of the settings."""
    source = source or opened(section, seed)
    shifts = [split for split in source.splits if split.startswith("shift-")]
    counts = {"train": section.train, "test": section.test}
    counts |= dict.fromkeys(shifts, section.shift_images)
    for split, count in counts.items():
        available = source.splits[split]
        if count > available:
            raise SourceError(
                f"data.{split} = {count}: source {section.source!r} has {available} {split} images"
            )
    shared = _shared(section.source, section.root, section.resolution, source)
    shared["shard"] = section.shard
    return {
        split: real_images(shared | {"split": split, "count": count}, seed)
        for split, count in counts.items()
        if count
    }


def opened(section: Any, seed: int) -> Source:
    """The source that section `data` of the settings names."""
    where = ROOT / section.root
    options = SourceOptions(where, section.resolution, seed, section.max_corrupt_files)
    return open_source(section.source, options)


def published_spec(
    root: str, count: int, size: int, seed: int, max_corrupt_files: int = 0
) -> ArtifactSpec:
    """Synthetic images that others published, from a CIFAKE download."""
    source = open_source(PUBLISHED, SourceOptions(ROOT / root, size, seed, max_corrupt_files))
    if count > source.splits["train"]:
        raise SourceError(
            f"{count} published images are asked for, and there are {source.splits['train']}."
            f"\n{ROOT / root}"
        )
    settings = {"split": "train", "count": count, "shard": SHARD}
    return real_images(_shared(PUBLISHED, root, size, source) | settings, seed)


def is_published(spec: ArtifactSpec) -> bool:
    """Whether a set consists of synthetic images that others published."""
    return spec.kind == real_images.kind and spec.settings["source"] == PUBLISHED


def _shared(name: str, root: str, size: int, source: Source) -> dict[str, Any]:
    """Settings of every set of a source."""
    code = fingerprint(f"{module_of(name).__name__}:open_source")
    settings = {"source": name, "root": root, "resolution": size, "code": code}
    settings["fingerprint"] = source.fingerprint
    return settings | ({"skipped": list(source.skipped)} if source.skipped else {})


def reopened(spec: ArtifactSpec, size: int) -> Source:
    """The source of a spec, if its files are still those that the spec was made from."""
    settings, where = spec.settings, ROOT / spec.settings["root"]
    skipped = tuple(settings.get("skipped", ()))
    source = open_source(settings["source"], SourceOptions(where, size, spec.seed, 0, skipped))
    if source.fingerprint != settings["fingerprint"]:
        raise SourceError(
            "the files changed since this study was set up, and a set is never made from two "
            f"versions of them; run it again from chapter 01.\n{where}"
        )
    return source
