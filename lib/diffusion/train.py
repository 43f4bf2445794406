"""The one training loop of diffusion models: text or classes, latents or pixels.

All random numbers of a step come from (seed, step), so an interrupted run continues exactly.
Checkpoints have a hash; a run whose loss is not a number stops and keeps the last good one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel, compute_snr
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lib.core import compute, precision, progress
from lib.diffusion.hub import GeneratorError
from lib.diffusion.model import Generator

KEPT_CHECKPOINTS = 2
LISTS = ("weights", "average", "first", "second")  # first and second moments of AdamW


class TrainingDiverged(GeneratorError):
    """The loss is not a number; the message names the step and the last good checkpoint."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train a generator."""

    max_train_steps: int
    batch_size: int = 128
    lr: float = 1e-3
    lr_warmup_steps: int = 200
    lr_decay: float = 0.3  # last share of the steps, over which the learning rate falls to zero
    ema_decay: float = 0.999
    condition_dropout: float = 0.1  # share of examples without their condition, for guidance
    timestep_shift: float = 1.0  # above 1: more of the noisy timesteps, which decide the layout
    snr_gamma: float = 0.0  # of min-SNR weighting (Hang et al. 2023); 0: none
    weight_decay: float = 0.01
    seed: int = 0
    checkpointing_steps: int = 500

    @classmethod
    def from_section(cls, section) -> TrainConfig:
        """From section `generation` or `inversion` of the settings."""
        steps = section.generator_train_steps
        names = ("lr", "lr_decay", "ema_decay", "condition_dropout", "snr_gamma", "weight_decay")
        return cls(steps, section.generator_batch_size,
                   lr_warmup_steps=int(section.generator_lr_warmup * steps),
                   checkpointing_steps=max(20, steps // 3),
                   **{name: getattr(section, f"generator_{name}") for name in names})


@dataclass(frozen=True)
class Examples:
    """Latents (views, n, c, h, w), e.g. an image and its mirror image, and the condition of each.

    `conditions` is what `Generator.condition` takes: labels (n,), or token ids of several captions
    per image (n, k, tokens). `channels` (c,) and `places` (views, n, h, w) weight the loss.
    """

    latents: torch.Tensor
    conditions: torch.Tensor
    channels: torch.Tensor | float = 1.0
    places: torch.Tensor | None = None

    def first(self, n: int) -> Examples:
        """The first n, all places weighted alike."""
        return Examples(self.latents[:, :n], self.conditions[:n], self.channels)

    def batch(self, n: int,
              rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """n examples with replacement: latents, conditions, weights of places (n, 1, h, w)."""
        index = torch.randint(self.latents.shape[1], (n,), generator=rng)
        view = torch.randint(self.latents.shape[0], (n,), generator=rng)
        latents = self.latents[view, index].float()
        places = torch.ones(n, 1, 1, 1)
        if self.places is not None:
            places = self.places[view, index].float()[:, None]
        if self.conditions.ndim == 1:
            return latents, self.conditions[index], places
        caption = torch.randint(self.conditions.shape[1], (n,), generator=rng)
        return latents, self.conditions[index, caption].long(), places


Callback = Callable[[int, Generator], None]


def train(generator: Generator, examples: Examples, config: TrainConfig,
          folder: Path | None = None, callback: Callback | None = None,
          compute_in: str = "float32") -> list[float]:
    """Train in place; afterwards the generator holds the averaged weights.

    Returns the mean loss between checkpoints. With a folder, an interrupted run continues from its
    last checkpoint. `callback(step, generator)` is called at each, the averaged weights in place.
    """
    state = TrainState(generator, config, folder)
    start, losses = state.resume()
    recent = []
    _set_training(generator.attend(compute_in), True)
    with progress.track("train generator", config.max_train_steps, start) as bar:
        for step in range(start, config.max_train_steps):
            recent.append(_train_step(generator, examples, config, state, step, compute_in))
            bar.add(1, f"loss {recent[-1]:.3f}")
            last = step + 1 == config.max_train_steps
            if last or (step + 1) % config.checkpointing_steps == 0:
                losses.append(sum(recent) / len(recent))
                recent = []
                state.save(step + 1, losses)
                if callback is not None:
                    _call(callback, step + 1, generator, state.average)
    state.average.copy_to(generator.learned())
    _set_training(generator, False)
    return losses


def _train_step(generator: Generator, examples: Examples, config: TrainConfig, state: TrainState,
                step: int, compute_in: str) -> float:
    """One optimiser step; returns the loss."""
    rng, device = compute.generator(config.seed, "fit", step), generator.device
    latents, conditions, places = examples.batch(config.batch_size, rng)
    dropped = torch.rand(len(conditions), generator=rng) < config.condition_dropout
    conditions[dropped] = generator.unconditional()[0]
    noise = torch.randn(latents.shape, generator=rng)
    timesteps = sample_timesteps(len(latents), generator, rng, config.timestep_shift).to(device)
    latents, places, noise = (part.to(device) for part in (latents, places, noise))
    with precision.autocast(device, compute_in):
        noisy = generator.add_noise(latents, noise, timesteps)
        output = generator.predict(noisy, timesteps, generator.condition(conditions))
    error = (output.float() - generator.target(latents, noise, timesteps)).square() * places
    error = (error.mean((2, 3)) * examples.channels).mean(1)
    loss = (error * loss_weights(timesteps, generator, config.snr_gamma)).mean()
    loss.backward()
    state.update(step, loss)
    return loss.item()


def learning_rate(step: int, config: TrainConfig) -> float:
    """Warm-up, constant, then 1 - sqrt down to zero."""
    falling = config.max_train_steps * (1 - config.lr_decay)
    progressed = max(0.0, (step - falling) / max(1.0, config.max_train_steps - falling))
    warmup = min(1.0, (step + 1) / max(1, config.lr_warmup_steps))
    return config.lr * warmup * (1 - progressed**0.5)


def sample_timesteps(n: int, generator: Generator, rng: torch.Generator,
                     shift: float = 1.0) -> torch.Tensor:
    """Timesteps (n,), one in each nth of their distribution, which makes the loss less noisy."""
    share = (torch.randperm(n, generator=rng) + torch.rand(n, generator=rng)) / n
    return (share ** (1 / shift) * generator.scheduler.config.num_train_timesteps).long()


def loss_weights(timesteps: torch.Tensor, generator: Generator, gamma: float) -> torch.Tensor:
    """Min-SNR weights (n,) for the network's own output; ones where gamma is 0."""
    if not gamma:
        return torch.ones(len(timesteps), device=timesteps.device)
    snr = compute_snr(generator.scheduler, timesteps)
    return snr.clamp(max=gamma) / (snr if generator.prediction == "epsilon" else snr + 1)


class TrainState:
    """Weights, their average and the optimiser, and the folder that keeps them."""

    def __init__(self, generator: Generator, config: TrainConfig, folder: Path | None):
        self.config, self.folder, self.weights = config, folder, generator.learned()
        self.optimizer = torch.optim.AdamW(self.weights, config.lr, betas=(0.9, 0.99),
                                           weight_decay=config.weight_decay, fused=True)
        self.average = EMAModel(self.weights, decay=config.ema_decay, foreach=True)

    def update(self, step: int, loss: torch.Tensor) -> None:
        """One step of the optimiser and of the average; refuses what is not a number."""
        norm = torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            raise TrainingDiverged(self._diverged(step))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.config)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.step(self.weights)

    def _diverged(self, step: int) -> str:
        """What to do."""
        kept = checkpoints(self.folder)
        where = (f"the last good checkpoint is {kept[-1].name}.\n{kept[-1]}" if kept else
                 "no checkpoint was kept before it.")
        return (f"training diverged: the loss is not a number at step {step + 1:,} with learning "
                f"rate {self.config.lr:g}. Lower generator_lr; {where}")

    def save(self, step: int, losses: list[float]) -> None:
        """Everything the next step needs, in a file that appears at once or not at all."""
        if self.folder is None:
            return
        moments = [self.optimizer.state[weight] for weight in self.weights]
        lists = (self.weights, self.average.shadow_params,
                 [moment["exp_avg"] for moment in moments],
                 [moment["exp_avg_sq"] for moment in moments])
        tensors = {f"{name}.{i}": tensor.detach().cpu().contiguous()
                   for name, values in zip(LISTS, lists, strict=True)
                   for i, tensor in enumerate(values)}
        about = {"state": json.dumps({"step": step, "losses": losses})}
        write_checkpoint(self.folder / f"checkpoint-{step:08}.safetensors", tensors, about)
        for old in checkpoints(self.folder)[:-KEPT_CHECKPOINTS]:
            old.with_suffix(".sha256").unlink(missing_ok=True)
            old.unlink()

    def resume(self) -> tuple[int, list[float]]:
        """Load the newest whole checkpoint; returns its step and losses."""
        for path in reversed(checkpoints(self.folder)):
            if is_whole(path):
                return self._load(path)
            progress.say(f"checkpoint {path.name} is damaged and not used: {path}")
        return 0, []

    @torch.no_grad()
    def _load(self, path: Path) -> tuple[int, list[float]]:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["state"])
            for i, weight in enumerate(self.weights):
                value, average, first, second = (
                    file.get_tensor(f"{name}.{i}").to(weight.device) for name in LISTS)
                weight.copy_(value)
                self.average.shadow_params[i].copy_(average)
                self.optimizer.state[weight] = {
                    "step": torch.tensor(float(about["step"]), device=weight.device),
                    "exp_avg": first, "exp_avg_sq": second}
        self.average.optimization_step = about["step"]
        return about["step"], about["losses"]


def checkpoints(folder: Path | None) -> list[Path]:
    """Of a run, oldest first."""
    return sorted(folder.glob("checkpoint-*.safetensors")) if folder is not None else []


def write_checkpoint(path: Path, tensors: dict[str, torch.Tensor], about: dict[str, str]) -> None:
    """The file and, before it, its hash; both are on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, hashed = path.with_suffix(".partial"), path.with_suffix(".sha256")
    try:
        save_file(tensors, partial, about)
        hashed.write_text(_sha256(partial), encoding="utf-8")
        for file in (partial, hashed):
            _to_disk(file)
        os.replace(partial, path)
        _to_disk(path.parent)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        if not path.exists():
            hashed.unlink(missing_ok=True)
        raise GeneratorError(
            f"a checkpoint cannot be written: {error}. Make room and give the same command again: "
            f"training goes on from the checkpoint before it.\n{path}") from error


def is_whole(path: Path) -> bool:
    """Whether a checkpoint has the hash that was written with it."""
    try:
        return path.with_suffix(".sha256").read_text(encoding="utf-8") == _sha256(path)
    except (OSError, ValueError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    """Wait until a file or folder survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _call(callback: Callback, step: int, generator: Generator, average: EMAModel) -> None:
    """The callback, with the averaged weights in place for its duration."""
    weights = generator.learned()
    average.store(weights)
    average.copy_to(weights)
    _set_training(generator, False)
    callback(step, generator)
    _set_training(generator, True)
    average.restore(weights)


def _set_training(generator: Generator, on: bool) -> None:
    """Gradients and training mode for what is trained; the autoencoder stays as it is."""
    for name, part in generator.parts().items():
        if name != "vae":
            part.train(on).requires_grad_(on)
