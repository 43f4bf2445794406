"""The photographs' generator, in small: its data, its card, resumption."""

import json

import cv2
import numpy as np
import pytest

from lib.diffusion.model import CARD, Generator, GeneratorError, check_fits, class_rows
from lib.diffusion.train import TrainConfig
from lib.tools import pretrain_sd32 as sd32

FEW = TrainConfig(2, batch_size=4, lr_warmup_steps=1, checkpointing_steps=1, snr_gamma=5.0)


@pytest.fixture(scope="module")
def cifake(tmp_path_factory):
    """Two images of each class in CIFAKE's names, and one exact copy."""
    half = tmp_path_factory.mktemp("cifake") / "train" / "FAKE"
    half.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for label in range(1, 11):
        for k in range(2):
            name = f"{k}.jpg" if label == 1 else f"{k} ({label}).jpg"
            cv2.imwrite(str(half / name), rng.integers(0, 255, (32, 32, 3), np.uint8))
    (half / "9 (2).jpg").write_bytes((half / "1 (2).jpg").read_bytes())
    return half.parents[1]


def test_copies_are_left_out_and_names_give_the_classes(cifake):
    images, labels = sd32.load_images(cifake)
    assert images.shape == (20, 32, 32, 3) and np.bincount(labels).tolist() == [2] * 10
    with pytest.raises(GeneratorError, match="no folder train/FAKE"):
        sd32.load_images(cifake / "train")


def test_a_model_with_names_and_a_card(cifake, tmp_path):
    generator = sd32.pretrain(cifake, tmp_path / "work", (16, 32), FEW, sheet_steps=2)
    folder = generator.save(tmp_path / "model")
    (folder / CARD).write_bytes((tmp_path / "work" / CARD).read_bytes())
    loaded = Generator.load(folder)
    assert list(loaded.table.config.names) == list(sd32.CLASSES)
    assert class_rows(loaded, ["truck", "Airplane"]) == [9, 0]
    with pytest.raises(GeneratorError, match="not trained on church; it knows airplane"):
        class_rows(loaded, ["church", "ship"])
    assert json.loads((folder / CARD).read_text())["images_seen"] == 8
    check_fits(folder, "cifar10")
    with pytest.raises(GeneratorError, match="on photographs and cannot stand for .*'world'"):
        check_fits(folder, "world")
    assert (tmp_path / "work" / "step-000002.png").is_file()
