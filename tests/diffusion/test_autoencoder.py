"""The patch autoencoder against principal component analysis, which it is."""

import numpy as np
import torch

from lib.diffusion.autoencoder import PatchAutoencoder, edge_ratio, psnr
from tests.diffusion import tiny


def images(n=200):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, 16, 16, generator=rng).cumsum(2).cumsum(3) / 20


def test_closed_form_is_the_best_linear_map():
    x, vae = images(), PatchAutoencoder(latent_channels=6, block_out_channels=(3, 8, 8), layers=1)
    share = vae.fit_patches(x)
    again = vae.decode(vae.encode(x).latent_dist.sample()).sample
    rows = torch.nn.functional.unfold(x, 4, stride=4).transpose(1, 2).flatten(0, 1).double().numpy()
    variances = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2 / len(rows)
    lost = variances[6:].sum() / 48
    assert abs((again - x).square().mean().item() - lost) < 2e-2 * lost + 1e-6
    assert abs(share - variances[:6].sum() / variances.sum()) < 1e-6


def test_latents_have_unit_variance():
    vae = PatchAutoencoder(latent_channels=6, block_out_channels=(3, 8, 8))
    vae.fit_patches(x := images())
    z = vae.encode(x).latent_dist.mode()
    assert torch.allclose(z.mean((0, 2, 3)), torch.zeros(6), atol=1e-3)
    assert torch.allclose(z.var((0, 2, 3), correction=0), torch.ones(6), atol=1e-3)


def test_posterior_has_no_width():
    posterior = tiny.autoencoder().encode(images(2)).latent_dist
    assert torch.equal(posterior.sample(), posterior.mode())


def test_measures():
    flat = torch.zeros(1, 3, 16, 16)
    assert abs(psnr(flat, flat + 0.2).item() - 20) < 1e-4
    blocks = torch.arange(16).div(8, rounding_mode="floor").float().expand(1, 3, 16, 16)
    noise = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert edge_ratio(blocks + 0.01 * noise[:1, :, :16, :16]) > 10
    assert abs(edge_ratio(noise) - 1) < 0.02
