"""The model that ships: small, whole, loadable by diffusers alone (quality: lib.tools.quality)."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from lib import world
from lib.diffusion.autoencoder import edge_ratio, psnr
from lib.diffusion.model import SHIPPED, Generator, pixels
from lib.diffusion.sample import Sampler, denoise

PROMPTS = ["a photo of a sphere", "a drawing of a red cube on a tiled floor"]


@pytest.fixture(scope="module")
def shipped():
    return Generator.load()


def test_is_small_and_holds_no_pickle():
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".txt"}


def test_names_no_place_of_the_machine_that_made_it():
    texts = [
        path.read_text(encoding="utf-8")
        for path in SHIPPED.rglob("*")
        if path.suffix in (".json", ".md", ".txt")
    ]
    assert len(texts) > 5 and not any("_name_or_path" in text for text in texts)


def test_loads_in_plain_diffusers_and_draws_the_same(shipped):
    """float32, 3 steps: within 1e-4 of our loop, in [0, 1]."""
    pipeline = StableDiffusionPipeline.from_pretrained(SHIPPED)
    pipeline.set_progress_bar_config(disable=True)
    own = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    theirs = pipeline(
        PROMPTS, guidance_scale=3.0, num_inference_steps=3, generator=own, output_type="np"
    ).images
    ours = denoise(
        shipped, shipped.text(PROMPTS), [0, 1], Sampler(guidance_scale=3.0, num_inference_steps=3)
    )
    assert np.abs((ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy() - theirs).max() < 1e-4


@pytest.mark.parametrize("style", ["web", "photo"])
def test_autoencoder_on_scenes_it_never_saw(shipped, style):
    x = pixels(world.render_many(range(7_000_000_000, 7_000_000_060), style)[0])
    with torch.no_grad():
        again = shipped.decode(shipped.encode(x)).clamp(-1, 1)
        linear = shipped.vae.synthesis(shipped.encode(x)).clamp(-1, 1)
    assert psnr(x, again).mean() >= 26
    assert (
        edge_ratio(again) - edge_ratio(x) < (edge_ratio(linear) - edge_ratio(x)) / 3
    )  # the blocks' edges are gone


def test_prompts_mean_something(shipped):
    """Noise of one seed, two colours: the asked channel leads in each."""
    red, blue = denoise(
        shipped,
        shipped.text(["a photo of a red sphere", "a photo of a blue sphere"]),
        [0, 0],
        Sampler(guidance_scale=4.0, num_inference_steps=8),
    )[:, :, 20:44, 20:44].mean((2, 3))
    assert red[0] - red[2] > blue[0] - blue[2] + 0.2
