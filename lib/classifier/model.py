"""ResNets with the stem that fits the resolution and a width of choice, and any other classifier of torchvision."""

from __future__ import annotations

import difflib
from pathlib import Path

import torch
import torchvision
from safetensors.torch import load_file
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

BLOCKS = {
    "resnet8": (
        BasicBlock,
        [1, 1, 1, 0],
    ),  # three stages: He et al.'s net for CIFAR-10 with n = 1, width 16
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}


class ModelError(ValueError):
    """A classifier that cannot be built."""


class Classifier(ResNet):
    """A ResNet whose first stage has `width` channels (64 as published) on images of `size` pixels."""

    def __init__(
        self, classes: int, size: int, width: int = 64, name: str = "resnet18", stem: int = 0
    ):
        block, layers = BLOCKS[name]
        self.width, self.first = width, True
        super().__init__(block, layers, num_classes=classes)
        stride = stem or (1 if size <= 32 else 2)  # from 128 px pooling halves it once more
        kernel = 7 if size >= 128 and not stem else max(3, stride)
        self.conv1 = nn.Conv2d(
            3, width, kernel, stride, kernel // 2 if kernel % 2 else 0, bias=False
        )
        self.bn1 = nn.BatchNorm2d(width)
        if size < 128 or stem:  # a 7 x 7 stem with pooling would leave a last map of 1 x 1
            self.maxpool = nn.Identity()
        self.fc = nn.Linear(self.inplanes, classes)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")

    def _make_layer(self, block, planes, blocks, *rest, **options):
        if self.first:
            self.inplanes, self.first = self.width, False
        return (
            super()._make_layer(block, planes * self.width // 64, blocks, *rest, **options)
            if blocks
            else nn.Identity()
        )


def build(
    classes: int, size: int, width: int = 64, name: str = "resnet18", stem: int = 0
) -> nn.Module:
    """An untrained classifier by name; `width` and `stem` (its stride, 0: by size) are for the ResNets of this file."""
    if name in BLOCKS:
        return Classifier(classes, size, width, name, stem)
    known = torchvision.models.list_models(torchvision.models)
    if name not in known:
        close = difflib.get_close_matches(name, [*BLOCKS, *known], n=3)
        raise ModelError(
            f"no classifier {name!r}; did you mean {' or '.join(map(repr, close))}?"
            if close
            else f"no classifier {name!r}; there are {', '.join(BLOCKS)} and those of torchvision.models"
        )
    family = {
        "vit": {"image_size": size},
        "goo": {"aux_logits": False},
        "inc": {"aux_logits": False},
    }
    try:
        model = torchvision.models.get_model(
            name, weights=None, num_classes=classes, **family.get(name[:3], {})
        )
        with torch.no_grad():
            model.eval()(
                torch.zeros(1, 3, size, size)
            )  # some cannot take small images, and say so only then
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ModelError(
            f"{name} cannot take images of {size} px ({error}); choose larger images or a ResNet"
        ) from error
    return model


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """The model with the weights of a safetensors file, ready to predict."""
    model.load_state_dict(load_file(path))
    return model.eval()


@torch.inference_mode()
def predict(model: nn.Module, images: torch.Tensor, batch: int = 500) -> torch.Tensor:
    """Logits (n, classes) of uint8 images (n, h, w, 3), on the model's device."""
    where = next(model.parameters()).device
    return torch.cat(
        [model.eval()(normal(chunk.to(where))).float().cpu() for chunk in images.split(batch)]
    )


def normal(images: torch.Tensor) -> torch.Tensor:
    """uint8 (n, h, w, 3) to float (n, 3, h, w) in about -2..2; channels stay last in memory."""
    return images.permute(0, 3, 1, 2).to(torch.float32, copy=True).sub_(127.5).div_(63.75)
