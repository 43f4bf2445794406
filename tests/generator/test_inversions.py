"""What a study makes of inversion: places of each plan, recipes that follow the settings, what faster settings change."""

import numpy as np
import pytest
import torch

from lib import settings
from lib.compute import seed_of
from lib.data import sources
from lib.generator import inversions
from lib.generator.embeddings import Learned, embeddings, keep, opened
from lib.generator.invert import Inversion, Inverted
from lib.store import Store, write_json

LABELS = np.array([0, 1, 2, 0, 1, 2, 0])
SMOKE = settings.load("smoke")
REAL = sources.real({"source": "digits", "path": "", "resolution": 12, "shard": 4, "print": "", "split": "train", "count": 12})


def test_each_place_of_a_plan():
    again = inversions.rebuilt(2, 5)
    assert [place[:4] for place in again] == [(0, 0, 0.0, 0.0)] * inversions.AGAIN + [(1, 1, 0.0, 0.0)] * inversions.AGAIN
    assert len({place.seed for place in again}) == len(again) and again[0].seed == seed_of(5, "rebuilt", 0, 0)
    around = inversions.ways(LABELS, SMOKE.inversion, 5)
    assert [place[2:4] for place in around[:3]] == [(0.0, 0.0), (0.4, 0.0), (0.0, 0.4)]
    assert len({place.seed for place in around[:3]}) == 1 and around[3].seed != around[0].seed
    assert [place.first for place in around[::3]] == [0, 1] and all(LABELS[p.first] == LABELS[p.second] for p in around)
    strip = inversions.strips(LABELS, SMOKE.inversion, 5)[:inversions.STRIP]
    assert [place.alpha for place in strip] == pytest.approx(np.linspace(0, 1, inversions.STRIP))
    assert {(place.first, place.second, place.seed) for place in strip} == {(around[0].first, around[0].second, around[0].seed)}


def test_recipes_follow_the_settings():
    section, data = SMOKE.inversion, {"resolution": 12}
    made = inversions.recipes(section, SMOKE.study, data, REAL, np.arange(12) % 3)
    assert made["di"].settings["count"] == section.images and made["di"].upstream["embeddings"] == made["embeddings"]
    assert made["embeddings"].settings["inversion"]["steps"] == section.steps and made["embeddings"].upstream["real"] == REAL
    assert len(made["rebuilt"].settings["plan"]) == inversions.AGAIN * section.measured
    other = inversions.recipes(section.model_copy(update={"alpha": 0.17}), SMOKE.study, data, REAL, np.arange(12) % 3)
    assert other["di"].key != made["di"].key and other["embeddings"].key == made["embeddings"].key
    assert inversions.recipes(section.model_copy(update={"count": 0}), SMOKE.study, data, REAL, np.arange(12) % 3) == {}


def test_faster_settings_are_held_against_the_same_images(tmp_path):
    """Artefacts written by hand: losses and seconds are known."""
    store, base = Store(tmp_path), embeddings({"count": 6, "shard": 3, "inversion": vars(Inversion(2, 8))}, 1, real=REAL)
    others = inversions.faster(base, 4)
    assert others["half the steps"].settings["inversion"]["steps"] == 4 and others["a single token"].settings["count"] == 4
    assert inversions.faster(base, 0) == {}
    for recipe, loss in ((base, 1.0), (others["a single token"], 1.5)):
        store.folder(recipe).mkdir(parents=True)
        written(store, recipe, loss)
    (row,) = inversions.speeds(store, base, {"a single token": others["a single token"]}).to_dict("records")
    assert row["loss"].tolist() == [0.5] * 4 and row["updates"] == row["base"] == 0.0
    assert inversions.seconds(store, base) == pytest.approx(store.make(base).manifest["made"]["seconds"] / 6)


def written(store, recipe, loss):
    """A whole artefact, its files as if from a run that stopped just before its manifest."""
    from lib.store import digest, find
    files, count = {}, recipe.settings["count"]
    for name in find(recipe.step).parts(store, recipe):
        n = min(3, count)
        count -= n
        one = Inverted(torch.zeros(n, 2, 4), torch.full((n,), loss), torch.zeros(n, 1), torch.full((n,), 7),
                       torch.zeros(n), torch.zeros(n, dtype=torch.bool))
        keep(store.folder(recipe) / name, Learned(one, np.zeros(n, np.int64), tuple("abc"[:n]), ("x",)))
        files[name] = digest(store.folder(recipe) / name)
    write_json(store.folder(recipe) / "journal.json", files)
    assert len(opened(store.make(recipe)).ids) == recipe.settings["count"]
