"""Training: known sets give known answers, equal seeds equal weights, failures keep the good."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lib.classifier import comparison
from lib.classifier import train as training
from lib.classifier.arms import ArmError
from lib.classifier.comparison import ArmKey
from lib.classifier.model import normal, predict
from lib.core import precision
from lib.core.store import Store
from lib.measure import accuracy, gradcam
from lib.tools.bench.cam import library_maps
from tests.classifier.toys import blobs, toy

SETTINGS = {
    "arm": "real",
    "base_width": 8,
    "batch_size": 16,
    "lr": 0.05,
    "label_smoothing": 0.1,
    "steps": 40,
    "flip": True,
    "device": "cpu",
    "max_ram_mb": 4000,
    "architecture": "resnet8",
}
SECTION = SimpleNamespace(arms=["real", "copy"], base_width=8, batch_size=16, lr=0.05)
STUDY = SimpleNamespace(seed=0, seeds=2, device="cpu")


def trained(part, seed=0, **changes):
    """In this process, without a store."""
    config = training.TrainConfig.of(SETTINGS | changes)
    options = {"num_classes": len(part.classes), "name": "arm 'real'"}
    return training.train(part.images, part.labels, config, seed, **options)


def accuracy_of(model, images):
    predicted = predict(model, torch.from_numpy(images.images)).argmax(1).numpy()
    return (predicted == images.labels).mean()


@pytest.mark.parametrize("changes", [{}, {"precision": "bfloat16"}])
def test_an_easy_set_is_learnt_in_either_precision(changes):
    model = trained(blobs(), **changes)
    assert model.fc.weight.dtype == torch.float32
    assert accuracy_of(model, blobs(300, seed=1)) == 1


def test_relabelled_noise_scores_chance():
    noise = blobs(600, labels=np.random.default_rng(2).permutation(np.arange(600) % 3))
    scores = [accuracy_of(trained(noise, k, steps=30), blobs(300, seed=1)) for k in range(2)]
    assert np.mean(scores) < 0.6  # 1/3 in the long run; an easy set gives 1


def test_all_of_one_label_gives_that_label_everywhere():
    model = trained(blobs(labels=np.zeros(60, int)), steps=20)
    assert accuracy_of(model, blobs(300, seed=1)) == pytest.approx(1 / 3)
    assert model.history[-1][2] == 1


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8])
def test_any_number_of_steps_can_be_trained(steps):
    """Four were too few for the schedule's warm-up: it divided by zero."""
    assert len(trained(blobs(), steps=steps).history) == steps


def test_equal_seeds_equal_weights_other_seeds_others():
    first, again, other = (trained(blobs(), seed, steps=5).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_a_copy_of_real_scores_what_real_scores(tmp_path):
    store, test = Store(tmp_path), toy({"n": 90, "shard": 90}, seed=1)
    sets = {"real": toy({"n": 60, "shard": 32}), "copy": toy({"n": 60, "shard": 60})}
    specs = comparison.specs_of(SECTION, STUDY, 6, True, sets, dict.fromkeys(sets, 60))
    classifiers, failed = comparison.make_all(store, specs)
    scores = accuracy.scores(store, classifiers, {"test": test}, "cpu")
    assert not failed and accuracy.against(scores)["copy"]["verdict"] == "equivalent"
    values = scores["accuracy"].tolist()
    assert values[:2] == values[2:]
    interval = accuracy.table(scores)["real"]["test"]
    assert interval["low"] < interval["high"]


def test_all_classifiers_of_the_settings_are_planned_each_once():
    changes = {"arms": ["real", "real+copy"], "equal_epoch_arms": ["real+copy"]}
    section = SimpleNamespace(**vars(SECTION) | changes | {"compare_augmentations": ["multicrop"]})
    sets = {"real": toy({}), "copy": toy({"a": 1})}
    sizes = dict.fromkeys(sets, 100)
    plan = comparison.planned(section, STUDY, 70, True, sets, sizes, ["0.1*real", "real"])
    assert {key.label: specs[0].settings["steps"] for key, specs in plan.items()} == {
        "real": 70,
        "real+copy": 70,
        "0.1*real": 70,
        "real+copy, equal epochs": 140,
        "real, 140 steps": 140,
        "real, multicrop": 70,
        "real+copy, multicrop": 70,
    }
    assert plan[ArmKey("real", steps=140)][0].inputs == {"real": sets["real"]}
    usual, other = (plan[ArmKey("real", augmentation=name)][0] for name in ("", "multicrop"))
    assert usual == comparison.specs_of(SECTION, STUDY, 70, True, sets, sizes)["real"][0]
    assert other.settings == usual.settings | {"augmentation": "multicrop"}


def test_every_arm_has_the_same_steps_or_the_same_epochs():
    sets, sizes = {"real": toy({}), "sd": toy({"a": 1})}, {"real": 100, "sd": 400}
    common = (SECTION, STUDY, 70, True, sets)

    def steps(equal_epochs):
        names = ["real", "0.1*real", "sd@4x"]
        specs = comparison.specs_of(*common, sizes, equal_epochs, names)
        return [seeds[0].settings["steps"] for seeds in specs.values()]

    assert steps(False) == [70, 70, 70] and steps(True) == [70, 7, 280]
    with pytest.raises(ArmError, match="sd@4x needs 400"):
        comparison.specs_of(*common, sizes | {"sd": 399}, names=["sd@4x"])


def test_a_loss_that_is_no_number_stops_its_arm_and_keeps_the_last_good_weights(tmp_path):
    text = r"arm 'real': loss is \w+ at step \d+; lower training.lr"
    with pytest.raises(training.TrainingError, match=text) as caught:
        trained(blobs(), lr=1e12)
    assert all(torch.isfinite(value).all() for value in caught.value.state.values())
    store, real = Store(tmp_path), toy({"n": 60, "shard": 60})
    rates = {"good": 0.1, "bad": 1e12}
    specs = {
        name: [training.classifier(SETTINGS | {"steps": 6, "lr": lr}, real=real)]
        for name, lr in rates.items()
    }
    whole, failed = comparison.make_all(store, specs)
    assert list(whole) == ["good"] and "last-good.safetensors" in failed["bad"]
    (bad,) = specs["bad"]
    assert (store.folder(bad) / "last-good.safetensors").is_file()
    assert store.state(bad).startswith("unfinished")


def test_classes_that_count_equally_are_both_found():
    """One image in thirty is of the rare class: closed form of the weights, and their effect."""
    pixels = torch.zeros(30, 1, 1, 3, dtype=torch.uint8)
    feeds = [training.Feed(pixels, np.arange(30) // 29, 30, "cpu")]
    balanced = training.TrainConfig(1, class_weights="balanced")
    weights = training.class_weights(feeds, 3, balanced)
    assert weights.tolist() == pytest.approx([30 / 87, 10, 0])
    assert training.class_weights(feeds, 3, training.TrainConfig(1)) is None
    whole = blobs(300)
    uneven = whole.take(np.flatnonzero((whole.labels == 0) | (np.arange(300) % 30 == 1)))
    rare = torch.from_numpy(whole.images[whole.labels == 1])
    models = [trained(uneven, steps=30, class_weights=kind) for kind in ("none", "balanced")]
    probabilities = [predict(model, rare).softmax(1)[:, 1].mean() for model in models]
    assert probabilities[1] > probabilities[0]


def test_the_average_of_the_weights_is_kept_where_it_is_asked_for():
    last, average = (trained(blobs(), steps=20, ema_decay=decay) for decay in (0, 0.9))
    assert not torch.equal(last.fc.weight, average.fc.weight)
    assert accuracy_of(average, blobs(300, seed=1)) == 1


def test_multicrop_learns_and_needs_a_network_of_any_size():
    model = trained(blobs(120), augmentation="multicrop", steps=30)
    assert accuracy_of(model, blobs(120, seed=1)) > 0.9
    with pytest.raises(training.TrainingError, match="images of one size"):
        vit = SimpleNamespace(image_size=32)
        training.augmentation(training.TrainConfig(1, augmentation="multicrop"), vit)


def test_every_image_comes_once_before_any_comes_twice():
    pixels = torch.zeros(10, 1, 1, 3, dtype=torch.uint8)
    feed = training.Feed(pixels, torch.arange(10), 4, "cpu")
    draws = torch.Generator().manual_seed(0)
    labels = torch.cat([labels for _, labels in feed.batches(5, draws)])
    assert labels[:10].bincount().tolist() == labels[10:].bincount().tolist() == [1] * 10


def test_a_set_without_a_class_is_refused_before_training(tmp_path):
    with pytest.raises(ArmError, match="no image of class 'blue'"):
        Store(tmp_path).make(training.classifier(SETTINGS, real=toy({"n": 2, "shard": 2})))


BAD_IMAGES = np.zeros((4, 8, 8), np.uint8), np.zeros((4, 8, 8, 3)), np.zeros((0, 8, 8, 3), np.uint8)


@pytest.mark.parametrize("images", BAD_IMAGES, ids=["grey", "float", "none"])
def test_images_that_cannot_be_trained_on_are_refused_with_the_remedy(images):
    config = training.TrainConfig(steps=1, device="cpu")
    with pytest.raises(ValueError, match=r"RGB images|at least one image"):
        training.train(images, np.zeros(len(images), int), config, 0)


# the network `fast`

FAST = training.TrainConfig(
    steps=50,
    architecture="fast",
    base_width=8,
    batch_size=32,
    lr=0.5,
    momentum=0.85,
    lr_schedule="triangular",
    label_smoothing=0.2,
    augmentation="reflect",
    device="cpu",
)


@pytest.mark.parametrize("size", [8, 16, 32, 64])
def test_the_fast_network_learns_at_every_size_and_its_cam_is_grad_cam(size):
    whole, test = blobs(120, size), blobs(60, size, seed=1)
    config = dataclasses.replace(FAST, steps=FAST.steps if size < 64 else 20)
    model = training.train(whole.images, whole.labels, config, 0)
    assert accuracy_of(model, test) > 0.95
    maps = gradcam.maps(model, test.images[:6], test.labels[:6])
    assert maps.shape[1] == maps.shape[2] >= 4
    library = library_maps(model, test.images[:6], test.labels[:6], layer="layer3.6")
    np.testing.assert_allclose(maps, library, atol=1e-4)


def test_the_fast_network_takes_one_class_few_images_and_grey_ones():
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.integers(0, 255, (6, 16, 16, 1), np.uint8), 3, 3)
    for images in (grey, np.full_like(grey, 128)):
        model = training.train(images, np.zeros(6, int), dataclasses.replace(FAST, steps=10), 0)
        logits = predict(model, torch.from_numpy(images))
        assert logits.shape == (6, 1) and logits.isfinite().all()
    with pytest.raises(training.TrainingError, match="lower training.lr"):
        training.train(grey, np.arange(6) % 2, dataclasses.replace(FAST, lr=1e12), 0)


def test_the_first_layer_whitens_patches_and_stays_and_so_do_the_scales():
    whole = blobs(240, 32)
    short = dataclasses.replace(FAST, steps=3)
    model = training.train(whole.images, whole.labels, short, 0)
    pixels = normal(torch.from_numpy(whole.images))
    with torch.no_grad():
        out = model.conv1(pixels)[:, :12, ::2, ::2] - model.conv1.bias[:12, None, None]
    covariance = torch.cov(out.transpose(0, 1).flatten(1))
    assert torch.allclose(covariance, torch.eye(12), atol=0.15)
    assert all((m.weight == 1).all() for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    further = training.train(whole.images, whole.labels, short, 1, model=model, unfreeze=2)
    assert not further.conv1.weight.requires_grad and not further.layer3[2].weight.requires_grad


@pytest.mark.parametrize("name", list(precision.WAYS))
def test_every_precision_can_be_forced_and_trains_alike(name):
    whole = blobs(64)
    config = dataclasses.replace(FAST, steps=6, lr=0.1, label_smoothing=0.0)
    usual, forced = (
        training.train(whole.images, whole.labels, dataclasses.replace(config, precision=way), 0)
        for way in ("float32", name)
    )
    images = torch.from_numpy(whole.images)
    logits = [predict(model, images) for model in (usual, forced)]
    assert (logits[0] - logits[1]).norm() < 0.1 * logits[0].norm()
