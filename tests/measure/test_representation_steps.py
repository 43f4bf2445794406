"""Chapter 07's artifacts are what its measures give on the images, and its tables say where there is nothing to measure."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from lib.classifier import train as fit
from lib.core.store import ArtifactSpec, Store
from lib.data import imageset as images
from lib.measure import accuracy, fidelity, representation, robustness
from lib.measure import representation_steps as represented
from lib.measure.representation_steps import REAL, Plan
from tests.classifier.toys import toy

TRAINING = {"width": 8, "architecture": "resnet8", "batch": 16, "rate": 0.1, "smoothing": 0.1, "steps": 12, "flip": True,
            "device": "cpu"}
SETTINGS = SimpleNamespace(
    images=60, networks=["own", "resnet18"], neighbours=3, seen=40, probe=60, transfer=["digits", "cifar10"], path="nowhere",
    corruptions=["noise", "blur"], severities=[1, 5], damaged=30, eps=[4.0], climbs=2, attacked=20, gallery=2)
STUDY = SimpleNamespace(seed=0, seeds=2, device="cpu")
SETS = {"real": toy({"n": 90, "shard": 50}, 1), "sd": toy({"n": 90, "shard": 50}, 2)}
REALS = {"train": SETS["real"], "test": toy({"n": 120, "shard": 50}, 3), "shift-dusk": toy({"n": 30, "shard": 50}, 4)}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A store, the plan of a study of two arms and two seeds, and its synthetic sets, one of them too small."""
    store = Store(tmp_path_factory.mktemp("store"))
    arms = {arm: [fit.classifier(TRAINING | {"arm": arm}, seed, **{arm: SETS[arm]}) for seed in range(2)] for arm in SETS}
    plan = Plan(SETTINGS, STUDY, {"test": 120, "resolution": 16}, REALS, arms)
    return store, plan, {"sd": SETS["sd"], "few": toy({"n": 20, "shard": 20}, 5)}


def opened(store, plan, arm="sd", seed=1):
    return fit.opened(store.make(plan.arms[arm][seed]))[0]


def test_sets_are_compared_at_equal_n_and_refused_with_the_reason(study):
    store, plan, made = study
    found = represented.comparisons(store, plan, made)
    test, sd = (images.load(store.make(one)).images for one in (REALS["test"], SETS["sd"]))
    base, ours, other = (representation.penultimate(opened(store, plan, "real", 0), part)
                         for part in (test[:60], sd[:60], test[60:]))
    expected = fidelity.measures(base, ours, 0, "own", 3)
    for name in ("FD", "FD∞", "KID"):
        assert found["own"]["sd"][name]["mean"] == pytest.approx(expected[f"{name}-own"]["mean"], rel=1e-3, abs=1e-6)
    assert found["own"]["sd"]["coverage"] == expected["coverage"]
    assert found["own"][REAL]["FD"]["mean"] == pytest.approx(fidelity.fd(base, other)["mean"], rel=1e-3)
    assert found["own"]["few"].startswith("not run: 20 images where at least 50 are needed")
    assert found["resnet18"]["sd"].startswith("not run: no weights of resnet18 here")


def test_the_sheet_has_a_row_a_measure_and_a_column_a_set(study):
    store, plan, made = study
    sheet = represented.sheet(represented.comparisons(store, plan, made)["own"]).set_index("measure")
    assert list(sheet.index) == list(represented.FIDELITY) and list(sheet) == ["better", REAL, "sd", "few"]
    kid = represented.comparisons(store, plan, made)["own"]["sd"]["KID"]
    assert sheet.loc["KID × 1000", "sd"]["high"] == pytest.approx(1000 * kid["high"]) and sheet.loc["IS", "sd"]["digits"] == 2
    assert represented.sheet({"few": "not run: 20 images"}).empty


def test_copies_are_counted_against_training(study):
    store, plan, made = study
    found = represented.memories(store, plan, made | {"copied": SETS["real"]})
    assert found["copied"]["copies"] == 60 and found["sd"]["copies"] == 0 and found["few"].startswith("not run: 20 images")


def test_probes_and_features_are_those_of_the_images(study):
    store, whole, _ = study
    plan = Plan(SETTINGS, STUDY, whole.data, REALS, {"sd": whole.arms["sd"][1:]})
    learn, ask = (images.load(store.make(REALS[name])) for name in ("train", "test"))
    model = opened(store, whole)
    known = representation.activations(model, learn.images[:60])
    asked = representation.activations(model, ask.images[:40])
    found = represented.by_layer(store, plan)["sd"][0]
    right = (model(fit.augment.normal(torch.from_numpy(ask.images[:40]))).argmax(1).numpy() == ask.labels[:40]).mean()
    assert found == representation.probes(known, learn.labels[:60], asked, ask.labels[:40]) | {"own head": right}
    assert list(found) == ["stem", "layer1", "layer2", "layer3", "own head"]
    measured = represented.measures(store, plan)["sd"][0]
    expected = representation.measures(asked["layer3"], ask.labels[:40])
    assert {name: measured[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert 0.1 < measured["transfer to digits"] <= 1 and list(plan.absent) == ["cifar10"]
    assert plan.absent["cifar10"].startswith("not run: CIFAR-10 is not there")


def test_likeness_is_to_the_base_of_the_same_seed_and_for_the_base_to_its_next(study):
    store, plan, _ = study
    ask = images.load(store.make(REALS["test"])).images[:40]
    seen = {(arm, k): representation.activations(opened(store, plan, arm, k), ask)["layer3"] for arm in SETS for k in range(2)}
    found = represented.likeness(store, plan)
    for arm, other in (("sd", 1), ("real", 0)):
        expected = representation.cka(seen[arm, 1], seen["real", other], debiased=True)
        assert found[arm][1]["layer3"] == pytest.approx(expected, abs=1e-4)


def test_trials_hold_every_damage_and_what_is_kept(study):
    store, plan, _ = study
    found = represented.trials(store, plan)
    assert list(found["kind"].unique()) == ["blur", "noise", "shift-dusk", "fgsm", "pgd"] and len(found) == 4 * (4 + 1 + 2)
    part = images.load(store.make(REALS["test"])).take(slice(30))
    row = found.query("arm == 'sd' and seed == 1 and kind == 'noise' and severity == 5").iloc[0]
    damaged = robustness.corrupt(part.images, "noise", 5, 0)
    assert row["accuracy"] == robustness.accuracy(opened(store, plan), damaged, part.labels)
    assert row["clean"] == robustness.accuracy(opened(store, plan), part.images, part.labels)
    dusk = images.load(store.make(REALS["shift-dusk"]))
    said = accuracy.said(store, plan.arms["sd"][1], REALS["shift-dusk"], "cpu").argmax(1)
    assert found.query("arm == 'sd' and seed == 1 and kind == 'shift-dusk'")["accuracy"].item() == (said == dusk.labels).mean()
    kept = represented.kept(found)["sd"][1]
    rows = found.query("arm == 'sd' and seed == 1 and kind in ('fgsm', 'pgd')")
    assert list(kept) == ["corruptions", "shifts", "attacks"]
    assert kept["attacks"] == pytest.approx((rows["accuracy"] / rows["clean"]).mean())


def test_leading_reads_no_more_shards_than_hold_the_images(study):
    store, _, _ = study
    made = store.make(REALS["test"])
    whole = images.load(made)
    for count in (1, 50, 51, 120, 999):
        part = represented.leading(made, count)
        assert np.array_equal(part.images, whole.images[:count]) and np.array_equal(part.labels, whole.labels[:count])


def test_differences_and_the_gaps_parts_are_paired():
    layers = {"real": [{"stem": 0.5, "layer1": 0.9, "own head": 0.8 + k / 10} for k in range(3)],
              "sd": [{"stem": 0.5, "layer1": 0.6, "own head": 0.4 + k / 10} for k in range(3)]}
    apart = represented.differences(layers, "real")["sd"]
    assert apart["own head"]["low"] == pytest.approx(apart["own head"]["high"]) == pytest.approx(-0.4)
    parts = represented.split(layers, "real")["sd"]
    assert {name: one["mean"] for name, one in parts.items()} == pytest.approx({"gap": -0.4, "features": -0.3, "head": -0.1})


def test_spokes_are_the_axes_that_all_arms_have():
    result = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 3}
    nothing = dict.fromkeys(result, 0.0)
    means = {arm: {"sparsity": result, "coding length within classes": result, "transfer to digits": nothing}
             for arm in ("real", "sd")}
    layers = {"real": {"own head": result}, "sd": {"own head": {"mean": 0.25, "low": 0.2, "high": 0.3, "n": 3}}}
    found = represented.spokes(means, layers, {"real": {"attacks": result}}, "real")
    assert list(found["axis"].unique()) == ["sparsity", "accuracy"] and list(found["better"].unique()) == ["lower", "higher"]
    assert found.query("arm == 'sd' and axis == 'accuracy'")["spoke"].item() == 0.5


def test_every_recipe_survives_json_and_names_what_it_needs(study):
    _, plan, _ = study
    recipes = plan.every()
    assert len({one.key for one in recipes}) == 8 and all(ArtifactSpec.from_json(one.to_json()).key == one.key for one in recipes)
    assert {one.inputs["damaged"].key for one in recipes if "damaged" in one.inputs} == {
        plan.trial(plan.arms["sd"][0]).inputs["damaged"].key}  # damaged once for all classifiers


def test_an_arm_that_knows_nothing_keeps_nothing():
    rows = [{"arm": arm, "seed": k, "kind": kind, "severity": 1.0, "accuracy": 0.2, "clean": clean}
            for arm, clean in (("real", 0.4), ("sd", 0.0)) for k in range(2) for kind in ("noise", "shift-dusk")]
    assert represented.kept(pd.DataFrame(rows)) == {"real": [{"corruptions": 0.5, "shifts": 0.5}] * 2}
