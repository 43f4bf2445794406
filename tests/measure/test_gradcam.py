"""Maps against pytorch-grad-cam, their trust measures against planted networks."""

import gc

import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torch.nn import functional as F

from lib.classifier.model import normal, predict
from lib.classifier.resnet import Classifier
from lib.measure import attention, gradcam
from lib.measure.gradcam import GradcamError
from lib.tools.bench.cam import library_maps

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (6, 32, 32, 3)).astype(np.uint8), np.arange(6) % 3


class Patch(nn.Module):
    """Answers how much red, green and blue there is, from cells of 8 x 8 pixels."""

    def __init__(self, head=None):
        super().__init__()
        self.conv, self.avgpool = nn.Conv2d(3, 3, 8, 8), nn.AdaptiveAvgPool2d(1)
        self.head = head or nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, 8, 8) / 256)
            self.conv.bias.fill_(0.5)  # black is -2 in the network's units
            if head is None:
                self.head.weight.copy_(torch.eye(3))

    def forward(self, x):
        return self.head(self.avgpool(self.conv(x).relu()).flatten(1))


@pytest.fixture
def model():
    """A small ResNet whose batch norms have seen something, so that folding them matters."""
    torch.manual_seed(0)
    network = Classifier(3, 32, 8)
    network.train()(normal(torch.from_numpy(IMAGES)))
    return network.eval()


@pytest.fixture
def patched():
    """Black images with one patch of the class's colour in a cell, and its mask."""
    images, masks = np.zeros((3, 32, 32, 3), np.uint8), np.zeros((3, 32, 32), bool)
    for i in range(3):
        masks[i, 8 * i:8 * i + 8, 16:24] = True
        images[i, masks[i], i] = 255
    return images, np.arange(3), masks


def library(model, images, labels):
    """What pytorch-grad-cam's users get: at image size, each map scaled to 0..1."""
    targets = [ClassifierOutputTarget(int(label)) for label in labels]
    with GradCAM(model, [model.layer4]) as cam:
        return cam(normal(torch.from_numpy(images)), targets)


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
               for m in model.modules())


def test_cam_is_the_librarys_gradcam_raw_and_as_it_scales_it(model):
    maps = gradcam.maps(model, IMAGES, LABELS)
    assert maps.shape == (6, 4, 4) and maps.dtype == np.float32 and maps.max() > 0
    np.testing.assert_allclose(maps, library_maps(model, IMAGES, LABELS), atol=1e-6)
    scaled = scale_cam_image(scale_cam_image(maps, (32, 32)))
    theirs = library(model, IMAGES, LABELS)
    np.testing.assert_allclose(scaled, theirs, atol=1e-5)
    poster = attention.poster(maps, (32, 32))["focus"]
    np.testing.assert_allclose(poster, theirs.mean((1, 2)), atol=1e-5)


def test_the_class_explained_is_the_one_given_and_the_logits_are_the_classifiers(model):
    maps, logits = gradcam.explain(model, IMAGES, LABELS)
    np.testing.assert_allclose(logits, predict(model, torch.from_numpy(IMAGES)), atol=1e-5)
    assert np.abs(maps - gradcam.maps(model, IMAGES, (LABELS + 1) % 3)).max() > 1e-3


def test_batches_change_nothing_and_neither_does_the_model_change(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    single, several = (gradcam.maps(model, IMAGES, LABELS, batch=b) for b in (1, 4))
    np.testing.assert_allclose(single, several, atol=1e-6)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_many_rounds_leave_no_hook_and_no_tensor(patched):
    model, (images, labels, _), counts = Patch(), patched, []
    for i in range(20):
        gradcam.maps(model, images, labels)
        if i in (4, 19):
            gc.collect()
            counts.append(sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects()))
    assert hooks(model) == 0 and counts[0] == counts[1]


def test_a_classifier_of_one_patch_has_focus_one_which_upsampling_would_lose(patched):
    images, labels, masks = patched
    maps = gradcam.maps(Patch(), images, labels)
    np.testing.assert_allclose(attention.mass(maps, masks), 1, atol=1e-6)
    up = F.interpolate(torch.from_numpy(maps)[:, None], (32, 32), mode="bilinear")[:, 0].numpy()
    assert ((up * masks).sum((1, 2)) / up.sum((1, 2)) < 0.7).all()
    np.testing.assert_allclose(attention.spread(maps), 1 / 16, rtol=1e-6)
    np.testing.assert_allclose(maps.max((1, 2)), 1 / 16, rtol=1e-6)  # full colour in one cell of 16


def test_road_knows_a_true_map_from_its_opposite_and_is_seeded(patched):
    images, labels, _ = patched
    model = Patch()
    model.head.weight.data *= 50
    maps, state = gradcam.maps(model, images, labels), torch.get_rng_state()
    scores = gradcam.road(model, images, labels, maps, 0, (30, 70))
    assert torch.equal(torch.get_rng_state(), state)  # torch's own draws are left alone
    opposite = gradcam.road(model, images, labels, maps.max() - maps, 0, (30, 70))
    assert (scores > 0.1).all() and (opposite < -0.1).all()
    first = [
        gradcam.road(model, images[:1], labels[:1], maps[:1], seed, (30, 70)) for seed in (0, 1)
    ]
    assert first[0] == scores[0] != first[1]


def test_road_of_a_map_of_nothing_is_near_nothing(model):
    empty = np.zeros((2, 4, 4), np.float32)
    scores = gradcam.road(model, IMAGES[:2], LABELS[:2], empty, 0, (30, 70))
    assert np.isfinite(scores).all() and np.abs(scores).max() < 0.2


class Stubborn(nn.Conv2d):
    """Keeps its weights whoever resets them."""

    def reset_parameters(self):
        if not hasattr(self, "kept"):
            self.kept = super().reset_parameters()


def test_sanity_is_one_for_maps_that_no_weight_changes_and_less_for_a_networks(model):
    ranks = gradcam.sanity(model, IMAGES, LABELS, 0)
    np.testing.assert_array_equal(ranks, gradcam.sanity(model, IMAGES, LABELS, 0))
    assert np.abs(ranks).max() <= 1 and abs(ranks.mean()) < 0.6
    fixed = Patch(head=nn.Linear(3, 3))
    fixed.conv = Stubborn(3, 3, 8, 8)
    fixed.head.reset_parameters = lambda: None
    np.testing.assert_allclose(gradcam.sanity(fixed, IMAGES, LABELS, 0), 1, atol=1e-9)


def test_overlays_share_their_scale_unless_told():
    images, maps = np.full((2, 16, 16, 3), 128, np.uint8), np.ones((2, 4, 4), np.float32)
    maps[1] /= 10
    shared, own = gradcam.overlay(images, maps), gradcam.overlay(images, maps, shared=False)
    assert shared.shape == images.shape and shared.dtype == np.uint8
    assert not np.array_equal(shared[0], shared[1]) and np.array_equal(own[0], own[1])
    empty = [gradcam.overlay(images, maps * 0, shared=shared) for shared in (True, False)]
    assert np.array_equal(*empty)


@pytest.mark.parametrize(
    "images, labels, message",
    [
        (IMAGES[..., 0], LABELS, "grey images"),
        (IMAGES / 255, LABELS, "uint8 RGB"),
        (IMAGES[:0], LABELS[:0], "n >= 1"),
        (np.zeros((1, 32, 32, 4), np.uint8), LABELS[:1], "uint8 RGB"),
        (IMAGES, LABELS[:5], "labels .5,. for 6 images"),
        (IMAGES, LABELS + 1, "1..3 do not fit the 3 classes"),
        (IMAGES[:, :1, :1], LABELS, "1 x 1"),
    ],
)
def test_what_is_no_image_set_is_refused(model, images, labels, message):
    with pytest.raises(GradcamError, match=message):
        gradcam.maps(model, images, labels)


@pytest.mark.parametrize(
    "model, message",
    [
        (
            Patch(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))),
            "more than a linear layer",
        ),
        (
            Patch(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))),
            "not the 3 pooled channels",
        ),
        (nn.Sequential(nn.Conv2d(3, 3, 32), nn.Flatten()), "does not end in average pooling"),
    ],
)
def test_networks_without_a_closed_form_are_refused(model, message):
    with pytest.raises(GradcamError, match=message):
        gradcam.maps(model, IMAGES, LABELS)


def test_black_images_give_maps_without_a_warning(model):
    assert np.isfinite(gradcam.maps(model, np.zeros_like(IMAGES), LABELS)).all()
