"""A small network for small images that trains in minutes on two cores.

After cifar10-airbench (Jordan 2024): a fixed whitening of 2 x 2 patches, three groups of two 3 x 3
convolutions that start as the identity, norms without a learned scale, GELU. Unlike there the last
map is averaged, not maximised, before the linear layer, so that Grad-CAM has a closed form.
"""

from __future__ import annotations

import torch
from torch import nn

PATCH = 2  # pixels a side of what the first layer whitens
FILTERS = 2 * 3 * PATCH**2  # each eigenvector of the patches and its negative
SMALLEST_MAP = 4  # cells a side that pooling leaves at least: attention needs a map
BIAS_LR = 64  # times the learning rate for biases of norms, whose scale is fixed
HEAD_SCALE = 1 / 9  # of the logits; kept in the head's first weights and its learning rate
FLOOR = 5e-4  # added to the variances of patches, so that flat or grey images stay finite


class Group(nn.Sequential):
    """Two convolutions, norms and GELUs; the first halves the map where enough of it remains."""

    def __init__(self, inputs: int, outputs: int, pool: bool):
        super().__init__(
            _convolution(inputs, outputs),
            nn.MaxPool2d(2) if pool else nn.Identity(),
            _norm(outputs),
            nn.GELU(),
            _convolution(outputs, outputs),
            _norm(outputs),
            nn.GELU(),
        )


class FastNet(nn.Module):
    """Groups of `width`, 2 and 2 times `width` channels; `stem`: stride of the first layer."""

    def __init__(self, classes: int, size: int, width: int = 32, stem: int = 0):
        super().__init__()
        stride = stem or max(1, size // 32)
        if size // stride < SMALLEST_MAP:
            raise ValueError(
                f"images of {size} px leave no map of {SMALLEST_MAP} x {SMALLEST_MAP} behind a "
                f"stem of stride {stride}; lower training.stem_stride or raise data.resolution"
            )
        self.pad = nn.ZeroPad2d((0, 1, 0, 1)) if stride == 1 else nn.Identity()  # keeps the size
        self.conv1 = nn.Conv2d(3, FILTERS, PATCH, stride)
        self.conv1.weight.requires_grad_(False)
        self.activation = nn.GELU()
        side, channels = size // stride, FILTERS
        for k, outputs in enumerate((width, 2 * width, 2 * width), 1):
            pool = side // 2 >= SMALLEST_MAP
            setattr(self, f"layer{k}", Group(channels, outputs, pool))
            side, channels = side // 2 if pool else side, outputs
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes, bias=False)
        nn.init.normal_(self.fc.weight, std=HEAD_SCALE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.conv1(self.pad(x)))
        return self.fc(self.avgpool(self.layer3(self.layer2(self.layer1(x)))).flatten(1))

    @torch.no_grad()
    def prepare(self, images: torch.Tensor) -> None:
        """Set the first layer to whiten patches of these normalised images (n, 3, h, w)."""
        patches = nn.functional.unfold(images.float(), PATCH, stride=PATCH).transpose(1, 2)
        patches = patches.reshape(-1, 3 * PATCH**2).double()
        centred = patches - patches.mean(0)
        variances, vectors = torch.linalg.eigh(centred.T @ centred / len(patches))
        filters = (vectors / (variances.clamp(min=0) + FLOOR).sqrt()).T.flip(0)
        filters = filters.reshape(-1, 3, PATCH, PATCH).to(self.conv1.weight)
        self.conv1.weight.copy_(torch.cat([filters, -filters]))

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict]:
        """Kernels as given; biases of norms faster and without decay; the head at its scale."""
        norms = [m for m in self.modules() if isinstance(m, nn.BatchNorm2d)]
        fast = {m.bias for m in norms}
        trained = [p for p in self.parameters() if p.requires_grad]
        biases = [p for p in trained if p in fast]
        head = [p for p in trained if p is self.fc.weight]
        kernels = [p for p in trained if p not in fast and p is not self.fc.weight]
        scale = HEAD_SCALE**2
        groups = [
            {"params": kernels, "lr": lr, "weight_decay": weight_decay},
            {"params": biases, "lr": lr * BIAS_LR, "weight_decay": 0.0},
            {"params": head, "lr": lr * scale, "weight_decay": weight_decay / scale},
        ]
        return [group for group in groups if group["params"]]


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """3 x 3, the first filters of which pass their input on."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(layer.weight[: min(inputs, outputs)])
    return layer


def _norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm whose scale stays 1."""
    norm = nn.BatchNorm2d(channels, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm
