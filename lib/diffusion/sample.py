"""Sampling in which an image is its seed: the same whatever the batch, the shard or the order.

Defaults to DPM-Solver++ 2M; any diffusers scheduler by name. What came out wrong (not a number, constant, or the black
of a safety checker) is drawn again from a new seed, which is recorded.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import diffusers
import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from lib.core import progress
from lib.core.compute import seed_of
from lib.diffusion.model import Generator, GeneratorError, to_uint8

SCHEDULERS = {
    "DPMSolver++": "DPMSolverMultistepScheduler",
    "DDIM": "DDIMScheduler",
    "DDPM": "DDPMScheduler",
    "PNDM": "PNDMScheduler",
    "Euler": "EulerDiscreteScheduler",
    "UniPC": "UniPCMultistepScheduler",
}
TRIES = 3  # draws of one image before its faults are let stand and reported


@dataclass(frozen=True)
class Drawn:
    """One image, the seed that was asked for, and the seed that made it (another where a first draw was faulty)."""

    image: np.ndarray  # (h, w, 3) uint8
    asked: int
    seed: int
    faults: tuple[str, ...] = ()  # of the draws that were thrown away
    fault: str = ""  # of this image, where even the last draw had one


@dataclass(frozen=True)
class Sampler:
    """How to sample."""

    guidance_scale: float = (
        3.0  # 1: none; the images follow the prompt more and vary less as it grows
    )
    num_inference_steps: int = 16
    scheduler: str = "DPMSolver++"  # or a diffusers class name
    guidance_interval: tuple[float, float] = (
        0.0,
        1.0,
    )  # part of the steps with guidance (Kynkäänniemi et al. 2024); less is faster
    guidance_rescale: float = 0.0  # of guidance, against over-exposure (Lin et al. 2023)
    batch_size: int = 64


PLAIN = Sampler()


def sample(
    generator: Generator,
    conditioning: Sequence[str] | torch.Tensor,
    seeds: Sequence[int],
    sampler: Sampler = PLAIN,
    against: torch.Tensor | None = None,
) -> Iterator[Drawn]:
    """One image for each prompt, or row of conditioning (n, tokens, width), and its seed, in order.

    `against` (tokens, width) is what guidance pushes away from; by default no words or no class.
    """
    if len(conditioning) != len(seeds):
        raise GeneratorError(
            f"{len(conditioning)} prompts or conditionings for {len(seeds)} seeds: give one each"
        )
    batch, start = sampler.batch_size, 0
    while start < len(seeds):
        part = slice(start, start + batch)
        try:
            drawn = _faultless(generator, conditioning[part], list(seeds[part]), sampler, against)
        except torch.OutOfMemoryError:
            batch = smaller(generator, batch)
            continue
        yield from drawn
        start += batch


def smaller(generator: Generator, batch: int) -> int:
    """After running out of memory: attention and autoencoder slice by slice, then half the batch; says what it does."""
    vae = generator.vae
    if not generator.sliced and generator.unet.config.sample_size >= 32:
        generator.sliced = True
        generator.unet.set_attention_slice("auto")
        if hasattr(vae, "enable_slicing"):
            vae.enable_slicing()
        progress.say(
            f"out of memory at {batch} images a batch: attention and autoencoder go slice by slice"
        )
        return batch
    if batch == 1:
        raise GeneratorError(
            "out of memory with one image a batch: a smaller model, or a device with more memory, is needed"
        )
    progress.say(f"out of memory at {batch} images a batch: going on with {batch // 2}")
    return batch // 2


def faults(drawn: Sequence[Drawn]) -> dict[str, int]:
    """How many draws had which fault, those drawn again and those that stand."""
    kinds = [fault for one in drawn for fault in (*one.faults, one.fault) if fault]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def _faultless(generator, conditioning, seeds, sampler, against) -> list[Drawn]:
    """A batch, its faulty images drawn again from seeds made from their own, a bounded number of times."""
    drawn = [Drawn(np.empty(0), seed, seed) for seed in seeds]
    wrong = list(range(len(seeds)))
    for attempt in range(TRIES):
        again = [seeds[i] if attempt == 0 else seed_of(seeds[i], "again", attempt) for i in wrong]
        images = denoise(generator, _rows(generator, conditioning, wrong), again, sampler, against)
        finite = images.isfinite().flatten(1).all(1).tolist()
        for i, seed, image, sound in zip(wrong, again, to_uint8(images), finite, strict=True):
            before = (*drawn[i].faults, drawn[i].fault) if attempt else ()
            drawn[i] = replace(
                drawn[i], image=image, seed=seed, faults=before, fault=fault_of(image, sound)
            )
        wrong = [i for i in wrong if drawn[i].fault]
        if not wrong:
            break
    return drawn


def fault_of(image: np.ndarray, finite: bool = True) -> str:
    """What is wrong with an image (h, w, 3), or nothing; a safety checker paints all black."""
    if not finite:
        return "not a number"
    if image.max() == 0:
        return "black"
    return "constant" if np.ptp(image.reshape(-1, image.shape[-1]), axis=0).max() == 0 else ""


def noise_of(
    seeds: Sequence[int], shape: tuple[int, int, int]
) -> tuple[torch.Tensor, list[torch.Generator]]:
    """Each image's noise (n, c, h, w) float32 from its own seed on the CPU, and the generators for noise to come."""
    own = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    return torch.stack([torch.randn(shape, generator=each) for each in own]), own


@torch.no_grad()
def denoise(
    generator: Generator,
    conditioning: torch.Tensor,
    seeds: Sequence[int],
    sampler: Sampler,
    against: torch.Tensor | None = None,
) -> torch.Tensor:
    """Float images (n, 3, h, w) of one batch: the loop of diffusers' pipeline with noise of each image's own."""
    scheduler = scheduler_of(generator, sampler.scheduler)
    scheduler.set_timesteps(sampler.num_inference_steps, device=generator.device)
    noise, own = noise_of(seeds, generator.shape)
    latents = noise.to(generator.device, generator.dtype) * scheduler.init_noise_sigma
    empty = generator.condition(generator.unconditional())[0] if against is None else against
    conditioning = conditioning.to(generator.device, generator.dtype)
    pair = torch.cat([empty.to(conditioning).expand_as(conditioning), conditioning])
    extra = (
        {"generator": own} if "generator" in inspect.signature(scheduler.step).parameters else {}
    )
    first, last = (share * len(scheduler.timesteps) for share in sampler.guidance_interval)
    for step, t in enumerate(scheduler.timesteps):
        guided = sampler.guidance_scale != 1 and first <= step < last
        both = scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, t)
        output = generator.predict(both, t, pair if guided else conditioning)
        if guided:
            away, towards = output.chunk(2)
            output = away + sampler.guidance_scale * (towards - away)
            if sampler.guidance_rescale:
                output = rescale_noise_cfg(
                    output, towards, guidance_rescale=sampler.guidance_rescale
                )
        latents = scheduler.step(output, t, latents, return_dict=False, **extra)[0]
    return generator.decode(latents)


def scheduler_of(generator: Generator, name: str):
    """A fresh diffusers scheduler with the noise levels that the generator was trained on."""
    kind = getattr(diffusers, SCHEDULERS.get(name, name), None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise GeneratorError(
            f"no scheduler named {name!r}: use one of {', '.join(SCHEDULERS)}, or the class name of "
            "any other in diffusers.schedulers"
        )
    options = {"clip_sample": False} if "clip_sample" in inspect.signature(kind).parameters else {}
    return kind.from_config(
        generator.scheduler.config, **options
    )  # their default clips, which is for pixels only


def _rows(generator: Generator, conditioning, index: list[int]) -> torch.Tensor:
    """The conditioning of some images of a batch (k, tokens, width)."""
    if isinstance(conditioning, torch.Tensor):
        return conditioning[index]
    return generator.text([conditioning[i] for i in index])
