"""Imagenette as it is downloaded: `train/<wnid>/` and `val/<wnid>/`, of which `val` is for testing."""

from __future__ import annotations

import re

import yaml

from lib.core.paths import PARAMS
from lib.data.archives import Entry, listed, open_download
from lib.data.source import Source, SourceError, SourceOptions

NAME = re.compile(r"(?:.*/)?(?P<split>train|val)/(?P<id>n\d{8})/[^/.][^/]*\.(?i:jpe?g)")


def open_source(options: SourceOptions) -> Source:
    download = open_download(options.root, "Imagenette's 13,394 images (train/n01440764/*.JPEG and so on)")
    facts = (PARAMS / "classes" / "imagenette.yaml").read_text(encoding="utf-8")
    rows = yaml.safe_load(facts)["classes"]
    labels = {row["id"]: k for k, row in enumerate(rows)}
    entries = {}
    for match, read in ((NAME.fullmatch(file), read) for file, read in download.files.items()):
        if match and match["id"] not in labels:
            raise SourceError(
                f"{match[0]}: {match['id']} is not a class of Imagenette; for other class folders set "
                f"data.source: folder.\n{download.path}"
            )
        if match:
            split = "train" if match["split"] == "train" else "test"
            entries[match[0]] = Entry(split, labels[match["id"]], read)
    return listed(download, entries, tuple(row["name"] for row in rows), options)
