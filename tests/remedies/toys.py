"""Base classifiers of toy blobs, real and synthetic, with the settings that remedies get."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from lib.classifier import comparison
from lib.core import config
from lib.core.store import artifact
from lib.data import imageset
from lib.remedies import registry, split
from tests.classifier.toys import blobs

STUDY = SimpleNamespace(seed=0, seeds=2, device="cpu")
SECTION = SimpleNamespace(
    arms=["sd", "real"], stem_stride=2, base_width=8, batch_size=12, lr=0.2, label_smoothing=0.0
)
REPAIR = {"num_real": 24, "num_real_curve": [12], "epochs": [3], "min_train_steps": 6, "lrs": [0.1]}
SHARD = "images-00000-of-00001.parquet"


@artifact("dim-blobs")
def real(store, spec):
    """Blobs as a split of a source, their colours dimmed."""
    whole = dim(blobs(spec.settings["count"], seed=spec.seed))
    return {SHARD: lambda path: imageset.write(path, whole)}


@artifact("bright-blobs")
def synthetic(store, spec):
    """Blobs brighter than any real one."""
    whole = blobs(spec.settings["count"], seed=1000)
    return {SHARD: lambda path: imageset.write(path, whole)}


def dim(whole):
    """The same classes, darker."""
    return replace(whole, images=(whole.images // 3).astype(np.uint8))


def world(**changes):
    """`models`, `sets` as remedies get them, `train`, `test`, `validation`, section repair."""
    train, test = real({"split": "train", "count": 60}, 1), real({"split": "test", "count": 60}, 2)
    sources = {"real": train, "sd": synthetic({"count": 60})}
    models = comparison.specs_of(SECTION, STUDY, 12, False, sources, dict.fromkeys(sources, 60))
    section = config.load("smoke").repair.model_copy(update=REPAIR | changes)
    settings = registry.context(section, STUDY, models["sd"][0]) | {"train": 60, "fit": 48}
    fit, validation = split.parts(train, 0.2, 0)
    sets = {"real": fit, "validation": validation, "sd": sources["sd"]}
    return SimpleNamespace(
        models=models, sets=sets, train=train, test=test, validation=validation, settings=settings
    )
