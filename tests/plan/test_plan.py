"""The plan: its recipes are those that a run makes, every step has its price, and hours follow from prices by arithmetic."""

import ast
import json
import os
import subprocess
import sys
import time

import pytest
import torch

from lib.core import config as settings
from lib.core.paths import ROOT
from lib.core.store import ArtifactSpec, Store
from lib.data import real as real_data
from lib.plan import __main__ as whole
from lib.plan import chapters, hours, paper, rates, units
from lib.plan.units import unit

SMOKE = settings.load("smoke")


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """What the smoke study would make from nothing."""
    return chapters.study(SMOKE, Store(tmp_path_factory.mktemp("empty")))


def test_every_step_of_the_project_has_a_price():
    steps = set()
    for path in (ROOT / "lib").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            steps |= {decorator.args[0].value for decorator in getattr(node, "decorator_list", [])
                      if ast.unparse(decorator).startswith("artifact(")}
    assert steps == set(units.COSTS)


def test_a_run_makes_what_was_planned_and_nothing_else(house):
    store = Store(house / ".store")
    known, asked = chapters.study(SMOKE, store)
    seen, recipes = set(), []
    for wanted in asked.values():
        recipes += chapters.closure(wanted, seen)
    made = {json.loads(path.read_text())["key"] for path in store.root.rglob("manifest.json")}
    assert {one.key for one in recipes} - known.guessed <= made
    surplus = [ArtifactSpec.from_json(json.loads(path.read_text())) for path in store.root.rglob("manifest.json")
               if json.loads(path.read_text())["key"] not in seen]
    assert len(surplus) <= len(known.guessed)  # what the run chose instead of the guess
    assert all(store.share(one) == 1 and store.seconds(one) >= 0 for one in recipes if one.key not in known.guessed)


@pytest.mark.parametrize("name", ["smoke", "digits", "cifake-small"])
def test_copies_are_looked_for_in_sources_that_are_half_of_a_published_whole(name):
    loaded = settings.load(name)
    known, asked = chapters.study(loaded, Store("nowhere"))
    copies = [one.settings["source"] for one in asked["01_data"] if one.kind == real_data.copies.kind]
    assert copies == [loaded.data.source] * (loaded.data.source == "cifake")
    assert len(asked["01_data"]) == len(known.real) + len(copies)


def test_images_take_their_steps_twice_where_they_are_guided(planned):
    prompted = planned[1]["03_generation"][0]
    changed = ArtifactSpec(prompted.kind, prompted.settings | {"count": 70, "sampler": prompted.settings["sampler"] | {
        "num_inference_steps": 10, "guidance_interval": [0.0, 0.35], "guidance_scale": 2.0, "batch_size": 8}}, prompted.inputs)
    found = {one.kind: amount for one, amount in units.cost(changed, 10).items()}
    assert found == {"predict noise": 70 * (10 + 4), "decode": 70, "write": 70}
    plain = ArtifactSpec(changed.kind, changed.settings | {"sampler": changed.settings["sampler"] | {"guidance_scale": 1.0}}, {})
    assert units.cost(plain, 10)[unit("predict noise", model="shipped", revision="", size=0, batch=8)] == 700


def test_steps_and_updates_are_counted(planned):
    known, asked = planned
    classifiers = [one for one in asked["04_training"] if one.kind.endswith("classifier")]
    assert whole.amounts(classifiers, known)["classifier steps"] == sum(one.settings["steps"] for one in classifiers)
    told = whole.amounts(asked["02_inversion"], known)
    assert told["updates of embeddings"] == 12 * 2 + 2 * (2 + 2 + 2 + 1)  # the set, then two images under four settings


def recipe(name, files=1, **upstream):
    return ArtifactSpec("inversion-paths", {"plan": [[0]] * files, "shard": 1, "name": name}, upstream)


@pytest.mark.parametrize("workers, expected", [(1, 17.0), (2, 9.0), (8, 3.0)])
def test_workers_share_files_and_wait_for_what_they_need(workers, expected):
    first, alone = recipe("first", 4), recipe("alone", 8)
    after = recipe("after", 1, first=first)
    spent = {first.key: 8.0, after.key: 1.0, alone.key: 8.0}  # 4 files of 2 s, then 1 of 1 s; 8 of 1 s
    assert hours.wall([first, alone, after], spent, workers) == expected


def test_an_image_set_is_read_once_by_each_process():
    part = ArtifactSpec("real-images", {"count": 100, "resolution": 8, "split": "train"})
    looks = [ArtifactSpec("filtered-images", {"by": "random", "keep": 0.5}, {"images": part}, k) for k in range(3)]
    spent = hours.spent(looks, 2, {unit("load", size=8): 0.01, unit("write", size=8): 0.1}, workers=2)
    assert [spent[one.key] for one in looks] == pytest.approx([7 + hours.FILE, 5 + hours.FILE, 5 + hours.FILE])


def test_the_price_is_the_slope_and_not_the_start():
    def work(n):
        until = time.process_time() + 0.01 + 0.002 * n
        while time.process_time() < until:
            pass
    assert rates.slope(work, 0.3) == pytest.approx(0.002, rel=0.3)


def test_real_work_is_priced(tmp_path):
    network = {"architecture": "resnet8", "stem": 1, "width": 32, "classes": 3, "precision": "float32"}
    small, large = (rates.price(str(tmp_path), "cpu", unit("classify", **network, size=size), 0.2) for size in (16, 48))
    assert 3 < large / small < 27  # nine times the pixels
    with pytest.raises(rates.Unknown, match="make fetch"):
        rates.price(str(tmp_path), "cpu", unit("decode", model="nobody/has-this", revision="", size=0), 0.1)


def test_training_is_priced_for_two_classes_as_for_more(tmp_path):
    network = {"architecture": "resnet8", "stem": 4, "width": 8, "precision": "float32", "size": 16, "batch": 16, "flip": True,
               "recipe": "standard", "smoothing": 0.1}
    for classes in (2, 30):
        again = unit("train again", **network, classes=classes, blocks=2)
        first = unit("train", **network, classes=classes, balance=False)
        assert all(rates.price(str(tmp_path), "cpu", one, 0.02) > 0 for one in (again, first))


def test_the_stand_in_is_stable_diffusion():
    with torch.device("meta"):
        real, narrow = rates.stable_diffusion(1), rates.stable_diffusion(rates.NARROWER)
        assert sum(part.numel() for part in real.unet.parameters()) == 859_520_964  # as its model card's files hold
        assert 20 < rates.flops(real) / rates.flops(narrow) < rates.NARROWER**2
    assert real.shape == (4, 64, 64) and real.resolution == 512


def test_ten_times_the_images_are_ten_times_the_work():
    small, large = (paper.scaled(settings.load("imagenet100"), times) for times in (1, 10))
    one, ten = (units.total(chapters.study(each, Store("nowhere"))[1]["03_generation"][:1], 10) for each in (small, large))
    assert {kind: 10 * amount for kind, amount in one.items()} == dict(ten)


def test_what_is_missing_is_said():
    assert len(whole.fetch.missing(settings.load("imagenet100"))) == 3
    assert whole.fetch.missing(SMOKE) == []


def test_the_plan_of_a_study_that_ran(house):
    done = subprocess.run([sys.executable, "-m", "lib.plan", "--profile", "smoke", "--seconds", "1"], cwd=house, text=True,
                          capture_output=True, env=os.environ | {"PYTHONPATH": str(house), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    found = json.loads((house / "reports/smoke/plan.json").read_text())
    assert set(found["chapters"]) == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert all(row["wall"] > 0 and row["work measured"] is not None for row in found["chapters"].values())
    assert found["chapters"]["04_training"]["work left"] == 0 and "missing: nothing" in done.stdout
