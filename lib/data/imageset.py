"""ImageSet: images, labels, class names and where each image came from; the one currency of the project.

On disk: Parquet shards with images as `{bytes, path}` PNG structs, readable by the Hugging Face `datasets` library.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lib.core.store import Artifact

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FIXED = ("image", "label", "seed", "source", "prompt")  # columns that every set has


class ImagesError(ValueError):
    """Files that should hold images and do not."""


@dataclass(frozen=True)
class ImageSet:
    """n images of one size with labels, seeds, sources and prompts; `columns` holds what else is known of each."""

    images: np.ndarray  # (n, h, w, 3) uint8, RGB
    labels: np.ndarray  # (n,) int64
    classes: tuple[str, ...]
    seeds: np.ndarray  # (n,) int64
    sources: tuple[str, ...]  # where each came from: a file, a scene, the image it was inverted from
    prompts: tuple[str, ...]
    columns: dict[str, list] = field(default_factory=dict)

    def __post_init__(self):
        n = len(self.images)
        lengths = {"labels": len(self.labels), "seeds": len(self.seeds), "sources": len(self.sources),
                   "prompts": len(self.prompts)} | {name: len(column) for name, column in self.columns.items()}
        wrong = {name: length for name, length in lengths.items() if length != n}
        if wrong or self.images.dtype != np.uint8 or self.images.shape[3:] != (3,):
            raise ValueError(f"an image set needs uint8 images (n, h, w, 3) and n of everything; got images "
                             f"{self.images.dtype} {self.images.shape} and {wrong}")
        if n and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise ValueError(f"labels {self.labels.min()}..{self.labels.max()} do not fit {len(self.classes)} classes")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: Sequence[int] | np.ndarray) -> ImageSet:
        """The images at these positions, or under this mask."""
        index = np.arange(len(self))[index]
        pick = lambda values: [values[i] for i in index]  # noqa: E731
        return ImageSet(self.images[index], self.labels[index], self.classes, self.seeds[index],
                        tuple(pick(self.sources)), tuple(pick(self.prompts)),
                        {name: pick(column) for name, column in self.columns.items()})

    def counts(self) -> np.ndarray:
        """Images of each class (classes,)."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def first(self, count: int) -> np.ndarray:
        """Positions (classes, count) of the first images of each class; the same one again where there are too few."""
        found = [np.flatnonzero(self.labels == label) for label in range(len(self.classes))]
        return np.stack([np.resize(where, count) for where in found])

    def masks(self) -> np.ndarray:
        """The objects' masks (n, h, w) bool, where the source knows them."""
        return np.stack([_decode(mask["bytes"], cv2.IMREAD_GRAYSCALE) > 0 for mask in self.columns["mask"]])

    def native(self) -> list[np.ndarray]:
        """The images (h, w, 3) as they were drawn, before they were resized for the classifiers; else as they are."""
        if "native" not in self.columns:
            return list(self.images)
        return [_decode(cell["bytes"], cv2.IMREAD_COLOR_RGB) for cell in self.columns["native"]]


def load(artifact: Artifact) -> ImageSet:
    """All shards of an artifact as one set; a process keeps the last few, since many tasks read the same ones."""
    return _read(tuple((path, path.stat().st_mtime_ns) for path in artifact.files))


@functools.lru_cache(maxsize=4)
def _read(files: tuple[tuple[Path, int], ...]) -> ImageSet:
    """The set in these files, which have not changed since these times."""
    try:
        return _whole([pq.read_table(path) for path, _ in files])
    except (pa.ArrowException, cv2.error, OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError,
            RecursionError) as error:
        raise ImagesError(f"not shards of one image set: {' '.join(str(error).split())[:300]}. Remove the folder, and the same "
                          f"command makes it again.\n{files[0][0].parent if files else 'no file'}") from error


def _whole(tables: list[pa.Table]) -> ImageSet:
    """The set of these shards."""
    table = pa.concat_tables(tables)
    columns = {name: table[name].to_pylist() for name in table.column_names}
    classes = json.loads(tables[0].schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda cell: _decode(cell["bytes"], cv2.IMREAD_COLOR_RGB), columns["image"]))
    return ImageSet(np.stack(images), np.array(columns["label"], np.int64), tuple(classes),
                    np.array(columns["seed"], np.int64), tuple(columns["source"]), tuple(columns["prompt"]),
                    {name: column for name, column in columns.items() if name not in FIXED})


def write(path: Path, shard: ImageSet) -> None:
    """One Parquet shard."""
    pictures = [picture(image, f"{seed}.png") for image, seed in zip(shard.images, shard.seeds, strict=True)]
    arrays = {"image": pa.array(pictures, PICTURE), "label": pa.array(shard.labels, pa.int64()),
              "seed": pa.array(shard.seeds, pa.int64()), "source": pa.array(shard.sources, pa.string()),
              "prompt": pa.array(shard.prompts, pa.string())}
    arrays |= {name: pa.array(column, _type(column[0])) for name, column in shard.columns.items()}
    table = pa.table(arrays).replace_schema_metadata({"huggingface": json.dumps(_features(arrays, shard.classes))})
    pq.write_table(table, path)


def picture(image: np.ndarray, name: str) -> dict[str, Any]:
    """An array (h, w, 3) RGB or (h, w) as the `{bytes, path}` cell of a losslessly stored picture."""
    ordered = image[..., ::-1] if image.ndim == 3 else image.astype(np.uint8) * 255 if image.dtype == bool else image
    return {"bytes": cv2.imencode(".png", ordered)[1].tobytes(), "path": name}


def fit(image: np.ndarray, size: int) -> np.ndarray:
    """Centre square of an image (h, w, 3), resized to (size, size, 3): area means down, bicubic up."""
    h, w = image.shape[:2]
    side = min(h, w)
    square = image[(h - side) // 2:(h + side) // 2, (w - side) // 2:(w + side) // 2]
    way = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    return square if side == size else cv2.resize(square, (size, size), interpolation=way)


def shards(count: int, size: int) -> dict[str, range]:
    """Names of the shards and the positions that each holds."""
    starts = range(0, count, size)
    return {f"images-{i:05}-of-{len(starts):05}.parquet": range(s, min(s + size, count)) for i, s in enumerate(starts)}


def _decode(data: bytes, mode: int) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), mode)


def _type(value: Any) -> pa.DataType | None:
    """Pictures keep their struct type; the rest is inferred."""
    return PICTURE if isinstance(value, dict) else None


def _features(arrays: dict[str, pa.Array], classes: tuple[str, ...]) -> dict[str, Any]:
    """The schema in the words of the `datasets` library."""
    def feature(name: str, kind: pa.DataType) -> Any:
        if name == "label":
            return {"_type": "ClassLabel", "names": list(classes)}
        if kind == PICTURE:
            return {"_type": "Image"}
        if pa.types.is_list(kind):
            return [feature("", kind.value_type)]
        return {"_type": "Value", "dtype": {"double": "float64"}.get(str(kind), str(kind))}
    return {"info": {"features": {name: feature(name, array.type) for name, array in arrays.items()}}}
