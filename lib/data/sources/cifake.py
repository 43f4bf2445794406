"""CIFAKE's real half: CIFAR-10 as JPEG, read from the published folder, zip or tar.

`train/REAL`, `train/FAKE`, `test/REAL`, `test/FAKE`; the end of a file's name is its class: none
airplane, ` (2)` automobile … ` (10)` truck.
"""

from __future__ import annotations

import re

from lib.data.archives import open_download
from lib.data.files import Entry, from_files
from lib.data.source import Source, SourceError, SourceOptions

CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
NAME = re.compile(
    r"(?:\w[^/]*/)?(?P<name>(?P<split>train|test)/(?P<half>REAL|FAKE)/[^/.][^/]*?"
    r"(?: \((?P<label>\d+)\))?\.(?i:jpe?g))"
)
COPIES_AT = 32  # pixels at which its copies, a known flaw, are counted


def open_source(options: SourceOptions) -> Source:
    return open_half(options, "REAL")


def open_half(options: SourceOptions, half: str) -> Source:
    """REAL or FAKE; position i has class i % 10 for as long as every class has images."""
    description = "CIFAKE's 120,000 images (train/REAL/0001 (2).jpg and so on)"
    download = open_download(options.root, description)
    entries = {}
    for name, file in download.files.items():
        match = NAME.fullmatch(name)
        if match and match["half"] == half:
            label = int(match["label"] or 1)
            if not 1 <= label <= len(CLASSES):
                raise SourceError(
                    f"{match['name']}: there are classes 1 to 10, not {label}; rename or remove it."
                    f"\n{download.path}"
                )
            entries[match["name"]] = Entry(match["split"], label - 1, file)
    return from_files(download, entries, CLASSES, options)
