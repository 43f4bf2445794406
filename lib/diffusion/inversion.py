"""Diffusion Inversion (Zhou, Sahak, Ba 2023): one learned conditioning for each real image, under a frozen generator.

The published loop encodes its images again at every step and keeps them in groups whose optimiser moves rows that are not in
the batch. Here images are encoded once and a row is on its own: its draws come from (seed, its source, its step), its moments
and its rate from its own count. So a batch is as good as a loop, whatever its size or order, and a row that is done makes
room for the next.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lib.core import compute, progress
from lib.data import imageset as images
from lib.diffusion.model import Generator, class_rows, pixels

PROBES = 8  # diffusion steps, evenly spread, at which a row's validation loss is taken, always with the same noise
TRIES = 3  # restarts of a row whose loss is not a number, before it is given up
SLOWER = 0.3  # what a restart does to the row's rate
CHOICES = {
    "lr_scheduler": ("constant", "cosine"),
    "init": ("random", "class", "mean"),
    "timestep_sampling": ("uniform", "sensitive"),
}


class InversionError(ValueError):
    """Images or settings that cannot be inverted; the message says what can."""


@dataclass(frozen=True)
class Inversion:
    """How to invert. Published: 5 tokens, 3,000 to 8,000 steps, the rate constant, a random start, steps t uniform."""

    num_vectors: int = 5  # rows of an embedding, at most those of the generator's own conditioning
    max_train_steps: int = 3000  # updates of each row
    lr: float = 3e-2
    lr_scheduler: str = "constant"  # or "cosine", down to zero
    init: str = "random"  # or the conditioning of the row's "class", or the "mean" of all classes
    timestep_sampling: str = "uniform"  # or "sensitive": more of those where the loss depends on the embedding, weighed
    batch_size: int = 50  # rows at once
    num_validations: int = 10  # parts of the curve of validation losses; 0: taken at the end only
    stop: int = 0  # checks without a new lowest loss that end a row, which then keeps its best embedding; 0: never
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    checkpointing: bool = False  # of the U-Net's activations: less memory, a third more time

    def __post_init__(self):
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise InversionError(
                    f"inversion.{name} is {getattr(self, name)!r}: use one of {', '.join(known)}"
                )
        if min(self.num_vectors, self.max_train_steps, self.batch_size) < 1 or self.lr <= 0:
            raise InversionError(
                f"inversion needs num_vectors, max_train_steps, batch_size and lr above 0; got {self}"
            )
        if self.num_validations < 1 and (self.stop or self.timestep_sampling == "sensitive"):
            raise InversionError(
                "inversion.stop and sensitive timesteps look at the checks: set inversion.num_validations above 0"
            )

    def marks(self) -> list[int]:
        """Updates after which the validation loss is taken, the last one `steps`."""
        return (
            sorted(
                {
                    round(self.max_train_steps * k / self.num_validations)
                    for k in range(self.num_validations + 1)
                }
            )
            if self.num_validations
            else [self.max_train_steps]
        )


@dataclass(frozen=True)
class Pictures:
    """Encoded images: latents (n, c, h, w), their posterior's width where it has one, and the source id of each."""

    latents: torch.Tensor
    ids: Sequence[str]
    seed: int
    spread: torch.Tensor | None = None

    def draw(
        self, rows: list[int], steps: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents (k, c, h, w), shares (k,) in [0, 1) that stand for t, and noise, of these rows at these steps of theirs."""
        own = [
            compute.generator(self.seed, "inversion", self.ids[i], step)
            for i, step in zip(rows, steps, strict=True)
        ]
        share = torch.stack([torch.rand((), generator=each) for each in own])
        noise, latents = self._noise(own), self.latents[rows]
        if self.spread is not None:
            latents = latents + self.spread[rows] * self._noise(own)
        return latents, share, noise

    def probe(self, rows: Sequence[int], probes: Sequence[int]) -> torch.Tensor:
        """The noise (k, c, h, w) of these rows at a probe each, always the same."""
        return self._noise(
            [
                compute.generator(self.seed, "probe", self.ids[i], k)
                for i, k in zip(rows, probes, strict=True)
            ]
        )

    def _noise(self, own: list[torch.Generator]) -> torch.Tensor:
        return torch.stack([torch.randn(self.latents.shape[1:], generator=each) for each in own])


@dataclass(frozen=True)
class Inverted:
    """What was learned of n images, on the CPU."""

    embeddings: torch.Tensor  # (n, tokens, width) float32
    losses: torch.Tensor  # (n,) validation loss at the end; not a number where a row was given up
    curves: torch.Tensor  # (n, marks) validation losses; not a number after a row has stopped
    updates: torch.Tensor  # (n,) behind the embedding
    restarts: torch.Tensor  # (n,)
    given_up: torch.Tensor  # (n,) bool: the embedding is the class's own conditioning


class Table:
    """The state of n rows: embeddings and moments on the generator's device, counts beside them on the CPU."""

    def __init__(self, start: torch.Tensor, marks: int):
        n = len(start)
        self.start, self.value, self.kept = (
            start,
            start.clone(),
            start.clone(),
        )  # kept: what a row would end with
        self.first, self.second = torch.zeros_like(start), torch.zeros_like(start)
        self.density = torch.ones(n, PROBES)  # of t in each eighth of the diffusion, mean 1
        self.updates, self.restarts = (
            torch.zeros(n, dtype=torch.long),
            torch.zeros(n, dtype=torch.long),
        )
        self.curves, self.given_up = (
            torch.full((n, marks), torch.nan),
            torch.zeros(n, dtype=torch.bool),
        )
        self.loss, self.behind = (
            torch.full((n,), torch.nan),
            torch.zeros(n, dtype=torch.long),
        )  # of what is kept

    def keep(self, i: int, loss: torch.Tensor) -> None:
        """Row i as it stands."""
        self.kept[i], self.loss[i], self.behind[i] = self.value[i], loss, self.updates[i]

    def again(self, i: int, known: torch.Tensor) -> bool:
        """Row i as it began, at a lower rate; after the last try its class's conditioning (tokens, width), and False."""
        self.value[i], self.first[i], self.second[i] = self.start[i], 0, 0
        self.updates[i], self.curves[i] = 0, torch.nan
        self.given_up[i] = self.restarts[i] == TRIES
        self.restarts[i] += int(~self.given_up[i])
        if self.given_up[i]:
            self.value[i] = known
            self.keep(i, torch.tensor(torch.nan))
        return not self.given_up[i]


def invert(
    generator: Generator,
    latents: torch.Tensor,
    labels: Sequence[int],
    ids: Sequence[str],
    settings: Inversion,
    seed: int,
    known: torch.Tensor,
    spread: torch.Tensor | None = None,
) -> Inverted:
    """Embeddings of images given as latents (n, c, h, w), with the conditioning `known` (classes, tokens, width) of classes."""
    _check(generator, latents, labels, ids, settings, known)
    pictures = Pictures(latents, ids, seed, spread)
    known, marks = known[:, : settings.num_vectors].float().to(generator.device), settings.marks()
    table = Table(starts(known, labels, ids, settings, seed), len(marks))
    active, waiting, batch = [], list(range(len(ids))), settings.batch_size
    if settings.checkpointing:
        generator.unet.enable_gradient_checkpointing()
    with (
        progress.track("invert", len(ids) * settings.max_train_steps) as bar,
        contextlib.ExitStack() as after,
    ):
        after.callback(generator.unet.disable_gradient_checkpointing)
        while active or waiting:
            active, waiting = (active + waiting)[:batch], (active + waiting)[batch:]
            try:
                due = [i for i in active if int(table.updates[i]) in marks]
                ended = checked(generator, pictures, table, due, settings, batch) if due else set()
                active = [i for i in active if i not in ended]
                bar.total -= sum(settings.max_train_steps - int(table.updates[i]) for i in ended)
                if not active:
                    continue
                loss, gradient = gradients(generator, pictures, table, active)
            except torch.OutOfMemoryError:
                batch = narrower(generator, batch)
                continue
            sound = (loss.isfinite() & gradient.isfinite().flatten(1).all(1)).tolist()
            update(
                table,
                [i for i, good in zip(active, sound, strict=True) if good],
                gradient[sound],
                settings,
            )
            for i in [i for i, good in zip(active, sound, strict=True) if not good]:
                bar.total += int(table.updates[i])
                if not table.again(i, known[labels[i]]):
                    bar.total -= settings.max_train_steps
                    active.remove(i)
            rate = (bar.done + sum(sound)) / max(time.monotonic() - bar.began, 1e-9)
            bar.add(
                sum(sound),
                f"{len(ids) - len(waiting) - len(active)} of {len(ids)} images done, {rate:.0f} updates/s",
            )
    if table.given_up.any():
        lost = [ids[i] for i in table.given_up.nonzero()[:, 0].tolist()]
        progress.say(
            f"given up, the loss is not a number: {len(lost)} of {len(ids)} images, the first {', '.join(lost[:5])}"
        )
    return Inverted(
        table.kept.cpu(), table.loss, table.curves, table.behind, table.restarts, table.given_up
    )


def _check(
    generator: Generator,
    latents: torch.Tensor,
    labels,
    ids,
    settings: Inversion,
    known: torch.Tensor,
) -> None:
    """Shapes and counts that fit, before anything is computed."""
    if tuple(latents.shape[1:]) != generator.shape:
        raise InversionError(
            f"latents of shape {tuple(latents.shape[1:])} for a generator of {generator.shape}: make them "
            "with `encoded(generator, images)`, which also resizes"
        )
    if not len(latents) == len(labels) == len(ids):
        raise InversionError(
            f"{len(latents)} latents, {len(labels)} labels and {len(ids)} ids: give one each"
        )
    if settings.num_vectors > known.shape[1]:
        raise InversionError(
            f"inversion.num_vectors is {settings.num_vectors}: this generator's conditioning has {known.shape[1]}"
        )


def starts(
    known: torch.Tensor, labels: Sequence[int], ids: Sequence[str], settings: Inversion, seed: int
) -> torch.Tensor:
    """Where each row begins (n, tokens, width) float32."""
    if settings.init == "class":
        return known[torch.as_tensor(labels, device=known.device)]
    if settings.init == "mean":
        return known.mean(0).expand(len(ids), -1, -1).clone()
    own = [compute.generator(seed, "start", name) for name in ids]
    values = torch.stack([torch.rand(known.shape[1:], generator=each) for each in own])
    return (0.2 * values - 0.1).to(
        known
    )  # as published: a linear layer's first weights, over a group of 100 images


def losses(
    generator: Generator,
    latents: torch.Tensor,
    conditioning: torch.Tensor,
    t: torch.Tensor,
    noise: torch.Tensor,
) -> torch.Tensor:
    """Each row's mean square error (n,) float32 of the network's own output, noise or v."""
    latents, noise = (each.to(generator.device, generator.dtype) for each in (latents, noise))
    output = generator.predict(
        generator.add_noise(latents, noise, t), t.to(generator.device), conditioning.to(generator.dtype)
    )
    return (output - generator.target(latents, noise, t)).float().square().mean((1, 2, 3))


@torch.no_grad()
def validation(
    generator: Generator,
    pictures: Pictures,
    rows: list[int],
    conditioning: torch.Tensor,
    batch: int = 64,
) -> torch.Tensor:
    """Mean loss (k,) of these rows under a conditioning each, at the probes' fixed t and noise."""
    found = [
        losses(generator, latents, conditioning[place], t, noise)
        for place, latents, t, noise in probed(generator, pictures, rows, batch)
    ]
    return torch.cat(found).view(-1, PROBES).mean(1)


def sensitivity(
    generator: Generator, pictures: Pictures, rows: list[int], value: torch.Tensor, batch: int
) -> torch.Tensor:
    """Density (k, PROBES), mean 1, of steps t for each row: half even, half as its gradient's size at each probe."""
    sizes = []
    for place, latents, t, noise in probed(generator, pictures, rows, batch):
        leaf = value[place].requires_grad_()
        loss = losses(generator, latents, leaf, t, noise)
        sizes.append(torch.autograd.grad(loss.sum(), leaf)[0].flatten(1).norm(dim=1).cpu())
    size = torch.cat(sizes).view(-1, PROBES).nan_to_num(0, 0, 0) + 1e-12
    return 0.5 + 0.5 * size / size.mean(1, keepdim=True)


def probed(
    generator: Generator, pictures: Pictures, rows: list[int], batch: int
) -> Iterator[tuple]:
    """Every row at each of its probes, some at once: places in `rows`, latents, t and noise."""
    pairs = [(place, probe) for place in range(len(rows)) for probe in range(PROBES)]
    for start in range(0, len(pairs), batch):
        place, probes = (list(part) for part in zip(*pairs[start : start + batch], strict=True))
        index = [rows[each] for each in place]
        yield (
            place,
            pictures.latents[index],
            middle(generator, probes),
            pictures.probe(index, probes),
        )


def middle(generator: Generator, probes: Sequence[int]) -> torch.Tensor:
    """The diffusion steps (k,) of probes: the middle of the kth eighth."""
    return (
        (torch.tensor(probes) + 0.5) / PROBES * generator.scheduler.config.num_train_timesteps
    ).long()


def checked(
    generator: Generator,
    pictures: Pictures,
    table: Table,
    due: list[int],
    settings: Inversion,
    batch: int,
) -> set[int]:
    """Take the validation loss of rows that are due; returns those that have ended."""
    found = validation(generator, pictures, due, table.value[due], batch).cpu()
    fresh = [i for i in due if table.updates[i] == 0]
    if fresh and settings.timestep_sampling == "sensitive":
        table.density[fresh] = sensitivity(generator, pictures, fresh, table.value[fresh], batch)
    ended = set()
    for i, loss in zip(due, found, strict=True):
        mark = settings.marks().index(int(table.updates[i]))
        table.curves[i, mark] = loss
        best = int(table.curves[i, : mark + 1].nan_to_num(torch.inf).argmin())
        if best == mark or not settings.stop:
            table.keep(i, loss)
        if (
            table.updates[i] == settings.max_train_steps
            or settings.stop
            and mark - best >= settings.stop
        ):
            ended.add(i)
    return ended


def timesteps(
    share: torch.Tensor, density: torch.Tensor, total: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps t (k,) of shares (k,) in [0, 1) under densities (k, PROBES), and the weights that keep the mean loss fair."""
    edges = density.double().cumsum(1) / PROBES
    bin = (share[:, None] >= edges[:, :-1]).sum(1, keepdim=True)
    here = density.gather(1, bin)
    within = (share[:, None] - (edges.gather(1, bin) - here / PROBES)) / (here / PROBES)
    t = ((bin + within.clamp(0, 1)) / PROBES * total).long().clamp(max=total - 1)
    return t[:, 0], (1 / here)[:, 0]


def gradients(
    generator: Generator, pictures: Pictures, table: Table, rows: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's loss (k,) and its gradient (k, tokens, width) at one draw; weights get none."""
    latents, share, noise = pictures.draw(rows, table.updates[rows].tolist())
    t, weight = timesteps(
        share, table.density[rows], generator.scheduler.config.num_train_timesteps
    )
    leaf = table.value[rows].requires_grad_()
    loss = losses(generator, latents, leaf, t, noise)
    scale = math.sqrt(
        noise[0].numel()
    )  # keeps half-precision gradients away from zero and from overflow
    (gradient,) = torch.autograd.grad((loss * weight.to(loss)).sum() * scale, leaf)
    return loss.detach(), gradient / scale


@torch.no_grad()
def update(table: Table, rows: list[int], gradient: torch.Tensor, settings: Inversion) -> None:
    """One step of AdamW for these rows; by hand, since each has its own count and rate, which torch.optim does not know."""
    slow = SLOWER ** table.restarts[rows].double()
    if settings.lr_scheduler == "cosine":
        slow = (
            slow * 0.5 * (1 + torch.cos(math.pi * table.updates[rows] / settings.max_train_steps))
        )
    table.updates[rows] += 1
    own = lambda values: values.to(gradient)[:, None, None]  # noqa: E731
    rate, (one, two) = own(settings.lr * slow), settings.betas
    first = table.first[rows].lerp(gradient, 1 - one)
    second = table.second[rows].lerp(gradient.square(), 1 - two)
    table.first[rows], table.second[rows] = first, second
    count = table.updates[rows].double()
    size = (second / own(1 - two**count)).sqrt() + 1e-8
    table.value[rows] = (
        table.value[rows] * (1 - rate * settings.weight_decay)
        - rate * first / own(1 - one**count) / size
    )


def narrower(generator: Generator, batch: int) -> int:
    """What to do when memory is out: first keep fewer activations, then take fewer rows at once."""
    if not generator.unet.is_gradient_checkpointing:
        generator.unet.enable_gradient_checkpointing()
        progress.say(
            f"out of memory at {batch} rows at once: going on with activations checkpointed"
        )
        return batch
    if batch == 1:
        raise InversionError(
            "out of memory with a single row, its activations checkpointed: use a smaller generator or "
            "another device"
        )
    progress.say(f"out of memory at {batch} rows at once: going on with {batch // 2}")
    return batch // 2


@torch.no_grad()
def encoded(
    generator: Generator, pictures: np.ndarray, batch: int = 64
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Latents (n, c, h, w) on the CPU of uint8 images (n, h, w, 3) of any size; their posterior's width where it has one."""
    fitted = pixels(np.stack([images.fit(picture, generator.resolution) for picture in pictures]))
    if generator.vae is None:
        return fitted, None
    vae, config = generator.vae, generator.vae.config
    found = [vae.encode(part.to(vae.device, vae.dtype)).latent_dist for part in fitted.split(batch)]
    mean = torch.cat([each.mode() for each in found]).float().cpu() - (
        config.get("shift_factor") or 0.0
    )
    spread = (
        None
        if found[0].deterministic
        else torch.cat([each.std for each in found]).float().cpu() * config.scaling_factor
    )
    return mean * config.scaling_factor, spread


@torch.no_grad()
def class_conditioning(generator: Generator, names: Sequence[str]) -> torch.Tensor:
    """The generator's own conditioning (classes, tokens, width) of each class: its row, or its bare name."""
    rows = class_rows(generator, names) if generator.table is not None else []
    return (
        generator.classes(rows) if generator.table is not None else generator.text(list(names))
    ).float()
