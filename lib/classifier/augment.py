"""Augmentation of whole batches on their device: from uint8 images to the views of a step.

Draws come from a CPU generator, so that every device sees the same views.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from lib.classifier.model import normal

GREY = torch.tensor([0.299, 0.587, 0.114])  # luma of R, G, B


def standard(images: torch.Tensor, draws: torch.Generator, flip: bool) -> list[torch.Tensor]:
    """One view (n, 3, h, w): shifted by up to 1/8 of its side, edges repeated; half mirrored."""
    size = images.shape[1]
    return [_shifted(images, size // 8, lambda at: at.clamp(0, size - 1), draws, flip)]


def reflect(images: torch.Tensor, draws: torch.Generator, flip: bool) -> list[torch.Tensor]:
    """One view (n, 3, h, w): shifted by up to 1/16 of its side, edges reflected; half mirrored."""
    last = images.shape[1] - 1
    return [
        _shifted(images, (last + 1) // 16, lambda at: last - (last - at.abs()).abs(), draws, flip)
    ]


def _shifted(images, reach: int, inside, draws: torch.Generator, flip: bool) -> torch.Tensor:
    """Images moved by up to `reach` pixels; `inside` maps positions beyond the edge into them."""
    n, h, w, channels = images.shape
    down, across = torch.randint(-reach, reach + 1, (2, n, 1), generator=draws)
    mirrored = _happens(n, 0.5 if flip else 0, draws).view(n, 1)
    rows, columns = inside(down + torch.arange(h)), inside(across + torch.arange(w))
    columns = torch.where(mirrored, columns.flip(1), columns)
    index = ((torch.arange(n)[:, None] * h + rows)[:, :, None] * w + columns[:, None]).flatten()
    # one flat index is three times as fast as three
    picked = images.reshape(-1, channels).index_select(0, index.to(images.device))
    return normal(picked.view(images.shape))


def multicrop(images: torch.Tensor, draws: torch.Generator, flip: bool) -> list[torch.Tensor]:
    """A large crop at full size and two at half size, each with its own colours and blur (DINO)."""
    size = images.shape[1]
    return [
        blur(jitter(crop(normal(images), side, *scale, draws, flip), draws), draws, often)
        for side, scale, often in ((size, (0.4, 1), 0.5), *[(size // 2, (0.1, 0.4), 0.3)] * 2)
    ]


def crop(
    x: torch.Tensor, side: int, low: float, high: float, draws: torch.Generator, flip: bool
) -> torch.Tensor:
    """Of each image (n, 3, h, w) a part of `low` to `high` of its area, resized to `side`."""
    n = len(x)
    area, ratio, across, down = torch.rand(4, n, generator=draws)
    root, stretch = (low + (high - low) * area).sqrt(), (4 / 3) ** (ratio - 0.5)
    width, height = (root * stretch).clamp(max=1), (root / stretch).clamp(max=1)
    theta = torch.zeros(n, 2, 3)  # from -1..1 in the crop to -1..1 in the image
    theta[:, 0, 0] = torch.where(_happens(n, 0.5 if flip else 0, draws).view(n), -width, width)
    theta[:, 1, 1] = height
    theta[:, 0, 2], theta[:, 1, 2] = (1 - width) * (2 * across - 1), (1 - height) * (2 * down - 1)
    grid = F.affine_grid(theta, [n, 3, side, side], align_corners=False).to(x.device)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def jitter(x: torch.Tensor, draws: torch.Generator, strength: float = 0.4) -> torch.Tensor:
    """Brightness, contrast, saturation (by up to `strength`) and hue (1/8 of a turn) of 4 in 5.

    By hand, since torchvision's gives one batch one colour.
    """
    n = len(x)
    bright, contrast, colour = 1 + strength * (2 * torch.rand(3, n, generator=draws) - 1)
    turn = (torch.rand(n, generator=draws) - 0.5) * math.pi / 2
    mixing = contrast[:, None, None] * _hue(turn, colour)
    centre = x.mean((2, 3), keepdim=True)
    painted = torch.einsum("nij,njhw->nihw", mixing.to(x.device), x - centre) + centre
    painted = painted + 2 * (bright - 1).view(n, 1, 1, 1).to(
        x.device
    )  # -2..2 is the range of the values
    return torch.where(_happens(n, 0.8, draws).to(x.device), painted.clamp(-2, 2), x)


def blur(x: torch.Tensor, draws: torch.Generator, often: float) -> torch.Tensor:
    """A share of the images, each by its own weight of a 5 x 5 binomial filter (sigma 1)."""
    row = torch.tensor([1.0, 4, 6, 4, 1]) / 16
    kernel = (row[:, None] * row).expand(3, 1, 5, 5).to(x.device)
    soft = F.conv2d(F.pad(x, (2,) * 4, mode="replicate"), kernel, groups=3)
    weight = torch.rand(len(x), 1, 1, 1, generator=draws) * _happens(len(x), often, draws)
    return torch.lerp(x, soft, weight.to(x.device))


def _hue(turn: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """Matrices (n, 3, 3) on RGB: a turn about the grey axis (Rodrigues), colour against grey."""
    axis = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    sine, cosine = turn.sin()[:, None, None], turn.cos()[:, None, None]
    rotated = torch.eye(3) + sine * axis + (1 - cosine) * axis @ axis
    grey = GREY.expand(3, 3)
    return grey + colour[:, None, None] * (torch.eye(3) - grey) @ rotated


def _happens(n: int, often: float, draws: torch.Generator) -> torch.Tensor:
    """True for about a share of n images, (n, 1, 1, 1)."""
    return torch.rand(n, 1, 1, 1, generator=draws) < often


AUGMENTATIONS = {"standard": standard, "reflect": reflect, "multicrop": multicrop}
