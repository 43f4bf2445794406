"""Where batches come from: images in memory, or Parquet shards through a shuffle buffer of fixed size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import torch

from lib.classifier import arms
from lib.core.store import Artifact

CHUNK = 64  # images decoded at once


class InMemory:
    """Images uint8 (n, h, w, 3) and labels (n,); they lie on the training device."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        images, labels = torch.as_tensor(images), torch.as_tensor(labels).long()
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(
                f"training needs uint8 RGB images (n, h, w, 3), not {images.dtype} "
                f"{tuple(images.shape)}; grey images (n, h, w) become RGB by "
                "np.repeat(grey[..., None], 3, axis=3)"
            )
        if not len(images) or labels.shape != images.shape[:1]:
            raise ValueError(
                f"{len(images)} images and labels {tuple(labels.shape)}: give each image its class, "
                "and at least one image"
            )
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> int:
        """Pixels a side."""
        return self.images.shape[1]

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""
        return int(self.labels.max()) + 1

    def counts(self, classes: int) -> np.ndarray:
        """Images of each class (classes,)."""
        return torch.bincount(self.labels, minlength=classes).numpy()

    def sample(self, count: int) -> torch.Tensor:
        """At most `count` images, evenly spaced."""
        return self.images[:: max(1, len(self) // count)][:count]

    def batches(
        self, batch: int, steps: int, draws: torch.Generator, device: torch.device
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """`steps` batches on the device."""
        images, labels = self.images.to(device), self.labels.to(device)
        for index in permuted(len(self), batch, steps, draws):
            index = index.to(device)
            yield images.index_select(0, index), labels[index]  # ten times as fast as images[index]


@dataclass(frozen=True)
class Shards:
    """The images of a training set as rows of files: `parts` are (file, positions in it)."""

    parts: list[tuple[Path, np.ndarray]]
    classes: tuple[str, ...]
    size: int  # pixels a side
    buffer: int  # images in memory
    class_counts: tuple[int, ...] = ()

    def __len__(self) -> int:
        return sum(len(rows) for _, rows in self.parts)

    @property
    def num_classes(self) -> int:
        """Of the whole set."""
        return len(self.classes)

    def counts(self, classes: int = 0) -> np.ndarray:
        """Images of each class (classes,)."""
        return np.array(self.class_counts)

    @property
    def megabytes(self) -> float:
        """What all images would take in memory."""
        return len(self) * self.size**2 * 3 / 2**20

    def sample(self, count: int) -> torch.Tensor:
        """About `count` images, evenly spaced over the files."""
        step = max(1, len(self) // count)
        chunks = [
            images for path, rows in self.parts for images, _ in _read(path, np.sort(rows)[::step])
        ]
        return torch.from_numpy(np.concatenate(chunks))

    def batches(
        self, batch: int, steps: int, draws: torch.Generator, device: torch.device = "cpu"
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """`steps` batches on the device: random slots of a buffer that is filled shard by shard."""
        room, batch = max(self.buffer, 2 * batch) + CHUNK, min(batch, len(self))
        pixels = np.empty((room, self.size, self.size, 3), np.uint8)
        labels, source, filled = np.empty(room, np.int64), self._passes(draws), 0
        for _ in range(steps):
            while filled + CHUNK <= room:
                images, targets = next(source)
                end = filled + len(images)
                pixels[filled:end], labels[filled:end], filled = images, targets, end
            picked = torch.randperm(filled, generator=draws)[:batch].numpy()
            yield (
                torch.from_numpy(pixels[picked]).to(device),
                torch.from_numpy(labels[picked]).to(device),
            )
            filled -= batch  # the last images move into the slots that became free
            free = picked[picked < filled]
            last = np.setdiff1d(np.arange(filled, filled + batch), picked)
            pixels[free], labels[free] = pixels[last], labels[last]

    def _passes(self, draws: torch.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Chunks of decoded images and labels, pass after pass, shards in another order each time."""
        while True:
            for k in torch.randperm(len(self.parts), generator=draws).tolist():
                yield from _read(*self.parts[k])


def permuted(n: int, size: int, steps: int, draws: torch.Generator) -> Iterator[torch.Tensor]:
    """`steps` batches of positions; every image once before any comes twice."""
    size = min(size, n)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < size:
            order = torch.cat([order, torch.randperm(n, generator=draws)])
        batch, order = order[:size], order[size:]
        yield batch


def opened(
    arm: str, artifacts: Mapping[str, Artifact], seed: int, base: int | None, buffer: int
) -> Shards:
    """The same images that `arms.assemble` takes, none of them read yet."""
    parts, first, labels_taken = [], None, []
    for term in arms.parse(arm):
        files = artifacts[term.name].files
        shards = [pq.read_table(path, columns=["label"])["label"].to_numpy() for path in files]
        labels, kind = np.concatenate(shards), _kind(files[0])
        first = first or kind
        arms.check_complete(arm, term.name, labels, kind, first)
        taken = arms.positions(term, labels, base, seed)
        starts = np.cumsum([0, *map(len, shards)])
        labels_taken.append(labels[taken])
        parts += [
            (path, taken[(taken >= low) & (taken < high)] - low)
            for path, low, high in zip(files, starts, starts[1:], strict=False)
        ]
    counts = np.bincount(np.concatenate(labels_taken), minlength=len(first[0]))
    whole = [(path, rows) for path, rows in parts if len(rows)]
    return Shards(whole, *first, buffer, tuple(counts.tolist()))


def _kind(path: Path) -> tuple[tuple[str, ...], int]:
    """Class names and pixels a side of a shard."""
    metadata = json.loads(pq.read_schema(path).metadata[b"huggingface"])
    image, _ = next(_read(path, np.arange(1)))
    return tuple(metadata["info"]["features"]["label"]["names"]), image.shape[1]


def _read(path: Path, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """These rows of one shard, in chunks of images (k, h, w, 3) and labels."""
    start = 0
    for cells in pq.ParquetFile(path).iter_batches(CHUNK, columns=["image", "label"]):
        chosen = rows[(rows >= start) & (rows < start + len(cells))] - start
        start += len(cells)
        if len(chosen):
            data = cells["image"].field("bytes").take(chosen).to_pylist()
            flags = cv2.IMREAD_COLOR_RGB
            images = [cv2.imdecode(np.frombuffer(blob, np.uint8), flags) for blob in data]
            yield np.stack(images), cells["label"].take(chosen).to_numpy()
