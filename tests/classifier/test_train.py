"""Training: known sets give known answers, equal seeds equal weights, what goes wrong is said and kept."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lib.classifier import train as fit
from lib.classifier.arms import ArmError
from lib.classifier.model import predict
from lib.core.store import Store
from lib.measure import accuracy
from tests.classifier.toys import blobs, toy

SETTINGS = {
    "arm": "real",
    "width": 8,
    "batch": 16,
    "rate": 0.05,
    "smoothing": 0.1,
    "steps": 40,
    "flip": True,
    "device": "cpu",
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


def right(model, images):
    return (
        predict(model, torch.from_numpy(images.images)).argmax(1).numpy() == images.labels
    ).mean()


def test_an_easy_set_is_learnt():
    assert right(fit.fit(blobs(), SETTINGS, 0)[0], blobs(300, seed=1)) == 1


def test_relabelled_noise_scores_chance():
    labels = np.random.default_rng(2).permutation(np.arange(600) % 3)
    found = [
        right(
            fit.fit(blobs(600, labels=labels), SETTINGS | {"steps": 30}, k)[0], blobs(300, seed=1)
        )
        for k in range(2)
    ]
    assert np.mean(found) < 0.6  # 1/3 in the long run; an easy set gives 1


def test_all_of_one_label_gives_that_label_everywhere():
    model, curve = fit.fit(blobs(labels=np.zeros(60, int)), SETTINGS | {"steps": 20}, 0)
    assert right(model, blobs(300, seed=1)) == pytest.approx(1 / 3) and curve[-1][2] == 1


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8])
def test_any_number_of_steps_can_be_trained(steps):
    """Four were too few for the schedule's warm-up: it divided by zero."""
    assert len(fit.fit(blobs(), SETTINGS | {"steps": steps}, 0)[1]) == steps


def test_equal_seeds_equal_weights_other_seeds_others():
    one, two, other = (
        fit.fit(blobs(), SETTINGS | {"steps": 5}, seed)[0].state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)


def test_a_copy_of_real_scores_what_real_scores(tmp_path):
    store = Store(tmp_path)
    sets = {"real": toy({"n": 60, "shard": 32}), "copy": toy({"n": 60, "shard": 60})}
    classifiers, failed = fit.made(
        store, fit.recipes(TRAINING, STUDY, 12, True, sets, dict.fromkeys(sets, 60))
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
        made, _ = fit.made(
            store, fit.recipes(TRAINING, STUDY, 3, True, sets, {"real": 60}, names=["real"])
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
    found = fit.planned(
        training, STUDY, 70, True, sets, dict.fromkeys(sets, 100), ["0.1*real", "real"]
    )
    assert list(found) == [
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
    assert found["real, 140 steps"][0].inputs == {"real": sets["real"]}
    assert (
        found["real"]
        == fit.recipes(TRAINING, STUDY, 70, True, sets, dict.fromkeys(sets, 100))["real"]
    )
    assert found["real, multicrop"][0].settings == found["real"][0].settings | {
        "recipe": "multicrop"
    }


def test_every_arm_has_the_same_steps_or_the_same_epochs():
    sets, sizes = {"real": toy({}), "sd": toy({"a": 1})}, {"real": 100, "sd": 400}
    training = SimpleNamespace(**vars(TRAINING) | {"arms": ["real", "0.1*real", "sd@4x"]})
    steps = lambda budget: [
        seeds[0].settings["steps"]
        for seeds in fit.recipes(training, STUDY, 70, True, sets, sizes, budget).values()  # noqa: E731
    ]
    assert steps("steps") == [70, 70, 70] and steps("epochs") == [70, 7, 280]
    with pytest.raises(ArmError, match="sd@4x needs 400"):
        fit.recipes(training, STUDY, 70, True, sets, sizes | {"sd": 399})


def test_a_loss_that_is_no_number_stops_its_arm_and_keeps_the_last_good_weights(tmp_path):
    with pytest.raises(
        fit.FitError, match=r"arm 'real': loss is \w+ at step \d+; lower training.lr"
    ) as caught:
        fit.fit(blobs(), SETTINGS | {"rate": 1e12}, 0)
    assert all(torch.isfinite(value).all() for value in caught.value.state.values())
    store = Store(tmp_path)
    good, bad = (
        fit.classifier(SETTINGS | {"steps": 6, "rate": rate}, real=toy({"n": 60, "shard": 60}))
        for rate in (0.1, 1e12)
    )
    whole, failed = fit.made(store, {"bad": [bad], "good": [good]})
    assert list(whole) == ["good"] and "last-good.safetensors" in failed["bad"]
    assert (store.folder(bad) / "last-good.safetensors").is_file() and store.state(bad).startswith(
        "unfinished"
    )


def test_classes_that_count_equally_are_both_found():
    """One image in thirty is of the rare class, and only its weight makes the loss see it: closed form of the weights."""
    weights = fit.class_weights([29, 1, 0], {"balance": True}, torch.device("cpu"))
    assert (
        weights.tolist() == pytest.approx([30 / 87, 10, 0])
        and fit.class_weights([29, 1], {}, torch.device("cpu")) is None
    )
    whole = blobs(300)
    uneven = whole.take(np.flatnonzero((whole.labels == 0) | (np.arange(300) % 30 == 1)))
    sure = [fit.fit(uneven, SETTINGS | {"steps": 30, "balance": on}, 0)[0] for on in (False, True)]
    rare = torch.from_numpy(whole.images[whole.labels == 1])
    said = [predict(model, rare).softmax(1)[:, 1].mean() for model in sure]
    assert said[1] > said[0]


def test_the_average_of_the_weights_is_kept_where_it_is_asked_for():
    last, average = (
        fit.fit(blobs(), SETTINGS | {"steps": 20, "ema": ema}, 0)[0] for ema in (0, 0.9)
    )
    assert (
        not torch.equal(last.fc.weight, average.fc.weight)
        and right(average, blobs(300, seed=1)) == 1
    )


def test_bfloat16_learns_too_and_keeps_float32_weights():
    model = fit.fit(blobs(), SETTINGS | {"precision": "bf16"}, 0)[0]
    assert model.fc.weight.dtype == torch.float32 and right(model, blobs(300, seed=1)) == 1
    assert [fit.bf16("auto", torch.device(where)) for where in ("cpu", "cuda")] == [False, True]


def test_multicrop_learns_and_needs_a_network_of_any_size():
    assert (
        right(
            fit.fit(blobs(300, 32), SETTINGS | {"recipe": "multicrop", "steps": 30}, 0)[0],
            blobs(300, 32, seed=1),
        )
        > 0.9
    )
    with pytest.raises(fit.FitError, match="images of one size"):
        fit.recipe_of(
            {"recipe": "multicrop", "architecture": "vit_b_16"}, SimpleNamespace(image_size=32)
        )


def test_every_image_comes_once_before_any_comes_twice():
    seen = torch.cat(list(fit._batches(10, 4, 5, torch.Generator().manual_seed(0))))
    assert (
        len(seen) == 20
        and torch.bincount(seen[:10]).tolist() == [1] * 10 == torch.bincount(seen[10:]).tolist()
    )


def test_a_set_without_a_class_is_refused_before_training(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ArmError, match="no image of class 'blue'"):
        store.make(fit.classifier(SETTINGS, real=toy({"n": 2, "shard": 2})))
