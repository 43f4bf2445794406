"""What can be wrong with image sets: duplicates, overlap with the test set, imbalance."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import cv2
import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors

from lib.data.imageset import ImageSet


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


def nearest(images: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """Distance (n,) of each image to its nearest in `others`, or to its nearest other one.

    In root mean square grey levels of 8 x 8 thumbnails.
    """
    ours = thumbnails(images)
    theirs = None if others is None else thumbnails(others)
    return nearest_neighbours(ours, theirs)[0][:, 0] / np.sqrt(ours.shape[1])


def nearest_neighbours(
    points: np.ndarray, others: np.ndarray | None = None, k: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Distances (n, k) and positions (n, k) of the k nearest rows of `others` to each row (n, d).

    Without `others` they are of the set itself, in which nothing is its own neighbour.
    """
    within = np.asarray(points if others is None else others, np.float64)
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(within)
    return search.kneighbors(None if others is None else np.asarray(points, np.float64))


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
        "training images": nearest(train.images),
        "test images": nearest(test.images, train.images),
    }
    frames = [pd.DataFrame({"from": name, "distance": d}) for name, d in distances.items()]
    return pd.concat(frames)
