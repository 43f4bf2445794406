"""What a classifier still recognises: damaged images, and images under attack."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from lib.classifier.model import normal, predict
from lib.core.store import ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset
from lib.measure import stats
from lib.measure.probes import open_classifier
from lib.measure.stats import Estimate, StatsError

SEVERITIES = (1, 2, 3, 4, 5)
# Tiny ImageNet-C (Hendrycks & Dietterich 2019), by hand: torchvision's noise depends on the batch,
# and its brightness is another.
STRENGTHS = {
    "noise": (0.04, 0.08, 0.12, 0.15, 0.18),  # deviation, of the full range
    "blur": (0.5, 0.75, 1.0, 1.25, 1.5),  # deviation in pixels at 64 px; larger in proportion
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),  # what is left of it
    "jpeg": (65, 58, 50, 40, 25),  # quality
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),  # added, of the full range
}
GROUPS = {"corruptions": tuple(STRENGTHS), "attacks": ("fgsm", "pgd")}


class RobustnessError(ValueError):
    """A damage or an attack that cannot be done, or whose result has no meaning."""


def corrupt(images: np.ndarray, kind: str, severity: int, seed: int) -> np.ndarray:
    """uint8 images (n, h, w, 3) with one damage; an image's noise depends on no other image."""
    if kind not in STRENGTHS or severity not in SEVERITIES:
        raise RobustnessError(f"no corruption {kind!r} of severity {severity!r}; kinds are "
                              f"{', '.join(STRENGTHS)}, severities {SEVERITIES[0]} to "
                              f"{SEVERITIES[-1]}")
    strength = STRENGTHS[kind][severity - 1]
    damaged = [DAMAGES[kind](image, strength, _draws(image, seed)) for image in images]
    return np.stack([np.clip(np.rint(image), 0, 255).astype(np.uint8) for image in damaged])


def fgsm(model: nn.Module, images: np.ndarray, labels: np.ndarray, eps: float,
         batch: int = 250) -> np.ndarray:
    """Images (n, h, w, 3) float32, each value moved by eps grey levels towards a higher loss."""
    return _attack(model, images, labels, eps, eps, 1, None, batch)


def pgd(model: nn.Module, images: np.ndarray, labels: np.ndarray, eps: float, steps: int = 10,
        seed: int = 0, batch: int = 250) -> np.ndarray:
    """Images (n, h, w, 3) float32, at most eps away, from a random start (Madry et al. 2018)."""
    if steps < 1:
        raise RobustnessError(f"steps={steps}; PGD takes at least one")
    return _attack(model, images, labels, eps, 2.5 * eps / steps, steps, seed, batch)


def attack(model: nn.Module, images: np.ndarray, labels: np.ndarray, eps: Sequence[float],
           pgd_steps: int, seed: int) -> dict[str, np.ndarray]:
    """Correct or not (n,) under each attack and eps in grey levels: `fgsm-4`, `pgd-4`."""
    results = {}
    for bound in eps:
        moved = {"fgsm": fgsm(model, images, labels, bound),
                 "pgd": pgd(model, images, labels, bound, pgd_steps, seed)}
        results |= {f"{kind}-{bound:g}": is_correct(model, pixels, labels)
                    for kind, pixels in moved.items()}
    return results


def is_correct(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of each image (n, h, w, 3) in grey levels, whole or not, whether it is classified right."""
    return predict(model, torch.from_numpy(images)).argmax(1).numpy() == labels


@artifact("robustness")
def robustness(store: Store, spec: ArtifactSpec) -> FileWriters:
    """Correct or not of the first images of a set: as they are (`clean`), under each corruption
    (`noise-3`), and of fewer under each attack (`pgd-4`)."""
    def write(path: Path) -> None:
        config, model = spec.settings, open_classifier(store, spec)
        images = imageset.load(store.make(spec.inputs["images"]))
        part, few = (images.take(slice(config[name]))
                     for name in ("corruption_images", "attack_images"))
        results = {"clean": is_correct(model, part.images, part.labels)}
        for kind, severity in itertools.product(config["corruptions"], config["severities"]):
            pixels = corrupt(part.images, kind, severity, spec.seed)
            results[f"{kind}-{severity}"] = is_correct(model, pixels, part.labels)
        results |= attack(model, few.images, few.labels, config["eps_255"], config["pgd_steps"],
                          spec.seed)
        save_file({name: torch.from_numpy(values) for name, values in results.items()}, path)
    return {"correct.safetensors": write}


def load_correct(store: Store, specs: Sequence[ArtifactSpec]) -> dict[str, np.ndarray]:
    """Matrix (seeds, images) by `clean` and `kind-strength` of one training set's classifiers."""
    seeds = [load_file(store.make(spec).path("correct.safetensors")) for spec in specs]
    return {name: np.stack([seed[name].numpy() for seed in seeds]) for name in seeds[0]}


def table(correct: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, dict]]:
    """Accuracy as `table[arm][kind][strength]`, from `correct[arm]` of `load_correct`."""
    results: dict[str, dict[str, dict]] = {}
    for arm, matrices in correct.items():
        for name, matrix in matrices.items():
            kind, _, strength = name.partition("-")
            kinds = results.setdefault(arm, {}).setdefault(kind, {})
            kinds[strength or "0"] = stats.accuracy(matrix)
    return results


def grouped(matrices: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mean over kinds and strengths of each group, (seeds, images): `corruptions`, `attacks`."""
    members = {group: [matrix for name, matrix in matrices.items() if name.split("-")[0] in kinds]
               for group, kinds in GROUPS.items()}
    return {group: np.mean(parts, axis=0) for group, parts in members.items() if parts}


def retained(matrices: Mapping[str, np.ndarray]) -> dict[str, Estimate | str]:
    """Share of the accuracy on clean images that is left under each group of damage."""
    results: dict[str, Estimate | str] = {}
    for group, matrix in grouped(matrices).items():
        try:
            results[group] = stats.ratio(matrix, matrices["clean"][:, :matrix.shape[1]])
        except StatsError as error:
            results[group] = f"not computed: {error}"
    return results


def _jpeg(image: np.ndarray, quality: int, draws: np.random.Generator) -> np.ndarray:
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)


def _brightness(image: np.ndarray, added: float, draws: np.random.Generator) -> np.ndarray:
    hsv = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 2] = np.minimum(hsv[..., 2] + added, 1)
    return 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


DAMAGES = {
    "noise": lambda image, deviation, draws: (
        image + 255 * deviation * draws.standard_normal(image.shape)),
    "blur": lambda image, deviation, draws: cv2.GaussianBlur(
        image, (0, 0), deviation * max(1.0, len(image) / 64)),  # no less than at 64 px
    "contrast": lambda image, left, draws: left * image + (1 - left) * image.mean(axis=(0, 1)),
    "jpeg": _jpeg,
    "brightness": _brightness,
}


def _draws(image: np.ndarray, seed: int) -> np.random.Generator:
    """Draws that belong to a seed and an image's content."""
    return np.random.default_rng([seed, zlib.crc32(image.tobytes())])


def _attack(model: nn.Module, images: np.ndarray, labels: np.ndarray, eps: float, step: float,
            steps: int, seed: int | None, batch: int) -> np.ndarray:
    """Steps of `step` grey levels within eps of the image; a seed makes the start a random one."""
    if eps < 0:
        raise RobustnessError(f"eps={eps} grey levels; a distance is at least 0")
    device, moved = next(model.eval().parameters()).device, []
    pixels = torch.tensor(images, dtype=torch.float32)
    for x, y in zip(pixels.split(batch), torch.as_tensor(labels).split(batch), strict=True):
        low, high = (x - eps).clamp(min=0).to(device), (x + eps).clamp(max=255).to(device)
        x, y = _start(x, eps, seed).to(device).clamp(low, high), y.to(device)
        for _ in range(steps):
            x = (x + step * _uphill(model, x, y)).clamp(low, high)
        moved.append(x.cpu())
    return torch.cat(moved).numpy()


def _start(x: torch.Tensor, eps: float, seed: int | None) -> torch.Tensor:
    """The images themselves, or with a seed a random place within eps of each."""
    if seed is None:
        return x
    steps = [_draws(image, seed).uniform(-eps, eps, image.shape) for image in x.numpy()]
    return (x + torch.tensor(np.stack(steps))).float()


def _uphill(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Sign (1, 0, -1) of the gradient of each image's loss, for each value of x (n, h, w, 3)."""
    x = x.clone().requires_grad_()
    logits = model(normal(x.clone()))
    loss = F.cross_entropy(logits, y, reduction="sum")  # a sum: no gradient shrinks with the batch
    return torch.autograd.grad(loss, x)[0].sign()
