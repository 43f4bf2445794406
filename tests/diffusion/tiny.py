"""Real diffusers objects in the smallest sizes."""

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from lib.diffusion.autoencoder import PatchAutoencoder
from lib.diffusion.model import Design, Generator
from lib.diffusion.tokenizer import build_text_encoder, build_tokenizer

WORDS = ["a photo of a red cube on a tiled floor", "a drawing of a blue sphere, a round solid"]
SMALL = Design(resolution=16, channels=(16, 32), attention=(False, True), width=16, tokens=2,
               classes=3)


def tokenizer():
    """A tokenizer that reads twelve tokens."""
    return build_tokenizer(WORDS, vocabulary=560, tokens=12)


def autoencoder():
    """A patch autoencoder with random weights, refinement and all: 16 px to 4 x 4."""
    torch.manual_seed(0)
    vae = PatchAutoencoder(latent_channels=4, block_out_channels=(3, 8, 8), layers=1,
                           sample_size=16)
    torch.nn.init.normal_(vae.refinement.leave.weight, std=0.1)
    return vae


def of_text(seed=0, prediction="v_prediction"):
    """Text to image, in latents."""
    design = Design(**{**SMALL.__dict__, "classes": 0, "prediction": prediction})
    return Generator.build(design, autoencoder(), tokenizer(), text_layers=1, seed=seed)


def of_classes(vae=None, seed=0, **changes):
    """Class-conditional, in pixels unless there is an autoencoder."""
    return Generator.build(Design(**{**SMALL.__dict__, "resolution": 8, **changes}), vae, seed=seed)


def stable_diffusion(folder):
    """A pipeline of Stable Diffusion 1.5's own classes and scheduler, saved to a folder."""
    torch.manual_seed(0)
    words = tokenizer()
    vae = AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, latent_channels=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)
    text_encoder = build_text_encoder(words, 16, 1)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=16,
        norm_num_groups=8, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=4)
    scheduler = PNDMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
                              steps_offset=1, skip_prk_steps=True)
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=words, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipeline.save_pretrained(folder)
    return pipeline
