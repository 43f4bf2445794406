"""Inversion at the size of Stable Diffusion 1.5, 512 px, on random weights: one update, its seconds, its memory.

`python -m lib.tools.real_size` prints one JSON line; it needs about 12 GB of memory. Two rows, first as they are, then
with the U-Net's activations checkpointed, and one image drawn: a first user with a GPU meets these shapes.
"""

from __future__ import annotations

import json
import platform
import resource
import time

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from lib.core import compute, progress
from lib.diffusion.embeddings import Learned, Place, follow
from lib.diffusion.inversion import Inversion, encoded, invert
from lib.diffusion.model import Generator

DOWN, UP = (
    ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
)


def generator() -> Generator:
    """Stable Diffusion 1.5's own configuration of every network; the tokenizer is not needed and is not there."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=64,
        cross_attention_dim=768,
        attention_head_dim=8,
        down_block_types=DOWN,
        up_block_types=UP,
        block_out_channels=(320, 640, 1280, 1280),
    )
    vae = AutoencoderKL(
        sample_size=512,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
        )
    )
    noise = PNDMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        skip_prk_steps=True,
    )
    where = compute.device()
    made = Generator(unet, noise, vae, text)
    for part in made.parts().values():
        part.to(torch.float16 if where.type == "cuda" else torch.float32)
    return made.to(where)


@torch.no_grad()
def conditioning(made: Generator) -> torch.Tensor:
    """Of two classes (2, 77, 768): token ids as the tokenizer would give them."""
    ids = torch.full((2, 77), 49407)
    ids[:, 0], ids[:, 1] = 49406, torch.tensor([320, 1929])
    return made.condition(ids).float().cpu()


def run(rows: int = 2) -> dict:
    """One update of each row, plain and checkpointed, and one image; shapes are asserted on the way."""
    made, pictures = (
        generator(),
        np.random.default_rng(0).integers(0, 256, (rows, 480, 640, 3), np.uint8),
    )
    assert (made.resolution, made.shape, made.width) == (512, (4, 64, 64), 768)
    found = {
        "device": compute.describe(),
        "rows": rows,
        "unet": sum(p.numel() for p in made.unet.parameters()),
    }
    (latents, spread), found["encode"] = timed("encode", lambda: encoded(made, pictures, batch=1))
    known, labels, ids = conditioning(made), [0, 1][:rows], [f"row/{i}" for i in range(rows)]
    assert latents.shape == spread.shape == (rows, 4, 64, 64) and known.shape == (2, 77, 768)
    learned = {}
    for name, saving in (
        ("checkpointed", True),
        ("plain", False),
    ):  # the thriftier first: the peak only grows
        wanted = Inversion(
            num_vectors=5,
            max_train_steps=1,
            batch_size=rows,
            num_validations=0,
            checkpointing=saving,
            init="class",
        )
        learned[name], found[name] = timed(
            name, lambda how=wanted: invert(made, latents, labels, ids, how, 0, known, spread)
        )
    one, other = (learned[name].embeddings for name in ("plain", "checkpointed"))
    assert (
        one.shape == (rows, 5, 768)
        and one.isfinite().all()
        and torch.allclose(one, other, atol=1e-2)
    )
    assert not torch.equal(one, known[labels][:, :5]) and all(
        w.grad is None for w in made.unet.parameters()
    )
    about = {
        "resolution": 512,
        "sampler": {"guidance_scale": 2.0, "num_inference_steps": 1, "batch_size": 1},
    }
    kept = Learned(learned["plain"], np.array(labels), tuple(ids), ("one", "two"))
    drawn, found["draw"] = timed(
        "draw", lambda: follow(made, kept, [Place(0, 1, 0.1, 0.1, 0)], about)
    )
    assert drawn.images.shape == (1, 512, 512, 3)
    return found


def timed(name: str, work) -> tuple:
    """What it returns; seconds, and the peak of memory so far in GB (of the GPU where there is one); says so at once."""
    began = time.monotonic()
    result = work()
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 1e9
    else:
        peak = (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            * (1 if platform.system() == "Darwin" else 1024)
            / 1e9
        )
    found = {"seconds": round(time.monotonic() - began, 1), "peak_gb": round(peak, 2)}
    progress.say(f"{name}: {found}")
    return result, found


if __name__ == "__main__":
    print(json.dumps(run()))
