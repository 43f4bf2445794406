"""The shipped model's training, all of it in small: stages, what is kept, loss weights."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from lib import world
from lib.core.paths import ROOT
from lib.diffusion.model import CARD, SHIPPED, Design, Generator
from lib.diffusion.train import TrainConfig
from lib.tools import pool, pretrain
from lib.tools.card import card

FEW = TrainConfig(2, batch_size=4, lr_warmup_steps=1, checkpointing_steps=2)
STAGES = [pretrain.Stage((FEW,)), pretrain.Stage((FEW,), focus=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten scenes, five hard ones, two stages of two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "SHARD", 10)
        made = tmp_path_factory.mktemp("pretrain")
        once(made)
        yield made


def once(folder):
    refining = TrainConfig(2, batch_size=4)
    return pretrain.pretrain(folder, 10, 5, STAGES, refining, torch.device("cpu"), workers=1)


def test_every_stage_is_recorded_and_a_second_run_makes_nothing_again(folder):
    facts = json.loads((folder / "training.json").read_text())
    stages = facts["stages"]
    assert [(stage["steps"], stage["focus"]) for stage in stages] == [(2, False), (2, True)]
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    again, twice = (once(folder) for _ in range(2))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == times
    assert all(torch.equal(p, q) for p, q in zip(again.learned(), twice.learned(), strict=True))


def test_the_command_makes_a_model(tmp_path):
    few = ("--scenes 6 --hard 2 --steps 2 4 --focused 2 4 --refine 2 --device cpu --folder work "
           "--out made").split()
    done = subprocess.run(
        [sys.executable, "-m", "lib.tools.pretrain", *few], capture_output=True, text=True,
        check=False, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    stages = json.loads((tmp_path / "made" / "training.json").read_text())["stages"]
    assert [(stage["legs"], stage["steps"]) for stage in stages] == [([2, 4], 4)] * 2
    assert Generator.load(tmp_path / "made").resolution == Design.resolution
    assert json.loads((tmp_path / "made" / CARD).read_text())["trained_on"] == "world"


def test_hard_scenes_have_their_classes_and_seeds_of_their_own(folder):
    web, hard = pool.load(folder / "web", 10), pool.load(folder / "hard", 5)
    assert [world.CLASSES[label] for label in hard.labels] == list(pool.HARD)
    scene = world.scene(pool.FIRST + 10, "web", hard.labels[0])
    image, mask = world.render(scene, Design.resolution)
    assert np.array_equal(hard.images[0], image) and np.array_equal(hard.masks[0], mask)
    assert len((web + hard).captions) == 15 and (web + hard).masks.shape == (15, 64, 64)


def test_the_outline_counts_most_and_the_mirror_image_as_its_picture():
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, :, :3] = True  # with places of 2 x 2 pixels: one column full, one half full, two empty
    both = pretrain.place_weights(masks, 4).float()
    assert torch.allclose(both[0, 0, 0], torch.tensor([2.6, 4.6, 0.6, 0.6]) / 2.1, atol=2e-3)
    assert torch.equal(both[1], both[0].flip(2)) and both.mean() == pytest.approx(1, abs=1e-3)


def test_the_card_is_filled_from_training_and_measurement():
    share = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 100}
    row = {"psnr_db": 28.5, "edges_before": 1.0, "edges_after": 1.1}
    figures = {"classifier_trained_on": 10_000, "classes": ["cube", "cone"], "machine": "cpu",
               "images_per_second": 16.2, "reconstruction": {"web": row, "photo": row},
               "accuracy": {"web scenes (real)": {"all": share, "classes": [share, share]}}}
    text = card(SHIPPED, figures)
    assert "11,400 steps of 64 images,\n  the first scenes" in text and "7,200, 11,400" in text
    assert "| web scenes (real) | 50.0 (40.0 to 60.0, n = 100) | 50 | 50 |\n" in text
    assert "12,000 more of cube (40 %), hexagonal prism (40 %), cylinder (20 %);" in text
    assert text.startswith("---\nlibrary_name") and "\n## Limits\n" in text
