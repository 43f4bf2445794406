"""torchvision's ResNet with the stem that fits the resolution and a width of choice."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

BLOCKS = {"resnet18": (BasicBlock, [2, 2, 2, 2]), "resnet50": (Bottleneck, [3, 4, 6, 3])}


class Classifier(ResNet):
    """A ResNet whose first stage has `width` channels (64 as published) on images of `size` pixels."""

    def __init__(self, classes: int, size: int, width: int = 64, name: str = "resnet18"):
        block, layers = BLOCKS[name]
        self.width, self.first = width, True
        super().__init__(block, layers, num_classes=classes)
        kernel, stride = (3, 1) if size <= 32 else (3, 2) if size < 128 else (7, 2)
        self.conv1 = nn.Conv2d(3, width, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        if size < 128:  # a 7 x 7 stem with pooling would leave a last map of 1 x 1
            self.maxpool = nn.Identity()
        self.fc = nn.Linear(8 * width * block.expansion, classes)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")

    def _make_layer(self, block, planes, *rest, **options):
        if self.first:
            self.inplanes, self.first = self.width, False
        return super()._make_layer(block, planes * self.width // 64, *rest, **options)


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """The model with the weights of a safetensors file, ready to predict."""
    model.load_state_dict(load_file(path))
    return model.eval()


@torch.inference_mode()
def predict(model: nn.Module, images: torch.Tensor, batch: int = 500) -> torch.Tensor:
    """Logits (n, classes) of uint8 images (n, h, w, 3), on the model's device."""
    where = next(model.parameters()).device
    return torch.cat([model.eval()(normal(chunk.to(where))).float().cpu() for chunk in images.split(batch)])


def normal(images: torch.Tensor) -> torch.Tensor:
    """uint8 (n, h, w, 3) to float (n, 3, h, w) in about -2..2; channels stay last in memory."""
    return images.permute(0, 3, 1, 2).float().sub_(127.5).div_(63.75)
