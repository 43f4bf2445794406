"""Profile imagenet100 on a tiny look-alike of its folder: real images, prompts by id, multi-crop
ResNet-50s from the shards.
"""

import numpy as np
import pytest
import yaml
from PIL import Image

from lib import study as studies
from lib.classifier import on_disk
from lib.classifier import train as fit
from lib.core import config as settings
from lib.core import executor as schedule
from lib.data import imageset as images
from lib.measure import accuracy
from tests.diffusion import tiny

IDS = {"n01": "red fox", "n02": "sports car", "n03": "daisy"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The profile with its sizes scaled down and nothing else changed but where things lie."""
    folder, profile = tmp_path_factory.mktemp("imagenet"), settings.load("imagenet100")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for label, name in enumerate(IDS):
            (folder / "data" / split / name).mkdir(parents=True)
            for k in range(count):
                pixels = (rng.integers(0, 60, (40, 52, 3)) + 60 * np.eye(3)[label] * 3).astype(
                    np.uint8
                )
                Image.fromarray(pixels).save(folder / "data" / split / name / f"{k}.JPEG")
    facts = [
        {"id": key, "name": name, "hypernym": "thing", "definition": "a thing"}
        for key, name in IDS.items()
    ]
    (folder / "facts.yaml").write_text(
        yaml.safe_dump({"classes": facts, "backgrounds": ["a field"]})
    )
    tiny.of_text().save(folder / "model")
    small = {
        "study": {"store": str(folder / "store"), "device": "cpu", "workers": 1, "seeds": 1},
        "data": {
            "root": str(folder / "data"),
            "resolution": 32,
            "train": 24,
            "test": 6,
            "shard": 12,
        },
        "generation": {
            "model": str(folder / "model"),
            "class_info": str(folder / "facts"),
            "num_images": 24,
            "num_inference_steps": 6,
            "batch_size": 4,
            "sweep_num_images": 0,
        },
        "training": {"base_width": 8, "epochs": 1, "batch_size": 12, "max_ram_mb": 0},
    }
    return profile.model_copy(
        update={name: getattr(profile, name).model_copy(update=own) for name, own in small.items()}
    )


def test_from_the_folder_to_the_classifiers(study):
    graph = studies.Study(study, "imagenet100")
    store = graph.store
    assert graph.class_names == list(IDS) and list(graph.synthetic) == ["sd"]
    schedule.make(
        store,
        [
            *graph.synthetic.values(),
            *(one for seeds in graph.classifiers.values() for one in seeds),
        ],
    )
    said = images.load(store.make(graph.synthetic["sd"]))
    assert said.prompts[:3] == tuple(f"{name}, thing inside a field" for name in IDS.values())
    assert said.images.shape == (24, 32, 32, 3) and list(graph.classifiers) == [
        "real",
        "sd",
        "real+sd",
    ]
    both = graph.classifiers["real+sd"][0]
    assert isinstance(fit.training_set(store, both)[0], on_disk.OnDisk)
    assert both.settings["augmentation"] == "multicrop" and both.settings["steps"] == 2
    found = accuracy.scores(store, graph.classifiers, {"test": graph.real["test"]}, "cpu")
    assert len(found) == 3 and found["accuracy"].between(0, 1).all()
