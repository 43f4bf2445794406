"""The shipped model from nothing: render web scenes, fit the autoencoder, train on captions, measure, freeze.

`make pretrained MODEL=world` runs this. It can be stopped at any moment and goes on where it was; samples lie beside its state.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from transformers import CLIPTokenizer

from lib import world
from lib.core import compute, progress
from lib.core.paths import PARAMS, ROOT
from lib.diffusion import prompts
from lib.diffusion.autoencoder import PatchAutoencoder, refine
from lib.diffusion.model import CARD, SHIPPED, Design, Generator, pixels
from lib.diffusion.sample import sample
from lib.diffusion.tokenizer import build_tokenizer, tokenize
from lib.diffusion.train import Examples, TrainConfig, train
from lib.tools import pool
from lib.world.captions import article

FACTS = PARAMS / "classes" / "world.yaml"
VOCABULARY, TOKENS = 900, 24
SHORT = ("{class}", "{class}, {hypernym}", "{class}, {definition}")  # what the study's recipes look like


@dataclass(frozen=True)
class Stage:
    """A part of the U-Net's training with an optimiser of its own, from the averaged weights of the part before.

    A stage with `focus` also sees the scenes of hard classes, and counts the object and its outline for more than the rest.
    """

    legs: tuple[TrainConfig, ...]  # the rate falls to zero at the end of each
    focus: bool = False


def pretrain(folder: Path, scenes: int, hard: int, stages: Sequence[Stage], refining: TrainConfig, device: torch.device,
             workers: int) -> Generator:
    """All steps in order; each leaves what it made in the folder."""
    pool.render(folder / "web", pool.FIRST, scenes, Design.resolution, workers)
    pool.render(folder / "hard", pool.FIRST + scenes, hard, Design.resolution, workers, pool.HARD)
    autoencoder(folder / "vae", pool.load(folder / "web", scenes).images, refining, device)
    words(folder / "tokenizer", sayings(pool.load(folder / "web", scenes)))
    vae, tokenizer = PatchAutoencoder.from_pretrained(folder / "vae"), CLIPTokenizer.from_pretrained(folder / "tokenizer")
    generator = Generator.build(Design(), vae, tokenizer, seed=stages[0].legs[0].seed).to(device)
    every = examples(generator, pool.load(folder / "web", scenes) + pool.load(folder / "hard", hard))
    plain, told = every.first(scenes), []
    for k, stage in enumerate(stages):
        log = Log(folder / f"stage-{k}")
        for leg in stage.legs:  # what is behind is seen from the state and costs nothing
            losses = train(generator, every if stage.focus else plain, leg, folder / f"stage-{k}", log)
        told.append({"legs": [leg.max_train_steps for leg in stage.legs], "focus": stage.focus, "config": asdict(stage.legs[-1]),
                     "losses": losses} | log.read())
    facts = {"scenes": scenes, "hard": hard, "first_seed": pool.FIRST, "refine": asdict(refining), "stages": told}
    (folder / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    seen = sum(one["steps"] * one["config"]["batch_size"] for one in told)
    card = {"trained_on": "world", "classes": list(world.CLASSES), "images_seen": seen, "flop": None}
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return generator


def examples(generator: Generator, web: pool.Pool) -> Examples:
    """What is learned of scenes: latents of both views, the sayings of each, and what counts for how much."""
    raw = tokenize(generator.tokenizer, [text for texts in sayings(web) for text in texts])[0].to(torch.int16)
    side = generator.shape[1]
    return Examples(latents(generator, web.images), raw.view(len(web.labels), -1, TOKENS),
                    generator.vae.importance().to(generator.device), places(web.masks, side))


def places(masks: torch.Tensor, side: int) -> torch.Tensor:
    """How much each place of the latents (views, n, side, side) counts: the object more than the rest, its outline most."""
    share = masks.float().unflatten(1, (side, -1)).unflatten(3, (side, -1)).mean((2, 4))
    weight = 0.6 + 2 * share + 3 * ((share > 0) & (share < 1))
    weight = weight / weight.mean()
    return torch.stack([weight, weight.flip(2)]).half()


class Log:
    """Called at each checkpoint: adds up the seconds, over stops and resumptions, and draws a contact sheet."""

    def __init__(self, folder: Path):
        self.path, self.last = folder / "log.json", time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, step: int, generator: Generator) -> None:
        now = time.monotonic()
        log = {"steps": step, "seconds": round(self.read().get("seconds", 0) + now - self.last), "on": compute.describe()}
        self.path.write_text(json.dumps(log) + "\n", encoding="utf-8")
        sheet(generator, self.path.parent / f"step-{step:06}.png")
        self.last = now

    def read(self) -> dict:
        """Steps, seconds and machine so far."""
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}


def words(folder: Path, said: list[list[str]]) -> None:
    """The tokenizer of these sayings; kept in the folder, since the weights know its numbers and no others."""
    if not folder.is_dir():
        build_tokenizer((text for texts in said for text in texts), VOCABULARY, TOKENS).save_pretrained(folder)


def sayings(web: pool.Pool) -> list[list[str]]:
    """What is said of each scene: its caption twice, a short one, and two recipes of the study."""
    known = prompts.load_facts(FACTS, world.CLASSES)
    return [say(caption, world.CLASSES[label], known, seed)
            for seed, (caption, label) in enumerate(zip(web.captions, web.labels, strict=True))]


def say(caption: str, name: str, known: prompts.Facts, seed: int) -> list[str]:
    """Five ways to speak of one scene of the class."""
    medium, rest = caption.split(" of ", 1)
    recipe = SHORT[compute.seed_of(seed, "recipe") % len(SHORT)]
    return [caption, caption, f"{medium} of {article(name)}", prompts.build_prompt(recipe, name, known, seed),
            f"{name}, {known.hypernym[name]}{rest.split(name, 1)[1]}"]


def autoencoder(folder: Path, images: torch.Tensor, how: TrainConfig, device: torch.device) -> None:
    """The closed form, then the refinement of its decoder; kept in the folder."""
    if (folder / "config.json").is_file():
        return
    vae = PatchAutoencoder()
    share = vae.fit_patches(pixels(images[:4000]))
    progress.say(f"patch components keep {share:.1%} of the variance")
    refine(vae.to(device), images, how.max_train_steps, how.batch_size, how.lr, how.seed)
    vae.cpu().save_pretrained(folder)


@torch.no_grad()
def latents(generator: Generator, images: torch.Tensor, batch: int = 500) -> torch.Tensor:
    """Latents (2, n, c, h, w) float16 of the pictures and of their mirror images."""
    both = [torch.stack([generator.encode(part), generator.encode(part.flip(2))]) for part in images.split(batch)]
    return torch.cat(both, 1).half().cpu()


def sheet(generator: Generator, path: Path, rows: int = 4) -> None:
    """A contact sheet: a column a class, a row a seed."""
    names = [name for _ in range(rows) for name in world.CLASSES]
    texts = [f"a photo of {article(name)}" for name in names]
    drawn = np.stack([one.image for one in sample(generator, texts, range(len(texts)))])
    cv2.imwrite(str(path), tile(drawn, len(world.CLASSES))[..., ::-1])


def tile(images: np.ndarray, columns: int) -> np.ndarray:
    """Images (n, h, w, 3) as one picture."""
    return np.concatenate([np.concatenate(list(row), 1) for row in np.split(images, len(images) // columns)], 0)


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m lib.tools.pretrain --help`."""
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("--folder", type=Path, default=ROOT / ".store" / "pretrain", help="state, scenes and samples")
    ask.add_argument("--out", type=Path, default=SHIPPED, help="where the frozen model goes")
    ask.add_argument("--scenes", type=int, default=20000)
    ask.add_argument("--hard", type=int, default=12000, help="more scenes, of the classes that are hardest to draw")
    ask.add_argument("--steps", type=int, nargs="+", default=[7200, 11400],
                     help="at which the rate has fallen to zero (and rises again), 64 pictures each")
    ask.add_argument("--focused", type=int, nargs="+", default=[3400, 6400, 9400],
                     help="the same of a second stage, with the hard scenes, in which objects count for more")
    ask.add_argument("--refine", type=int, default=2000, help="steps of the decoder's refinement, 64 pictures each")
    ask.add_argument("--device", default="auto")
    ask.add_argument("--workers", type=int, default=2, help="processes that render")
    given = ask.parse_args(argv)
    how = TrainConfig(0, batch_size=64, lr=1e-3, lr_decay=0.5, ema_decay=0.998, timestep_shift=1.5, checkpointing_steps=200)
    focused = replace(how, lr=8e-4, checkpointing_steps=250, seed=1)
    stages = [Stage(tuple(replace(how, max_train_steps=steps) for steps in given.steps)),
              Stage(tuple(replace(focused, max_train_steps=steps) for steps in given.focused), focus=True)]
    refining = TrainConfig(given.refine, batch_size=64, lr=2e-3)
    device = compute.device(given.device)
    generator = pretrain(given.folder, given.scenes, given.hard, stages, refining, device, given.workers)
    generator.to("cpu").save(given.out, half=True)
    for name in ("training.json", CARD):
        shutil.copy(given.folder / name, given.out)


if __name__ == "__main__":
    main()
