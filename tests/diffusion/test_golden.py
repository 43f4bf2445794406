"""Images of a seed stay what they were: equal to reference pixels up to one grey level."""

from pathlib import Path

import numpy as np
import torch

from lib.diffusion.inversion import EncodedImages, Inversion, invert
from lib.diffusion.model import Generator
from lib.diffusion.sample import Sampler, sample
from lib.diffusion.train import Examples, TrainConfig, train
from tests.diffusion import tiny

GOLDEN = Path(__file__).parent / "golden.npz"
PROMPTS = ["a photo of a cube", "a photo of a sphere", "a cone, a solid inside a meadow"]


def trained():
    """A tiny class-conditional model after a few training steps."""
    generator = tiny.of_classes()
    labels = torch.arange(32) % 2
    images = torch.ones(1, 32, 3, 8, 8) * (1.6 * labels - 0.8)[None, :, None, None, None]
    config = TrainConfig(
        max_train_steps=12,
        batch_size=8,
        lr=2e-3,
        lr_warmup_steps=4,
        checkpointing_steps=6,
        ema_decay=0.9,
        snr_gamma=5.0,
    )
    train(generator, Examples(images, labels), config)
    return generator


def images(generator, conditioning, sampler, **options):
    """Samples of the seeds 0, 1, 2."""
    return np.stack(
        [drawn.image for drawn in sample(generator, conditioning, range(3), sampler, **options)]
    )


def current():
    """The images of each case with the code as it stands."""
    shipped, classes = Generator.load(), trained()
    sources = torch.randn(3, *classes.shape, generator=torch.Generator().manual_seed(0))
    config = Inversion(
        num_vectors=2,
        max_train_steps=6,
        lr=0.3,
        lr_scheduler="cosine",
        init="class",
        batch_size=2,
        num_validations=2,
    )
    encoded = EncodedImages(sources, [0, 1, 2], "abc", "abc", 0)
    table = invert(classes, encoded, config, classes.classes([0, 1, 2])).values
    part = Sampler(
        guidance_scale=4.0,
        num_inference_steps=4,
        guidance_interval=(0.0, 0.6),
        guidance_rescale=0.2,
        batch_size=2,
    )
    return {
        "shipped": images(shipped, PROMPTS, part),
        "classes": images(
            classes, classes.classes([0, 1, 2]), Sampler(guidance_scale=1.5, num_inference_steps=5)
        ),
        "inverted": images(
            classes,
            table,
            Sampler(guidance_scale=3.0, num_inference_steps=5),
            against=table.mean(0),
        ),
    }


def test_images_of_a_seed_stay_what_they_were():
    golden = np.load(GOLDEN)
    for name, pixels in current().items():
        difference = np.abs(pixels.astype(int) - golden[name]).max()
        assert difference <= 1, f"{name}: {difference} grey levels"


if __name__ == "__main__":
    torch.set_num_threads(1)
    np.savez_compressed(GOLDEN, **current())
