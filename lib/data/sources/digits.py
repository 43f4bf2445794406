"""scikit-learn's 1,797 hand-written digits, 8 × 8, enlarged: real data that needs no network."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from lib.core.compute import seed_of
from lib.data.pictures import fit
from lib.data.source import Source, SourceOptions, from_arrays

TRAIN = 1297


def open_source(options: SourceOptions) -> Source:
    digits = load_digits()
    order = np.random.default_rng(seed_of(options.seed, "digits")).permutation(len(digits.target))
    grey = (digits.images * (255 / 16)).round().astype(np.uint8)
    images = [fit(np.repeat(image[..., None], 3, axis=2), options.size) for image in grey]
    ids = [f"digits/{i}" for i in range(len(grey))]
    splits = {"train": order[:TRAIN], "test": order[TRAIN:]}
    return from_arrays(images, digits.target, tuple("0123456789"), ids, splits)
