"""torchvision's CIFAR-10, already downloaded (`make fetch`)."""

from __future__ import annotations

import numpy as np

from lib.data.pictures import fit
from lib.data.source import Source, SourceError, SourceOptions, from_arrays

TRAIN, ALL = 50_000, 60_000


def open_source(options: SourceOptions) -> Source:
    from torchvision.datasets import CIFAR10  # slow to import

    try:
        parts = [CIFAR10(str(options.root), train=train) for train in (True, False)]
    except RuntimeError as error:
        name = options.root.name
        download = f"from torchvision.datasets import CIFAR10; CIFAR10('{name}', download=True)"
        raise SourceError(
            f'CIFAR-10 is not there or damaged; get it with `python -c "{download}"` or set '
            f"data.root to where it lies.\n{options.root / 'cifar-10-batches-py'}"
        ) from error
    images = [fit(image, options.size) for part in parts for image in part.data]
    labels = np.concatenate([part.targets for part in parts])
    splits = {"train": np.arange(TRAIN), "test": np.arange(TRAIN, ALL)}
    ids = [f"cifar10/train/{i}" for i in range(TRAIN)]
    ids += [f"cifar10/test/{i}" for i in range(ALL - TRAIN)]
    return from_arrays(images, labels, tuple(parts[0].classes), ids, splits)
