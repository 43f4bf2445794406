"""Real sets as people download them: Imagenette's class folders, HAM10000's pictures of moles with their table."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from lib.core.compute import seed_of
from lib.core.paths import PARAMS
from lib.data import archives as archive
from lib.data.archives import Entry
from lib.data.sources import Source, SourceError

FOLDER = re.compile(r"(?:.*/)?(?P<split>train|val)/(?P<id>n\d{8})/[^/.][^/]*\.(?i:jpe?g)")
MOLE = re.compile(r"(?:.*/)?(?P<id>ISIC_\d+)\.(?i:jpe?g)")
TABLE = re.compile(r"(?:.*/)?HAM10000_metadata(?:\.csv|\.tab)?")
MELANOMA = ("other", "melanoma")
TESTED = 5  # one lesion in so many is for testing


def open_imagenette(path: Path, size: int, seed: int = 0, allowed: int = 0, skipped: Sequence[str] = ()) -> Source:
    """Folders `train/<wnid>/` and `val/<wnid>/`; `val` is for testing."""
    files, mark = archive.opened(path, "Imagenette's 13,394 images (train/n01440764/*.JPEG and so on)")
    rows = yaml.safe_load((PARAMS / "classes" / "imagenette.yaml").read_text(encoding="utf-8"))["classes"]
    labels = {row["id"]: k for k, row in enumerate(rows)}
    entries = {}
    for match, read in ((FOLDER.fullmatch(name), read) for name, read in files.items()):
        if match and match["id"] not in labels:
            raise SourceError(f"{match[0]}: {match['id']} is no class of Imagenette; for other class folders set "
                              f"data.source: folder.\n{path}")
        if match:
            entries[match[0]] = Entry("train" if match["split"] == "train" else "test", labels[match["id"]], read)
    return archive.source(path, entries, tuple(row["name"] for row in rows), mark, size, seed, allowed, skipped)


def open_ham10000(path: Path, size: int, seed: int = 0, allowed: int = 0, skipped: Sequence[str] = ()) -> Source:
    """Melanoma against the rest, split by lesion: several pictures show the same one, and a split by picture would leak."""
    files, mark = archive.opened(path, "HAM10000's 10,015 images (ISIC_*.jpg) and HAM10000_metadata.csv")
    tables = [name for name in files if TABLE.fullmatch(name)]
    if len(tables) != 1:
        raise SourceError(f"expected one file HAM10000_metadata.csv, found {len(tables)}; get the set again.\n{path}")
    pictures = {match["id"]: (name, read) for name, read in files.items() if (match := MOLE.fullmatch(name))}
    entries = {}
    for row in _rows(files[tables[0]](), tables[0], path):
        if row["image_id"] not in pictures:
            raise SourceError(f"{row['image_id']} stands in {tables[0]}, but its image is not there; unpack zips within the "
                              f"download, or get the set again.\n{path}")
        name, read = pictures[row["image_id"]]
        entries[name] = Entry(split_of(row["lesion_id"], seed), int(row["dx"] == "mel"), read)
    return archive.source(path, entries, MELANOMA, mark, size, seed, allowed, skipped)


def split_of(lesion: str, seed: int) -> str:
    """All pictures of a lesion are for training, or all are for testing."""
    return "train" if seed_of(seed, "lesion", lesion) % TESTED else "test"


def _rows(data: bytes, name: str, path: Path) -> list[dict[str, str]]:
    """The table's rows, whatever separates its columns."""
    text = data.decode("utf-8-sig", errors="replace")
    rows = list(csv.DictReader(io.StringIO(text), delimiter="\t" if "\t" in text.split("\n", 1)[0] else ","))
    lacking = {"lesion_id", "image_id", "dx"} - set(rows[0] if rows else ())
    if lacking:
        raise SourceError(f"{name} has no column {', '.join(sorted(lacking))}; get the set again.\n{path}")
    return rows
