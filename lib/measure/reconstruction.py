"""How much of a source image its inversion brings back: numbers for chapter 02."""

from __future__ import annotations

import numpy as np

from lib.core.compute import seed_of
from lib.data.checks import nearest_neighbours, thumbnails
from lib.data.imageset import ImageSet
from lib.diffusion.embeddings import diversity, nearest_rank, partner, psnr
from lib.measure.stats import Estimate, over_images, share


def quality(rebuilt: ImageSet, sampled: ImageSet, real: ImageSet) -> dict[str, Estimate | dict]:
    """Reconstructions (several of each source, in a row) and the set `di` beside their sources.

    `psnr` in dB, beside that of another image of the class; `first`, `tenth`: share whose source is
    the nearest of all real images, or among the ten nearest; `seeds`, `set`, `class`: mean distance
    in grey levels of two images from one embedding, of two of the set from one source, of two real
    images of a class.
    """
    position = {name: i for i, name in enumerate(real.sources)}
    single = rebuilt.take(np.unique(rebuilt.sources, return_index=True)[1])
    own = [position[name] for name in single.sources]
    others = [partner(real.labels, i, seed_of("another", i)) for i in own]
    rank = nearest_rank(single.images, real.images, own)
    return {"psnr": over_images(psnr(single.images, real.images[own])),
            "psnr of another": over_images(psnr(real.images[others], real.images[own])),
            "first": share(rank == 1), "tenth": share(rank <= 10),
            "rank": {"median": float(np.median(rank)), "of": len(real)},
            "seeds": over_images(diversity(rebuilt.images, rebuilt.sources)),
            "set": over_images(diversity(sampled.images, sampled.sources)),
            "class": over_images(diversity(real.images, real.labels))}


def closest(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Position (n,) in others of the nearest to each image, by thumbnails."""
    return nearest_neighbours(thumbnails(images), thumbnails(others))[1][:, 0]
