"""Remedies change what they say and nothing else, and are found by name."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from lib.classifier import train as fit
from lib.classifier.model import ModelError, build, normal, unfreeze_last
from lib.core import config as settings
from lib.core.paths import ROOT
from lib.data import imageset as images
from lib.measure import accuracy
from lib.remedies import filter as filters
from lib.remedies import gap, recalibrate, registry, split
from lib.remedies.fine_tuning import train_steps, trained
from tests.remedies import toys
from tests.remedies.toys import blobs, dim

SETTINGS = {
    "batch_size": 12,
    "steps": 5,
    "lr": 0.1,
    "label_smoothing": 0.0,
    "flip": False,
    "device": "cpu",
}


def small(seed=0):
    torch.manual_seed(seed)
    return build(3, 16, width=8, name="resnet8", stem=2)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before, model):
    return {
        name.split(".")[0]
        for name, value in model.state_dict().items()
        if not torch.equal(before[name], value)
    }


@pytest.mark.parametrize(
    ("last", "learn"),
    [(1, {"fc"}), (2, {"layer3", "fc"}), (0, {"conv1", "bn1", "layer1", "layer2", "layer3", "fc"})],
)
def test_only_the_last_blocks_change_and_with_them_only_their_batch_statistics(last, learn):
    model = small()
    before = state(model)
    part = blobs(24)
    fit.train(part.images, part.labels, fit.TrainConfig.of(SETTINGS), 3, model=model, unfreeze=last)
    assert changed(before, model) == learn and not model.training
    with pytest.raises(ModelError, match="9 blocks to fine-tune, the network has 5"):
        unfreeze_last(model, 9)


def test_a_batch_holds_the_share_of_real_images_that_was_asked_for():
    real, synthetic = blobs(12), blobs(24)
    config = fit.TrainConfig(1, batch_size=32)
    mixed = (synthetic.images, synthetic.labels)
    feeds = fit.make_feeds(real.images, real.labels, config, "cpu", mixed, 0.25)
    assert [feed.batch_size for feed in feeds] == [8, 24]
    (feed,) = fit.make_feeds(*mixed, config, "cpu")
    assert feed.batch_size == 24  # as many as there are


def test_the_steps_are_passes_over_the_real_images_and_the_same_for_remedy_and_baseline():
    made = toys.world()
    sets = made.sets | {"real": split.parts(made.train, 0.2, 0)[0]}
    assert [train_steps(made.settings | {"epochs": 30}, m) for m in (6, 24, 25)] == [30, 60, 90]
    both = [trained(made.models, sets, made.settings, num_real=24, from_scratch=s) for s in (0, 1)]
    repaired, baseline = (specs[0] for specs in both)
    assert repaired.settings == baseline.settings
    assert set(repaired.inputs) - set(baseline.inputs) == {"classifier"}


def test_each_learning_rate_is_tried_on_validation_images_and_the_best_is_taken(store):
    made = toys.world()
    real, validation = split.parts(made.train, 0.2, 0)
    sets = made.sets | {"real": real, "validation": validation}
    specs = trained(made.models, sets, made.settings | {"lrs": [1e12, 0.1]}, num_real=24)
    choice = specs[0].inputs["lr"]
    assert all(spec.inputs["lr"] == choice for spec in specs)  # once, with the first seed
    found = json.loads(store.make(choice).path("lr.json").read_text())
    assert found["lr"] == 0.1 and found["accuracy"] == {
        "1000000000000.0": 0.0,
        "0.1": found["accuracy"]["0.1"],
    }
    assert split.clean(specs[0], validation) and store.make(specs[0]).files


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
    whole = toys.synthetic({"count": 60})
    chosen = [
        images.load(store.make(filters.kept({"keep": 0.5, "by": "random"}, seed, images=whole)))
        for seed in (1, 2)
    ]
    assert [part.counts().tolist() for part in chosen] == [[10, 10, 10]] * 2
    assert set(chosen[0].seeds) != set(chosen[1].seeds)


def test_agreement_and_density_throw_out_the_planted_faults():
    real, mixed = dim(blobs(60)), blobs(60, seed=5)
    config = fit.TrainConfig.of(SETTINGS, base_width=8, stem_stride=2, steps=60)
    part = blobs(120)
    judge = fit.train(part.images, part.labels, config, 1)
    wrong = np.arange(60) < 15
    planted = images.ImageSet(
        mixed.images,
        np.where(wrong, (mixed.labels + 1) % 3, mixed.labels),
        mixed.classes,
        mixed.seeds,
        mixed.sources,
        mixed.prompts,
    )
    assert roc_auc_score(~wrong, filters.agreement(planted, judge, real, 0)) > 0.95
    assert roc_auc_score(~wrong, filters.density(planted, judge, blobs(60), 0)) > 0.95


def test_geometry_and_focus_score_every_image():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (24, 32, 32, 3), np.uint8)
    striped = noise // 8
    striped[:, ::8] = 255

    def part(pixels):
        names = ("",) * 24
        return images.ImageSet(
            pixels, np.arange(24) % 3, ("a", "b", "c"), np.arange(24), names, names
        )

    half = part(np.concatenate([noise[:12], striped[12:]]))
    judge = build(3, 32, width=8, name="resnet8")
    told = filters.lines(half, judge, part(striped), 0)
    assert (
        roc_auc_score(np.arange(24) >= 12, told) > 0.9
    )  # real images are striped here, and so is the later half
    assert filters.focus(half, judge, half, 0).shape == (24,)


def test_a_remedy_is_paired_with_its_base_and_its_control():
    rows = [
        {
            "arm": arm,
            "seed": seed,
            "set": "test",
            "correct": np.arange(1000) < value + 100 * seed + wiggle * (seed == 1),
        }
        for arm, value, wiggle in (("sd", 400, 0), ("r", 600, 3), ("control of r", 700, 0))
        for seed in (2, 0, 1)
    ]
    gains = registry.gains(
        pd.DataFrame(rows), {"r": registry.Remedy([], 5, "weights", controlled="more steps")}, "sd"
    )["r"]
    assert gains["gain"]["mean"] == pytest.approx(0.201) and 0.17 < gains["gain"]["low"] < 0.2
    assert gains["gain"]["verdict"] == "higher" and gains["control"]["verdict"] == "lower"
    assert registry.helped({"gain": gains["gain"]}) and not registry.helped(gains)


def test_the_real_only_baseline_sees_what_a_remedy_sees_from_first_weights(store):
    made = toys.world()
    real, _ = split.parts(made.train, 0.2, 0)
    sets = made.sets | {"real": real}
    baselines = registry.find("real_only")(made.models, sets, made.settings)
    assert list(baselines) == ["no synthetic image, 12 real", "no synthetic image, 24 real"]
    baseline = baselines["no synthetic image, 24 real"]
    assert baseline.baseline and not baseline.candidate
    repaired = registry.find("late_layers")(
        made.models, sets, made.settings | {"unfreeze_last": [0]}
    )
    assert baseline.control == repaired["all layers, 24 real"].classifiers
    for base, spec in zip(made.models["sd"], baseline.classifiers, strict=True):
        assert spec.seed == base.seed and set(spec.inputs) == {"real"}
    model = fit.opened(store.make(baseline.classifiers[0]))[0]
    whole = split.some(images.load(store.make(real)), 24, baseline.classifiers[0].seed)
    config = fit.TrainConfig.of(baseline.classifiers[0].settings)
    again = fit.train(whole.images, whole.labels, config, made.models["sd"][0].seed)
    assert torch.equal(model.fc.weight, again.fc.weight)
    with pytest.raises(registry.RepairError, match="49 real images wanted, 48 are there"):
        registry.find("real_only")(made.models, sets, made.settings | {"num_real_curve": [49]})


def test_all_runs_from_the_recipe_and_real_images_repair_what_synthetic_ones_missed(store):
    made = toys.world()
    real, _ = split.parts(made.train, 0.2, 0)
    sets, wanted = (
        made.sets | {"real": real},
        made.settings | {"unfreeze_last": [0], "num_real_curve": []},
    )
    found, missing = registry.planned(
        ["recalibrate", "late_layers", "source"], made.models, sets, wanted
    )
    assert set(found) == {
        "first batch norm, 24 unlabelled",
        "all batch norms, 24 unlabelled",
        "all layers, 24 real",
    }
    assert "no other synthetic set than sd" in missing["source"]
    arms = {"sd": made.models["sd"]} | {name: one.classifiers for name, one in found.items()}
    scores = accuracy.scores(store, arms, {"test": made.test}, "cpu")
    gains = registry.gains(scores, found, "sd")
    assert gains["all layers, 24 real"]["gain"]["mean"] > 0.1
    one = found["all layers, 24 real"]
    spent = [store.make(c).manifest["made"]["seconds"] for c in one.classifiers]
    assert registry.seconds(store, one, [*made.models["sd"], *sets.values()]) == pytest.approx(
        np.mean(spent)
    )
    assert registry.seconds(store, one, one.classifiers) == 0


def test_the_gap_by_layer_ends_with_the_gap_itself():
    correct = {layer: np.arange(30).reshape(3, 10) % 3 > 0 for layer in ("stem", "layer1")}
    rows = gap.by_layer(correct, correct, {"mean": 0.3})
    assert [row["part"] for row in rows] == ["stem", "layer1", gap.HEAD]
    assert [row["points"]["mean"] for row in rows] == [0, 0, 0.3]


def test_the_gap_by_class_and_by_remedy():
    labels, rank = np.arange(200) % 2, np.arange(200) // 2
    found = pd.DataFrame(
        [
            {
                "arm": arm,
                "seed": k,
                "set": "test",
                "labels": labels,
                "correct": rank < np.array(shares)[labels] + k,
            }
            for arm, shares in (("sd", [50, 20]), ("real", [60, 90]))
            for k in range(3)
        ]
    )
    rows = gap.by_class(found, "sd", "real", ["a", "b"])
    assert [(row["part"], round(row["points"]["mean"], 2)) for row in rows] == [
        ("b", 0.7),
        ("a", 0.1),
    ]
    control, gain = {"mean": 0.1}, {"mean": 0.2}
    known = {
        "f": registry.Remedy([], 0, "images", control=[1], part="geometry"),
        "n": registry.Remedy([], 0, "weights", part="pixels"),
        "x": registry.Remedy([], 0, "weights"),
    }
    rows = gap.by_remedy(
        {"f": {"gain": gain, "control": control}, "n": {"gain": gain}, "x": {"gain": gain}}, known
    )
    assert [(row["panel"], row["part"], row["points"]) for row in rows] == [
        ("cue", "pixels", gain),
        ("cue", "geometry", control),
    ]


def test_remedies_are_found_by_name_and_every_one_of_the_params_is_there():
    for profile in settings.profiles():
        assert set(settings.load(profile).repair.remedies) <= set(registry.there())
    with pytest.raises(ValueError, match="did you mean 'late_layers'"):
        registry.find("late_layer")
    assert all(callable(registry.find(name)) for name in registry.there())


def test_the_remedy_that_the_readme_shows_works(store):
    """It returns a row whose classifiers can be made from the base alone."""
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "lib/README.md").read_text(encoding="utf-8"), re.S
    )
    (text,) = [block for block in blocks if "def remedy(" in block]
    rooms, toy = {}, toys.world()
    exec(text, rooms)
    row = rooms["remedy"](toy.models, toy.sets, toy.settings)["twice as long"]
    assert row.real == 0 and len(row.classifiers) == len(toy.models["sd"])
    assert row.classifiers[0].settings["steps"] == 2 * toy.settings["min_train_steps"]
    assert "real" not in row.classifiers[0].inputs and store.make(row.classifiers[0]).files
