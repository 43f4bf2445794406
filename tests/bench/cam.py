"""Class activation maps a second, against pytorch-grad-cam's GradCAM at the best of three batch sizes."""

import time

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from lib.classifier.model import Classifier, normal
from lib.measure import attention

COUNT, SIZE, CLASSES, BATCHES = 256, 64, 10, (16, 32, 64)


def run() -> dict:
    """Rounds taken in turn, the best of each counts; the library's batch size is the fastest of a first try on a third."""
    torch.manual_seed(0)
    model = Classifier(CLASSES, SIZE, 16)
    images = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3)).astype(np.uint8)
    labels = np.arange(COUNT) % CLASSES
    model.train()(normal(torch.from_numpy(images[:64])))  # its batch norms have seen something
    model.eval()
    best = min(BATCHES, key=lambda batch: timed(library, model, images[::3], labels[::3], batch)[0])
    rounds = [(timed(attention.maps, model, images, labels), timed(library, model, images, labels, best)) for _ in range(3)]
    ours, theirs = (min((pair[i] for pair in rounds), key=lambda found: found[0]) for i in (0, 1))
    raw = attention.library_maps(model, images, labels)  # before it scales each map, which for an even one blows rounding up
    return {"unit": "maps/s", "ours": round(COUNT / ours[0], 1), "reference": round(COUNT / theirs[0], 1),
            "ratio": round(theirs[0] / ours[0], 2), "equal": bool(np.abs(ours[1] - raw).max() <= 1e-5 * raw.max()),
            "reference_batch": best, "threads": torch.get_num_threads()}


def library(model: Classifier, images: np.ndarray, labels: np.ndarray, batch: int) -> np.ndarray:
    """Its maps (n, h, w), at image size and each scaled to 0..1."""
    pixels, targets = torch.from_numpy(images), [ClassifierOutputTarget(int(label)) for label in labels]
    with GradCAM(model, [model.layer4]) as cam:
        return np.concatenate([cam(normal(pixels[i:i + batch]), targets[i:i + batch]) for i in range(0, len(images), batch)])


def timed(make, *given) -> tuple[float, np.ndarray]:
    """Seconds and maps."""
    started = time.perf_counter()
    found = make(*given)
    return time.perf_counter() - started, found
