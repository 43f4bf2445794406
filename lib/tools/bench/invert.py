"""Embedding updates a second at equal final loss: ours against the published loop, and one by one.

The published loop is scaled down to 8 images in batches of 4 (theirs: 100 in 50): one AdamW over a
table of one-hot rows, images encoded at each step, a random start, the published learning rate.
Ours starts at the class's words and takes longer steps; it must end at a loss no higher than
theirs. The updates that the reference needed, divided by seconds, are the speed of each; `raw` is
the plain number of updates a second.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from lib import world
from lib.diffusion.autoencoder import PatchAutoencoder
from lib.diffusion.inversion import EncodedImages, Inversion, invert, validation_loss
from lib.diffusion.model import SHIPPED, Design, Generator, pixels
from lib.diffusion.tokenizer import build_tokenizer

IMAGES, VECTORS, ROUNDS = 8, 5, 2
UPDATES, UPDATES_ALONE = 60, 20  # of each image: by the reference, and one image at a time
OURS = Inversion(VECTORS, 20, lr=0.3, init="class", num_validations=0)


def run() -> dict:
    """Rounds in turn, so that a machine that slows down slows all; the best of each counts."""
    generator, images = shipped(), world.render_many(range(IMAGES))[0]
    encoded = EncodedImages(generator.encode(images), range(IMAGES),
                            [f"world/{i}" for i in range(IMAGES)], world.CLASSES, 0)
    ways = {"ours": lambda: invert(generator, encoded, OURS).values,
            "published": lambda: published(generator, images, UPDATES, IMAGES // 2),
            "one": lambda: published(generator, images[:1], UPDATES_ALONE, 1)}
    rounds = [{name: timed(way) for name, way in ways.items()} for _ in range(ROUNDS)]
    best = {name: min((r[name] for r in rounds), key=lambda pair: pair[0]) for name in ways}
    alone = invert(generator, encoded, Inversion(VECTORS, UPDATES, num_validations=0)).values
    ends = {name: values for name, (_, values) in best.items()} | {"one": alone}
    rows = list(range(IMAGES))
    loss = {name: float(validation_loss(generator, encoded, rows, values).mean())
            for name, values in ends.items()}
    updates = {"ours": IMAGES * OURS.max_train_steps, "published": IMAGES * UPDATES,
               "one": UPDATES_ALONE}
    raw = {name: count / best[name][0] for name, count in updates.items()}
    speed = raw["ours"] * UPDATES / OURS.max_train_steps
    return {"unit": "updates/s", "ours": round(speed, 1), "reference": round(raw["published"], 1),
            "ratio": round(speed / raw["published"], 2), "ratio_one": round(speed / raw["one"], 2),
            "equal": loss["ours"] <= min(loss.values()),
            "loss": {name: round(value, 4) for name, value in loss.items()},
            "raw": {name: round(value, 1) for name, value in raw.items()}}


def shipped() -> Generator:
    """The shipped model; where there is none, one of its shape with random weights."""
    if (SHIPPED / "model_index.json").is_file():
        return Generator.load()
    return Generator.build(Design(), PatchAutoencoder(), build_tokenizer(world.CLASSES, 900, 24))


def published(generator: Generator, images: np.ndarray, updates: int, batch: int) -> torch.Tensor:
    """Embeddings (n, vectors, width) in the order and with the settings of the release."""
    rng, n = torch.Generator().manual_seed(0), len(images)
    table = torch.nn.Linear(n, VECTORS * generator.width, bias=False)
    optimizer = torch.optim.AdamW(table.parameters(), 3e-2, betas=(0.9, 0.999), weight_decay=1e-2)
    one_hot, x = torch.eye(n), pixels(images)
    for step in range(updates * n // batch):
        rows = (torch.arange(batch) + step * batch) % n
        with torch.no_grad():
            latents = generator.encode(x[rows])
        noise = torch.randn(latents.shape, generator=rng)
        t = torch.randint(0, 1000, (batch,), generator=rng)
        conditioning = table(one_hot[rows]).view(batch, VECTORS, -1)
        output = generator.predict(generator.add_noise(latents, noise, t), t, conditioning)
        F.mse_loss(output, generator.target(latents, noise, t)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return table.weight.detach().T.reshape(n, VECTORS, -1)


def timed(way: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    """Seconds and embeddings."""
    began = time.perf_counter()
    values = way()
    return time.perf_counter() - began, values
