"""Diffusion Inversion (Zhou, Sahak, Ba 2023): one embedding for each real image, the model frozen.

The published loop encodes its images at every step and moves rows that are not in the batch. Here
images are encoded once, and an embedding depends on its own image alone: its timesteps and noise
come from (seed, source, step). Batch size and order change nothing.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor

from lib.core import compute, progress
from lib.data.imageset import ImageSet
from lib.data.pictures import fit
from lib.diffusion.model import Generator, class_conditioning, pixels

PROBES = 8  # timesteps, evenly spread, of a validation loss; always with the same noise
RESTARTS = 3  # of an embedding whose loss is not finite, before it is given up
RESTART_FACTOR = 0.3  # of the learning rate at each restart
RIVALS = 9  # embeddings that an image's own is compared with; chance is one in ten
CHOICES = {"lr_scheduler": ("constant", "cosine"), "init": ("random", "class", "mean"),
           "timestep_sampling": ("uniform", "sensitive")}


class InversionError(ValueError):
    """Images or settings that cannot be inverted; the message says which can."""


@dataclass(frozen=True)
class Inversion:
    """How to invert. Published: 5 vectors, 3,000 to 8,000 steps, constant lr, random start."""

    num_vectors: int = 5  # of an embedding, at most the generator's own number
    max_train_steps: int = 3000  # updates of each embedding
    lr: float = 3e-2
    lr_scheduler: str = "constant"  # or "cosine", down to zero
    init: str = "random"  # or the conditioning of the image's "class", or the "mean" of all
    timestep_sampling: str = "uniform"  # "sensitive": more where the embedding matters, weighted
    batch_size: int = 50  # embeddings at once
    num_validations: int = 10  # points of the validation curve after the first; 0: the last alone
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    gradient_checkpointing: bool = False  # less memory, a third more time

    def __post_init__(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise InversionError(f"inversion.{name} is {getattr(self, name)!r}: use one of "
                                     f"{', '.join(choices)}")
        if min(self.num_vectors, self.max_train_steps, self.batch_size) < 1 or self.lr <= 0:
            raise InversionError("inversion needs num_vectors, max_train_steps, batch_size and lr "
                                 f"above 0; got {self}")

    def validation_steps(self) -> list[int]:
        """Updates after which the validation loss is taken, `max_train_steps` the last."""
        parts = self.num_validations
        return sorted({round(self.max_train_steps * k / parts) for k in range(parts + 1)}
                      if parts else {self.max_train_steps})

    def lr_at(self, step: int) -> float:
        """Learning rate of an update, relative to `lr`."""
        if self.lr_scheduler == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * step / self.max_train_steps))


@dataclass(frozen=True)
class EncodedImages:
    """Latents (n, c, h, w) on the CPU, label and source id of each."""

    latents: torch.Tensor
    labels: Sequence[int]
    ids: Sequence[str]
    classes: Sequence[str]
    seed: int  # of all timesteps and noise
    std: torch.Tensor | None = None  # of the autoencoder's posterior, where it has one

    @classmethod
    @torch.no_grad()
    def encode(cls, generator: Generator, images: ImageSet, seed: int,
               batch: int = 64) -> EncodedImages:
        """Images of any size, resized to the generator's own."""
        resized = [fit(image, generator.resolution) for image in images.images]
        latents, std = pixels(np.stack(resized)), None
        if generator.vae is not None:
            posteriors = [generator.posterior(part) for part in latents.split(batch)]
            means = torch.cat([posterior.mode() for posterior in posteriors])
            latents = generator.scaled(means.float().cpu())
            if not posteriors[0].deterministic:
                std = torch.cat([posterior.std for posterior in posteriors]).float().cpu()
                std = std * generator.vae.config.scaling_factor
        return cls(latents, images.labels, images.sources, images.classes, seed, std)

    def draw(self, rows: Sequence[int],
             step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents, uniform numbers (k,) in [0, 1) that choose timesteps, and noise of an update."""
        rngs = [compute.generator(self.seed, "inversion", self.ids[i], step) for i in rows]
        uniform = torch.stack([torch.rand((), generator=rng) for rng in rngs])
        noise, latents = self._noise(rngs), self.latents[rows]
        if self.std is not None:
            latents = latents + self.std[rows] * self._noise(rngs)
        return latents, uniform, noise

    def probe_noise(self, rows: Sequence[int], probes: Sequence[int]) -> torch.Tensor:
        """Noise (k, c, h, w) of validation: always the same for an image and probe."""
        return self._noise([compute.generator(self.seed, "probe", self.ids[i], probe)
                            for i, probe in zip(rows, probes, strict=True)])

    def _noise(self, rngs: list[torch.Generator]) -> torch.Tensor:
        shape = (len(rngs), *self.latents.shape[1:])
        return randn_tensor(shape, generator=rngs, dtype=torch.float32)


@dataclass(frozen=True)
class Embeddings:
    """Learned embeddings of n images, on the CPU."""

    values: torch.Tensor  # (n, num_vectors, width) float32
    curves: torch.Tensor  # (n, validations) losses; NaN where an embedding was given up
    restarts: torch.Tensor  # (n,) at lower learning rates
    given_up: torch.Tensor  # (n,) bool: the value is the conditioning of the class
    labels: np.ndarray  # (n,) int64
    ids: tuple[str, ...]  # of the source images
    classes: tuple[str, ...]

    @property
    def losses(self) -> torch.Tensor:
        """Validation loss (n,) at the end."""
        return self.curves[:, -1]

    def mean(self) -> torch.Tensor:
        """The mean embedding (num_vectors, width), which guidance pushes away from."""
        return self.values[~self.given_up].mean(0)


def invert(generator: Generator, images: EncodedImages, config: Inversion,
           conditioning: torch.Tensor | None = None) -> Embeddings:
    """One embedding for each image; `conditioning` (classes, tokens, width) if it is known."""
    if conditioning is None:
        conditioning = class_conditioning(generator, images.classes)
    _check(generator, images, config, conditioning)
    conditioning = conditioning[:, :config.num_vectors].float().to(generator.device)
    start = initial_values(conditioning, images, config.init)
    values, restarts = start.clone(), torch.zeros(len(start), dtype=torch.long)
    curves = torch.full((len(start), len(config.validation_steps())), torch.nan)
    rows = list(range(len(start)))
    with progress.track("invert", len(rows) * config.max_train_steps) as bar:
        for attempt in range(RESTARTS + 1):
            lr = config.lr * RESTART_FACTOR**attempt
            values[rows], curves[rows] = _train(generator, images, rows, start, config, lr, bar)
            finite = values.isfinite().flatten(1).all(1).cpu() & curves.isfinite().all(1)
            rows = (~finite).nonzero()[:, 0].tolist()
            if not rows or attempt == RESTARTS:
                break
            restarts[rows] += 1
            bar.total += len(rows) * config.max_train_steps
    if rows:
        values[rows], curves[rows] = conditioning[np.asarray(images.labels)[rows]], torch.nan
        progress.say(f"given up, the loss is not a number: {len(rows)} of {len(start)} images, the "
                     f"first {', '.join(images.ids[i] for i in rows[:5])}")
    return Embeddings(values.cpu(), curves, restarts, ~finite, np.asarray(images.labels),
                      tuple(images.ids), tuple(images.classes))


def initial_values(conditioning: torch.Tensor, images: EncodedImages, init: str) -> torch.Tensor:
    """Where each embedding starts (n, num_vectors, width) float32."""
    if init == "class":
        return conditioning[torch.as_tensor(np.asarray(images.labels), device=conditioning.device)]
    if init == "mean":
        return conditioning.mean(0).expand(len(images.ids), -1, -1).clone()
    rngs = [compute.generator(images.seed, "start", name) for name in images.ids]
    uniform = torch.stack([torch.rand(conditioning.shape[1:], generator=rng) for rng in rngs])
    return (0.2 * uniform - 0.1).to(conditioning)  # as a linear layer's weights over 100 images


def denoising_loss(generator: Generator, latents: torch.Tensor, conditioning: torch.Tensor,
                   t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Mean squared error (n,) of each image's output, noise or v."""
    latents, noise = (part.to(generator.device, generator.dtype) for part in (latents, noise))
    output = generator.predict(generator.add_noise(latents, noise, t), t.to(generator.device),
                               conditioning.to(generator.dtype))
    return (output - generator.target(latents, noise, t)).float().square().mean((1, 2, 3))


@torch.no_grad()
def validation_loss(generator: Generator, images: EncodedImages, rows: Sequence[int],
                    values: torch.Tensor, batch: int = 64) -> torch.Tensor:
    """Mean loss (k,) of these images, each under its value, at the probes' timesteps and noise."""
    losses = [denoising_loss(generator, latents, values[places], t, noise)
              for places, latents, t, noise in _probes(generator, images, rows, batch)]
    return torch.cat(losses).view(-1, PROBES).mean(1)


def sensitivity(generator: Generator, images: EncodedImages, rows: Sequence[int],
                values: torch.Tensor, batch: int) -> torch.Tensor:
    """Density (k, PROBES), mean 1, of timesteps: half uniform, half as large as the gradient."""
    norms = []
    for places, latents, t, noise in _probes(generator, images, rows, batch):
        leaf = values[places].detach().requires_grad_()
        loss = denoising_loss(generator, latents, leaf, t, noise).sum()
        norms.append(torch.autograd.grad(loss, leaf)[0].flatten(1).norm(dim=1).cpu())
    norm = torch.cat(norms).view(-1, PROBES).nan_to_num(0, 0, 0) + 1e-12
    return 0.5 + 0.5 * norm / norm.mean(1, keepdim=True)


def timesteps(uniform: torch.Tensor, density: torch.Tensor,
              total: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Timesteps (k,) of uniform numbers under densities (k, PROBES), and their loss weights."""
    edges = density.double().cumsum(1) / PROBES
    part = (uniform[:, None] >= edges[:, :-1]).sum(1, keepdim=True)
    local = density.gather(1, part)
    within = (uniform[:, None] - (edges.gather(1, part) - local / PROBES)) / (local / PROBES)
    t = ((part + within.clamp(0, 1)) / PROBES * total).long().clamp(max=total - 1)
    return t[:, 0], (1 / local)[:, 0]  # weights that keep the mean loss that of uniform timesteps


def probe_timesteps(generator: Generator, probes: Sequence[int]) -> torch.Tensor:
    """The timesteps (k,) of probes: the middle of the kth part."""
    total = generator.scheduler.config.num_train_timesteps
    return ((torch.tensor(probes) + 0.5) / PROBES * total).long()


def identify(generator: Generator, images: EncodedImages, embeddings: Embeddings,
             rows: Sequence[int], batch: int = 80) -> np.ndarray:
    """Whether (k,) an image's loss is lowest under its own embedding of ten, half of its class."""
    pairs = [(i, j) for i in rows for j in (i, *_rivals(embeddings, i, images.seed))]
    losses = []
    for start in progress.each("identify", range(0, len(pairs), batch)):
        sources, owners = (list(part) for part in zip(*pairs[start:start + batch], strict=True))
        values = embeddings.values[owners].to(generator.device)
        losses.append(validation_loss(generator, images, sources, values).cpu())
    return (torch.cat(losses).view(len(rows), -1).argmin(1) == 0).numpy()


def _train(generator: Generator, images: EncodedImages, rows: list[int], start: torch.Tensor,
           config: Inversion, lr: float, bar: progress.Bar) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and curves of these rows, as many at once as memory allows."""
    values, curves, batch = [], [], config.batch_size
    with _gradient_checkpointing(generator, config.gradient_checkpointing):
        while len(values) < len(rows):
            group = rows[len(values):len(values) + batch]
            try:
                trained = _train_group(generator, images, group, start[group], config, lr, bar)
            except torch.OutOfMemoryError:
                batch = _reduce_memory(generator, batch)
                continue
            values += trained[0]
            curves += trained[1]
    return torch.stack(values), torch.stack(curves)


def _train_group(generator: Generator, images: EncodedImages, rows: list[int],
                 start: torch.Tensor, config: Inversion, lr: float,
                 bar: progress.Bar) -> tuple[torch.Tensor, torch.Tensor]:
    """Values (k, num_vectors, width) and curves (k, validations); AdamW treats rows apart."""
    values = start.clone().requires_grad_()
    optimizer = torch.optim.AdamW([values], lr, config.betas, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, config.lr_at)
    density, curves = torch.ones(len(rows), PROBES), []
    if config.timestep_sampling == "sensitive":
        density = sensitivity(generator, images, rows, start, config.batch_size)
    total = generator.scheduler.config.num_train_timesteps
    for step in range(config.max_train_steps + 1):
        if step in config.validation_steps():
            curves.append(validation_loss(generator, images, rows, values, config.batch_size))
        if step == config.max_train_steps:
            break
        latents, uniform, noise = images.draw(rows, step)
        t, weights = timesteps(uniform, density, total)
        losses = denoising_loss(generator, latents, values, t, noise)
        (values.grad,) = torch.autograd.grad((losses * weights.to(losses)).sum(), values)
        optimizer.step()
        schedule.step()
        bar.add(len(rows))
    return values.detach(), torch.stack(curves, 1).cpu()


def _probes(generator: Generator, images: EncodedImages, rows: Sequence[int],
            batch: int) -> Iterator[tuple]:
    """Every row at each of its probes: places in `rows`, latents, timesteps and noise."""
    pairs = [(place, probe) for place in range(len(rows)) for probe in range(PROBES)]
    for start in range(0, len(pairs), batch):
        places, probes = (list(part) for part in zip(*pairs[start:start + batch], strict=True))
        index = [rows[place] for place in places]
        yield (places, images.latents[index], probe_timesteps(generator, probes),
               images.probe_noise(index, probes))


def _rivals(embeddings: Embeddings, i: int, seed: int) -> list[int]:
    """Nine other embeddings, five of them of the class of image i where it has so many."""
    labels, rng = embeddings.labels, compute.generator(seed, "rivals", embeddings.ids[i])
    order = torch.randperm(len(labels), generator=rng).tolist()
    same = [j for j in order if j != i and labels[j] == labels[i]]
    others = [j for j in order if labels[j] != labels[i]]
    chosen = same[:max((RIVALS + 1) // 2, RIVALS - len(others))]
    return [*chosen, *others[:RIVALS - len(chosen)]]


def _check(generator: Generator, images: EncodedImages, config: Inversion,
           conditioning: torch.Tensor) -> None:
    """Shapes and counts that fit, before anything is computed."""
    if tuple(images.latents.shape[1:]) != generator.shape:
        raise InversionError(
            f"latents of shape {tuple(images.latents.shape[1:])} for a generator of "
            f"{generator.shape}: make them with `EncodedImages.encode(generator, images, seed)`")
    counts = len(images.latents), len(images.labels), len(images.ids)
    if len(set(counts)) > 1:
        raise InversionError("{} latents, {} labels and {} ids: give as many of each"
                             .format(*counts))
    if config.num_vectors > conditioning.shape[1]:
        raise InversionError(f"inversion.num_vectors is {config.num_vectors}: this generator's "
                             f"conditioning has {conditioning.shape[1]}")


@contextlib.contextmanager
def _gradient_checkpointing(generator: Generator, enable: bool) -> Iterator[None]:
    """With activations checkpointed or not; afterwards they are not."""
    if enable:
        generator.unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        generator.unet.disable_gradient_checkpointing()


def _reduce_memory(generator: Generator, batch: int) -> int:
    """After running out of memory: activations are checkpointed, then the batch is halved."""
    if not generator.unet.is_gradient_checkpointing:
        generator.unet.enable_gradient_checkpointing()
        progress.say(f"out of memory at {batch} images at once: continuing with activations "
                     "checkpointed")
        return batch
    if batch == 1:
        raise InversionError("out of memory with a single image, its activations checkpointed: use "
                             "a smaller generator or another device")
    progress.say(f"out of memory at {batch} images at once: continuing with {batch // 2}")
    return batch // 2
