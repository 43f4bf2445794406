"""The shipped model from scratch: render web scenes, fit the autoencoder, train on captions.

`make pretrained MODEL=world` runs this. It can be stopped at any moment and continues where it was;
samples lie beside its checkpoints.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

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
VOCABULARY, TOKENS, FITTED_ON = 900, 24, 4000
TEMPLATES = ("{class}", "{class}, {hypernym}", "{class}, {definition}")  # as in the study
BASE = TrainConfig(0, batch_size=64, lr=1e-3, lr_decay=0.5, ema_decay=0.998, timestep_shift=1.5,
                   checkpointing_steps=200)
FOCUSED = replace(BASE, lr=8e-4, checkpointing_steps=250, seed=1)


@dataclass(frozen=True)
class Stage:
    """A part of the training with an optimizer of its own, from the averaged weights before it.

    A stage with `focus` also sees the scenes of hard classes, and weights the object and its
    outline more than the rest.
    """

    legs: tuple[TrainConfig, ...]  # the learning rate falls to zero at the end of each
    focus: bool = False


def pretrain(folder: Path, scenes: int, hard: int, stages: Sequence[Stage], refining: TrainConfig,
             device: torch.device, workers: int) -> Generator:
    """All steps in order; each leaves its result in the folder."""
    pool.render(folder / "web", pool.FIRST, scenes, Design.resolution, workers)
    pool.render(folder / "hard", pool.FIRST + scenes, hard, Design.resolution, workers, pool.HARD)
    web, harder = pool.load(folder / "web", scenes), pool.load(folder / "hard", hard)
    vae = fit_autoencoder(folder / "vae", web.images, refining, device)
    tokenizer = fit_tokenizer(folder / "tokenizer", captions(web))
    generator = Generator.build(Design(), vae, tokenizer, seed=stages[0].legs[0].seed).to(device)
    examples = encode(generator, web + harder)
    records = [train_stage(generator, stage, examples if stage.focus else examples.first(scenes),
                           folder / f"stage-{k}") for k, stage in enumerate(stages)]
    facts = {"scenes": scenes, "hard": hard, "first_seed": pool.FIRST,
             "refine": asdict(refining), "stages": records}
    write_json(folder / "training.json", facts)
    images_seen = sum(record["steps"] * record["config"]["batch_size"] for record in records)
    write_json(folder / CARD, {"trained_on": "world", "classes": list(world.CLASSES),
                               "images_seen": images_seen, "flop": None})
    return generator


def train_stage(generator: Generator, stage: Stage, examples: Examples,
                folder: Path) -> dict[str, Any]:
    """Every leg from its checkpoints (a finished one costs nothing); what the card says of it."""
    log = Log(folder)
    for leg in stage.legs:
        losses = train(generator, examples, leg, folder, log)
    return {"legs": [leg.max_train_steps for leg in stage.legs], "focus": stage.focus,
            "config": asdict(stage.legs[-1]), "losses": losses} | log.read()


def fit_autoencoder(folder: Path, images: torch.Tensor, config: TrainConfig,
                    device: torch.device) -> PatchAutoencoder:
    """The closed form, then the refinement of its decoder; kept in the folder."""
    if not (folder / "config.json").is_file():
        vae = PatchAutoencoder()
        share = vae.fit_patches(pixels(images[:FITTED_ON]))
        progress.say(f"patch components keep {share:.1%} of the variance")
        refine(vae.to(device), images, config.max_train_steps, config.batch_size, config.lr,
               config.seed)
        vae.cpu().save_pretrained(folder)
    return PatchAutoencoder.from_pretrained(folder)


def fit_tokenizer(folder: Path, texts: list[list[str]]) -> CLIPTokenizer:
    """The tokenizer of these captions; kept in the folder, since the weights depend on it."""
    if not folder.is_dir():
        words = (text for group in texts for text in group)
        build_tokenizer(words, VOCABULARY, TOKENS).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


@torch.no_grad()
def encode(generator: Generator, web: pool.Pool, batch: int = 500) -> Examples:
    """Latents of both views, the captions of each scene, and the loss weights."""
    texts = [text for group in captions(web) for text in group]
    ids = tokenize(generator.tokenizer, texts)[0].to(torch.int16)
    views = [torch.stack([generator.encode(part), generator.encode(part.flip(2))])
             for part in web.images.split(batch)]
    weights = generator.vae.importance().to(generator.device)
    return Examples(torch.cat(views, 1).half().cpu(), ids.view(len(web.labels), -1, TOKENS),
                    weights, place_weights(web.masks, generator.shape[1]))


def place_weights(masks: torch.Tensor, side: int) -> torch.Tensor:
    """Loss weights (views, n, side, side): of the object more than of the rest, outline most."""
    share = masks.float().unflatten(1, (side, -1)).unflatten(3, (side, -1)).mean((2, 4))
    weight = 0.6 + 2 * share + 3 * ((share > 0) & (share < 1))
    weight = weight / weight.mean()
    return torch.stack([weight, weight.flip(2)]).half()


def captions(web: pool.Pool) -> list[list[str]]:
    """Five captions of each scene: its own twice, a short one, and two templates of the study."""
    facts = prompts.load_facts(FACTS, world.CLASSES)
    scenes = zip(web.captions, web.labels, strict=True)
    return [caption_variants(caption, world.CLASSES[label], facts, seed)
            for seed, (caption, label) in enumerate(scenes)]


def caption_variants(caption: str, name: str, facts: prompts.Facts, seed: int) -> list[str]:
    """Of one scene of the class."""
    medium, rest = caption.split(" of ", 1)
    template = TEMPLATES[compute.seed_of(seed, "recipe") % len(TEMPLATES)]
    return [caption, caption, f"{medium} of {article(name)}",
            prompts.build_prompt(template, name, facts, seed),
            f"{name}, {facts.hypernym[name]}{rest.split(name, 1)[1]}"]


class Log:
    """Called at each checkpoint: sums up the seconds over interruptions, saves a contact sheet."""

    def __init__(self, folder: Path):
        self.path, self.last = folder / "log.json", time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, step: int, generator: Generator) -> None:
        seconds = self.read().get("seconds", 0) + time.monotonic() - self.last
        write_json(self.path, {"steps": step, "seconds": round(seconds), "on": compute.describe()})
        contact_sheet(generator, self.path.parent / f"step-{step:06}.png")
        self.last = time.monotonic()

    def read(self) -> dict[str, Any]:
        """Steps, seconds and machine so far."""
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}


def contact_sheet(generator: Generator, path: Path, rows: int = 4) -> None:
    """A column per class, a row per seed."""
    texts = [f"a photo of {article(name)}" for name in world.CLASSES] * rows
    images = np.stack([drawing.image for drawing in sample(generator, texts, range(len(texts)))])
    grid = images.reshape(rows, len(world.CLASSES), *images.shape[1:])
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in grid], 0)
    cv2.imwrite(str(path), sheet[..., ::-1])


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m lib.tools.pretrain --help`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--folder", type=Path, default=ROOT / ".store" / "pretrain", help="checkpoints, scenes")
    add("--out", type=Path, default=SHIPPED, help="where the model is saved")
    add("--scenes", type=int, default=20000)
    add("--hard", type=int, default=12000, help="more scenes, of the most difficult classes")
    add("--steps", type=int, nargs="+", default=[7200, 11400],
        help="at which the learning rate has fallen to zero (and rises again), 64 images each")
    add("--focused", type=int, nargs="+", default=[3400, 6400, 9400],
        help="the same of a second stage, with the hard scenes, in which objects weigh more")
    add("--refine", type=int, default=2000, help="steps of the decoder's refinement")
    add("--device", default="auto")
    add("--workers", type=int, default=2, help="processes that render")
    options = parser.parse_args(argv)
    stages = [Stage(tuple(replace(config, max_train_steps=end) for end in ends), focus)
              for config, ends, focus in ((BASE, options.steps, False),
                                          (FOCUSED, options.focused, True))]
    refining = TrainConfig(options.refine, batch_size=64, lr=2e-3)
    generator = pretrain(options.folder, options.scenes, options.hard, stages, refining,
                         compute.device(options.device), options.workers)
    generator.to("cpu").save(options.out, half=True)
    for name in ("training.json", CARD):
        shutil.copy(options.folder / name, options.out)


if __name__ == "__main__":
    main()
