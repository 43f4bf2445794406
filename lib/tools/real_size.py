"""Inversion at the size of Stable Diffusion 1.5, 512 px, on random weights: seconds and memory.

`python -m lib.tools.real_size` prints one JSON line; it needs about 12 GB of memory. One update of
two images, with and without checkpointed activations, and one sample: the shapes that a first user
with a GPU meets.
"""

from __future__ import annotations

import json
import platform
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from lib.core import compute, progress
from lib.data.imageset import ImageSet
from lib.diffusion.embeddings import Place, sample_places
from lib.diffusion.inversion import EncodedImages, Inversion, invert
from lib.diffusion.model import Generator
from lib.diffusion.sample import Sampler

DOWN = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
UP = ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3


def build() -> Generator:
    """Stable Diffusion 1.5's own configuration of every network, without the tokenizer."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8, down_block_types=DOWN,
        up_block_types=UP, block_out_channels=(320, 640, 1280, 1280))
    vae = AutoencoderKL(
        sample_size=512, block_out_channels=(128, 256, 512, 512), layers_per_block=2,
        latent_channels=4, down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4)
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
        num_attention_heads=12, max_position_embeddings=77, hidden_act="quick_gelu"))
    scheduler = PNDMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
                              steps_offset=1, skip_prk_steps=True)
    generator, device = Generator(unet, scheduler, vae, text), compute.device()
    for part in generator.parts().values():
        part.to(torch.float16 if device.type == "cuda" else torch.float32)
    return generator.to(device)


@torch.no_grad()
def conditioning(generator: Generator) -> torch.Tensor:
    """Of two classes (2, 77, 768): token ids as the tokenizer would give them."""
    ids = torch.full((2, 77), 49407)
    ids[:, 0], ids[:, 1] = 49406, torch.tensor([320, 1929])
    return generator.condition(ids).float().cpu()


def run() -> dict[str, Any]:
    """One update of two images, plain and checkpointed, and one sample; shapes are asserted."""
    generator = build()
    images = np.random.default_rng(0).integers(0, 256, (2, 480, 640, 3), np.uint8)
    images = ImageSet(images, np.arange(2), ("a", "b"), np.arange(2), ("0", "1"), ("", ""))
    assert (generator.resolution, generator.shape, generator.width) == (512, (4, 64, 64), 768)
    results: dict[str, Any] = {"device": compute.describe(), "images": len(images)}
    results["unet"] = sum(weight.numel() for weight in generator.unet.parameters())
    encoded, results["encode"] = timed(
        "encode", lambda: EncodedImages.encode(generator, images, 0, batch=1))
    assert encoded.latents.shape == encoded.std.shape == (2, 4, 64, 64)
    learned, classes = {}, conditioning(generator)
    for name in ("checkpointed", "plain"):  # the one with less memory first: the peak only grows
        config = Inversion(5, 1, batch_size=2, num_validations=0, init="class",
                           gradient_checkpointing=name == "checkpointed")
        learned[name], results[name] = timed(
            name, lambda config=config: invert(generator, encoded, config, classes))
    values, other = (learned[name].values for name in ("plain", "checkpointed"))
    assert values.shape == (2, 5, 768) and values.isfinite().all()
    assert torch.allclose(values, other, atol=1e-2) and not torch.equal(values, classes[:, :5])
    sampler = Sampler(guidance_scale=2.0, num_inference_steps=1, batch_size=1)
    place = Place(0, 1, 0.1, 0.1, 0)
    samples, results["sample"] = timed("sample", lambda: sample_places(
        generator, learned["plain"], [place], sampler, 512))
    assert samples.images.shape == (1, 512, 512, 3)
    return results


def timed(name: str, work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What it returns; seconds, and the peak of memory so far in GB (of the GPU if any)."""
    began = time.monotonic()
    result = work()
    unit = 1 if platform.system() == "Darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    spent = {"seconds": round(time.monotonic() - began, 1), "peak_gb": round(peak / 1e9, 2)}
    progress.say(f"{name}: {spent}")
    return result, spent


if __name__ == "__main__":
    print(json.dumps(run()))
