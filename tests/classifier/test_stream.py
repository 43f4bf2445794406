"""Arms read from their shards: the same images as in memory, each once a pass, within a memory that does not grow."""

import itertools
import subprocess
import sys

import numpy as np
import torch

from lib.classifier import arms, stream
from lib.classifier import train as fit
from lib.core.store import Store
from lib.data import imageset
from tests.classifier.test_train import SETTINGS, right
from tests.classifier.toys import blobs, flat, toy

GROWTH = """
import resource, sys, torch
from lib.classifier import stream
from lib.core.store import Store
from tests.classifier.toys import flat
made = {"real": Store(sys.argv[1]).make(flat({"n": 3000, "size": 128, "shard": 250}))}
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before = peak()
rows = stream.opened("real", made, 0, None, buffer=128)
seen = sum(len(labels) for _, labels in rows.batches(64, 48, torch.Generator().manual_seed(0)))
print(seen, rows.megabytes, (peak() - before) / 2**20)
"""


def one_pass(rows, batch):
    """Labels and pixels of as many whole batches as one pass has."""
    return list(rows.batches(batch, len(rows) // batch, torch.Generator().manual_seed(0)))


def test_rows_are_the_images_that_memory_would_hold(tmp_path):
    store = Store(tmp_path)
    sets = {"real": toy({"n": 90, "shard": 40}), "sd": toy({"n": 300, "shard": 64}, seed=1)}
    rows = stream.opened(
        "0.5*real+sd@2x", {name: store.make(r) for name, r in sets.items()}, 3, 90, buffer=64
    )
    held = arms.assemble(
        "0.5*real+sd@2x", {name: imageset.load(store.make(r)) for name, r in sets.items()}, 3, 90
    )
    assert (
        len(rows) == len(held) == 225
        and rows.classes == held.classes
        and rows.counts().tolist() == held.counts().tolist()
    )
    read = [pair for part in rows.parts for pair in stream._read(*part)]
    np.testing.assert_array_equal(np.concatenate([images for images, _ in read]), held.images)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in read]), held.labels)


def test_every_image_comes_before_many_come_twice(tmp_path):
    artifact = Store(tmp_path).make(toy({"n": 240, "shard": 50}))
    rows = stream.opened("real", {"real": artifact}, 0, None, buffer=48)
    seen = [image.numpy().tobytes() for images, _ in one_pass(rows, 12) for image in images]
    assert (
        len(seen) == 240 and len(set(seen)) > 180
    )  # the buffer already holds some of the next pass
    longer = rows.batches(12, 60, torch.Generator().manual_seed(0))
    assert len({image.numpy().tobytes() for images, _ in longer for image in images}) == 240


def test_labels_stay_with_their_images_and_draws_decide_the_order(tmp_path):
    rows = stream.opened(
        "real", {"real": Store(tmp_path).make(toy({"n": 240, "shard": 50}))}, 0, None, buffer=48
    )
    for images, labels in one_pass(rows, 12):
        assert images.float().mean((1, 2)).argmax(1).tolist() == labels.tolist()
    one, two = (
        list(itertools.islice(rows.batches(12, 5, torch.Generator().manual_seed(k)), 5))
        for k in (0, 0)
    )
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one, two, strict=True))


def test_an_arm_larger_than_memory_allows_is_streamed_and_learnt(tmp_path):
    store = Store(tmp_path)
    recipe = fit.classifier(
        SETTINGS | {"max_ram_mb": 0, "shuffle_buffer": 32}, real=toy({"n": 60, "shard": 25})
    )
    assert isinstance(fit.training_set(store, recipe)[0], stream.Shards)
    assert right(fit.opened(store.make(recipe))[0], blobs(300, seed=1)) == 1


def test_memory_does_not_grow_with_the_set(tmp_path):
    """3,000 images of 128 px are 141 MB; the buffer is 9."""
    Store(tmp_path).make(
        flat({"n": 3000, "size": 128, "shard": 250})
    )  # here, so that the other process only reads
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(tmp_path)], text=True, capture_output=True, check=True
    )
    seen, whole, growth = map(float, done.stdout.split())
    assert seen == 3072 and whole > 140 and growth < 60
