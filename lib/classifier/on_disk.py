"""Training images that do not fit into memory: decoded once into a file, read by position."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq

from lib.classifier import arms
from lib.core.store import Artifact
from lib.data import imageset

CHUNK = 64  # images decoded at once


class OnDisk:
    """Images (n, h, w, 3) uint8 in a file without a name; an index reads only its positions."""

    def __init__(self, folder: Path, size: int):
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, lives as long as this
        self.shape, self.dtype, self.ndim = (0, size, size, 3), np.dtype(np.uint8), 4

    def __len__(self) -> int:
        return self.shape[0]

    def append(self, images: np.ndarray) -> None:
        """More images, behind the others."""
        self.file.write(images.tobytes())
        self.shape = (len(self) + len(images), *self.shape[1:])

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        self.file.flush()
        rows = np.arange(len(self))[rows]
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for row, image in zip(rows.tolist(), images, strict=True):
            os.preadv(self.file.fileno(), [image], row * image.nbytes)
        return images


def training_set(arm: str, artifacts: Mapping[str, Artifact], seed: int, base: int | None,
                 max_ram_mb: float, folder: Path):
    """Images, labels, class names; the images in `folder` where they would take more memory."""
    labels = {name: read_labels(stored.files) for name, stored in artifacts.items()}
    kinds = {name: read_kind(stored.files[0]) for name, stored in artifacts.items()}
    chosen = arms.selected(arm, labels, kinds, seed, base)
    classes, size = kinds[chosen[0][0]]
    if sum(len(rows) for _, rows in chosen) * size**2 * 3 > max_ram_mb * 2**20:
        images = OnDisk(folder, size)
        for name, rows in chosen:
            for chunk in _decode(artifacts[name].files, rows):
                images.append(chunk)
    else:
        parts = [imageset.load(artifacts[name]).images[rows] for name, rows in chosen]
        images = np.concatenate(parts)
    return images, np.concatenate([labels[name][rows] for name, rows in chosen]), classes


def read_labels(files: list[Path]) -> np.ndarray:
    """The labels (n,) of an image set, without its images."""
    columns = [pq.read_table(path, columns=["label"])["label"] for path in files]
    return np.concatenate([column.to_numpy() for column in columns])


def read_kind(path: Path) -> tuple[tuple[str, ...], int]:
    """Class names and image size, pixels, of a shard."""
    features = json.loads(pq.read_schema(path).metadata[b"huggingface"])["info"]["features"]
    image = next(_decode([path], np.arange(1)))
    return tuple(features["label"]["names"]), image.shape[1]


def _decode(files: list[Path], rows: np.ndarray) -> Iterator[np.ndarray]:
    """These rows of the whole set, in chunks (k, h, w, 3)."""
    start = 0
    for path in files:
        for cells in pq.ParquetFile(path).iter_batches(CHUNK, columns=["image"]):
            chosen = rows[(rows >= start) & (rows < start + len(cells))] - start
            start += len(cells)
            if len(chosen):
                data = cells["image"].field("bytes").take(chosen).to_pylist()
                arrays = [np.frombuffer(item, np.uint8) for item in data]
                yield np.stack([cv2.imdecode(item, cv2.IMREAD_COLOR_RGB) for item in arrays])
