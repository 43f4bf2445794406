"""The shipped model from nothing: render web scenes, fit the autoencoder, train on captions, measure, freeze.

`make pretrained` runs this. It can be stopped at any moment and goes on where it was; samples lie beside its state.
Under torchrun its processes share every batch of the U-Net (see fit.py), which busy cores finish sooner.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist
from transformers import CLIPTokenizer

from lib import compute, progress
from lib.data import world
from lib.data.captions import article
from lib.generator import pool, prompts
from lib.generator.autoencoder import PatchAutoencoder, refine
from lib.generator.fit import Examples, Recipe, fit
from lib.generator.model import SHIPPED, Design, Generator, pixels
from lib.generator.sample import sample
from lib.generator.text import build_tokenizer, tokenize
from lib.paths import PARAMS, ROOT

FACTS = PARAMS / "classes" / "world.yaml"
VOCABULARY, TOKENS = 900, 24
SHORT = ("{class}", "{class}, {hypernym}", "{class}, {definition}")  # what the study's recipes look like


def pretrain(folder: Path, scenes: int, legs: Sequence[Recipe], refining: Recipe, device: torch.device,
             workers: int) -> Generator:
    """All steps in order; each leaves what it made in the folder, and of several processes one makes it."""
    recipe = legs[-1]
    first = not dist.is_initialized() or dist.get_rank() == 0
    if first:
        pool.render(folder / "pool", scenes, Design.resolution, workers)
        autoencoder(folder / "vae", pool.load(folder / "pool", scenes).images, refining, device)
        words(folder / "tokenizer", sayings(pool.load(folder / "pool", scenes)))
    if dist.is_initialized():
        dist.barrier()
    web, vae = pool.load(folder / "pool", scenes), PatchAutoencoder.from_pretrained(folder / "vae")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    generator = Generator.build(Design(), vae, tokenizer, seed=recipe.seed).to(device)
    raw = tokenize(tokenizer, [text for texts in sayings(web) for text in texts])[0].to(torch.int16)
    examples = Examples(latents(generator, web.images), raw.view(scenes, -1, TOKENS), vae.importance().to(device))
    for leg in legs:  # what is behind is seen from the state and costs nothing
        losses = fit(generator, examples, leg, folder / "unet", Log(folder))
    if first:
        facts = {"scenes": scenes, "first_seed": pool.FIRST, "recipe": asdict(recipe), "refine": asdict(refining),
                 "legs": [leg.steps for leg in legs]}
        facts |= Log(folder).read() | {"losses": losses}
        (folder / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return generator


class Log:
    """Called at each checkpoint: adds up the seconds, over stops and resumptions, and draws a contact sheet."""

    def __init__(self, folder: Path):
        self.path, self.last = folder / "log.json", time.monotonic()

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
    known = prompts.facts(FACTS, world.CLASSES)
    return [say(caption, world.CLASSES[label], known, seed)
            for seed, (caption, label) in enumerate(zip(web.captions, web.labels, strict=True))]


def say(caption: str, name: str, known: prompts.Facts, seed: int) -> list[str]:
    """Five ways to speak of one scene of the class."""
    medium, rest = caption.split(" of ", 1)
    recipe = SHORT[compute.seed_of(seed, "recipe") % len(SHORT)]
    return [caption, caption, f"{medium} of {article(name)}", prompts.prompt(recipe, name, known, seed),
            f"{name}, {known.hypernym[name]}{rest.split(name, 1)[1]}"]


def autoencoder(folder: Path, images: torch.Tensor, how: Recipe, device: torch.device) -> None:
    """The closed form, then the refinement of its decoder; kept in the folder."""
    if (folder / "config.json").is_file():
        return
    vae = PatchAutoencoder()
    share = vae.fit_patches(pixels(images[:4000]))
    progress.say(f"patch components keep {share:.1%} of the variance")
    refine(vae.to(device), images, how.steps, how.batch, how.rate, how.seed)
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
    """`python -m lib.generator.pretrain --help`."""
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("--folder", type=Path, default=ROOT / ".store" / "pretrain", help="state, scenes and samples")
    ask.add_argument("--out", type=Path, default=SHIPPED, help="where the frozen model goes")
    ask.add_argument("--scenes", type=int, default=20000)
    ask.add_argument("--steps", type=int, nargs="+", default=[7200, 11400],
                     help="at which the rate has fallen to zero (and rises again), 64 pictures each")
    ask.add_argument("--refine", type=int, default=2000, help="steps of the decoder's refinement, 64 pictures each")
    ask.add_argument("--device", default="auto")
    ask.add_argument("--workers", type=int, default=2, help="processes that render")
    given = ask.parse_args(argv)
    legs = [Recipe(steps, batch=64, rate=1e-3, decay=0.5, ema=0.998, late=1.5, keep=200, meet=8) for steps in given.steps]
    refining = Recipe(given.refine, batch=64, rate=2e-3)
    device = compute.device(given.device)
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    generator = pretrain(given.folder, given.scenes, legs, refining, device, given.workers)
    if not dist.is_initialized() or dist.get_rank() == 0:
        generator.to("cpu").save(given.out, half=True)
        shutil.copy(given.folder / "training.json", given.out)


if __name__ == "__main__":
    main()
