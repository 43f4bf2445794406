"""The shipped model's autoencoder: patches onto their principal components in closed form, then a small
convolutional refinement of the decoder that removes the block edges. It has AutoencoderKL's interface, so diffusers'
pipelines take it.
"""

from __future__ import annotations

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import nn

from lib.core import compute, progress
from lib.diffusion.model import pixels

SHAKE = 0.3  # standard deviations of a latent


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """8x8 patches <-> `latent_channels` whitened components; images (n, 3, h, w) in [-1, 1]."""

    @register_to_config
    def __init__(self, in_channels: int = 3, latent_channels: int = 16, block_out_channels: tuple = (3, 24, 48, 96),
                 layers: int = 2, sample_size: int = 64, scaling_factor: float = 1.0, force_upcast: bool = False):
        super().__init__()
        patch = 2 ** (len(block_out_channels) - 1)  # the same rule by which pipelines find the scale factor
        self.analysis = nn.Conv2d(in_channels, latent_channels, patch, patch)
        self.synthesis = nn.ConvTranspose2d(latent_channels, in_channels, patch, patch)
        self.refinement = Refinement(latent_channels, in_channels, block_out_channels, layers)

    def encode(self, x: torch.Tensor, return_dict: bool = True):
        """The posterior of x (n, 3, h, w); its width is zero, so `sample()` and `mode()` agree."""
        mean = self.analysis(x)
        posterior = DiagonalGaussianDistribution(torch.cat([mean, mean], 1), deterministic=True)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: torch.Tensor, return_dict: bool = True, generator: torch.Generator | None = None):
        """Images (n, 3, h, w) of latents (n, c, h/8, w/8)."""
        image = self.synthesis(z) + self.refinement(z)
        return DecoderOutput(sample=image) if return_dict else (image,)

    @torch.no_grad()
    def fit_patches(self, images: torch.Tensor) -> float:
        """Set both linear maps from images (n, 3, h, w) in closed form; returns the share of variance kept."""
        patch, kept = self.analysis.kernel_size[0], self.config.latent_channels
        patches = nn.functional.unfold(images, patch, stride=patch).transpose(1, 2).flatten(0, 1).double()
        mean = patches.mean(0)
        variance, axes = torch.linalg.eigh((patches - mean).T.cov(correction=0))
        variance, axes = variance.flip(0).clamp_min(1e-12), axes.flip(1)[:, :kept]
        scale = variance[:kept].sqrt()  # each component leaves with unit variance, as the diffusion expects
        shape = (kept, self.config.in_channels, patch, patch)
        self.analysis.weight.copy_((axes / scale).T.reshape(shape))
        self.analysis.bias.copy_(-(mean @ axes) / scale)
        self.synthesis.weight.copy_((axes * scale).T.reshape(shape))
        self.synthesis.bias.copy_(mean.reshape(shape[1:]).mean((1, 2)))
        return float(variance[:kept].sum() / variance.sum())

    def importance(self) -> torch.Tensor:
        """How much of a picture each component carries (latent_channels,), mean 1: the root of its share of the contrast.

        Latents are whitened, so a loss that counted all alike would spend itself on the finest, least visible ones.
        """
        root = self.synthesis.weight.detach().flatten(1).norm(dim=1).sqrt()
        return root / root.mean()


class Refinement(nn.Module):
    """What the linear decoder misses: convolutions on the latent grid, then half the channels on twice the grid."""

    def __init__(self, latents: int, out: int, widths: tuple, layers: int):
        super().__init__()
        widths = list(widths)[:0:-1]  # coarse to fine; the finest level is the image itself
        self.enter = nn.Conv2d(latents, widths[0], 3, padding=1)
        stages = []
        for width, following in zip(widths, [*widths[1:], None], strict=True):
            stages += [Residual(width) for _ in range(layers)]
            stages += [nn.Conv2d(width, 4 * following, 1), nn.PixelShuffle(2)] if following else []
        self.stages = nn.Sequential(*stages)
        self.leave = nn.Conv2d(widths[-1], 4 * out, 3, padding=1)  # the last doubling makes the pixels themselves
        nn.init.zeros_(self.leave.weight)  # an untrained refinement changes nothing
        nn.init.zeros_(self.leave.bias)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """A correction (n, 3, 8h, 8w) for latents (n, c, h, w)."""
        return nn.functional.pixel_shuffle(self.leave(nn.functional.silu(self.stages(self.enter(z)))), 2)


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity; no normalisation, which would take away an image's level."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.second.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(nn.functional.silu(self.first(nn.functional.silu(x))))


def psnr(images: torch.Tensor, again: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each image in dB (n,), for values in [-1, 1]."""
    return 10 * torch.log10(4 / (images - again.clamp(-1, 1)).square().mean((1, 2, 3)))


def edge_ratio(images: torch.Tensor, patch: int = 8) -> float:
    """Mean step across block borders over the mean step elsewhere: 1 where no block edge shows."""
    step = (images[..., 1:] - images[..., :-1]).abs().mean((0, 1, 2))  # (w - 1,)
    border = torch.arange(len(step)) % patch == patch - 1
    return float(step[border].mean() / step[~border].mean())


def refine(vae: PatchAutoencoder, images: torch.Tensor, steps: int, batch: int, rate: float, seed: int) -> None:
    """Train the decoder's refinement on squared error, and once more on that of the steps across block borders.

    Latents stay as they are, so the diffusion never notices. They are shaken by up to SHAKE: sampled latents are never quite
    those of an image, and a decoder that has not seen that leaves their blocks standing.
    """
    vae.refinement.requires_grad_(True)
    optimiser = torch.optim.AdamW(vae.refinement.parameters(), rate, weight_decay=0.0)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps)
    for step in progress.each("refine the decoder", range(steps)):
        rng = compute.generator(seed, "refine", step)
        x = pixels(images[torch.randint(len(images), (batch,), generator=rng)]).to(vae.device)
        with torch.no_grad():
            z = vae.encode(x).latent_dist.mode()
        shake = SHAKE * torch.rand(batch, 1, 1, 1, generator=rng) * torch.randn(z.shape, generator=rng)
        again = vae.decode(z + shake.to(z)).sample
        patch = vae.analysis.kernel_size[0]
        loss = (again - x).square().mean() + (borders(again, patch) - borders(x, patch)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        falling.step()
    vae.requires_grad_(False)


def borders(x: torch.Tensor, patch: int) -> torch.Tensor:
    """The steps (n, ...) across the borders of blocks, in both directions."""
    across = [x[..., patch::patch] - x[..., patch - 1:-1:patch], x[..., patch::patch, :] - x[..., patch - 1:-1:patch, :]]
    return torch.cat([one.flatten(1) for one in across], 1)
