"""Training sets larger than memory: the same images on disk, within a memory that does not grow."""

import tracemalloc

import numpy as np

from lib.classifier import arms, on_disk
from lib.classifier import train as training
from lib.core.store import Store
from lib.data import imageset
from tests.classifier.test_train import SETTINGS, accuracy_of
from tests.classifier.toys import blobs, flat, toy


def test_images_on_disk_are_those_that_memory_would_hold(tmp_path):
    store, arm = Store(tmp_path), "0.5*real+sd@2x"
    specs = {"real": toy({"n": 90, "shard": 40}), "sd": toy({"n": 300, "shard": 64}, seed=1)}
    artifacts = {name: store.make(spec) for name, spec in specs.items()}
    images, labels, classes = on_disk.training_set(arm, artifacts, 3, 90, 0, tmp_path)
    sets = {name: imageset.load(artifact) for name, artifact in artifacts.items()}
    whole = arms.assemble(arm, sets, 3, 90)
    assert len(images) == len(whole) == 225 and classes == whole.classes
    np.testing.assert_array_equal(images[:], whole.images)
    np.testing.assert_array_equal(images[np.array([7, 200, 7])], whole.images[[7, 200, 7]])
    np.testing.assert_array_equal(labels, whole.labels)


def test_training_from_disk_is_training_from_memory(tmp_path):
    store, real = Store(tmp_path), toy({"n": 60, "shard": 25})
    specs = [training.classifier(SETTINGS | {"max_ram_mb": mb}, real=real) for mb in (0, 4000)]
    assert isinstance(training.training_set(store, specs[0])[0], on_disk.OnDisk)
    models = [training.opened(store.make(spec))[0] for spec in specs]
    assert np.array_equal(*(model.fc.weight.detach().numpy() for model in models))
    assert accuracy_of(models[0], blobs(300, seed=1)) == 1


def test_memory_does_not_grow_with_the_set(tmp_path):
    """1,500 images of 128 px are 70 MB; a chunk of them is 3."""
    stored = Store(tmp_path).make(flat({"n": 1500, "size": 128, "shard": 250}))
    tracemalloc.start()
    images, _, _ = on_disk.training_set("real", {"real": stored}, 0, None, 60, tmp_path)
    batch = images[np.arange(0, 1500, 25)]
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    assert isinstance(images, on_disk.OnDisk) and peak < 15
    assert batch[:, 0, 0, 0].tolist() == [row % 251 for row in range(0, 1500, 25)]
