"""Remedies change what they say and nothing else, and are found by name."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from lib.classifier import train as training
from lib.classifier.model import ModelError, build, normal, unfreeze_last
from lib.core import compute, config
from lib.core.paths import ROOT
from lib.data import imageset
from lib.measure import accuracy
from lib.remedies import filter as filters
from lib.remedies import gap, recalibrate, registry, split
from lib.remedies.fine_tuning import step_counts, trained
from tests.remedies import toys
from tests.remedies.toys import blobs, dim

SETTINGS = {"batch_size": 12, "steps": 5, "lr": 0.1, "label_smoothing": 0.0, "flip": False}
SETTINGS |= {"device": "cpu"}


def small(seed=0):
    torch.manual_seed(seed)
    return build(3, 16, width=8, name="resnet8", stem=2)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before, model):
    after = model.state_dict()
    return {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("last", "learn"),
    [(1, {"fc"}), (2, {"layer3", "fc"}), (0, {"conv1", "bn1", "layer1", "layer2", "layer3", "fc"})],
)
def test_only_the_last_blocks_change_and_with_them_only_their_batch_statistics(last, learn):
    model, part = small(), blobs(24)
    before, settings = state(model), training.TrainConfig.of(SETTINGS)
    training.train(part.images, part.labels, settings, 3, model=model, unfreeze=last)
    assert changed(before, model) == learn and not model.training
    with pytest.raises(ModelError, match="9 blocks to fine-tune, the network has 5"):
        unfreeze_last(model, 9)


def test_a_batch_holds_the_share_of_real_images_that_was_asked_for():
    real, synthetic = blobs(12), blobs(24)
    settings = training.TrainConfig(1, batch_size=32)
    mixed = (synthetic.images, synthetic.labels)
    feeds = training.make_feeds(real.images, real.labels, settings, "cpu", mixed, 0.25)
    assert [feed.batch_size for feed in feeds] == [8, 24]
    (feed,) = training.make_feeds(*mixed, settings, "cpu")
    assert feed.batch_size == 24  # as many as there are


def test_remedy_and_baseline_choose_from_the_same_steps_and_rates():
    toy = toys.world(epochs=[30, 3])
    assert [step_counts(toy.settings, m) for m in (6, 24, 25)] == [[6, 30], [6, 60], [9, 90]]
    for lrs in ([0.1], [0.1, 0.2]):
        settings = toy.settings | {"lrs": lrs}
        repaired, baseline = (
            trained(toy.models, toy.sets, settings, num_real=24, from_scratch=scratch)[0]
            for scratch in (False, True)
        )
        assert repaired.settings == baseline.settings
        assert set(repaired.inputs) - set(baseline.inputs) == {"classifier"}
        choices = [spec.inputs["choice"] for spec in (repaired, baseline)]
        assert choices[0].settings == choices[1].settings
        assert choices[0].settings["lrs"] == lrs and choices[0].settings["step_counts"] == [6, 60]


def test_training_goes_on_until_validation_stops_rising_and_the_best_is_taken(store):
    toy = toys.world(epochs=[3, 6, 12, 24], lrs=[1e12, 0.1])
    specs = trained(toy.models, toy.sets, toy.settings, num_real=24)
    choice = specs[0].inputs["choice"]
    assert all(spec.inputs["choice"] == choice for spec in specs)  # once, with the first seed
    content = json.loads(store.make(choice).path("choice.json").read_text())
    rows = content["trials"]
    assert all(row["accuracy"] == 0 for row in rows if row["lr"] == 1e12)  # it does not train
    best = [row["accuracy"] for row in rows if row["lr"] == 0.1]
    assert [row["steps"] for row in rows][::2] == [6, 12, 24, 48][: len(best)]
    assert best[:-1] == sorted(set(best[:-1])) and (len(best) == 4 or best[-1] <= best[-2])
    chosen = max(rows, key=lambda row: row["accuracy"])
    assert content["chosen"] == {"lr": 0.1, "steps": chosen["steps"]}
    assert split.clean(specs[0], toy.validation) and store.make(specs[0]).files


def test_recalibration_gives_the_norms_the_statistics_of_these_images_and_moves_no_weight():
    model, pixels = small(), torch.from_numpy(dim(blobs(50)).images)
    before = state(model)
    recalibrate.recalibrate(model, pixels, "first")
    with torch.no_grad():
        out = model.conv1(normal(pixels))
    assert torch.allclose(model.bn1.running_mean, out.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(model.bn1.running_var, out.var((0, 2, 3)), rtol=1e-4)
    assert changed(before, model) == {"bn1"}
    recalibrate.recalibrate(model, pixels, "all")
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())
    assert not torch.equal(before["layer3.0.bn2.running_mean"], model.layer3[0].bn2.running_mean)
    with pytest.raises(registry.RepairError, match="no batch norm"):
        recalibrate.recalibrate(nn.Linear(2, 2), pixels, "all")


def test_a_filter_keeps_the_best_of_each_class_and_a_random_one_as_many(store):
    scores, labels = np.array([3.0, 1, 2, 9, 8, 7]), np.array([0, 0, 0, 1, 1, 1])
    assert filters.best(scores, labels, 0.67).tolist() == [0, 2, 3, 4]
    whole, chance = toys.synthetic({"count": 60}), {"keep": 0.5, "by": "random"}
    specs = [filters.kept(chance, seed, images=whole) for seed in (1, 2)]
    chosen = [imageset.load(store.make(spec)) for spec in specs]
    assert [part.counts().tolist() for part in chosen] == [[10, 10, 10]] * 2
    assert set(chosen[0].seeds) != set(chosen[1].seeds)


def test_agreement_and_density_reject_the_planted_faults():
    real, mixed, part = dim(blobs(60)), blobs(60, seed=5), blobs(120)
    settings = training.TrainConfig.of(SETTINGS, base_width=8, stem_stride=2, steps=60)
    reference = training.train(part.images, part.labels, settings, 1)
    wrong = np.arange(60) < 15
    planted = replace(mixed, labels=np.where(wrong, (mixed.labels + 1) % 3, mixed.labels))
    assert roc_auc_score(~wrong, filters.agreement(planted, reference, real, 0)) > 0.95
    assert roc_auc_score(~wrong, filters.density(planted, reference, blobs(60), 0)) > 0.95


def test_geometry_and_focus_score_every_image():
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 32, 3), np.uint8)
    striped, names = noise // 8, ("",) * 24
    striped[:, ::8] = 255
    half = np.concatenate([noise[:12], striped[12:]])  # real images are striped, and the later half
    mixed, real = (
        imageset.ImageSet(part, np.arange(24) % 3, ("a", "b", "c"), np.arange(24), names, names)
        for part in (half, striped)
    )
    reference = build(3, 32, width=8, name="resnet8")
    scores = filters.lines(mixed, reference, real, 0)
    assert roc_auc_score(np.arange(24) >= 12, scores) > 0.9
    assert filters.focus(mixed, reference, mixed, 0).shape == (24,)


def test_the_real_only_baseline_sees_what_a_remedy_sees_from_first_weights(store):
    toy = toys.world()
    baselines = registry.find("real_only")(toy.models, toy.sets, toy.settings)
    assert list(baselines) == ["no synthetic image, 12 real", "no synthetic image, 24 real"]
    baseline = baselines["no synthetic image, 24 real"]
    assert baseline.role == "real only" and not baseline.candidate
    settings = toy.settings | {"unfreeze_last": [0]}
    repaired = registry.find("late_layers")(toy.models, toy.sets, settings)
    assert baseline.control == repaired["all layers, 24 real"].classifiers
    for base, spec in zip(toy.models["sd"], baseline.classifiers, strict=True):
        assert spec.seed == base.seed and set(spec.inputs) == {"real"}
    spec = baseline.classifiers[0]
    model = training.opened(store.make(spec))[0]
    few = split.some(imageset.load(store.make(toy.sets["real"])), 24, spec.seed)
    settings = training.TrainConfig.of(spec.settings)
    with compute.one_thread():  # as where artifacts are made
        again = training.train(few.images, few.labels, settings, spec.seed)
    assert torch.equal(model.fc.weight, again.fc.weight)
    with pytest.raises(registry.RepairError, match="49 real images are more than the 48"):
        registry.find("real_only")(toy.models, toy.sets, toy.settings | {"num_real_curve": [49]})


def test_what_uses_every_real_image_is_an_addition_and_no_candidate():
    toy = toys.world()
    models = toy.models | {"real+sd": toy.models["real"]}
    methods, _ = registry.planned(["mix", "late_layers"], models, toy.sets, toy.settings)
    roles = {name: (method.role, method.candidate) for name, method in methods.items()}
    assert roles.pop("mixed from the start, all real") == ("addition", False)
    assert roles and set(roles.values()) == {("remedy", True)}


def test_real_images_repair_what_synthetic_ones_missed(store):
    toy = toys.world(unfreeze_last=[0], num_real_curve=[])
    names = ["recalibrate", "late_layers", "source"]
    methods, missing = registry.planned(names, toy.models, toy.sets, toy.settings)
    assert set(methods) == {
        "first batch norm, 24 unlabelled",
        "all batch norms, 24 unlabelled",
        "all layers, 24 real",
    }
    assert "no other synthetic set than sd" in missing["source"]
    arms = {"sd": toy.models["sd"]}
    arms |= {name: method.classifiers for name, method in methods.items()}
    scores = accuracy.scores(store, arms, {"test": toy.test}, "cpu")
    gains = accuracy.changes(scores, dict.fromkeys(methods, "sd"))
    assert gains["all layers, 24 real"]["mean"] > 0.1
    method = methods["all layers, 24 real"]
    spent = [store.make(spec).manifest["made"]["seconds"] for spec in method.classifiers]
    paid = [*toy.models["sd"], *toy.sets.values()]
    assert registry.seconds(store, method, paid) == pytest.approx(np.mean(spent))
    assert registry.seconds(store, method, method.classifiers) == 0


def test_the_gap_by_class_is_widest_first():
    labels, rank = np.arange(200) % 2, np.arange(200) // 2
    shared = {"set": "test", "labels": labels}
    rows = [
        shared | {"arm": arm, "seed": k, "correct": rank < shares[labels] + k}
        for arm, shares in (("sd", np.array([50, 20])), ("real", np.array([60, 90])))
        for k in range(3)
    ]
    points = gap.by_class(pd.DataFrame(rows), "sd", "real", ["a", "b"])
    assert {name: round(row["mean"], 2) for name, row in points.items()} == {"b": 0.7, "a": 0.1}
    assert list(points) == ["b", "a"]


def test_remedies_are_found_by_name_and_every_one_of_the_params_is_there():
    for profile in config.profiles():
        assert set(config.load(profile).repair.remedies) <= set(registry.available())
    with pytest.raises(ValueError, match="did you mean 'late_layers'"):
        registry.find("late_layer")
    assert all(callable(registry.find(name)) for name in registry.available())


def test_a_remedy_is_one_file_and_one_line(store):
    """The one that the README shows: a row whose classifiers can be made from the base alone."""
    text = (ROOT / "lib/README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    (code,) = [block for block in blocks if "def remedy(" in block]
    room, toy = {}, toys.world()
    exec(code, room)
    row = room["remedy"](toy.models, toy.sets, toy.settings)["twice as long"]
    assert row.real == 0 and len(row.classifiers) == len(toy.models["sd"])
    assert row.classifiers[0].settings["steps"] == 2 * toy.settings["min_train_steps"]
    assert "real" not in row.classifiers[0].inputs and store.make(row.classifiers[0]).files
