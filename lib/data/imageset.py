"""ImageSet: images, labels, class names and where each image came from.

Stored as Parquet shards with images as `{bytes, path}` PNG structs, the layout of the Hugging Face
`datasets` library: `load_dataset("parquet", data_files="…/*.parquet")`.
"""

from __future__ import annotations

import csv
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lib.core.store import Artifact
from lib.data.pictures import SUFFIXES, decode, encode_png, fit

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FIXED = ("image", "label", "seed", "source", "prompt")  # columns that every set has
MAX_DECODED = 2**30  # bytes of decoded images that a process keeps
DAMAGE = (
    pa.ArrowException, cv2.error, OSError, ValueError, TypeError, LookupError, AttributeError,
    OverflowError, RecursionError,
)  # fmt: skip


class ImagesError(ValueError):
    """Files that should hold images and do not."""


@dataclass(frozen=True)
class ImageSet:
    """n images of one size with labels, seeds, sources and prompts."""

    images: np.ndarray  # (n, h, w, 3) uint8, RGB
    labels: np.ndarray  # (n,) int64
    classes: tuple[str, ...]
    seeds: np.ndarray  # (n,) int64
    sources: tuple[str, ...]  # a file, a scene, or the image that each was inverted from
    prompts: tuple[str, ...]
    columns: Mapping[str, Sequence] = field(default_factory=dict)  # what else is known

    def __post_init__(self):
        names = ("labels", "seeds", "sources", "prompts")
        lengths = {name: len(getattr(self, name)) for name in names}
        if not isinstance(self.columns, StoredColumns):
            lengths |= {name: len(values) for name, values in self.columns.items()}
        wrong = {name: length for name, length in lengths.items() if length != len(self.images)}
        if wrong or self.images.dtype != np.uint8 or self.images.shape[3:] != (3,):
            raise ValueError(
                "an image set needs uint8 images (n, h, w, 3) and n of everything; got images "
                f"{self.images.dtype} {self.images.shape} and {wrong}"
            )
        if len(self) and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            span = f"{self.labels.min()}..{self.labels.max()}"
            raise ValueError(f"labels {span} do not fit {len(self.classes)} classes")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: Sequence[int] | np.ndarray) -> ImageSet:
        """The images at these positions, or under this mask."""
        rows = np.arange(len(self))[index]
        return ImageSet(
            self.images[rows],
            self.labels[rows],
            self.classes,
            self.seeds[rows],
            tuple(self.sources[i] for i in rows),
            tuple(self.prompts[i] for i in rows),
            _take_columns(self.columns, rows),
        )

    def counts(self) -> np.ndarray:
        """Images per class (classes,)."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def first(self, count: int) -> np.ndarray:
        """Positions (classes, count) of the first of each class; where too few, repeated."""
        rows = [np.flatnonzero(self.labels == label) for label in range(len(self.classes))]
        return np.stack([np.resize(row, count) for row in rows])

    def masks(self) -> np.ndarray:
        """The objects' masks (n, h, w) bool, where the source knows them."""
        cells = self.columns["mask"]
        return np.stack([_decode(cell["bytes"], cv2.IMREAD_GRAYSCALE) > 0 for cell in cells])

    def native(self) -> list[np.ndarray]:
        """The images (h, w, 3) as they were sampled, before they were resized for classifiers."""
        if "native" not in self.columns:
            return list(self.images)
        return [_decode(cell["bytes"], cv2.IMREAD_COLOR_RGB) for cell in self.columns["native"]]

    def to_folder(self, folder: Path) -> None:
        """PNG class folders and `metadata.csv` with label, seed, source and prompt of each file."""
        labels = [self.classes[k] for k in self.labels]
        names = [f"{_safe(label)}/{i:06}.png" for i, label in enumerate(labels)]
        for name, image in zip(names, self.images, strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(encode_png(image))
        with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["file_name", *FIXED[1:]])
            writer.writerows(
                zip(names, labels, self.seeds, self.sources, self.prompts, strict=True)
            )

    @staticmethod
    def from_folder(folder: Path, size: int) -> ImageSet:
        """Class folders of pictures, each cropped to its centre square of `size` pixels."""
        files = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)
        if not files:
            raise ImagesError(f"no pictures in class folders ({', '.join(SUFFIXES)}).\n{folder}")
        names = [path.relative_to(folder).as_posix() for path in files]
        metadata = _metadata(folder / "metadata.csv")
        rows = [metadata.get(name, {}) for name in names]
        labels = [row.get("label", path.parent.name) for row, path in zip(rows, files, strict=True)]
        classes = tuple(sorted(set(labels)))
        return ImageSet(
            np.stack([fit(decode(path.read_bytes()), size) for path in files]),
            np.array([classes.index(label) for label in labels], np.int64),
            classes,
            np.array([int(row.get("seed", i)) for i, row in enumerate(rows)], np.int64),
            tuple(row.get("source", name) for row, name in zip(rows, names, strict=True)),
            tuple(row.get("prompt", "") for row in rows),
        )

    def to_datasets(self):
        """A Hugging Face `datasets.Dataset` with all columns."""
        datasets, table = _datasets(), _table(self)
        features = datasets.Features.from_dict(_features(table, self.classes))
        return datasets.Dataset.from_dict(table.to_pydict(), features=features)

    @staticmethod
    def from_datasets(dataset, size: int, image: str = "image", label: str = "label") -> ImageSet:
        """A `datasets.Dataset` with an image and a ClassLabel column; images become squares."""
        pixels = [fit(np.asarray(picture.convert("RGB")), size) for picture in dataset[image]]
        defaults = {
            "seed": range(len(pixels)),
            "source": [f"{image}/{i}" for i in range(len(pixels))],
            "prompt": [""] * len(pixels),
        }
        seeds, sources, prompts = (
            dataset[name] if name in dataset.column_names else values
            for name, values in defaults.items()
        )
        return ImageSet(
            np.stack(pixels),
            np.array(dataset[label], np.int64),
            tuple(dataset.features[label].names),
            np.array(list(seeds), np.int64),
            tuple(sources),
            tuple(prompts),
        )


@dataclass(frozen=True, eq=False)
class StoredColumns(Mapping):
    """Further columns of a stored set, each read from its files when it is asked for, not kept."""

    files: tuple[Path, ...]
    names: tuple[str, ...]
    rows: np.ndarray  # of the stored set, which this set has

    def __getitem__(self, name: str) -> list:
        if name not in self.names:
            raise KeyError(name)
        cells, start = {}, 0
        for path in self.files:
            count = pq.read_metadata(path).num_rows
            local = np.unique(self.rows[(self.rows >= start) & (self.rows < start + count)])
            if len(local):
                column = pq.read_table(path, columns=[name])[name]
                cells |= zip(local, column.take(local - start).to_pylist(), strict=True)
            start += count
        return [cells[row] for row in self.rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def load(artifact: Artifact) -> ImageSet:
    """All shards of an artifact as one set; a process decodes it once, and keeps MAX_DECODED."""
    key = tuple((path, path.stat().st_mtime_ns) for path in artifact.files)
    if key not in _decoded:
        _decoded[key] = _read(artifact.files)
    _decoded.move_to_end(key)
    while len(_decoded) > 1 and sum(part.images.nbytes for part in _decoded.values()) > MAX_DECODED:
        _decoded.popitem(last=False)
    return _decoded[key]


_decoded: OrderedDict[tuple, ImageSet] = OrderedDict()


def _read(files: Sequence[Path]) -> ImageSet:
    """The set of these shards; of further columns only the names are read."""
    try:
        schema = pq.read_schema(files[0])
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        table = pa.concat_tables([pq.read_table(path, columns=list(FIXED[1:])) for path in files])
        further = tuple(name for name in schema.names if name not in FIXED)
        return ImageSet(
            _decoded_images(files, len(table)),
            table["label"].to_numpy().astype(np.int64),
            tuple(features["label"]["names"]),
            table["seed"].to_numpy().astype(np.int64),
            tuple(table["source"].to_pylist()),
            tuple(table["prompt"].to_pylist()),
            StoredColumns(tuple(files), further, np.arange(len(table))) if further else {},
        )
    except DAMAGE as error:
        reason = " ".join(str(error).split())[:300]
        raise ImagesError(
            f"not shards of one image set: {reason}. Remove the folder, and the same command makes "
            f"it again.\n{files[0].parent if files else 'no file'}"
        ) from error


def _decoded_images(files: Sequence[Path], count: int) -> np.ndarray:
    """The column `image` (count, h, w, 3), one file in memory at a time."""
    images, start = None, 0
    with ThreadPoolExecutor() as pool:
        for path in files:
            cells = pq.read_table(path, columns=["image"])["image"].combine_chunks().field("bytes")
            buffers = (cell.as_buffer() for cell in cells)
            pixels = pool.map(lambda data: _decode(data, cv2.IMREAD_COLOR_RGB), buffers)
            for row, image in enumerate(pixels, start):
                images = np.empty((count, *image.shape), np.uint8) if images is None else images
                images[row] = image
            start += len(cells)
    return images


def _take_columns(columns: Mapping[str, Sequence], rows: np.ndarray) -> Mapping[str, Sequence]:
    if isinstance(columns, StoredColumns):
        return replace(columns, rows=columns.rows[rows])
    return {name: [values[i] for i in rows] for name, values in columns.items()}


def write(path: Path, shard: ImageSet) -> None:
    """One Parquet shard."""
    table = _table(shard)
    features = {"info": {"features": _features(table, shard.classes)}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path)


def _table(images: ImageSet) -> pa.Table:
    pairs = zip(images.images, images.seeds, strict=True)
    arrays = {
        "image": pa.array([picture(image, f"{seed}.png") for image, seed in pairs], PICTURE),
        "label": pa.array(images.labels, pa.int64()),
        "seed": pa.array(images.seeds, pa.int64()),
        "source": pa.array(images.sources, pa.string()),
        "prompt": pa.array(images.prompts, pa.string()),
    }
    for name, values in images.columns.items():
        values = list(values)
        arrays[name] = pa.array(values, PICTURE if isinstance(values[0], dict) else None)
    return pa.table(arrays)


def picture(image: np.ndarray, name: str) -> dict[str, Any]:
    """RGB (h, w, 3), grey or mask (h, w) as the `{bytes, path}` cell of a lossless picture."""
    return {"bytes": encode_png(image), "path": name}


def shards(count: int, size: int) -> dict[str, range]:
    """Names of the shards and the positions that each holds."""
    starts = range(0, count, size)
    return {
        f"images-{i:05}-of-{len(starts):05}.parquet": range(start, min(start + size, count))
        for i, start in enumerate(starts)
    }


def _decode(data: Any, mode: int) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), mode)


def _features(table: pa.Table, classes: tuple[str, ...]) -> dict[str, Any]:
    """The schema in the words of the `datasets` library, which need not be installed."""

    def feature(name: str, kind: pa.DataType) -> Any:
        if name == "label":
            return {"_type": "ClassLabel", "names": list(classes)}
        if kind == PICTURE:
            return {"_type": "Image"}
        if pa.types.is_list(kind):
            return [feature("", kind.value_type)]
        return {"_type": "Value", "dtype": {"double": "float64"}.get(str(kind), str(kind))}

    return {name: feature(name, table.schema.field(name).type) for name in table.column_names}


def _metadata(path: Path) -> dict[str, dict[str, str]]:
    """Rows of `metadata.csv` by file name, where a folder has one."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["file_name"]: row for row in csv.DictReader(file)}


def _safe(name: str) -> str:
    """A class name as a folder: no separators, no hidden folder."""
    cleaned = "".join("_" if c in '/\\:*?"<>|' or not c.isprintable() else c for c in name)
    return cleaned.strip(" .") or "_"


def _datasets():
    try:
        import datasets
    except ImportError as error:
        raise ImagesError(
            "the package `datasets` is not installed; `pip install datasets` adds it. Without it, "
            "to_folder and from_folder exchange PNG class folders"
        ) from error
    return datasets
