"""How much of a synthetic set is copied from training images.

Distances are between 8 x 8 thumbnails, so that no network trained on these images is involved; real
test images, which cannot be copies, stand beside the synthetic ones.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lib.core.store import ArtifactSpec, FileWriters, Store, artifact, write_json
from lib.data import checks, imageset
from lib.data.checks import nearest_neighbours, thumbnails
from lib.measure import stats
from lib.measure.set_distance import check_enough

QUANTILES = (0.01, 0.05, 0.5)  # of the distances from test to train


@artifact("memorisation")
def copies(store: Store, spec: ArtifactSpec) -> FileWriters:
    """`memorisation` of `count` images of a set, after the first `skip`, beside real test ones."""
    def write(path: Path) -> None:
        count, skip = spec.settings["count"], spec.settings["skip"]
        ours, train, test = (imageset.load(store.make(spec.inputs[name])).images
                             for name in ("images", "train", "test"))
        write_json(path, memorisation(ours[skip:skip + count], train, test[:count]))
    return {"memory.json": write}


def memorisation(synthetic: np.ndarray, train: np.ndarray, test: np.ndarray,
                 pairs: int = 8) -> dict:
    """What of images (n, h, w, 3) is copied from train: equal images, and nearness.

    `closer` is the share of synthetic images nearer to train than that quantile of test images, so
    that q is what a generator without copies scores; `authentic` (Alaa et al. 2022) is the share
    farther from their nearest training image than that one is from its own nearest; `membership` is
    the AUC of "was this image trained on" from its distance to the nearest synthetic image,
    training against test images (0.5: nothing leaks); `pairs` are the closest ones.
    """
    for images in (synthetic, train, test):
        check_enough(len(images))
    ours, base, unseen = map(thumbnails, (synthetic, train, test))
    near, which = (values[:, 0] for values in nearest_neighbours(ours, base))
    usual, among = (values[:, 0] for values in nearest_neighbours(unseen, base))
    own = nearest_neighbours(base)[0][:, 0]
    members = nearest_neighbours(base[:len(unseen)], ours)[0][:, 0]  # as many of either
    others = nearest_neighbours(unseen, ours)[0][:, 0]
    order = np.argsort(near, kind="stable")[:pairs]
    return {"copies": len(checks.overlap(synthetic, train)),
            "duplicates": checks.duplicates(synthetic), "n": len(synthetic),
            "closer": {str(q): stats.share(near < np.quantile(usual, q)) for q in QUANTILES},
            "membership": stats.auc(-members, -others),
            "authentic": stats.share(near > own[which]),
            "authentic test": stats.share(usual > own[among]),
            "pairs": [{"synthetic": int(i), "train": int(which[i]), "distance": float(near[i])}
                      for i in order]}
