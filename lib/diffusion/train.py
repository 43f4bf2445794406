"""Training a generator: one loop for the shipped model and for class-conditional diffusion, in latents or pixels.

Every step's draws come from a generator made from (seed, step), so a run that was stopped goes on as if nothing had
been. The rate warms up, stays, and falls to zero over the last part; a resumed run may be given other `steps`. Under
torchrun each process takes its part of the same batch: with one thread a process they wait for each other once a step,
or once in several, and not once an operation, which is what two busy cores want.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file

from lib.core import compute, progress
from lib.diffusion import precision as probe
from lib.diffusion.model import Generator
from lib.diffusion.precision import Way

STATE = "state.safetensors"


@dataclass(frozen=True)
class TrainConfig:
    """How to train."""

    steps: int
    batch: int = 128
    rate: float = 1e-3
    warmup: int = 200  # steps
    decay: float = 0.3  # last share of the steps, over which the rate falls to zero
    ema: float = 0.999  # the weights that are kept are an average over about 1 / (1 - ema) steps
    drop: float = 0.1  # share of examples whose condition is hidden, so that guidance has something to push away from
    late: float = 1.0  # above 1 more of the noisy diffusion steps are drawn, in which the layout is decided
    snr: float = 0.0  # min-SNR weighting's gamma (Hang et al. 2023), 5 in the paper; 0: every step counts the same
    weight_decay: float = 0.01
    seed: int = 0
    keep: int = 500  # steps between two checkpoints
    meet: int = 1  # steps between two meetings of the processes, if several; 1 equals one process with the whole batch


@dataclass(frozen=True)
class Examples:
    """What is learned: latents (views, n, c, h, w), e.g. an image and its mirror image, and what goes with each.

    `raw` is what `Generator.condition` takes: labels (n,), or token ids of several captions an image (n, k, tokens).
    `channels` (c,) and `places` (views, n, h, w) say how much each counts in the loss; all alike by default.
    """

    latents: torch.Tensor
    raw: torch.Tensor
    channels: torch.Tensor | float = 1.0
    places: torch.Tensor | None = None

    def first(self, n: int) -> Examples:
        """The first n, every place alike."""
        return Examples(self.latents[:, :n], self.raw[:n], self.channels)

    def draw(self, n: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """n examples with replacement: latents (n, c, h, w), conditions (n,) or (n, tokens), weights of places (n, 1, h, w)."""
        index = torch.randint(self.latents.shape[1], (n,), generator=rng)
        view = torch.randint(self.latents.shape[0], (n,), generator=rng)
        latents = self.latents[view, index].float()
        places = torch.ones(n, 1, 1, 1) if self.places is None else self.places[view, index].float()[:, None]
        if self.raw.ndim == 1:
            return latents, self.raw[index], places
        caption = torch.randint(self.raw.shape[1], (n,), generator=rng)
        return latents, self.raw[index, caption].long(), places


def fit(generator: Generator, examples: Examples, recipe: TrainConfig, folder: Path | None = None,
        look: Callable[[int, Generator], None] | None = None, way: Way | None = None) -> list[float]:
    """Train in place; afterwards the generator holds the averaged weights. Returns the mean loss of each `keep` steps.

    With a folder the run can be stopped at any moment and goes on from its last checkpoint. `look(step, generator)` is
    called at each checkpoint with the averaged weights in place, to draw samples as it goes. `way` is what `probe.learning`
    found to be fastest.
    """
    way, weights = way or probe.candidates(generator.device, learning=True)[0], generator.learned()
    optimiser = torch.optim.AdamW(weights, recipe.rate, betas=(0.9, 0.99), weight_decay=recipe.weight_decay, fused=True)
    average = [w.detach().clone() for w in weights]
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    start, losses = resume(folder, weights, average, optimiser)
    nothing, recent = generator.nothing()[0], []
    _train_mode(generator, True)
    with progress.track("fit generator", recipe.steps, start, quiet=rank > 0) as bar:
        for step in range(start, recipe.steps):
            rng = compute.generator(recipe.seed, "fit", step)
            latents, raw, places = examples.draw(recipe.batch, rng)
            raw[torch.rand(len(raw), generator=rng) < recipe.drop] = nothing
            noise, t = torch.randn(latents.shape, generator=rng), steps_of(len(latents), generator, rng, recipe.late)
            latents, raw, places, noise, t = (whole[rank::ranks] for whole in (latents, raw, places, noise, t))
            latents, places, noise = (part.to(generator.device) for part in (latents, places, noise))

            with probe.lowered(generator.device, way):
                noisy = generator.blend(latents, noise, t)
                output = generator.predict(noisy, t.to(noisy.device), generator.condition(raw))
            error = ((output.float() - generator.target(latents, noise, t)).square() * places).mean((2, 3)) * examples.channels
            loss = (error.mean(1) * weight_of(t, generator, recipe.snr)).mean()
            loss.backward()

            if recipe.meet == 1:
                _mean_of_all([w.grad for w in weights], ranks)
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            for group in optimiser.param_groups:
                group["lr"] = rate_of(step, recipe)
            optimiser.step()
            optimiser.zero_grad()
            if recipe.meet > 1 and (step + 1) % recipe.meet == 0:
                _mean_of_all(weights, ranks)
            with torch.no_grad():  # early averages are short, or they would remember the random start
                torch._foreach_lerp_(average, list(weights), 1 - min(recipe.ema, (1 + step) / (10 + step)))

            recent.append(loss.item())
            bar.add(1, f"loss {recent[-1]:.3f}")
            if (step + 1) % recipe.keep == 0 or step + 1 == recipe.steps:
                losses.append(sum(recent) / len(recent))
                recent = []
                keep(folder if rank == 0 else None, step + 1, losses, weights, average, optimiser)
                if ranks > 1:
                    dist.barrier()  # none goes on from a state that is not written yet
                if look is not None and rank == 0:
                    _swap(weights, average)
                    _train_mode(generator, False)
                    look(step + 1, generator)
                    _train_mode(generator, True)
                    _swap(weights, average)
    _swap(weights, average)
    _train_mode(generator, False)
    return losses


@torch.no_grad()
def _mean_of_all(tensors, ranks: int) -> None:
    """Every process's tensors become the mean of all: of gradients each step, or of weights now and then (local SGD)."""
    if ranks > 1:
        flat = torch.cat([tensor.flatten() for tensor in tensors]) / ranks
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def rate_of(step: int, recipe: TrainConfig) -> float:
    """Warm-up, stay, then 1 - sqrt down to zero, the shape that lost least in published comparisons."""
    falling = recipe.steps * (1 - recipe.decay)
    down = 1 - max(0.0, (step - falling) / max(1.0, recipe.steps - falling)) ** 0.5
    return recipe.rate * min(1.0, (step + 1) / max(1, recipe.warmup)) * down


def steps_of(n: int, generator: Generator, rng: torch.Generator, late: float = 1.0) -> torch.Tensor:
    """Diffusion steps (n,), one in each nth of their distribution: less noise in the loss than independent draws."""
    spread = (torch.randperm(n, generator=rng) + torch.rand(n, generator=rng)) / n
    return (spread ** (1 / late) * generator.scheduler.config.num_train_timesteps).long()


def weight_of(t: torch.Tensor, generator: Generator, gamma: float) -> torch.Tensor:
    """Min-SNR weights (n,) of the loss in the network's own output; ones where gamma is 0."""
    kept = generator.scheduler.alphas_cumprod[t].to(generator.device)
    if not gamma:
        return torch.ones_like(kept)
    snr = kept / (1 - kept)
    return snr.clamp(max=gamma) / (snr if generator.prediction == "epsilon" else snr + 1)


def keep(folder: Path | None, step: int, losses: list[float], weights, average, optimiser) -> None:
    """Everything that the next step needs, in one file that appears at once or not at all."""
    if folder is None:
        return
    moments = [optimiser.state[w] for w in weights]
    lists = {"weights": [w.detach() for w in weights], "average": average,
             "first": [m["exp_avg"] for m in moments], "second": [m["exp_avg_sq"] for m in moments]}
    tensors = {f"{name}.{i}": tensor.contiguous() for name, many in lists.items() for i, tensor in enumerate(many)}
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{STATE}.partial"
    save_file(tensors, partial, metadata={"step": str(step), "losses": json.dumps(losses)})
    os.replace(partial, folder / STATE)


@torch.no_grad()
def resume(folder: Path | None, weights, average, optimiser) -> tuple[int, list[float]]:
    """Put the last checkpoint in place, if there is one; returns its step and losses."""
    if folder is None or not (folder / STATE).is_file():
        return 0, []
    with safe_open(folder / STATE, "pt") as state:
        about = state.metadata()
        for i, (weight, mean) in enumerate(zip(weights, average, strict=True)):
            weight.copy_(state.get_tensor(f"weights.{i}"))
            mean.copy_(state.get_tensor(f"average.{i}"))
            optimiser.state[weight] = {"step": torch.tensor(float(about["step"]), device=weight.device),
                                       "exp_avg": state.get_tensor(f"first.{i}").to(weight.device),
                                       "exp_avg_sq": state.get_tensor(f"second.{i}").to(weight.device)}
    return int(about["step"]), json.loads(about["losses"])


def _train_mode(generator: Generator, on: bool) -> None:
    """Gradients and training mode for what is learned; the autoencoder stays as it is."""
    for name, part in generator.parts().items():
        if name != "vae":
            part.train(on).requires_grad_(on)


@torch.no_grad()
def _swap(weights, average) -> None:
    """Exchange the weights in use and their average."""
    for weight, mean in zip(weights, average, strict=True):
        kept = weight.clone()
        weight.copy_(mean)
        mean.copy_(kept)
