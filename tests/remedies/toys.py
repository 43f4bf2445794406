"""Base classifiers of toy blobs, real and synthetic, with the settings that remedies get."""

from types import SimpleNamespace

import numpy as np

from lib.classifier import comparison
from lib.core import config as settings
from lib.core.store import artifact
from lib.data import imageset as images
from lib.data.imageset import ImageSet
from lib.remedies import registry
from tests.classifier.toys import blobs

STUDY = SimpleNamespace(seed=0, seeds=2, device="cpu")


@artifact("dim-blobs")
def real(store, recipe):
    """Blobs as a split of a source, their colours dimmed."""
    whole = dim(blobs(recipe.settings["count"], seed=recipe.seed))
    return {"images-00000-of-00001.parquet": lambda path: images.write(path, whole)}


@artifact("bright-blobs")
def synthetic(store, recipe):
    """Blobs brighter than any real one."""
    whole = blobs(recipe.settings["count"], seed=1000)
    return {"images-00000-of-00001.parquet": lambda path: images.write(path, whole)}


def dim(whole):
    """The same classes, darker."""
    return ImageSet(
        (whole.images // 3).astype(np.uint8),
        whole.labels,
        whole.classes,
        whole.seeds,
        whole.sources,
        whole.prompts,
    )


def world(steps=12):
    """`models`, `sets`, `train`, `test` and the settings of section repair; nothing is made."""
    train, test = real({"split": "train", "count": 60}, 1), real({"split": "test", "count": 60}, 2)
    sd = synthetic({"count": 60})
    training = SimpleNamespace(
        arms=["sd", "real"],
        architecture="resnet8",
        stem_stride=2,
        base_width=8,
        batch_size=12,
        lr=0.2,
        label_smoothing=0.0,
    )
    sets = {"real": train, "sd": sd}
    models = comparison.specs_of(training, STUDY, steps, False, sets, {"real": 60, "sd": 60})
    section = settings.load("smoke").repair.model_copy(
        update={
            "num_real": 24,
            "num_real_curve": [12],
            "epochs": 3,
            "min_train_steps": 6,
            "lrs": [0.1],
        }
    )
    wanted = registry.context(section, STUDY, models["sd"][0]) | {"train": 60, "fit": 48}
    return SimpleNamespace(models=models, sets=sets, train=train, test=test, settings=wanted)
