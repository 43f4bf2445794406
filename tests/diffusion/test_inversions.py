"""What a study makes of inversion: places of each plan, recipes that follow the settings, what faster settings change."""

import itertools
import zipfile

import cv2
import numpy as np
import pytest
import torch

from lib.core import config as settings
from lib.core.compute import seed_of
from lib.core.store import Store, write_json
from lib.data import imageset as images
from lib.data import real as real_data
from lib.diffusion import inversions
from lib.diffusion.embeddings import Learned, embeddings, keep, loss_curve, opened
from lib.diffusion.inversion import Inversion, Inverted

LABELS = np.array([0, 1, 2, 0, 1, 2, 0])
SMOKE = settings.load("smoke")
REAL = real_data.real_images(
    {
        "source": "digits",
        "root": "",
        "resolution": 12,
        "shard": 4,
        "fingerprint": "",
        "split": "train",
        "count": 12,
    }
)


def test_each_place_of_a_plan():
    again = inversions.rebuilt(2, 5)
    assert [place[:4] for place in again] == [(0, 0, 0.0, 0.0)] * inversions.AGAIN + [
        (1, 1, 0.0, 0.0)
    ] * inversions.AGAIN
    assert len({place.seed for place in again}) == len(again) and again[0].seed == seed_of(
        5, "rebuilt", 0, 0
    )
    around = inversions.ways(LABELS, SMOKE.inversion, 5)
    assert [place[2:4] for place in around[:3]] == [(0.0, 0.0), (0.4, 0.0), (0.0, 0.4)]
    assert len({place.seed for place in around[:3]}) == 1 and around[3].seed != around[0].seed
    assert [place.first for place in around[::3]] == [0, 1] and all(
        LABELS[p.first] == LABELS[p.second] for p in around
    )
    strip = inversions.strips(LABELS, SMOKE.inversion, 5)[: inversions.STRIP]
    assert [place.alpha for place in strip] == pytest.approx(np.linspace(0, 1, inversions.STRIP))
    assert {(place.first, place.second, place.seed) for place in strip} == {
        (around[0].first, around[0].second, around[0].seed)
    }


def test_recipes_follow_the_settings():
    section, data = SMOKE.inversion, {"resolution": 12}
    made = inversions.recipes(section, SMOKE.study, data, REAL, np.arange(12) % 3)
    assert (
        made["di"].settings["count"] == section.num_images
        and made["di"].inputs["embeddings"] == made["embeddings"]
    )
    assert (
        made["embeddings"].settings["inversion"]["max_train_steps"] == section.max_train_steps
        and made["embeddings"].inputs["real"] == REAL
    )
    assert len(made["rebuilt"].settings["plan"]) == inversions.AGAIN * section.eval_images
    other = inversions.recipes(
        section.model_copy(update={"interpolation": 0.17}),
        SMOKE.study,
        data,
        REAL,
        np.arange(12) % 3,
    )
    assert other["di"].key != made["di"].key and other["embeddings"].key == made["embeddings"].key
    assert (
        inversions.recipes(
            section.model_copy(update={"num_embedded": 0}),
            SMOKE.study,
            data,
            REAL,
            np.arange(12) % 3,
        )
        == {}
    )


def test_a_prior_from_nothing_learns_from_real_training_images_or_from_others_only(tmp_path):
    """The frozen generator's only teacher is what `prior` names, and the set goes through it."""
    path, data = cifake(tmp_path), {"resolution": 16, "flip": True, "max_corrupt_files": 0}
    real = real_data.specs(
        SMOKE.data.model_copy(
            update={
                "source": "cifake",
                "root": str(path),
                "resolution": 16,
                "train": 20,
                "test": 10,
                "shift_images": 0,
            }
        ),
        0,
    )["train"]
    section = SMOKE.inversion.model_copy(
        update={
            "model": "scratch",
            "generator_data": "published",
            "published_path": str(path),
            "generator_num_images": 20,
            "block_out_channels": [16, 32],
            "generator_train_steps": 2,
            "generator_batch_size": 4,
            "num_vectors": 4,
            "num_embedded": 10,
            "num_images": 10,
            "eval_images": 2,
        }
    )
    made = inversions.recipes(section, SMOKE.study, data, real, np.arange(20) % 10)
    (teacher,) = made["di"].inputs["generator"].inputs.values()
    assert real_data.is_published(teacher) and all(
        name.startswith("train/FAKE") for name in load(tmp_path, teacher).sources
    )
    assert set(load(tmp_path, made["di"]).sources) <= set(load(tmp_path, real).sources)
    for name in ("rebuilt", "ways", "strips", "identified", "embeddings"):
        assert made[name].inputs["generator"] == made["di"].inputs["generator"]
    own = inversions.recipes(
        section.model_copy(update={"generator_data": "real"}),
        SMOKE.study,
        data,
        real,
        np.arange(20) % 10,
    )
    assert (
        own["di"].inputs["generator"].inputs == {"real": real} and own["di"].key != made["di"].key
    )


def load(tmp_path, recipe):
    return images.load(Store(tmp_path / "store").make(recipe))


def cifake(tmp_path):
    """Three pictures of each class, half and split, in a zip."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for split, half, label, i in itertools.product(
            ("train", "test"), ("REAL", "FAKE"), range(1, 11), range(3)
        ):
            data = cv2.imencode(".jpg", rng.integers(0, 255, (32, 32, 3), np.uint8))[1].tobytes()
            archive.writestr(f"{split}/{half}/{i}{f' ({label})' if label > 1 else ''}.jpg", data)
    return tmp_path / "set.zip"


def test_faster_settings_are_held_against_the_same_images(tmp_path):
    """Artifacts written by hand: losses and seconds are known."""
    store, base = (
        Store(tmp_path),
        embeddings({"count": 6, "shard": 3, "inversion": vars(Inversion(2, 8))}, 1, real=REAL),
    )
    others = inversions.faster(base, 4)
    assert (
        others["half the steps"].settings["inversion"]["max_train_steps"] == 4
        and others["a single token"].settings["count"] == 4
    )
    assert inversions.faster(base, 0) == {}
    for recipe, loss in ((base, 1.0), (others["a single token"], 1.5)):
        store.folder(recipe).mkdir(parents=True)
        written(store, recipe, loss)
    (row,) = inversions.speeds(store, base, {"a single token": others["a single token"]}).to_dict(
        "records"
    )
    assert row["loss"].tolist() == [0.5] * 4 and row["updates"] == row["base"] == 0.0
    assert inversions.seconds(store, base) == pytest.approx(
        store.make(base).manifest["made"]["seconds"] / 6
    )


def written(store, recipe, loss):
    """A whole artifact, its files as if from a run that stopped just before its manifest."""
    from lib.core.store import digest, find

    files, count = {}, recipe.settings["count"]
    for name in find(recipe).writers(store, recipe):
        n = min(3, count)
        count -= n
        one = Inverted(
            torch.zeros(n, 2, 4),
            torch.full((n,), loss),
            torch.zeros(n, 1),
            torch.full((n,), 7),
            torch.zeros(n),
            torch.zeros(n, dtype=torch.bool),
        )
        keep(
            store.folder(recipe) / name,
            Learned(one, np.zeros(n, np.int64), tuple("abc"[:n]), ("x",)),
        )
        files[name] = digest(store.folder(recipe) / name)
    write_json(store.folder(recipe) / "journal.json", files)
    assert len(opened(store.make(recipe)).ids) == recipe.settings["count"]


def test_the_loss_curve_leaves_out_what_was_given_up_and_holds_what_stopped():
    nan = float("nan")
    curves = torch.tensor([[1.0, 0.9, 0.8], [2.0, 1.0, nan], [nan, nan, nan]])
    given_up = torch.tensor([False, False, True])
    zeros = torch.zeros(3)
    inverted = Inverted(torch.zeros(3, 1, 1), zeros, curves, zeros, zeros, given_up)
    curve = loss_curve(inverted, [0, 5, 10])
    assert curve["mean"].tolist() == pytest.approx([100, 70, 65]) and set(curve["images"]) == {2}
