"""sd32: a class-conditional generator of 32-px photographs, of CIFAKE's generated half alone.

It stands for a frozen Stable Diffusion at 32 px: no real image is ever seen. Data: train/FAKE of a
CIFAKE download without exact duplicates. `make pretrained MODEL=sd32 DATA=data/cifake` can be
stopped at any moment and goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from lib.core import compute, progress
from lib.core.paths import ROOT
from lib.diffusion.autoencoder import PatchAutoencoder
from lib.diffusion.model import CARD, SHIPPED, Design, Generator, GeneratorError, pixels
from lib.diffusion.sample import Sampler, sample
from lib.diffusion.train import Examples, TrainConfig, train

CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
NAME = re.compile(r".*?(?: \((\d+)\))?\.jpe?g")  # "12 (3).jpg" is of the third class
RESOLUTION, COMPONENTS, FITTED_ON = 32, 24, 8000


def load_images(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 32, 32, 3) and labels (n,) of CIFAKE's train/FAKE, exact duplicates removed."""
    half = folder / "train" / "FAKE"
    if not half.is_dir():
        raise GeneratorError(f"no folder train/FAKE: unpack a CIFAKE download there.\n{half}")
    images, labels, seen = [], [], set()
    for path in progress.each("read images", sorted(half.iterdir())):
        name, image = NAME.fullmatch(path.name), cv2.imread(str(path))
        if name is None or image is None:
            raise GeneratorError(f"not an image of CIFAKE: get the download again.\n{path}")
        digest = hashlib.sha256(image.tobytes()).digest()
        if digest not in seen:
            seen.add(digest)
            images.append(image[..., ::-1])
            labels.append(int(name[1] or 1) - 1)
    return np.stack(images), np.array(labels)


def autoencoder(folder: Path, images: np.ndarray) -> PatchAutoencoder:
    """4 x 4 patches to 24 principal components, in closed form; kept in the folder."""
    if not (folder / "config.json").is_file():
        vae = PatchAutoencoder(latent_channels=COMPONENTS, block_out_channels=(3, 32, 64),
                               layers=2, sample_size=RESOLUTION)
        vae.fit_patches(pixels(torch.from_numpy(images[:FITTED_ON])))
        vae.save_pretrained(folder)
    return PatchAutoencoder.from_pretrained(folder)


def build(vae: PatchAutoencoder, channels: tuple[int, ...]) -> Generator:
    """The untrained generator: attention at every level, FiLM, a class table with names."""
    design = Design(
        resolution=RESOLUTION, channels=channels, attention=(True,) * len(channels), layers=2,
        tokens=5, classes=len(CLASSES), class_names=CLASSES, film=True)
    return Generator.build(design, vae)


@torch.no_grad()
def examples(generator: Generator, images: np.ndarray, labels: np.ndarray) -> Examples:
    """Latents of all images and of their mirror images."""
    parts = torch.from_numpy(images).split(1000)
    views = [torch.cat([generator.encode(part) for part in parts]),
             torch.cat([generator.encode(part.flip(2)) for part in parts])]
    weights = generator.vae.importance().to(generator.device)
    return Examples(torch.stack(views).half().cpu(), torch.from_numpy(labels).long(), weights)


class Log:
    """Called at each checkpoint: a line of steps and seconds; now and then a sheet and a model."""

    def __init__(self, folder: Path, every: int):
        self.folder, self.every, self.began = folder, every, time.monotonic()

    def __call__(self, step: int, generator: Generator) -> None:
        now = time.monotonic()
        line = {"step": step, "seconds": round(now - self.began, 1), "on": compute.describe()}
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if step % self.every == 0:
            contact_sheet(generator, self.folder / f"step-{step:06}.png")
            generator.save(self.folder / "model")
        self.began = time.monotonic()


def contact_sheet(generator: Generator, path: Path, rows: int = 4) -> None:
    """A column per class, a row per seed."""
    labels = torch.arange(len(CLASSES)).repeat(rows)
    sampler = Sampler(guidance_scale=1.5, num_inference_steps=18, batch_size=40)
    images = [drawn.image for drawn in
              sample(generator, generator.classes(labels), range(len(labels)), sampler)]
    grid = np.stack(images).reshape(rows, len(CLASSES), RESOLUTION, RESOLUTION, 3)
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in grid], 0)
    enlarged = cv2.resize(sheet, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(path), enlarged[..., ::-1])


def card(config: TrainConfig, images: int) -> dict:
    """What `check_fits` and the model card read."""
    return {"trained_on": "photographs", "classes": list(CLASSES), "data": "CIFAKE train/FAKE",
            "images": images, "images_seen": config.max_train_steps * config.batch_size,
            "flop": None}


def pretrain(data: Path, folder: Path, channels: tuple[int, ...], config: TrainConfig,
             compute_in: str = "float32", sheet_steps: int = 2000,
             device: torch.device | str = "cpu") -> Generator:
    """All steps in order; each leaves what it made in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = load_images(data)
    generator = build(autoencoder(folder / "vae", images), channels).to(device)
    log = Log(folder, sheet_steps)
    train(generator, examples(generator, images, labels), config, folder, log, compute_in)
    (folder / CARD).write_text(json.dumps(card(config, len(images)), indent=2) + "\n",
                               encoding="utf-8")
    return generator


def main() -> None:
    """`python -m lib.tools.pretrain_sd32 --help`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "cifake")
    parser.add_argument("--folder", type=Path, default=ROOT / ".store" / "sd32")
    parser.add_argument("--out", type=Path, default=SHIPPED.parent / "sd32")
    parser.add_argument("--channels", type=int, nargs="+", default=[96, 160])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--ema-decay", type=float, default=0.999)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    config = TrainConfig(options.steps, options.batch_size, options.lr, lr_warmup_steps=500,
                         ema_decay=options.ema_decay, snr_gamma=5.0, checkpointing_steps=250)
    generator = pretrain(options.data, options.folder, tuple(options.channels), config,
                         options.precision, device=compute.device(options.device))
    generator.to("cpu").save(options.out, half=True)
    (options.out / CARD).write_bytes((options.folder / CARD).read_bytes())


if __name__ == "__main__":
    main()
