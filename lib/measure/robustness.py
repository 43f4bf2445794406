"""What a classifier still recognises: damaged images at five severities, and images moved against it within a bound."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from lib.classifier.model import normal, predict
from lib.measure.stats import over_seeds

SEVERITIES = (1, 2, 3, 4, 5)
# Tiny ImageNet-C (Hendrycks & Dietterich 2019), by hand: torchvision's noise depends on the batch, its brightness is another.
STRENGTHS = {
    "noise": (0.04, 0.08, 0.12, 0.15, 0.18),  # deviation, of the full range
    "blur": (0.5, 0.75, 1.0, 1.25, 1.5),  # deviation in pixels of a 64 px image; larger images in proportion
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),  # what is left of it
    "jpeg": (65, 58, 50, 40, 25),  # quality
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),  # added, of the full range
}


class RobustnessError(ValueError):
    """A damage or an attack that cannot be done, or whose result has no meaning."""


def corrupt(images: np.ndarray, kind: str, severity: int, seed: int) -> np.ndarray:
    """uint8 images (n, h, w, 3) with one damage; an image's noise is its own, whatever images stand beside it."""
    if kind not in STRENGTHS or severity not in SEVERITIES:
        raise RobustnessError(f"no corruption {kind!r} of severity {severity!r}; kinds are {', '.join(STRENGTHS)}, "
                              f"severities {SEVERITIES[0]} to {SEVERITIES[-1]}")
    damaged = (DAMAGES[kind](image, STRENGTHS[kind][severity - 1], _draws(image, seed)) for image in images)
    return np.stack([np.clip(np.rint(image), 0, 255).astype(np.uint8) for image in damaged])


def fgsm(model: nn.Module, images: np.ndarray, labels: np.ndarray, eps: float, batch: int = 250) -> np.ndarray:
    """Images (n, h, w, 3) float32, each value moved by eps grey levels, the way that raises the true label's loss."""
    return _attack(model, images, labels, eps, eps, 1, None, batch)


def pgd(model: nn.Module, images: np.ndarray, labels: np.ndarray, eps: float, steps: int = 10, seed: int = 0,
        batch: int = 250) -> np.ndarray:
    """Images (n, h, w, 3) float32, at most eps grey levels away, after `steps` climbs from a random start (Madry et al.)."""
    if steps < 1:
        raise RobustnessError(f"steps={steps}; PGD takes at least one")
    return _attack(model, images, labels, eps, 2.5 * eps / steps, steps, seed, batch)


def attacked(model: nn.Module, images: np.ndarray, labels: np.ndarray, eps: Sequence[float], steps: int,
             seed: int) -> list[dict]:
    """A row an attack and eps in grey levels (as severity): accuracy, and that on the images as they are.

    Each step costs as much as one of training: give it a few hundred images.
    """
    clean, rows = accuracy(model, images, labels), []
    for bound in eps:
        given = (model, images, labels, bound)
        for kind, moved in (("fgsm", fgsm(*given)), ("pgd", pgd(*given, steps, seed))):
            rows.append({"kind": kind, "severity": bound, "accuracy": accuracy(model, moved, labels), "clean": clean})
    return rows


def accuracy(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of images (n, h, w, 3) in grey levels, whole or not, that are recognised."""
    return float((predict(model, torch.from_numpy(images)).argmax(1).numpy() == labels).mean())


def retained(found: pd.DataFrame) -> pd.DataFrame:
    """Rows with the share of the `clean` accuracy that is left; an arm that recognises nothing clean has no such share."""
    lost = found.loc[found["clean"] == 0, "arm"]
    kept = found[~found["arm"].isin(lost)]
    return kept.assign(retained=kept["accuracy"] / kept["clean"])


def table(found: pd.DataFrame, what: str = "accuracy") -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """`accuracy` or `retained` as mean with interval over the seeds: `table[arm][kind][severity]`, severity as text."""
    return {arm: {kind: {f"{severity:g}": over_seeds(cell[what]) for severity, cell in rows.groupby("severity")}
                  for kind, rows in part.groupby("kind", sort=False)} for arm, part in found.groupby("arm", sort=False)}


def _jpeg(image: np.ndarray, quality: int, draws: np.random.Generator) -> np.ndarray:
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)


def _brightness(image: np.ndarray, added: float, draws: np.random.Generator) -> np.ndarray:
    hsv = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 2] = np.minimum(hsv[..., 2] + added, 1)
    return 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


DAMAGES = {
    "noise": lambda image, deviation, draws: image + 255 * deviation * draws.standard_normal(image.shape),
    # no less than at 64 px in a smaller image, where it would be nothing
    "blur": lambda image, deviation, draws: cv2.GaussianBlur(image, (0, 0), deviation * max(1.0, len(image) / 64)),
    "contrast": lambda image, left, draws: left * image + (1 - left) * image.mean(axis=(0, 1)),
    "jpeg": _jpeg,
    "brightness": _brightness,
}


def _draws(image: np.ndarray, seed: int) -> np.random.Generator:
    """Draws that belong to a seed and an image's content."""
    return np.random.default_rng([seed, zlib.crc32(image.tobytes())])


def _attack(model: nn.Module, images: np.ndarray, labels: np.ndarray, eps: float, step: float, steps: int, seed: int | None,
            batch: int) -> np.ndarray:
    """Climbs of `step` grey levels within eps of the image and within 0..255; a seed makes the start a random one."""
    if eps < 0:
        raise RobustnessError(f"eps={eps} grey levels; a distance is at least 0")
    where, found = next(model.eval().parameters()).device, []
    for x, y in zip(torch.tensor(images, dtype=torch.float32).split(batch), torch.as_tensor(labels).split(batch), strict=True):
        low, high = (x - eps).clamp(min=0).to(where), (x + eps).clamp(max=255).to(where)
        if seed is not None:
            x = x + torch.tensor(np.stack([_draws(image, seed).uniform(-eps, eps, image.shape) for image in x.numpy()]))
        x, y = x.float().to(where).clamp(low, high), y.to(where)
        for _ in range(steps):
            x = (x + step * _uphill(model, x, y)).clamp(low, high)
        found.append(x.cpu())
    return torch.cat(found).numpy()


def _uphill(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """For each value of x (n, h, w, 3) the sign (1, 0, -1) in which the loss of its image's true label rises."""
    x = x.clone().requires_grad_()
    loss = F.cross_entropy(model(normal(x.clone())), y, reduction="sum")  # a sum: no gradient shrinks with the batch
    return torch.autograd.grad(loss, x)[0].sign()
