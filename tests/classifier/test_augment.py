"""Augmentation does what it says and nothing else."""

import pytest
import torch

from lib.classifier import augment
from lib.classifier.model import normal


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def ramp(n=64, size=16):
    """Images (n, size, size, 3) uint8 whose columns count up by 256 / size."""
    return (
        (256 // size * torch.arange(size))
        .to(torch.uint8)
        .view(1, 1, size, 1)
        .expand(n, size, size, 3)
        .contiguous()
    )


def test_standard_only_shifts_and_mirrors():
    (plain,) = augment.standard(ramp(), draws(), flip=False)
    step = 16 / 63.75
    inner = plain[:, 0, 4:12, 4:12]
    torch.testing.assert_close(inner[:, :, 1:] - inner[:, :, :-1], torch.full((64, 8, 7), step))
    assert len({round(v.item(), 4) for v in plain[:, 0, 8, 8]}) == 5  # two pixels to either side
    (mirrored,) = augment.standard(ramp(), draws(), flip=True)
    assert 10 < (mirrored[:, 0, 8, 5] < mirrored[:, 0, 8, 4]).sum() < 54
    assert plain.is_contiguous(memory_format=torch.channels_last)


def test_the_same_draws_give_the_same_views():
    for augmented in augment.AUGMENTATIONS.values():
        first, again, other = (augmented(ramp(), draws(seed), True) for seed in (0, 0, 1))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not torch.equal(first[0], other[0])


def test_a_crop_is_a_part_of_the_size_asked_for():
    ramped = normal(ramp(200, 64))
    small = augment.crop(ramped, 32, 0.1, 0.4, draws(), flip=False)
    share = (small[:, 0, 16, -1] - small[:, 0, 16, 0]) / (ramped[0, 0, 0, -1] - ramped[0, 0, 0, 0])
    assert (
        share.min() > 0.1**0.5 * 0.8 and share.max() < 0.4**0.5 * 1.2
    )  # side of the part that was cut out
    assert (
        augment.crop(ramped, 32, 0.1, 0.4, draws(), flip=True).diff(dim=3).mean((1, 2, 3)) < 0
    ).sum() in range(70, 131)


def test_views_of_multicrop():
    large, *small = augment.multicrop(ramp(8, 32), draws(), True)
    assert large.shape == (8, 3, 32, 32) and [x.shape for x in small] == [(8, 3, 16, 16)] * 2
    assert all(x.abs().max() <= 2 + 1e-5 for x in (large, *small))


def test_jitter_keeps_grey_grey_and_a_fifth_of_the_images():
    grey = torch.rand(400, 1, 4, 4, generator=draws()).expand(400, 3, 4, 4) - 0.5
    jittered = augment.jitter(grey, draws())
    torch.testing.assert_close(jittered, jittered[:, :1].expand_as(jittered), atol=1e-5, rtol=0)
    assert 0.14 < (jittered == grey).flatten(1).all(1).float().mean() < 0.27


def test_no_turn_and_full_colour_change_nothing():
    torch.testing.assert_close(
        augment._hue(torch.zeros(1), torch.ones(1))[0], torch.eye(3), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        augment._hue(torch.zeros(1), torch.zeros(1))[0] @ torch.tensor([1.0, 2, 3]),
        torch.full((3,), 0.299 + 2 * 0.587 + 3 * 0.114),
    )


def test_blur_keeps_the_mean_and_lowers_contrast():
    x = torch.rand(64, 3, 32, 32, generator=draws())
    blurred = augment.blur(x, draws(), 1)
    assert (
        blurred.mean().item() == pytest.approx(x.mean().item(), abs=1e-3)
        and (blurred.std((1, 2, 3)) < x.std((1, 2, 3))).all()
    )
    assert torch.equal(augment.blur(x, draws(), 0), x)
