"""Maps against pytorch-grad-cam and autograd, their measures against planted maps and closed forms."""

import gc

import numpy as np
import pandas as pd
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torch.nn import functional as F

from lib.classifier.model import Classifier, normal, predict
from lib.measure import gradcam as attention
from lib.measure.gradcam import AttentionError

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (6, 32, 32, 3)).astype(np.uint8), np.arange(6) % 3


class Patch(nn.Module):
    """Answers how much red, green and blue there is, from cells of 8 x 8 pixels; black is nothing of any."""

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
    made = Classifier(3, 32, 8)
    made.train()(normal(torch.from_numpy(IMAGES)))
    return made.eval()


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
    with GradCAM(model, [model.layer4]) as cam:
        return cam(normal(torch.from_numpy(images)), [ClassifierOutputTarget(int(label)) for label in labels])


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def test_cam_is_the_librarys_gradcam_raw_and_as_it_scales_it(model):
    found = attention.maps(model, IMAGES, LABELS)
    assert found.shape == (6, 4, 4) and found.dtype == np.float32 and found.max() > 0
    np.testing.assert_allclose(found, attention.library_maps(model, IMAGES, LABELS), atol=1e-6)
    shown, theirs = scale_cam_image(scale_cam_image(found, (32, 32))), library(model, IMAGES, LABELS)
    np.testing.assert_allclose(shown, theirs, atol=1e-5)
    np.testing.assert_allclose(attention.posters(found, (32, 32))["focus"], theirs.mean((1, 2)), atol=1e-5)


def test_the_class_explained_is_the_one_given_and_the_logits_are_the_classifiers(model):
    found, logits = attention.explain(model, IMAGES, LABELS)
    np.testing.assert_allclose(logits, predict(model, torch.from_numpy(IMAGES)), atol=1e-5)
    assert np.abs(found - attention.maps(model, IMAGES, (LABELS + 1) % 3)).max() > 1e-3


def test_batches_change_nothing_and_neither_does_the_model_change(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one, many = (attention.maps(model, IMAGES, LABELS, batch=b) for b in (1, 4))
    np.testing.assert_allclose(one, many, atol=1e-6)
    for method in ("GradCAM", "EigenCAM"):
        one, many = (attention.library_maps(model, IMAGES, LABELS, method, batch=b) for b in (1, 4))
        np.testing.assert_allclose(one, many, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("layer, cells", [(None, 4), ("layer3", 8), ("layer4.1.bn2", 4)])
@pytest.mark.parametrize("method", attention.METHODS)
def test_every_method_at_every_layer(model, method, layer, cells):
    found = attention.library_maps(model.requires_grad_(False), IMAGES, LABELS, method, layer)
    assert found.shape == (6, cells, cells) and np.isfinite(found).all() and found.min() >= 0 and found.max() > 0


def test_an_inner_layer_that_is_added_to_in_place_keeps_its_own_values(model):
    kept = []
    handle = model.layer4[1].bn2.register_forward_hook(lambda module, given, out: kept.append(out) or out.clone())
    model(normal(torch.from_numpy(IMAGES))).gather(1, torch.from_numpy(LABELS)[:, None]).sum().backward(inputs=kept)
    handle.remove()
    expected = (kept[0].grad.mean((2, 3), keepdim=True) * kept[0]).sum(1).clamp(min=0).detach()
    np.testing.assert_allclose(attention.library_maps(model, IMAGES, LABELS, layer="layer4.1.bn2"), expected, atol=1e-6)


def test_hirescam_is_gradcam_where_a_pooled_linear_head_follows(model):
    pair = [attention.library_maps(model, IMAGES, LABELS, method) for method in ("GradCAM", "HiResCAM")]
    np.testing.assert_allclose(*pair, atol=1e-6)


def test_a_hundred_rounds_leave_no_hook_and_no_tensor(patched):
    model, (images, labels, _), counts = Patch(), patched, []
    for i in range(100):
        attention.maps(model, images, labels)
        attention.library_maps(model, images, labels)
        if i in (4, 99):
            gc.collect()
            counts.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))
    with pytest.raises(AttentionError):
        attention.library_maps(model, images, labels + 3)
    assert hooks(model) == 0 and counts[0] == counts[1]


def test_a_classifier_of_one_patch_has_focus_one_which_drawing_up_would_lose(patched):
    images, labels, masks = patched
    found = attention.maps(Patch(), images, labels)
    np.testing.assert_allclose(attention.focus(found, masks)["mass"], 1, atol=1e-6)
    drawn = F.interpolate(torch.from_numpy(found)[:, None], (32, 32), mode="bilinear")[:, 0].numpy()
    assert ((drawn * masks).sum((1, 2)) / drawn.sum((1, 2)) < 0.7).all()
    np.testing.assert_allclose(attention.spread(found), 1 / 16, rtol=1e-6)
    np.testing.assert_allclose(found.max((1, 2)), 1 / 16, rtol=1e-6)  # full colour in one cell of sixteen


def test_focus_counts_the_covered_part_of_a_cell_also_where_sides_do_not_divide():
    one = np.zeros((1, 4, 4), np.float32)
    one[0, 1, 2], mask = 3, np.zeros((1, 32, 32), bool)
    mask[0, 8:12, 16:24] = True
    assert attention.focus(one, mask)["mass"] == pytest.approx(0.5)
    odd = RNG.random((2, 50, 45)) < 0.3
    np.testing.assert_allclose(attention.focus(np.ones((2, 7, 7)), odd)["mass"], odd.mean((1, 2)), atol=1e-5)


def test_even_maps_one_cell_and_a_two_level_map_have_known_gini_and_spread():
    even, single, half = np.ones((4, 4)), np.eye(16)[5].reshape(4, 4), np.repeat([[1, 0]], 8, axis=0).reshape(4, 4)
    maps = np.stack([even, single, half])
    np.testing.assert_allclose(attention.spread(maps), [1, 1 / 16, 1 / 2])
    np.testing.assert_allclose(attention.focus(maps)["gini"], [0, 15 / 16, 1 / 2], atol=1e-12)


def test_a_hundredfold_map_is_a_hundred_times_as_intense_and_otherwise_the_same():
    maps, masks = RNG.random((5, 4, 4)), RNG.random((5, 16, 16)) < 0.4
    logits, labels = RNG.normal(size=(40, 3)), np.array([0, 1, 2, 0, 1])
    for measure in (attention.spread, lambda m: attention.focus(m)["gini"], lambda m: attention.focus(m, masks)["mass"]):
        np.testing.assert_allclose(measure(100 * maps), measure(maps), rtol=1e-12)
    weak, strong = attention.intensity(maps, logits, labels), attention.intensity(100 * maps, logits, labels)
    np.testing.assert_allclose(strong, 100 * weak)
    np.testing.assert_allclose(weak, maps.mean((1, 2)) / logits.std(0)[labels])
    np.testing.assert_allclose(attention.posters(100 * maps)["intensity"], attention.posters(maps)["intensity"], rtol=1e-4)


def test_the_posters_three_by_hand():
    found = attention.posters(np.array([[[1, 2], [3, 5]]], np.float32))  # 0, 1/4, 1/2 and 1 after its scaling
    assert {name: float(value[0]) for name, value in found.items()} == pytest.approx(
        {"focus": 0.4375, "intensity": 0.4375, "spread": 0.25}, abs=1e-6)


def test_a_map_of_nothing_has_no_focus_and_is_counted():
    maps = np.stack([np.zeros((4, 4)), np.ones((4, 4)), np.eye(4)])
    assert np.isnan(attention.focus(maps)["gini"]).tolist() == np.isnan(attention.spread(maps)).tolist() == [True, False, False]
    found = attention.compare(attention.spread(maps), [0.0, 0.0, 0.0], 0)
    assert (found["n"], found["n_base"], found["dropped"], found["mean"]) == (2, 3, 1, pytest.approx(0.625))
    assert attention.compare(attention.spread(maps), np.zeros(3), 0, pairs=True)["dropped"] == 2


def test_statistics_are_the_columns_of_a_table(model):
    masks = RNG.random((6, 32, 32)) < 0.3
    found, logits = attention.explain(model, IMAGES, LABELS)
    table = pd.DataFrame(attention.statistics(found, logits, LABELS, masks, (32, 32)))
    assert len(table) == 6 and table["poster_focus"].equals(table["poster_intensity"])
    np.testing.assert_array_equal(table["label"], LABELS)
    np.testing.assert_allclose(table["focus_even"], attention.focus(np.ones((6, 4, 4)), masks)["mass"], atol=1e-6)
    other = attention.statistics(found, logits, LABELS, reference=2 * logits)
    np.testing.assert_allclose(other["intensity"], table["intensity"] / 2)
    assert "focus_mass" in table and "focus_mass" not in other


def test_compare_against_closed_forms():
    a, b = RNG.normal(1, 2, 500), RNG.normal(0, 1, 300)
    found = attention.compare(a, b, 0)
    error = np.sqrt(a.var(ddof=1) / 500 + b.var(ddof=1) / 300)
    assert found["mean"] == pytest.approx(a.mean() - b.mean())
    assert (found["high"] - found["low"]) / 2 == pytest.approx(1.96 * error, rel=0.06)
    assert found["d"] == pytest.approx(found["mean"] / np.sqrt((499 * a.var(ddof=1) + 299 * b.var(ddof=1)) / 798))
    assert found == attention.compare(a, b, 0) != attention.compare(a, b, 1)


def test_pairs_see_what_two_samples_do_not():
    base = RNG.normal(0, 5, 100)
    ours = base + RNG.normal(0.1, 0.1, 100)
    loose, tight = attention.compare(ours, base, 0), attention.compare(ours, base, 0, pairs=True)
    assert loose["low"] < 0 < tight["low"] and tight["d"] == pytest.approx((ours - base).mean() / (ours - base).std(ddof=1))
    assert attention.compare(base, base, 0, pairs=True) == {"mean": 0, "low": 0, "high": 0, "n": 100, "n_base": 100,
                                                            "dropped": 0, "d": None}


def test_road_knows_a_true_map_from_its_opposite_is_seeded_and_leaves_torchs_draws_alone(patched):
    images, labels, _ = patched
    model = Patch()
    model.head.weight.data *= 50
    true = attention.maps(model, images, labels)
    state = torch.get_rng_state()
    found = attention.road(model, images, labels, true, 0, (30, 70))
    assert torch.equal(torch.get_rng_state(), state)
    assert (found > 0.1).all() and (attention.road(model, images, labels, true.max() - true, 0, (30, 70)) < -0.1).all()
    np.testing.assert_array_equal(found[:1], attention.road(model, images[:1], labels[:1], true[:1], 0, (30, 70)))
    assert found[0] != attention.road(model, images[:1], labels[:1], true[:1], 1, (30, 70))[0]


def test_road_of_a_map_of_nothing_is_near_nothing(model):
    found = attention.road(model, IMAGES[:2], LABELS[:2], np.zeros((2, 4, 4), np.float32), 0, (30, 70))
    assert np.isfinite(found).all() and np.abs(found).max() < 0.2


class Stubborn(nn.Conv2d):
    """Keeps its weights whoever resets them."""

    def reset_parameters(self):
        if not hasattr(self, "kept"):
            self.kept = super().reset_parameters()


def test_sanity_is_one_for_maps_that_no_weight_changes_and_less_for_a_networks(model):
    found = attention.sanity(model, IMAGES, LABELS, 0)
    np.testing.assert_array_equal(found, attention.sanity(model, IMAGES, LABELS, 0))
    assert np.abs(found).max() <= 1 and abs(found.mean()) < 0.6
    fixed = Patch(head=nn.Linear(3, 3))
    fixed.conv = Stubborn(3, 3, 8, 8)
    fixed.head.reset_parameters = lambda: None
    np.testing.assert_allclose(attention.sanity(fixed, IMAGES, LABELS, 0), 1, atol=1e-9)


def test_overlays_share_their_scale_unless_told():
    images, maps = np.full((2, 16, 16, 3), 128, np.uint8), np.ones((2, 4, 4), np.float32)
    maps[1] /= 10
    shared, own = attention.overlay(images, maps), attention.overlay(images, maps, shared=False)
    assert shared.shape == images.shape and shared.dtype == np.uint8
    assert not np.array_equal(shared[0], shared[1]) and np.array_equal(own[0], own[1])
    assert np.array_equal(attention.overlay(images, maps * 0), attention.overlay(images, maps * 0, shared=False))


@pytest.mark.parametrize("images, labels, says", [
    (IMAGES[..., 0], LABELS, "grey images"), (IMAGES / 255, LABELS, "uint8 RGB"), (IMAGES[:0], LABELS[:0], "n >= 1"),
    (np.zeros((1, 32, 32, 4), np.uint8), LABELS[:1], "uint8 RGB"), (IMAGES, LABELS[:5], "labels .5,. for 6 images"),
    (IMAGES, LABELS + 1, "1..3 do not fit the 3 classes"), (IMAGES[:, :1, :1], LABELS, "1 x 1")])
def test_what_is_no_image_set_is_told_so(model, images, labels, says):
    for make in (attention.maps, attention.library_maps):
        with pytest.raises(AttentionError, match=says):
            make(model, images, labels)


def test_errors_of_models_layers_and_methods_name_what_there_is(model):
    with pytest.raises(AttentionError, match="GradCAM, GradCAM.., HiResCAM, LayerCAM, EigenCAM"):
        attention.library_maps(model, IMAGES, LABELS, "ScoreCAM")
    with pytest.raises(AttentionError, match="no layer 'layer5'.*layer3, .*layer4"):
        attention.library_maps(model, IMAGES, LABELS, layer="layer5")
    with pytest.raises(AttentionError, match="1 x 1.*layers"):
        attention.library_maps(Classifier(3, 128, 8), IMAGES, LABELS)  # its stem is too coarse for 32 pixels
    with pytest.raises(AttentionError, match="more than a linear layer"):
        attention.maps(Patch(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))), IMAGES, LABELS)
    with pytest.raises(AttentionError, match="not the 3 pooled channels"):
        attention.maps(Patch(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))), IMAGES, LABELS)
    with pytest.raises(AttentionError, match="does not end in average pooling"):
        attention.maps(nn.Sequential(nn.Conv2d(3, 3, 32), nn.Flatten()), IMAGES, LABELS)


def test_black_images_give_maps_without_a_warning(model):
    black = np.zeros_like(IMAGES)
    assert np.isfinite(attention.maps(model, black, LABELS)).all()


def test_measures_refuse_what_they_cannot_measure():
    with pytest.raises(AttentionError, match="none below 0"):
        attention.spread(-np.ones((1, 2, 2)))
    with pytest.raises(AttentionError, match="as many masks"):
        attention.focus(np.ones((2, 4, 4)), np.ones((1, 16, 16), bool))
    with pytest.raises(AttentionError, match="logits of more images"):
        attention.intensity(np.ones((1, 4, 4)), np.ones((1, 3)), np.array([0]))
    with pytest.raises(AttentionError, match="at least two"):
        attention.compare([1.0], [2.0, 3.0], 0)
    with pytest.raises(AttentionError, match="as many values on both sides"):
        attention.compare([1.0, 2.0], [2.0, 3.0, 4.0], 0, pairs=True)
