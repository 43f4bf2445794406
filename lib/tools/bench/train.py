"""Training images a second of the whole machine, ResNet-18 on real digits: our trainer, one arm a
core side by side as a study trains them, against the usual torchvision loop over image files, which
has all cores for one arm.

`most` is the speed at which nothing but the network's multiplications would take time, each as fast
as in a large matrix product.
"""

import functools
import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms
from torchvision.datasets import ImageFolder

from lib.classifier import train as fit
from lib.classifier.model import build, predict
from lib.core import workers
from lib.data.imageset import ImageSet
from lib.data.source import SourceOptions, open_source
from lib.tools.bench import multiplied

TRAIN, SIZE, WIDTH, BATCH, EPOCHS, RATE, ROUNDS = 1024, 64, 16, 32, 2, 0.1, 2
TOLERANCE = 0.03  # by which our accuracy may be lower and still count as equal
AMX = torch.cpu._is_amx_tile_supported()  # without it bfloat16 is slower than float32
STEPS = TRAIN // BATCH * EPOCHS
SETTINGS = {
    "base_width": WIDTH,
    "batch_size": BATCH,
    "lr": RATE,
    "label_smoothing": 0.1,
    "architecture": "resnet18",
    "steps": STEPS,
    "flip": False,
    "device": "cpu",
    "precision": "bfloat16" if AMX else "float32",
}


def run() -> dict:
    """Rounds taken in turn, so that a machine that slows down slows both; the best of each counts.
    """
    cores, test = os.cpu_count(), digits("test", 500)
    # a study starts its workers once
    list(workers.processes(cores).map(digits, ["train"] * 4 * cores, [TRAIN] * 4 * cores))
    with tempfile.TemporaryDirectory() as folder:
        write(digits("train", TRAIN), Path(folder))
        ways = {
            "ours": lambda k: list(
                workers.processes(cores).map(ours, range(k * cores, (k + 1) * cores))
            ),
            "reference": lambda k: [reference(Path(folder), k)],
        }
        rounds = [{name: timed(way, k) for name, way in ways.items()} for k in range(ROUNDS)]
    speed = {
        name: max(len(one[name][1]) * BATCH * STEPS / one[name][0] for one in rounds)
        for name in ways
    }
    scores = {
        name: round(
            float(np.mean([accuracy(model, test) for one in rounds for model in one[name][1]])), 4
        )
        for name in ways
    }
    return {
        "unit": "images/s",
        "ours": round(speed["ours"], 1),
        "reference": round(speed["reference"], 1),
        "ratio": round(speed["ours"] / speed["reference"], 2),
        "equal": scores["ours"] > scores["reference"] - TOLERANCE,
        "accuracy": scores,
        "tolerance": TOLERANCE,
        "precision": SETTINGS["precision"],
        "most": round(most(cores), 1),
        "what": f"ResNet-18 of width {WIDTH}, {SIZE} px, {EPOCHS} epochs, batch {BATCH}; "
        f"ours trains {cores} arms side by side, the reference one with all cores",
    }


def most(cores: int) -> float:
    """Images a second if all cores did nothing but multiply."""
    with FlopCounterMode(display=False) as counter:
        build(10, SIZE, WIDTH).train()(torch.zeros(BATCH, 3, SIZE, SIZE)).sum().backward()
    return multiplied(cores, torch.bfloat16 if AMX else torch.float32) / (
        counter.get_total_flops() / BATCH
    )


@functools.cache
def digits(split: str, count: int) -> ImageSet:
    """Real digits, enlarged."""
    return open_source("digits", SourceOptions(Path(), SIZE)).read(split, range(count))


def ours(seed: int) -> torch.nn.Module:
    """One arm in a worker, which has one thread."""
    part = digits("train", TRAIN)
    return fit.train(part.images, part.labels, fit.TrainConfig.of(SETTINGS), seed)


def reference(folder: Path, seed: int) -> torch.nn.Module:
    """The loop of torchvision's references: PNG files, PIL transforms image by image, a worker a
    core, float32.
    """
    change = transforms.Compose(
        [
            transforms.RandomCrop(SIZE, SIZE // 8, padding_mode="edge"),
            transforms.ToTensor(),
            transforms.Normalize((0.5,) * 3, (0.25,) * 3),
        ]
    )
    torch.manual_seed(seed)
    model = build(10, SIZE, WIDTH).train()
    optimiser = torch.optim.SGD(
        model.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, RATE, STEPS, pct_start=0.25, cycle_momentum=False
    )
    loader = DataLoader(
        ImageFolder(str(folder), change), BATCH, shuffle=True, num_workers=os.cpu_count()
    )
    for images, labels in (batch for _ in range(EPOCHS) for batch in loader):
        loss = F.cross_entropy(model(images), labels, label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def write(images: ImageSet, folder: Path) -> None:
    """One PNG an image, in a folder for each class."""
    for k, (image, label) in enumerate(zip(images.images, images.labels, strict=True)):
        path = folder / images.classes[label] / f"{k}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), image[..., ::-1])


def accuracy(model: torch.nn.Module, test: ImageSet) -> float:
    return float(
        (predict(model, torch.from_numpy(test.images)).argmax(1).numpy() == test.labels).mean()
    )


def timed(way, k: int) -> tuple[float, list[torch.nn.Module]]:
    """Seconds and the trained models of round k."""
    started = time.perf_counter()
    models = way(k)
    return time.perf_counter() - started, models
