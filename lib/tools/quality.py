"""The quality of the shipped model, measured: `python -m lib.tools.quality` writes its card.

A classifier trained on the study's own domain, `photo` scenes, is tested on prompted images; beside
it stands its accuracy on the renders that the generator learned from, about the best possible.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from lib import world
from lib.classifier.model import build, load_weights, predict
from lib.classifier.resnet import Classifier
from lib.classifier.train import TrainConfig, steps_for, train
from lib.core import compute
from lib.core.paths import ROOT
from lib.diffusion.autoencoder import edge_ratio, psnr
from lib.diffusion.model import SHIPPED, Generator, pixels
from lib.diffusion.sample import Sampler, count_faults, sample
from lib.measure.stats import share
from lib.tools.card import card
from lib.world.captions import article

PHOTOS, WEB = 4_000_000_000, 5_000_000_000  # seeds of scenes that nothing else uses
TESTED, RECONSTRUCTED, TIMED, ROUNDS = 1000, 500, 128, 3


def scenes(style: str, first: int, n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """n scenes, classes in turn, and their labels."""
    images, _ = world.render_many(range(first, first + n), style, size)
    return images, np.arange(n) % len(world.CLASSES)


def classifier(n: int, size: int, epochs: int, folder: Path) -> Classifier:
    """A classifier of n photo scenes, trained as in the study; kept in the folder."""
    config = TrainConfig(steps_for(n, 64, epochs), architecture="resnet18", stem_stride=4,
                         base_width=24, lr=0.1)
    path = folder / f"judge-{n}-{epochs}.safetensors"
    if not path.is_file():
        weights = train(*scenes("photo", PHOTOS, n, size), config, 0).state_dict()
        save_file({name: value.contiguous() for name, value in weights.items()}, path)
    network = build(len(world.CLASSES), size, config.base_width, config.architecture,
                    config.stem_stride)
    return load_weights(network, path)


def accuracy(model: Classifier, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Accuracy on `all` images and by class, each with its interval."""
    correct = predict(model, torch.from_numpy(images)).argmax(1).numpy() == labels
    return {"all": share(correct),
            "classes": [share(correct[labels == k]) for k in range(len(world.CLASSES))]}


def prompted(generator: Generator, n: int, sampler: Sampler):
    """n images of `a photo of a ...`, classes in turn, their labels, and faults by kind."""
    labels = np.arange(n) % len(world.CLASSES)
    prompts = [f"a photo of {article(world.CLASSES[label])}" for label in labels]
    samples = list(sample(generator, prompts, range(n), sampler))
    return np.stack([drawing.image for drawing in samples]), labels, count_faults(samples)


def images_per_second(generator: Generator, sampler: Sampler) -> float:
    """The best of some rounds, since a machine may have other work."""
    seconds = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        prompted(generator, TIMED, sampler)
        seconds.append(time.monotonic() - began)
    return round(TIMED / min(seconds), 1)


def reconstruction(generator: Generator, images: np.ndarray) -> dict[str, float]:
    """Mean PSNR of the autoencoder, and steps across block borders over steps elsewhere."""
    x = pixels(images)
    with torch.no_grad():
        decoded = generator.decode(generator.encode(x)).clamp(-1, 1)
    return {"psnr_db": round(float(psnr(x, decoded).mean()), 2),
            "edges_before": round(edge_ratio(x), 3), "edges_after": round(edge_ratio(decoded), 3)}


def measure(folder: Path, n: int, guidance_scales: list[float], photos: int, epochs: int,
            work: Path) -> dict[str, Any]:
    """All figures of the model card."""
    generator = Generator.load(folder)
    size = generator.resolution
    model = classifier(photos, size, epochs, work)
    real = {"photo": scenes("photo", PHOTOS + photos, TESTED, size),
            "web": scenes("web", WEB, TESTED, size)}
    rows = {f"{style} scenes (real)": accuracy(model, *part) for style, part in real.items()}
    faults = {}
    for scale in guidance_scales:
        name = f"prompted, guidance {scale:g}"
        images, labels, faults[name] = prompted(generator, n, Sampler(guidance_scale=scale))
        rows[name] = accuracy(model, images, labels)
    return {"machine": compute.describe(), "classes": world.CLASSES, "images": n,
            "classifier_trained_on": photos, "accuracy": rows, "faults": faults,
            "reconstruction": {style: reconstruction(generator, images[:RECONSTRUCTED])
                               for style, (images, _) in real.items()},
            "images_per_second": images_per_second(
                generator, Sampler(guidance_scale=guidance_scales[-1]))}


def main() -> None:
    """`python -m lib.tools.quality --help`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=SHIPPED)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--photos", type=int, default=10000)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--guidance", type=float, nargs="+", default=[2.0, 4.0, 6.0])
    parser.add_argument("--work", type=Path, default=ROOT / ".store" / "pretrain",
                        help="where the classifier lies")
    options = parser.parse_args()
    figures = measure(options.folder, options.images, options.guidance, options.photos,
                      options.epochs, options.work)
    readme = options.folder / "README.md"
    readme.write_text(card(options.folder, figures), encoding="utf-8")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
