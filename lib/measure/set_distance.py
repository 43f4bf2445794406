"""How near synthetic sets come to real images, and inversions to their sources: numbers with interval, and which images to show.

Sets are compared in features of the reference classifier, with as many images on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from lib.core.compute import seed_of
from lib.core.store import ArtifactSpec, Store
from lib.data.checks import thumbnails
from lib.data.imageset import ImageSet
from lib.diffusion.embeddings import diversity, nearest_rank, partner, psnr
from lib.measure import features, fidelity
from lib.measure.fidelity import FidelityError
from lib.measure.reference import share
from lib.measure.stats import over_images

Result = dict[str, float]


def measured(known: Mapping[str, np.ndarray], real: np.ndarray, seed: int) -> dict[str, dict[str, Result] | str]:
    """FD-judge, density and coverage of each set's features against real ones; of too few images, why there is no result."""
    found = {}
    for name, values in known.items():
        try:
            four = fidelity.prdc(real, values, seed=seed, network="reference")
            found[name] = {"FD-judge": fidelity.fd_interval(real, values, seed, network="reference"),
                           "density": four["density"], "coverage": four["coverage"]}
        except FidelityError as error:
            found[name] = f"not run: {error}"
    return found


def known(store: Store, judge: ArtifactSpec, sets: Mapping[str, ArtifactSpec], device: str) -> dict[str, np.ndarray]:
    """Features (n, d) of each set by the real-trained classifier."""
    return {name: features.of(store, recipe, device, "reference", judge)[0] for name, recipe in sets.items()}


def counterparts(real: np.ndarray, labels: np.ndarray, theirs: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Of each real image, by features and label (n,), the position (n,) of the nearest of its class, of any if there is none."""
    distances = torch.cdist(torch.from_numpy(real), torch.from_numpy(theirs)).numpy()
    return (distances + 1e6 * (labels[:, None] != labelled[None])).argmin(1)


def closest(pictures: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Position (n,) in others of the nearest to each picture, by thumbnails."""
    ours, theirs = (torch.from_numpy(thumbnails(each)) for each in (pictures, others))
    return torch.cdist(ours, theirs).argmin(1).numpy()


def again(rebuilt: ImageSet, drawn: ImageSet, real: ImageSet) -> dict[str, Result]:
    """Reconstructions `rebuilt` (several of each source, in a row) and the inversion set `drawn` beside their sources in `real`.

    `psnr` in dB, beside that of another image of the class; `first`, `tenth`: share whose source is the nearest of all real
    images, or among the ten nearest; `seeds`, `set`, `class`: mean distance in grey levels of two images from one embedding,
    of two of the set from one source, of two real images of a class.
    """
    where = {name: i for i, name in enumerate(real.sources)}
    once = rebuilt.take(np.unique(rebuilt.sources, return_index=True)[1])
    own = [where[name] for name in once.sources]
    others = [partner(real.labels, i, seed_of("another", i)) for i in own]
    found = nearest_rank(once.images, real.images, own)
    return {"psnr": over_images(psnr(once.images, real.images[own])),
            "psnr of another": over_images(psnr(real.images[others], real.images[own])),
            "first": share(found == 1), "tenth": share(found <= 10), "rank": {"median": float(np.median(found)), "of": len(real)},
            "seeds": over_images(diversity(rebuilt.images, rebuilt.sources)),
            "set": over_images(diversity(drawn.images, drawn.sources)), "class": over_images(diversity(real.images, real.labels))}
