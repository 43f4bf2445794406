"""What the shipped model can do, measured: `python -m lib.tools.quality` writes its card.

The judge is a classifier trained on the study's own domain, `photo` scenes; beside its verdict on prompted images
stands its verdict on the renders that the generator learned from, about what a perfect generator could reach.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from lib import world
from lib.classifier.model import build, load_weights, predict
from lib.classifier.resnet import Classifier
from lib.classifier.train import TrainConfig, steps_for, train
from lib.core import compute
from lib.core.paths import ROOT
from lib.data.imageset import ImageSet
from lib.diffusion.autoencoder import edge_ratio, psnr
from lib.diffusion.model import SHIPPED, Generator, pixels
from lib.diffusion.sample import Sampler, count_faults, sample
from lib.measure.stats import share
from lib.tools.card import card

PHOTOS, WEB = 4_000_000_000, 5_000_000_000  # seeds of scenes that nothing else uses


def scenes(style: str, first: int, n: int, size: int) -> ImageSet:
    """n scenes, all classes alike."""
    images, _ = world.render_many(range(first, first + n), style, size)
    return ImageSet(
        images,
        np.arange(n) % len(world.CLASSES),
        world.CLASSES,
        np.arange(first, first + n),
        ("world",) * n,
        ("",) * n,
    )


def judge(n: int, size: int, epochs: int, kept: Path) -> Classifier:
    """A classifier of n photo scenes, trained as the study trains its own; its weights are kept and used again."""
    config = TrainConfig(steps_for(n, 64, epochs), architecture="resnet18", stem_stride=4, base_width=24, lr=0.1)
    path = kept / f"judge-{n}-{epochs}.safetensors"
    if not path.is_file():
        part = scenes("photo", PHOTOS, n, size)
        model = train(part.images, part.labels, config, 0)
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return load_weights(build(len(world.CLASSES), size, config.base_width, config.architecture, config.stem_stride), path)


def per_class(model: Classifier, images: np.ndarray, labels: np.ndarray) -> dict:
    """Share that the judge names rightly, of `all` and `classes` by class, each with its interval."""
    right = predict(model, torch.from_numpy(images)).argmax(1).numpy() == labels
    return {
        "all": share(right),
        "classes": [share(right[labels == c]) for c in range(len(world.CLASSES))],
    }


def prompted(generator: Generator, n: int, sampler: Sampler):
    """n images of `a photo of a ...`, all classes alike, and how many had to be drawn again."""
    labels = np.arange(n) % len(world.CLASSES)
    names = [world.CLASSES[label] for label in labels]
    prompts = [f"a photo of {'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names]
    drawn = list(sample(generator, prompts, range(n), sampler))
    return np.stack([one.image for one in drawn]), labels, count_faults(drawn)


def images_per_second(
    generator: Generator, sampler: Sampler, n: int = 128, tries: int = 3
) -> float:
    """The best of some tries, since a machine may have other work."""
    seconds = []
    for _ in range(tries):
        began = time.monotonic()
        prompted(generator, n, sampler)
        seconds.append(time.monotonic() - began)
    return round(n / min(seconds), 1)


def reconstruction(generator: Generator, images: np.ndarray) -> dict[str, float]:
    """Mean PSNR of the autoencoder in dB, and steps across block borders over steps elsewhere, before and after."""
    x = pixels(images)
    with torch.no_grad():
        again = generator.decode(generator.encode(x)).clamp(-1, 1)
    return {
        "psnr_db": round(float(psnr(x, again).mean()), 2),
        "edges_before": round(edge_ratio(x), 3),
        "edges_after": round(edge_ratio(again), 3),
    }


def measure(
    folder: Path, n: int, guidances: list[float], photos: int, epochs: int, kept: Path
) -> dict:
    """All figures of the model card."""
    generator = Generator.load(folder)
    size = generator.resolution
    model = judge(photos, size, epochs, kept)
    photo, web = scenes("photo", PHOTOS + photos, 1000, size), scenes("web", WEB, 1000, size)
    figures = {
        "machine": compute.describe(),
        "classes": world.CLASSES,
        "images": n,
        "judge_trained_on": photos,
        "photo": per_class(model, photo.images, photo.labels),
        "web": per_class(model, web.images, web.labels),
        "reconstruction_photo": reconstruction(generator, photo.images[:500]),
        "reconstruction_web": reconstruction(generator, web.images[:500]),
        "prompted": {},
    }
    for guidance in guidances:
        images, labels, wrong = prompted(generator, n, Sampler(guidance_scale=guidance))
        figures["prompted"][f"{guidance:g}"] = per_class(model, images, labels) | {"faults": wrong}
    return figures | {
        "images_per_second": images_per_second(generator, Sampler(guidance_scale=guidances[-1]))
    }


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("--folder", type=Path, default=SHIPPED)
    ask.add_argument("--images", type=int, default=1000)
    ask.add_argument("--photos", type=int, default=10000)
    ask.add_argument("--epochs", type=int, default=16)
    ask.add_argument("--guidance", type=float, nargs="+", default=[2.0, 4.0, 6.0])
    ask.add_argument(
        "--kept", type=Path, default=ROOT / ".store" / "pretrain", help="where the judge lies"
    )
    given = ask.parse_args()
    figures = measure(
        given.folder, given.images, given.guidance, given.photos, given.epochs, given.kept
    )
    (given.folder / "README.md").write_text(card(given.folder, figures), encoding="utf-8")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
