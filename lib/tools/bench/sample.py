"""Images a second of the shipped model: ours against diffusers' pipeline, batches of 8, 50 steps.

Both sample the same prompts at the same guidance. `equal`: the Fréchet distance of our images to
real ones, in the features of a classifier trained on real images, lies below the upper end of the
interval of the pipeline's images.
"""

import time

import numpy as np
from diffusers import StableDiffusionPipeline

from lib import world
from lib.core.config import load
from lib.core.store import Store
from lib.data import real as real_data
from lib.diffusion import autoencoder  # noqa: F401 so that diffusers finds the class
from lib.diffusion.model import SHIPPED, Generator
from lib.diffusion.sample import Sampler, sample
from lib.measure import reference as verdict
from lib.measure import set_distance
from lib.measure.probes import penultimate

IMAGES, ROUNDS = 160, 2
GUIDANCE = load("world").generation.guidance_scale


def run() -> dict:
    """Rounds taken in turn, each half of the images; the speeds are of all."""
    names = [world.CLASSES[i % len(world.CLASSES)] for i in range(IMAGES)]
    prompts = [f"a photo of {'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names]
    half = IMAGES // ROUNDS
    rounds = [
        (
            timed(ours, prompts[k * half : (k + 1) * half]),
            timed(pipeline, prompts[k * half : (k + 1) * half]),
        )
        for k in range(ROUNDS)
    ]
    seconds = [sum(pair[k][0] for pair in rounds) for k in (0, 1)]
    distance = [to_real(np.concatenate([pair[k][1] for pair in rounds])) for k in (0, 1)]
    return {
        "unit": "images/s",
        "ours": round(IMAGES / seconds[0], 2),
        "reference": round(IMAGES / seconds[1], 2),
        "ratio": round(seconds[1] / seconds[0], 2),
        "equal": bool(distance[0]["mean"] <= distance[1]["high"]),
        "FD-own": [
            {end: round(one[end], 3) for end in ("mean", "low", "high")} for one in distance
        ],
        "n": IMAGES,
    }


def timed(draw, prompts: list[str]) -> tuple[float, np.ndarray]:
    """Seconds and pictures; loading is not counted."""
    ready = draw(prompts[:8])
    began = time.perf_counter()
    pictures = ready(prompts)
    return time.perf_counter() - began, pictures


def ours(warm: list[str]):
    """The project's sampler as the default study uses it."""
    generation = load("world").generation
    sampler = Sampler(
        GUIDANCE,
        generation.num_inference_steps,
        generation.scheduler,
        tuple(generation.guidance_interval),
    )
    made = Generator.load()
    draw = lambda prompts: np.stack(  # noqa: E731
        [one.image for one in sample(made, prompts, range(len(prompts)), sampler)]
    )  # noqa: E731
    draw(warm)
    return draw


def pipeline(warm: list[str]):
    """diffusers alone: batches of 8, 50 steps, the folder's own scheduler."""
    made = StableDiffusionPipeline.from_pretrained(SHIPPED)
    made.set_progress_bar_config(disable=True)

    def draw(prompts: list[str]) -> np.ndarray:
        parts = [
            made(
                prompts[i : i + 8],
                guidance_scale=GUIDANCE,
                num_inference_steps=50,
                output_type="np",
            ).images
            for i in range(0, len(prompts), 8)
        ]
        return (np.concatenate(parts) * 255).round().astype(np.uint8)

    made(warm, guidance_scale=GUIDANCE, num_inference_steps=2)
    return draw


def to_real(pictures: np.ndarray) -> dict[str, float]:
    """Fréchet distance to real test images with its interval."""
    from lib.classifier import train as fit
    from lib.data import imageset as images

    profile = load("world")
    store, real = Store(profile.study.store), real_data.specs(profile.data, profile.study.seed)
    data = {
        "flip": profile.data.flip,
        "train": profile.data.train,
        "resolution": profile.data.resolution,
    }
    judge = fit.opened(store.make(verdict.reference_classifier(
        profile.training, profile.study, data, real["train"],
        profile.generation.reference_epochs)))[0]
    test = images.load(store.make(real["test"])).images
    return set_distance.fd(*(penultimate(judge, part) for part in (pictures, test)), seed=0)
