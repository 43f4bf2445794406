"""Tiny sets with known answers."""

import numpy as np

from lib.core.store import artifact
from lib.data import imageset as images
from lib.data.imageset import ImageSet


def blobs(n=60, size=16, seed=0, labels=None):
    """Three classes that differ in colour alone; other `labels` can be written on them."""
    rng, shown = np.random.default_rng(seed), np.arange(n) % 3
    pixels = rng.integers(0, 80, (n, size, size, 3))
    pixels[np.arange(n), :, :, shown] += 120
    return ImageSet(
        pixels.astype(np.uint8),
        shown if labels is None else labels,
        ("red", "green", "blue"),
        np.arange(n),
        tuple(map(str, range(n))),
        ("",) * n,
    )


@artifact("blobs")
def toy(store, recipe):
    """Blobs as an artifact of shards."""
    whole = blobs(recipe.settings["n"], recipe.settings.get("size", 16), recipe.seed)
    parts = images.shards(len(whole), recipe.settings["shard"])
    return {
        name: lambda path, where=where: images.write(path, whole.take(list(where)))
        for name, where in parts.items()
    }


@artifact("grey-images")
def flat(store, recipe):
    """Images of one grey each, made shard by shard: quick to write, large in memory."""

    def write(where, path):
        n, size = len(where), recipe.settings["size"]
        pixels = np.broadcast_to(
            (np.array(where) % 251).astype(np.uint8)[:, None, None, None], (n, size, size, 3)
        )
        images.write(
            path,
            ImageSet(
                pixels, np.arange(n) % 3, ("a", "b", "c"), np.array(where), ("",) * n, ("",) * n
            ),
        )

    parts = images.shards(recipe.settings["n"], recipe.settings["shard"])
    return {
        name: lambda path, where=where: write(list(where), path) for name, where in parts.items()
    }
