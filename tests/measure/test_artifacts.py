"""Artifacts of chapter 07 hold what its measures give on the images."""

import numpy as np
import pytest

from lib.classifier import train as classifier_training
from lib.core.store import Store
from lib.data import imageset
from lib.measure import memorisation, probes, representation, robustness, set_distance
from tests.classifier.toys import toy

SETTINGS = {"arm": "real", "architecture": "resnet8", "base_width": 8, "batch_size": 16, "lr": 0.1,
            "label_smoothing": 0.1, "steps": 12, "flip": True, "device": "cpu"}
TRAIN, TEST = toy({"n": 90, "shard": 50}, 1), toy({"n": 120, "shard": 50}, 3)
SYNTHETIC, FEW = toy({"n": 90, "shard": 50}, 2), toy({"n": 20, "shard": 20}, 5)
HALF = {"count": 60, "skip": 0}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def classifier():
    return classifier_training.classifier(SETTINGS, 0, real=TRAIN)


def open_both(store, classifier):
    model = classifier_training.opened(store.make(classifier))[0]
    return model, *(imageset.load(store.make(spec)) for spec in (TRAIN, TEST))


def compare(store, classifier, images, extractor="reference", **part):
    settings = HALF | part | {"extractor": extractor, "nearest_k": 3, "device": "cpu"}
    inputs = {"classifier": classifier} if extractor == "reference" else {}
    spec = set_distance.comparison(settings, 0, real=TEST, images=images, **inputs)
    return set_distance.load(store, spec)


def test_sets_are_compared_at_equal_n_and_refused_with_the_reason(store, classifier):
    model, _, test = open_both(store, classifier)
    ours = probes.penultimate(model, imageset.load(store.make(SYNTHETIC)).images[:60])
    real, other = (probes.penultimate(model, part) for part in (test.images[:60], test.images[60:]))
    result = compare(store, classifier, SYNTHETIC)
    expected = set_distance.measures(real, ours, 0, 3)
    for name in ("FD", "FD∞", "KID"):
        mean = result["measures"][name]["mean"]
        assert mean == pytest.approx(expected[name]["mean"], rel=1e-3, abs=1e-6)
    floor = compare(store, classifier, TEST, skip=60)["measures"]["FD"]["mean"]
    assert floor == pytest.approx(set_distance.frechet(real, other), rel=1e-3)
    few = compare(store, classifier, FEW)
    assert few.startswith("not run: 20 images where at least 50 are needed")
    absent = compare(store, classifier, SYNTHETIC, "resnet18")
    assert absent.startswith("not run: no weights of resnet18 here")


def test_copies_are_counted_against_training(store):
    inputs = {"train": TRAIN, "test": TEST}
    copies = {name: set_distance.load(store, memorisation.copies(HALF, images=images, **inputs))
              for name, images in (("copied", TRAIN), ("sd", SYNTHETIC), ("few", FEW))}
    assert copies["copied"]["copies"] == 60 and copies["sd"]["copies"] == 0
    assert copies["few"].startswith("not run: 20 images")


def test_probes_and_features_are_those_of_the_images(store, classifier):
    model, train, test = open_both(store, classifier)
    fitted, tested = (probes.activations(model, part.images) for part in (train, test))
    for last_only in (False, True):
        spec = probes.linear_probes({"last_only": last_only, "device": "cpu"}, 7,
                                    classifier=classifier, train=TRAIN, test=TEST)
        correct = probes.load_correct(store, [spec, spec])
        assert list(correct) == list(fitted)[-1 if last_only else 0:]
        for layer, matrix in correct.items():
            predicted = probes.linear_probe(fitted[layer], train.labels, tested[layer], 7)
            np.testing.assert_array_equal(matrix, [predicted == test.labels] * 2)
    spec = probes.layer_features({"count": 40, "device": "cpu"}, classifier=classifier, images=TEST)
    features, labels = probes.load_features(store, spec)
    np.testing.assert_array_equal(labels, test.labels[:40])
    measured = representation.measures(features["layer3"], labels)
    expected = representation.measures(tested["layer3"][:40], labels)
    assert measured == pytest.approx(expected, rel=1e-4)


def test_robustness_holds_every_damage_and_attack(store, classifier):
    model, _, test = open_both(store, classifier)
    settings = {"corruptions": ["noise", "blur"], "severities": [1, 5], "corruption_images": 30,
                "eps_255": [4.0], "pgd_steps": 2, "attack_images": 20, "device": "cpu"}
    spec = robustness.robustness(settings, 0, classifier=classifier, images=TEST)
    correct = robustness.load_correct(store, [spec])
    assert {name: values.shape for name, values in correct.items()} == {
        "clean": (1, 30), "noise-1": (1, 30), "noise-5": (1, 30), "blur-1": (1, 30),
        "blur-5": (1, 30), "fgsm-4": (1, 20), "pgd-4": (1, 20)}
    part = test.take(slice(30))
    damaged = robustness.corrupt(part.images, "noise", 5, 0)
    expected = robustness.is_correct(model, damaged, part.labels)
    np.testing.assert_array_equal(correct["noise-5"][0], expected)
