"""The shipped model's autoencoder, with AutoencoderKL's interface, so that pipelines take it.

Patches onto their principal components in closed form, then a small convolutional refinement of
the decoder that removes the block edges.
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

LATENT_NOISE = 0.3  # standard deviations of a latent, while the decoder is refined


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Patches <-> `latent_channels` whitened components; images (n, 3, h, w) in [-1, 1]."""

    @register_to_config
    def __init__(self, in_channels: int = 3, latent_channels: int = 16,
                 block_out_channels: tuple = (3, 24, 48, 96), layers: int = 2,
                 sample_size: int = 64, scaling_factor: float = 1.0, force_upcast: bool = False):
        super().__init__()
        patch = 2 ** (len(block_out_channels) - 1)  # as pipelines compute the scale factor
        self.analysis = nn.Conv2d(in_channels, latent_channels, patch, patch)
        self.synthesis = nn.ConvTranspose2d(latent_channels, in_channels, patch, patch)
        self.refinement = Refinement(latent_channels, in_channels, block_out_channels, layers)

    def encode(self, x: torch.Tensor, return_dict: bool = True):
        """The posterior of x (n, 3, h, w); its width is zero, so `sample()` equals `mode()`."""
        mean = self.analysis(x)
        posterior = DiagonalGaussianDistribution(torch.cat([mean, mean], 1), deterministic=True)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: torch.Tensor, return_dict: bool = True,
               generator: torch.Generator | None = None):
        """Images (n, 3, h, w) of latents (n, c, h', w')."""
        image = self.synthesis(z) + self.refinement(z)
        return DecoderOutput(sample=image) if return_dict else (image,)

    @torch.no_grad()
    def fit_patches(self, images: torch.Tensor) -> float:
        """Both linear maps from images (n, 3, h, w); returns the share of variance that is kept."""
        patch, kept = self.analysis.kernel_size[0], self.config.latent_channels
        patches = nn.functional.unfold(images, patch, stride=patch)
        patches = patches.transpose(1, 2).flatten(0, 1).double()
        mean = patches.mean(0)
        variance, axes = torch.linalg.eigh((patches - mean).T.cov(correction=0))
        variance, axes = variance.flip(0).clamp_min(1e-12), axes.flip(1)[:, :kept]
        scale = variance[:kept].sqrt()  # latents have unit variance, as the diffusion expects
        shape = (kept, self.config.in_channels, patch, patch)
        self.analysis.weight.copy_((axes / scale).T.reshape(shape))
        self.analysis.bias.copy_(-(mean @ axes) / scale)
        self.synthesis.weight.copy_((axes * scale).T.reshape(shape))
        self.synthesis.bias.copy_(mean.reshape(shape[1:]).mean((1, 2)))
        return float(variance[:kept].sum() / variance.sum())

    def importance(self) -> torch.Tensor:
        """Loss weight of each component (latent_channels,), mean 1: root of its contrast.

        Latents are whitened: equal weights would favour the finest, least visible components.
        """
        root = self.synthesis.weight.detach().flatten(1).norm(dim=1).sqrt()
        return root / root.mean()


class Refinement(nn.Module):
    """What the linear decoder misses: convolutions from the latents' grid to twice finer ones."""

    def __init__(self, latents: int, out: int, widths: tuple, layers: int):
        super().__init__()
        widths = list(widths)[:0:-1]  # coarse to fine; the finest level is the image itself
        self.enter = nn.Conv2d(latents, widths[0], 3, padding=1)
        stages = []
        for width, following in zip(widths, [*widths[1:], None], strict=True):
            stages += [Residual(width) for _ in range(layers)]
            if following:
                stages += [nn.Conv2d(width, 4 * following, 1), nn.PixelShuffle(2)]
        self.stages = nn.Sequential(*stages)
        self.leave = nn.Conv2d(widths[-1], 4 * out, 3, padding=1)
        nn.init.zeros_(self.leave.weight)  # an untrained refinement changes nothing
        nn.init.zeros_(self.leave.bias)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """A correction (n, 3, h, w) for latents (n, c, h', w')."""
        hidden = nn.functional.silu(self.stages(self.enter(z)))
        return nn.functional.pixel_shuffle(self.leave(hidden), 2)


class Residual(nn.Module):
    """Two 3x3 convolutions; no normalisation, which would remove an image's level."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.second.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(nn.functional.silu(self.first(nn.functional.silu(x))))


def refine(vae: PatchAutoencoder, images: torch.Tensor, steps: int, batch_size: int, lr: float,
           seed: int) -> None:
    """Train the decoder's refinement on squared error, of pixels and of steps across blocks.

    Latents stay as they are; noise is added to them, since sampled latents are never quite those
    of an image.
    """
    vae.refinement.requires_grad_(True)
    optimizer = torch.optim.AdamW(vae.refinement.parameters(), lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps)
    for step in progress.each("refine the decoder", range(steps)):
        rng = compute.generator(seed, "refine", step)
        index = torch.randint(len(images), (batch_size,), generator=rng)
        loss = _refinement_loss(vae, pixels(images[index]).to(vae.device), rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    vae.requires_grad_(False)


def _refinement_loss(vae: PatchAutoencoder, x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mode()
    size = torch.rand(len(x), 1, 1, 1, generator=rng)
    noise = LATENT_NOISE * size * torch.randn(z.shape, generator=rng)
    decoded = vae.decode(z + noise.to(z)).sample
    patch = vae.analysis.kernel_size[0]
    steps = _border_steps(decoded, patch) - _border_steps(x, patch)
    return (decoded - x).square().mean() + steps.square().mean()


def _border_steps(x: torch.Tensor, patch: int) -> torch.Tensor:
    """The steps (n, ...) across the borders of blocks, in both directions."""
    columns = x[..., patch::patch] - x[..., patch - 1:-1:patch]
    rows = x[..., patch::patch, :] - x[..., patch - 1:-1:patch, :]
    return torch.cat([columns.flatten(1), rows.flatten(1)], 1)


def psnr(images: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio (n,) in dB, for values in [-1, 1]."""
    return 10 * torch.log10(4 / (images - decoded.clamp(-1, 1)).square().mean((1, 2, 3)))


def edge_ratio(images: torch.Tensor, patch: int = 8) -> float:
    """Mean step across block borders over the mean step elsewhere: 1 where no edge shows."""
    step = (images[..., 1:] - images[..., :-1]).abs().mean((0, 1, 2))  # (w - 1,)
    border = torch.arange(len(step)) % patch == patch - 1
    return float(step[border].mean() / step[~border].mean())
