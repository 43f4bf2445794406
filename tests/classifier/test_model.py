"""Networks: published shapes, last maps that Grad-CAM can use, any name of torchvision."""

import pytest
import torch
from torchvision.models import resnet18

from lib.classifier import model
from lib.classifier.model import ModelError, build, normal
from lib.classifier.resnet import Classifier


@pytest.mark.parametrize(
    "size, name, stem",
    [
        (16, "resnet18", 0),
        (64, "resnet18", 0),
        (128, "resnet18", 0),
        (32, "resnet50", 0),
        (64, "resnet8", 4),
    ],
)
def test_the_last_map_is_larger_than_one_pixel(size, name, stem):
    net, shapes = build(5, size, 8, name, stem), []
    net.layer4.register_forward_hook(lambda module, given, out: shapes.append(out.shape))
    assert net(torch.zeros(2, 3, size, size)).shape == (2, 5)
    assert shapes[0][-1] > 1


def test_full_width_is_the_published_network():
    ours, published = Classifier(1000, 224, 64), resnet18()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in published.state_dict().items()
    }


def test_resnet8_is_the_published_one_for_cifar():
    weights = {k: v.numel() for k, v in build(10, 32, 16, "resnet8").named_parameters()}
    assert sum(weights.values()) == pytest.approx(
        0.078e6, rel=0.01
    )  # with convolutions in its two shortcuts


@pytest.mark.parametrize("name, size", [("mobilenet_v3_small", 32), ("vit_b_16", 32)])
def test_any_classifier_of_torchvision_by_name(name, size):
    assert build(3, size, name=name).eval()(torch.zeros(1, 3, size, size)).shape == (1, 3)


@pytest.mark.parametrize(
    "name, size, match",
    [
        ("resnet81", 64, "did you mean 'resnet8'"),
        ("zzz", 64, "there are resnet8, "),
        ("vit_b_16", 60, "images of 60 px"),
        ("squeezenet1_1", 8, "choose larger"),
    ],
)
def test_networks_that_cannot_be(name, size, match):
    with pytest.raises(ModelError, match=match):
        build(3, size, name=name)


def test_pixels_are_normalised():
    values = normal(torch.tensor([[[[0, 255, 127]]]], dtype=torch.uint8)).flatten().tolist()
    assert values == pytest.approx([-2, 2, -0.008], abs=1e-3)


def test_normalising_leaves_the_images_as_they_were():
    for kind in (torch.uint8, torch.float32, torch.float64):
        given = torch.full((1, 2, 2, 3), 200, dtype=kind)
        assert normal(given).dtype == torch.float32 and given.unique().tolist() == [200]


def test_weights_come_back(tmp_path):
    from safetensors.torch import save_file

    net = build(3, 16, 8, "resnet8")
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    again = model.load_weights(build(3, 16, 8, "resnet8"), tmp_path / "w.safetensors")
    assert not again.training and torch.equal(again.fc.weight, net.fc.weight)
