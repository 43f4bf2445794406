"""What can be wrong with image sets: duplicates, overlap with the test set, imbalance."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import cv2
import numpy as np
import pandas as pd

from lib.data.imageset import ImageSet

BLOCK = 2**24  # distances at once


class LeakError(RuntimeError):
    """A training set that holds test images."""


def hashes(images: np.ndarray) -> list[str]:
    """One hash per image (n, h, w, 3): equal where every pixel is equal."""
    return [hashlib.sha256(np.ascontiguousarray(image)).hexdigest() for image in images]


def duplicates(images: np.ndarray) -> int:
    """Images that equal an earlier one pixel for pixel."""
    return len(images) - len(set(hashes(images)))


def overlap(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Positions of images that are in `others` too."""
    return np.flatnonzero(np.isin(hashes(images), hashes(others)))


def guard(training_sets: Mapping[str, ImageSet], test: ImageSet) -> None:
    """Stop where a training set holds a test image."""
    for name, images in training_sets.items():
        shared = overlap(images.images, test.images)
        if len(shared):
            raise LeakError(
                f"training set {name!r} holds {len(shared)} test images, the first is "
                f"{images.sources[shared[0]]}; remove them from the training set"
            )


def nearest(
    images: np.ndarray, others: np.ndarray, same: bool = False, block: int = 0
) -> np.ndarray:
    """Distance (n,) of each image to its nearest in `others`: RMS grey levels of thumbnails.

    With `same`, others is the set itself and an image does not count as its own neighbour.
    """
    ours, theirs = thumbnails(images), thumbnails(others)
    block = block or max(1, BLOCK // max(1, len(theirs)))
    distances = []
    for start in range(0, len(ours), block):
        chunk = ours[start : start + block]
        square = (chunk**2).sum(1)[:, None] + (theirs**2).sum(1) - 2 * chunk @ theirs.T
        if same:
            square[np.arange(len(chunk)), np.arange(start, start + len(chunk))] = np.inf
        distances.append(square.min(axis=1))
    return np.sqrt(np.maximum(np.concatenate(distances), 0) / ours.shape[1])


def thumbnails(images: np.ndarray, size: int = 8) -> np.ndarray:
    """Area means (n, size * size * 3) float32."""
    small = [cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in images]
    return np.stack(small).reshape(len(small), -1).astype(np.float32)


def statistics(images: ImageSet) -> dict[str, float]:
    """Counts, channel means and contrast of a set, in grey levels."""
    counts = images.counts()
    means = images.images.mean(axis=(0, 1, 2))  # in float64, without a copy of the set
    contrasts = [image.mean(axis=2, dtype=np.float32).std() for image in images.images]
    return {
        "images": len(images),
        "smallest class": int(counts.min()),
        "largest class": int(counts.max()),
        **dict(zip(("red", "green", "blue"), map(float, means), strict=True)),
        "contrast": float(np.mean(contrasts)),
        "duplicates": duplicates(images.images),
    }


def encodings(sources: Sequence[str]) -> list[str]:
    """Endings of the files that images were read from, e.g. [".jpg"]."""
    return sorted({PurePosixPath(name).suffix.lower() for name in sources} - {""})


def nearest_distances(train: ImageSet, test: ImageSet) -> pd.DataFrame:
    """Grey levels to the nearest training image, for training and for test images."""
    distances = {
        "training images": nearest(train.images, train.images, same=True),
        "test images": nearest(test.images, train.images),
    }
    frames = [pd.DataFrame({"from": name, "distance": d}) for name, d in distances.items()]
    return pd.concat(frames)
