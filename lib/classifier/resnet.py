"""ResNets of any width and stem for small images."""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

BLOCKS = {
    "resnet8": (BasicBlock, [1, 1, 1, 0]),  # He et al.'s net for CIFAR-10 with n = 1, width 16
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}


class Classifier(ResNet):
    """A ResNet whose first stage has `width` channels (64 as published) on images of `size` px."""

    def __init__(
        self, classes: int, size: int, width: int = 64, name: str = "resnet18", stem: int = 0
    ):
        block, layers = BLOCKS[name]
        self.width, self.first = width, True
        super().__init__(block, layers, num_classes=classes)
        stride = stem or (1 if size <= 32 else 2)  # from 128 px pooling halves it once more
        kernel = 7 if size >= 128 and not stem else max(3, stride)
        padding = kernel // 2 if kernel % 2 else 0
        self.conv1 = nn.Conv2d(3, width, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        if size < 128 or stem:  # a 7 x 7 stem with pooling would leave a last map of 1 x 1
            self.maxpool = nn.Identity()
        self.fc = nn.Linear(self.inplanes, classes)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")

    def _make_layer(self, block, planes, blocks, *rest, **options):
        if self.first:
            self.inplanes, self.first = self.width, False
        if not blocks:
            return nn.Identity()
        return super()._make_layer(block, planes * self.width // 64, blocks, *rest, **options)
