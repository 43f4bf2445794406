"""Training sets that do not fit in memory: batches straight from Parquet shards, through a shuffle buffer of fixed size."""

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


@dataclass(frozen=True)
class Shards:
    """The images of an arm as rows of files: `parts` are (file, positions in it)."""

    parts: list[tuple[Path, np.ndarray]]
    classes: tuple[str, ...]
    size: int  # pixels a side
    buffer: int  # images in memory
    held: tuple[int, ...] = ()  # images of each class

    def __len__(self) -> int:
        return sum(len(rows) for _, rows in self.parts)

    def counts(self) -> np.ndarray:
        """Images of each class (classes,)."""
        return np.array(self.held)

    @property
    def megabytes(self) -> float:
        """What all images would take in memory."""
        return len(self) * self.size**2 * 3 / 2**20

    def batches(
        self, batch: int, steps: int, draws: torch.Generator
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """`steps` batches of uint8 (n, h, w, 3) and labels: random slots of a buffer that is filled up shard by shard."""
        room, batch = max(self.buffer, 2 * batch) + CHUNK, min(batch, len(self))
        pixels, labels = (
            np.empty((room, self.size, self.size, 3), np.uint8),
            np.empty(room, np.int64),
        )
        source, filled = self._passes(draws), 0
        for _ in range(steps):
            while filled + CHUNK <= room:
                images, truth = next(source)
                pixels[filled : filled + len(images)], labels[filled : filled + len(images)] = (
                    images,
                    truth,
                )
                filled += len(images)
            picked = torch.randperm(filled, generator=draws)[:batch].numpy()
            yield torch.from_numpy(pixels[picked]), torch.from_numpy(labels[picked])
            filled -= batch  # what stood last moves into the slots that became free
            free = picked[picked < filled]
            last = np.setdiff1d(np.arange(filled, filled + batch), picked)
            pixels[free], labels[free] = pixels[last], labels[last]

    def _passes(self, draws: torch.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Chunks of decoded images and labels, pass after pass, the shards in another order each time."""
        while True:
            for k in torch.randperm(len(self.parts), generator=draws).tolist():
                yield from _read(*self.parts[k])


def opened(
    arm: str, artifacts: Mapping[str, Artifact], seed: int, base: int | None, buffer: int
) -> Shards:
    """The same images that `arms.assemble` takes, none of them read yet."""
    parts, first, seen = [], None, []
    for term in arms.parse(arm):
        files = artifacts[term.name].files
        labels = [pq.read_table(path, columns=["label"])["label"].to_numpy() for path in files]
        features = json.loads(pq.read_schema(files[0]).metadata[b"huggingface"])["info"]["features"]
        kind = tuple(features["label"]["names"]), len(next(_read(files[0], np.arange(1)))[0][0])
        first = first or kind
        arms.complete(arm, term.name, np.concatenate(labels), kind, first)
        kept, starts = (
            arms.positions(term, np.concatenate(labels), base, seed),
            np.cumsum([0, *map(len, labels)]),
        )
        seen.append(np.concatenate(labels)[kept])
        parts += [
            (path, kept[(kept >= low) & (kept < high)] - low)
            for path, low, high in zip(files, starts, starts[1:], strict=False)
        ]
    return Shards(
        [(path, rows) for path, rows in parts if len(rows)],
        *first,
        buffer,
        tuple(np.bincount(np.concatenate(seen), minlength=len(first[0])).tolist()),
    )


def _read(path: Path, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """These rows of one shard, in chunks of images (k, h, w, 3) and labels."""
    start = 0
    for cells in pq.ParquetFile(path).iter_batches(CHUNK, columns=["image", "label"]):
        here = rows[(rows >= start) & (rows < start + len(cells))] - start
        start += len(cells)
        if len(here):
            data = cells["image"].field("bytes").take(here).to_pylist()
            images = [
                cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_COLOR_RGB) for one in data
            ]
            yield np.stack(images), cells["label"].take(here).to_numpy()
