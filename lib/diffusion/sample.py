"""Sampling in which an image depends on its seed alone: the same in any batch, shard or order.

Defaults to DPM-Solver++ 2M; any diffusers scheduler by name. An image that comes out broken (not
finite, constant, or the black of a safety checker) is sampled again from a new, recorded seed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import diffusers
import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from diffusers.utils.torch_utils import randn_tensor

from lib.core import progress
from lib.core.compute import seed_of
from lib.diffusion.hub import GeneratorError
from lib.diffusion.model import Generator, to_uint8

SCHEDULERS = {
    "DPMSolver++": "DPMSolverMultistepScheduler",
    "DDIM": "DDIMScheduler",
    "DDPM": "DDPMScheduler",
    "PNDM": "PNDMScheduler",
    "Euler": "EulerDiscreteScheduler",
    "UniPC": "UniPCMultistepScheduler",
}
TRIES = 3  # samples of one image before a fault is kept and reported


@dataclass(frozen=True)
class Sample:
    """One image, its seed, and the seed that made it (another one after a faulty sample)."""

    image: np.ndarray  # (h, w, 3) uint8
    asked: int
    seed: int
    faults: tuple[str, ...] = ()  # of the samples that were discarded
    fault: str = ""  # of this image, where even the last sample had one


@dataclass(frozen=True)
class Sampler:
    """How to sample."""

    guidance_scale: float = 3.0  # 1: none; larger: closer to the prompt, less variety
    num_inference_steps: int = 16
    scheduler: str = "DPMSolver++"  # or a diffusers class name
    guidance_interval: tuple[float, float] = (0.0, 1.0)  # of the steps (Kynkäänniemi et al. 2024)
    guidance_rescale: float = 0.0  # against over-exposure (Lin et al. 2023)
    batch_size: int = 64

    @classmethod
    def from_section(cls, section, **changes) -> Sampler:
        """From a section of the settings, or from the settings of an artifact."""
        values = section if isinstance(section, dict) else section.model_dump()
        values = {name: values[name] for name in cls.__annotations__ if name in values} | changes
        interval = tuple(values.get("guidance_interval", cls.guidance_interval))
        return cls(**values | {"guidance_interval": interval})


PLAIN = Sampler()


def sample(generator: Generator, conditioning: Sequence[str] | torch.Tensor, seeds: Sequence[int],
           sampler: Sampler = PLAIN, against: torch.Tensor | None = None) -> Iterator[Sample]:
    """One image for each prompt, or row of conditioning (n, tokens, width), and its seed, in order.

    Guidance pushes away from `against` (tokens, width); by default from no words or no class.
    """
    if len(conditioning) != len(seeds):
        raise GeneratorError(f"{len(conditioning)} prompts or conditionings for {len(seeds)} "
                             "seeds: give one each")
    batch, start = sampler.batch_size, 0
    while start < len(seeds):
        part = slice(start, start + batch)
        try:
            samples = _without_faults(generator, conditioning[part], list(seeds[part]), sampler,
                                      against)
        except torch.OutOfMemoryError:
            batch = _reduce_memory(generator, batch)
            continue
        yield from samples
        start += batch


@torch.no_grad()
def denoise(generator: Generator, conditioning: torch.Tensor, seeds: Sequence[int],
            sampler: Sampler, against: torch.Tensor | None = None) -> torch.Tensor:
    """Float images (n, 3, h, w) of one batch: the loop of diffusers' pipeline, a seed an image."""
    scheduler = build_scheduler(generator, sampler.scheduler)
    scheduler.set_timesteps(sampler.num_inference_steps, device=generator.device)
    noise, rngs = initial_noise(seeds, generator.shape)
    latents = noise.to(generator.device, generator.dtype) * scheduler.init_noise_sigma
    if against is None:
        against = generator.condition(generator.unconditional())[0]
    conditioning = conditioning.to(generator.device, generator.dtype)
    pair = torch.cat([against.to(conditioning).expand_as(conditioning), conditioning])
    takes_rng = "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": rngs} if takes_rng else {}
    first, last = (share * len(scheduler.timesteps) for share in sampler.guidance_interval)
    for step, t in enumerate(scheduler.timesteps):
        guided = sampler.guidance_scale != 1 and first <= step < last
        both = scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, t)
        output = generator.predict(both, t, pair if guided else conditioning)
        if guided:
            output = _guide(output, sampler)
        latents = scheduler.step(output, t, latents, return_dict=False, **options)[0]
    return generator.decode(latents)


def initial_noise(seeds: Sequence[int],
                  shape: tuple[int, int, int]) -> tuple[torch.Tensor, list[torch.Generator]]:
    """Each image's noise (n, c, h, w) from its own seed on the CPU, and the random generators."""
    rngs = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    return randn_tensor((len(rngs), *shape), generator=rngs, dtype=torch.float32), rngs


def build_scheduler(generator: Generator, name: str):
    """A fresh diffusers scheduler with the noise levels that the generator was trained on."""
    kind = getattr(diffusers, SCHEDULERS.get(name, name), None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise GeneratorError(f"no scheduler named {name!r}: use one of {', '.join(SCHEDULERS)}, or "
                             "the class name of any other in diffusers.schedulers")
    clips = "clip_sample" in inspect.signature(kind).parameters  # by default, for pixels only
    return kind.from_config(generator.scheduler.config, **({"clip_sample": False} if clips else {}))


def find_fault(image: np.ndarray, finite: bool = True) -> str:
    """What is wrong with an image (h, w, 3), or nothing; a safety checker paints all black."""
    if not finite:
        return "not a number"
    if image.max() == 0:
        return "black"
    return "constant" if np.ptp(image.reshape(-1, image.shape[-1]), axis=0).max() == 0 else ""


def count_faults(samples: Sequence[Sample]) -> dict[str, int]:
    """Samples by fault, those that were repeated and those that were kept."""
    kinds = [fault for sample in samples for fault in (*sample.faults, sample.fault) if fault]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def _guide(output: torch.Tensor, sampler: Sampler) -> torch.Tensor:
    """Classifier-free guidance of the two halves of an output."""
    away, towards = output.chunk(2)
    output = away + sampler.guidance_scale * (towards - away)
    if sampler.guidance_rescale:
        output = rescale_noise_cfg(output, towards, guidance_rescale=sampler.guidance_rescale)
    return output


def _without_faults(generator, conditioning, seeds, sampler, against) -> list[Sample]:
    """A batch, its faulty images sampled again from seeds derived from their own."""
    samples = [Sample(np.empty(0), seed, seed) for seed in seeds]
    faulty = list(range(len(seeds)))
    for attempt in range(TRIES):
        new = [seed_of(seeds[i], "again", attempt) if attempt else seeds[i] for i in faulty]
        rows = _select(generator, conditioning, faulty)
        images = denoise(generator, rows, new, sampler, against)
        finite = images.isfinite().flatten(1).all(1).tolist()
        for i, seed, image, sound in zip(faulty, new, to_uint8(images), finite, strict=True):
            before = (*samples[i].faults, samples[i].fault) if attempt else ()
            samples[i] = replace(samples[i], image=image, seed=seed, faults=before,
                                 fault=find_fault(image, sound))
        faulty = [i for i in faulty if samples[i].fault]
        if not faulty:
            break
    return samples


def _select(generator: Generator, conditioning, index: list[int]) -> torch.Tensor:
    """The conditioning (k, tokens, width) of some images of a batch."""
    if isinstance(conditioning, torch.Tensor):
        return conditioning[index]
    return generator.text([conditioning[i] for i in index])


def _reduce_memory(generator: Generator, batch: int) -> int:
    """After running out of memory: attention and autoencoder in slices, then half the batch."""
    if not generator.sliced and generator.unet.config.sample_size >= 32:
        generator.sliced = True
        generator.unet.set_attention_slice("auto")
        if hasattr(generator.vae, "enable_slicing"):
            generator.vae.enable_slicing()
        progress.say(f"out of memory at {batch} images a batch: attention and autoencoder slice "
                     "by slice")
        return batch
    if batch == 1:
        raise GeneratorError("out of memory with one image a batch: a smaller model, or a device "
                             "with more memory, is needed")
    progress.say(f"out of memory at {batch} images a batch: continuing with {batch // 2}")
    return batch // 2
