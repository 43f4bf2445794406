"""Training: known sets give known answers, equal seeds equal weights, arms are what they say."""

import numpy as np
import pytest
import torch

from lib.classifier import arms, fit
from lib.classifier.arms import ArmError
from lib.classifier.model import Classifier, normal, predict
from lib.data.images import ImageSet

SETTINGS = {"arm": "real", "width": 8, "batch": 16, "rate": 0.05, "smoothing": 0.1, "steps": 40, "flip": True,
            "device": "cpu"}


def blobs(n=60, size=16, seed=0):
    """Three classes that differ in colour alone."""
    rng, labels = np.random.default_rng(seed), np.arange(n) % 3
    pixels = rng.integers(0, 80, (n, size, size, 3))
    pixels[np.arange(n), :, :, labels] += 120
    return ImageSet(pixels.astype(np.uint8), labels, ("red", "green", "blue"), np.arange(n),
                    tuple(map(str, range(n))), ("",) * n)


def accuracy(model, images):
    return (predict(model, torch.from_numpy(images.images)).argmax(1).numpy() == images.labels).mean()


def test_an_easy_set_is_learnt_and_noise_labels_are_not():
    train, test = blobs(), blobs(300, seed=1)
    assert accuracy(fit.fit(train, SETTINGS, 0)[0], test) == 1
    shuffled = np.random.default_rng(2).permutation(train.labels)
    noise = ImageSet(train.images, shuffled, train.classes, train.seeds, train.sources, train.prompts)
    assert accuracy(fit.fit(noise, SETTINGS, 0)[0], test) < 0.7


def test_equal_seeds_equal_weights_other_seeds_others():
    one, two, other = (fit.fit(blobs(), SETTINGS | {"steps": 5}, seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)


def test_a_loss_that_is_no_number_stops_the_arm():
    with pytest.raises(fit.FitError, match="lower training.rate"):
        fit.fit(blobs(), SETTINGS | {"rate": 1e12}, 0)


@pytest.mark.parametrize("size, name", [(16, "resnet18"), (64, "resnet18"), (128, "resnet18"), (32, "resnet50")])
def test_the_last_map_is_larger_than_one_pixel(size, name):
    model, shapes = Classifier(5, size, 8, name), []
    model.layer4.register_forward_hook(lambda module, given, out: shapes.append(out.shape))
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 5)
    assert shapes[0][-1] > 1


def test_full_width_is_the_published_network():
    from torchvision.models import resnet18

    ours, published = Classifier(1000, 224, 64), resnet18()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in published.state_dict().items()}


def test_augmentation_only_shifts_and_flips():
    x = torch.arange(3 * 16 * 16.0).reshape(1, 3, 16, 16).repeat(64, 1, 1, 1)
    y = fit.augment(x, torch.Generator().manual_seed(0), flip=False)
    inner = y[:, 0, 4:12, 4:12]
    assert torch.equal(inner[:, :, 1:] - inner[:, :, :-1], torch.ones(64, 8, 7))  # columns still count up by one
    assert len({v.item() for v in y[:, 0, 8, 8]}) > 8
    flipped = fit.augment(x, torch.Generator().manual_seed(0), flip=True)[:, 0, 4:12, 4:12]
    assert 10 < (flipped[:, 0, 1] < flipped[:, 0, 0]).sum() < 54


def test_every_image_comes_once_before_any_comes_twice():
    seen = torch.cat(list(fit._batches(10, 4, 5, torch.Generator().manual_seed(0))))
    assert len(seen) == 20 and torch.bincount(seen[:10]).tolist() == [1] * 10 == torch.bincount(seen[10:]).tolist()


def test_pixels_are_normalised():
    found = normal(torch.tensor([[[[0, 255, 127]]]], dtype=torch.uint8)).flatten().tolist()
    assert found == pytest.approx([-2, 2, -0.008], abs=1e-3)


def test_arms_read_as_written():
    assert arms.parse("0.1*real+sd") == [(0.1, "real"), (1.0, "sd")]
    a, b = blobs(30), blobs(60, seed=1)
    mixed = arms.assemble("0.1*real+sd", {"real": a, "sd": b}, 0)
    assert len(mixed) == 63 and mixed.counts().tolist() == [21] * 3
    assert set(mixed.images[:3, 0, 0, 0]) <= set(a.images[:, 0, 0, 0])


@pytest.mark.parametrize("arm, match", [
    ("reel", "did you mean 'real'"), ("1.5*real", "at most 1"), ("0*real", "above 0"), ("real++sd", "cannot read ''"),
    ("real-", "no image set 'real-'"), ("import os", "no image set 'importos'"), ("2x", "cannot read")])
def test_arms_that_cannot_be(arm, match):
    with pytest.raises(ArmError, match=match):
        arms.names(arm, {"real": None, "sd": None})


def test_an_arm_without_a_class_is_refused():
    whole = blobs()
    with pytest.raises(ArmError, match="no image of class 'blue'"):
        arms.assemble("real", {"real": whole.take(whole.labels != 2)}, 0)
