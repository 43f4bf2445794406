"""HAM10000 as it is downloaded: pictures of moles and their table; melanoma against the rest."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from lib.core.compute import seed_of
from lib.data.archives import Download, open_download
from lib.data.files import Entry, from_files
from lib.data.source import Source, SourceError, SourceOptions

IMAGE = re.compile(r"(?:.*/)?(?P<id>ISIC_\d+)\.(?i:jpe?g)")
TABLE = re.compile(r"(?:.*/)?HAM10000_metadata(?:\.csv|\.tab)?")
CLASSES = ("other", "melanoma")
COLUMNS = {"lesion_id", "image_id", "dx"}
TEST_FRACTION = 5  # one lesion in so many is for testing


def open_source(options: SourceOptions) -> Source:
    """Split by lesion: several pictures show the same one, and a split by picture would leak."""
    description = "HAM10000's 10,015 images (ISIC_*.jpg) and HAM10000_metadata.csv"
    download = open_download(options.root, description)
    files = {m["id"]: name for name in download.files if (m := IMAGE.fullmatch(name))}
    entries = {}
    for row in _table(download):
        if row["image_id"] not in files:
            raise SourceError(
                f"{row['image_id']} is in the table, but its image is missing; unpack zips within "
                f"the download, or get the set again.\n{download.path}"
            )
        name = files[row["image_id"]]
        split, label = split_of(row["lesion_id"], options.seed), int(row["dx"] == "mel")
        entries[name] = Entry(split, label, download.files[name])
    return from_files(download, entries, CLASSES, options)


def split_of(lesion: str, seed: int) -> str:
    """All pictures of a lesion are for training, or all are for testing."""
    return "train" if seed_of(seed, "lesion", lesion) % TEST_FRACTION else "test"


def _table(download: Download) -> list[dict[str, str]]:
    """The metadata's rows, whatever separates its columns."""
    names = [name for name in download.files if TABLE.fullmatch(name)]
    if len(names) != 1:
        raise SourceError(
            f"expected one file HAM10000_metadata.csv, there are {len(names)}; get the set again."
            f"\n{download.path}"
        )
    text = download.files[names[0]].read().decode("utf-8-sig", errors="replace")
    delimiter = "\t" if "\t" in text.split("\n", 1)[0] else ","
    rows = list(csv.DictReader(io.StringIO(text), delimiter=delimiter))
    _check_columns(rows, names[0], download.path)
    return rows


def _check_columns(rows: list[dict[str, str]], name: str, path: Path) -> None:
    missing = COLUMNS - set(rows[0] if rows else ())
    if missing:
        columns = ", ".join(sorted(missing))
        raise SourceError(f"{name} has no column {columns}; get the set again.\n{path}")
