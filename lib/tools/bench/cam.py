"""Class activation maps a second of the whole machine: ours with one classifier a core, as a study
makes its maps, against pytorch-grad-cam's GradCAM, which has all cores for one classifier, at the
best of three batch sizes.

`most` is what a gain of the forward pass alone could reach: every multiplication as fast as in a
large matrix product.
"""

import functools
import os
import time

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch.utils.flop_counter import FlopCounterMode

from lib.classifier.model import normal
from lib.classifier.resnet import Classifier
from lib.core import workers
from lib.measure import gradcam
from lib.tools.bench import multiplied

COUNT, SIZE, CLASSES, BATCHES, ROUNDS = 512, 64, 10, (16, 32, 64), 3


def run() -> dict:
    """Rounds taken in turn, the best of each counts; the library's batch size is the fastest of a
    first try on a third.
    """
    cores, (model, images, labels) = os.cpu_count(), classifier(0)
    side_by_side = functools.partial(workers.processes(cores).map, ours)
    list(side_by_side([0] * 4 * cores))  # a study starts its workers once
    best = min(
        BATCHES, key=lambda batch: timed(lambda: library(model, images[::3], labels[::3], batch))[0]
    )
    rounds = [
        (
            timed(lambda: list(side_by_side([0] * cores))),
            timed(lambda: library(model, images, labels, best)),
        )
        for _ in range(ROUNDS)
    ]
    ours_took, theirs_took = (min(pair[i][0] for pair in rounds) for i in (0, 1))
    raw = library_maps(model, images, labels)
    speed, reference = cores * COUNT / ours_took, COUNT / theirs_took
    return {
        "unit": "maps/s",
        "ours": round(speed, 1),
        "reference": round(reference, 1),
        "ratio": round(speed / reference, 2),
        "equal": bool(np.abs(rounds[0][0][1][0] - raw).max() <= 1e-5 * raw.max()),
        "most": round(most(cores) / reference, 2),
        "reference_batch": best,
        "cores": cores,
    }


@functools.cache
def classifier(seed: int) -> tuple[Classifier, np.ndarray, np.ndarray]:
    """A network whose batch norms have seen something, images and their labels."""
    torch.manual_seed(seed)
    model = Classifier(CLASSES, SIZE, 16)
    images = np.random.default_rng(seed).integers(0, 256, (COUNT, SIZE, SIZE, 3)).astype(np.uint8)
    model.train()(normal(torch.from_numpy(images[:64])))
    return model.eval(), images, np.arange(COUNT) % CLASSES


def ours(seed: int) -> np.ndarray:
    """The maps of one classifier in a worker, which has one thread."""
    return gradcam.maps(*classifier(seed))


def library(model: Classifier, images: np.ndarray, labels: np.ndarray, batch: int) -> np.ndarray:
    """Its maps (n, h, w), at image size and each scaled to 0..1."""
    pixels, targets = (
        torch.from_numpy(images),
        [ClassifierOutputTarget(int(label)) for label in labels],
    )
    with GradCAM(model, [model.layer4]) as cam:
        return np.concatenate(
            [
                cam(normal(pixels[i : i + batch]), targets[i : i + batch])
                for i in range(0, len(images), batch)
            ]
        )


def library_maps(model: torch.nn.Module, images: np.ndarray, labels: np.ndarray,
                 layer: str = "layer4") -> np.ndarray:
    """Its maps (n, H, W) before it scales each to 0..1, which for an even one blows rounding up."""
    # clone: residual blocks add and rectify in place, which would change the activation it holds
    cam = GradCAM(model, [model.get_submodule(layer)], reshape_transform=torch.clone)
    with torch.enable_grad():
        x = normal(torch.as_tensor(images)).requires_grad_()
        logits = cam.activations_and_grads(x)
        own = logits.gather(1, torch.as_tensor(labels)[:, None])
        torch.autograd.grad(own.sum(), x)
    held = cam.activations_and_grads
    pair = held.activations[0].numpy(), held.gradients[0].numpy()
    held.release()
    return np.maximum(cam.get_cam_image(x, cam.target_layers[0], None, *pair, False), 0)


def most(cores: int) -> float:
    """Maps a second if all cores did nothing but multiply."""
    model, images, _ = classifier(0)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(normal(torch.from_numpy(images[:1])))
    return multiplied(cores) / counter.get_total_flops()


def timed(make) -> tuple[float, np.ndarray]:
    """Seconds and maps."""
    started = time.perf_counter()
    found = make()
    return time.perf_counter() - started, found
