"""Training: known sets give known answers, equal seeds equal weights, what goes wrong is said and kept."""

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lib.classifier import comparison, stream
from lib.classifier import train as fit
from lib.classifier.arms import ArmError
from lib.classifier.comparison import ArmKey
from lib.classifier.model import normal, predict
from lib.core.paths import ROOT
from lib.core.store import Store
from lib.measure import accuracy, gradcam
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
    "shuffle_buffer": 64,
    "architecture": "resnet8",
}
TRAINING = SimpleNamespace(
    arms=["real", "copy"],
    base_width=8,
    batch_size=16,
    lr=0.05,
    label_smoothing=0.1,
    architecture="resnet8",
)
STUDY = SimpleNamespace(seed=0, seeds=2, device="cpu")


def trained(part, settings, seed):
    """In this process, without a store."""
    config = fit.TrainConfig.of(settings)
    name = f"arm {settings['arm']!r}"
    return fit.train(
        part.images, part.labels, config, seed, num_classes=len(part.classes), name=name
    )


def right(model, images):
    return (
        predict(model, torch.from_numpy(images.images)).argmax(1).numpy() == images.labels
    ).mean()


def test_an_easy_set_is_learnt():
    assert right(trained(blobs(), SETTINGS, 0), blobs(300, seed=1)) == 1


def test_relabelled_noise_scores_chance():
    labels = np.random.default_rng(2).permutation(np.arange(600) % 3)
    found = [
        right(trained(blobs(600, labels=labels), SETTINGS | {"steps": 30}, k), blobs(300, seed=1))
        for k in range(2)
    ]
    assert np.mean(found) < 0.6  # 1/3 in the long run; an easy set gives 1


def test_all_of_one_label_gives_that_label_everywhere():
    model = trained(blobs(labels=np.zeros(60, int)), SETTINGS | {"steps": 20}, 0)
    assert right(model, blobs(300, seed=1)) == pytest.approx(1 / 3) and model.history[-1][2] == 1


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8])
def test_any_number_of_steps_can_be_trained(steps):
    """Four were too few for the schedule's warm-up: it divided by zero."""
    assert len(trained(blobs(), SETTINGS | {"steps": steps}, 0).history) == steps


def test_equal_seeds_equal_weights_other_seeds_others():
    one, two, other = (
        trained(blobs(), SETTINGS | {"steps": 5}, seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)


def test_a_copy_of_real_scores_what_real_scores(tmp_path):
    store = Store(tmp_path)
    sets = {"real": toy({"n": 60, "shard": 32}), "copy": toy({"n": 60, "shard": 60})}
    classifiers, failed = comparison.make_all(
        store, comparison.specs_of(TRAINING, STUDY, 12, True, sets, dict.fromkeys(sets, 60))
    )
    found = accuracy.scores(
        store, classifiers, {"test": toy({"n": 90, "shard": 90}, seed=1)}, "cpu"
    )
    assert not failed and accuracy.against(found)["copy"]["verdict"] == "equivalent"
    assert found["accuracy"].to_numpy()[:2].tolist() == found["accuracy"].to_numpy()[2:].tolist()


def test_two_runs_with_the_same_seeds_give_the_same_table(tmp_path):
    sets, tables = {"real": toy({"n": 60, "shard": 32})}, []
    for name in ("one", "two"):
        store = Store(tmp_path / name)
        made, _ = comparison.make_all(
            store, comparison.specs_of(TRAINING, STUDY, 3, True, sets, {"real": 60}, names=["real"])
        )
        tables.append(
            accuracy.table(
                accuracy.scores(store, made, {"test": toy({"n": 90, "shard": 90}, seed=1)}, "cpu")
            )
        )
    assert (
        tables[0] == tables[1]
        and tables[0]["real"]["test"]["low"] < tables[0]["real"]["test"]["high"]
    )


def test_all_classifiers_of_the_settings_are_planned_each_once():
    training = SimpleNamespace(
        **vars(TRAINING)
        | {
            "arms": ["real", "real+copy"],
            "equal_epoch_arms": ["real+copy"],
            "compare_augmentations": ["multicrop"],
        }
    )
    sets = {"real": toy({}), "copy": toy({"a": 1})}
    found = comparison.planned(
        training, STUDY, 70, True, sets, dict.fromkeys(sets, 100), ["0.1*real", "real"]
    )
    assert [key.label for key in found] == [
        "real",
        "real+copy",
        "0.1*real",
        "real+copy, equal epochs",
        "real, 140 steps",
        "real, multicrop",
        "real+copy, multicrop",
    ]
    assert [seeds[0].settings["steps"] for seeds in found.values()] == [
        70,
        70,
        70,
        140,
        140,
        70,
        70,
    ]
    assert found[ArmKey("real", steps=140)][0].inputs == {"real": sets["real"]}
    assert (
        found[ArmKey("real")]
        == comparison.specs_of(TRAINING, STUDY, 70, True, sets, dict.fromkeys(sets, 100))["real"]
    )
    assert found[ArmKey("real", augmentation="multicrop")][0].settings == found[ArmKey("real")][
        0
    ].settings | {"augmentation": "multicrop"}


def test_every_arm_has_the_same_steps_or_the_same_epochs():
    sets, sizes = {"real": toy({}), "sd": toy({"a": 1})}, {"real": 100, "sd": 400}
    training = SimpleNamespace(**vars(TRAINING) | {"arms": ["real", "0.1*real", "sd@4x"]})
    steps = lambda budget: [  # noqa: E731
        seeds[0].settings["steps"]
        for seeds in comparison.specs_of(
            training, STUDY, 70, True, sets, sizes, budget == "epochs"
        ).values()  # noqa: E731
    ]
    assert steps("steps") == [70, 70, 70] and steps("epochs") == [70, 7, 280]
    with pytest.raises(ArmError, match="sd@4x needs 400"):
        comparison.specs_of(training, STUDY, 70, True, sets, sizes | {"sd": 399})


def test_a_loss_that_is_no_number_stops_its_arm_and_keeps_the_last_good_weights(tmp_path):
    with pytest.raises(
        fit.TrainingError, match=r"arm 'real': loss is \w+ at step \d+; lower training.lr"
    ) as caught:
        trained(blobs(), SETTINGS | {"lr": 1e12}, 0)
    assert all(torch.isfinite(value).all() for value in caught.value.state.values())
    store = Store(tmp_path)
    good, bad = (
        fit.classifier(SETTINGS | {"steps": 6, "lr": rate}, real=toy({"n": 60, "shard": 60}))
        for rate in (0.1, 1e12)
    )
    whole, failed = comparison.make_all(store, {"bad": [bad], "good": [good]})
    assert list(whole) == ["good"] and "last-good.safetensors" in failed["bad"]
    assert (store.folder(bad) / "last-good.safetensors").is_file() and store.state(bad).startswith(
        "unfinished"
    )


def test_classes_that_count_equally_are_both_found():
    """One image in thirty is of the rare class, and only its weight makes the loss see it: closed form of the weights."""
    weights = fit.class_weights([29, 1, 0], "balanced", torch.device("cpu"))
    assert (
        weights.tolist() == pytest.approx([30 / 87, 10, 0])
        and fit.class_weights([29, 1], "none", torch.device("cpu")) is None
    )
    whole = blobs(300)
    uneven = whole.take(np.flatnonzero((whole.labels == 0) | (np.arange(300) % 30 == 1)))
    sure = [
        trained(uneven, SETTINGS | {"steps": 30, "class_weights": kind}, 0)
        for kind in ("none", "balanced")
    ]
    rare = torch.from_numpy(whole.images[whole.labels == 1])
    said = [predict(model, rare).softmax(1)[:, 1].mean() for model in sure]
    assert said[1] > said[0]


def test_the_average_of_the_weights_is_kept_where_it_is_asked_for():
    last, average = (
        trained(blobs(), SETTINGS | {"steps": 20, "ema_decay": ema}, 0) for ema in (0, 0.9)
    )
    assert (
        not torch.equal(last.fc.weight, average.fc.weight)
        and right(average, blobs(300, seed=1)) == 1
    )


def test_bfloat16_learns_too_and_keeps_float32_weights():
    model = trained(blobs(), SETTINGS | {"precision": "bfloat16"}, 0)
    assert model.fc.weight.dtype == torch.float32 and right(model, blobs(300, seed=1)) == 1


def test_multicrop_learns_and_needs_a_network_of_any_size():
    assert (
        right(
            trained(blobs(300, 32), SETTINGS | {"augmentation": "multicrop", "steps": 30}, 0),
            blobs(300, 32, seed=1),
        )
        > 0.9
    )
    with pytest.raises(fit.TrainingError, match="images of one size"):
        trained(
            blobs(12, 32), SETTINGS | {"augmentation": "multicrop", "architecture": "vit_b_16"}, 0
        )


def test_every_image_comes_once_before_any_comes_twice():
    seen = torch.cat(list(stream.permuted(10, 4, 5, torch.Generator().manual_seed(0))))
    assert (
        len(seen) == 20
        and torch.bincount(seen[:10]).tolist() == [1] * 10 == torch.bincount(seen[10:]).tolist()
    )


def test_a_set_without_a_class_is_refused_before_training(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ArmError, match="no image of class 'blue'"):
        store.make(fit.classifier(SETTINGS, real=toy({"n": 2, "shard": 2})))


def test_the_lines_that_the_readme_shows_train_a_classifier():
    text = (ROOT / "lib/README.md").read_text(encoding="utf-8")
    (lines,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", text, re.S)
        if "train(" in block and "import TrainConfig" in block
    ]
    whole = blobs(300)
    variables = {"images": whole.images, "labels": whole.labels}
    exec(lines.replace("steps=200", "steps=20"), variables)
    assert variables["accuracy"] > 0.9 and right(variables["model"], blobs(300, seed=1)) > 0.9


BAD_IMAGES = np.zeros((4, 8, 8), np.uint8), np.zeros((4, 8, 8, 3)), np.zeros((0, 8, 8, 3), np.uint8)


@pytest.mark.parametrize("images", BAD_IMAGES, ids=["grey", "float", "none"])
def test_images_that_cannot_be_trained_on_are_refused_with_the_remedy(images):
    with pytest.raises(ValueError, match=r"RGB images|at least one image"):
        fit.train(images, np.zeros(len(images), int), fit.TrainConfig(steps=1, device="cpu"), 0)


FAST = fit.TrainConfig(
    steps=60,
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
def test_the_fast_network_learns_at_every_size(size):
    whole, test = blobs(240, size), blobs(90, size, seed=1)
    model = fit.train(whole.images, whole.labels, FAST, 0)
    assert right(model, test) > 0.95
    maps = gradcam.maps(model, test.images[:6], test.labels[:6])
    assert maps.shape[1] == maps.shape[2] >= 4
    library = gradcam.library_maps(model, test.images[:6], test.labels[:6], layer="layer3.6")
    np.testing.assert_allclose(maps, library, atol=1e-4)


def test_the_fast_network_takes_one_class_few_images_and_grey_ones():
    grey = np.repeat(np.random.default_rng(0).integers(0, 255, (6, 16, 16, 1), np.uint8), 3, 3)
    for images in (grey, np.full_like(grey, 128)):
        model = fit.train(images, np.zeros(6, int), FAST, 0)
        logits = predict(model, torch.from_numpy(images))
        assert logits.shape == (6, 1) and logits.isfinite().all()
    with pytest.raises(fit.TrainingError, match="lower training.lr"):
        fit.train(grey, np.arange(6) % 2, dataclasses.replace(FAST, lr=1e12), 0)


def test_the_first_layer_whitens_patches_and_stays_and_so_do_the_scales():
    whole = blobs(240, 32)
    model = fit.train(whole.images, whole.labels, dataclasses.replace(FAST, steps=3), 0)
    pixels = normal(torch.from_numpy(whole.images))
    with torch.no_grad():
        out = model.conv1(pixels)[:, :12, ::2, ::2] - model.conv1.bias[:12, None, None]
    covariance = torch.cov(out.transpose(0, 1).flatten(1))
    assert torch.allclose(covariance, torch.eye(12), atol=0.15)
    assert all((m.weight == 1).all() for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    further = fit.train(whole.images, whole.labels, FAST, 1, model=model, unfreeze=2)
    assert [p.requires_grad for p in (further.conv1.weight, further.layer3[2].weight)] == [
        False
    ] * 2
