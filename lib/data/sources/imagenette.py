"""Imagenette as it is downloaded: `train/<wnid>/` and `val/<wnid>/`, which is for testing."""

from __future__ import annotations

import re

import yaml

from lib.core.paths import PARAMS
from lib.data.archives import open_download
from lib.data.files import Entry, from_files
from lib.data.source import Source, SourceError, SourceOptions

NAME = re.compile(r"(?:.*/)?(?P<split>train|val)/(?P<id>n\d{8})/[^/.][^/]*\.(?i:jpe?g)")


def open_source(options: SourceOptions) -> Source:
    description = "Imagenette's 13,394 images (train/n01440764/*.JPEG and so on)"
    download = open_download(options.root, description)
    facts = (PARAMS / "classes" / "imagenette.yaml").read_text(encoding="utf-8")
    rows = yaml.safe_load(facts)["classes"]
    labels = {row["id"]: k for k, row in enumerate(rows)}
    entries = {}
    for name, file in download.files.items():
        match = NAME.fullmatch(name)
        if match and match["id"] not in labels:
            raise SourceError(
                f"{name}: {match['id']} is not a class of Imagenette; for other class folders "
                f"set data.source: folder.\n{download.path}"
            )
        if match:
            split = "train" if match["split"] == "train" else "test"
            entries[name] = Entry(split, labels[match["id"]], file)
    return from_files(download, entries, tuple(row["name"] for row in rows), options)
