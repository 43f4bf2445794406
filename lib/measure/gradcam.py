"""Where a classifier looks: class activation maps, kept in the store, and how far to trust them.

A map is the rectified CAM of the true class, (n, H, W) at the resolution of its layer and never
scaled. With a pooled linear head it is Grad-CAM, and the gradient that pytorch-grad-cam goes back
for is known: W / (H W); so one forward pass gives maps and logits. Other layers and methods:
pytorch-grad-cam.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from pytorch_grad_cam.metrics.road import ROADCombined
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from safetensors.torch import load_file, save_file
from scipy.stats import rankdata, zscore
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F

from lib.classifier.model import normal, predict
from lib.core import compute
from lib.core.store import ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset
from lib.data.imageset import ImageSet
from lib.measure.probes import open_classifier

ROAD_PERCENTILES = (20, 50, 80)  # percent of the pixels that ROAD removes; a sparse solve each
GREY = np.array([0.299, 0.587, 0.114]) / 255


class GradcamError(ValueError):
    """Maps that cannot be made."""


# artifacts


@artifact("gradcam-maps")
def gradcam_maps(store: Store, spec: ArtifactSpec) -> FileWriters:
    """Maps (n, H, W) of the true class and logits (n, classes) on the first `count` images."""
    def write(path: Path) -> None:
        model, part = _opened(store, spec)
        values, logits = explain(model, part.images, part.labels)
        save_file({"maps": torch.from_numpy(values), "logits": torch.from_numpy(logits)}, path)
    return {"maps.safetensors": write}


@artifact("gradcam-checks")
def gradcam_checks(store: Store, spec: ArtifactSpec) -> FileWriters:
    """`road` (n,) and `sanity` (n,) of the maps of the first `count` images."""
    def write(path: Path) -> None:
        model, part = _opened(store, spec)
        own = maps(model, part.images, part.labels)
        values = {"road": road(model, part.images, part.labels, own, spec.seed, ROAD_PERCENTILES),
                  "sanity": sanity(model, part.images, part.labels, spec.seed)}
        save_file({name: torch.from_numpy(np.asarray(array, np.float64))
                   for name, array in values.items()}, path)
    return {"trust.safetensors": write}


def load(store: Store, spec: ArtifactSpec) -> dict[str, np.ndarray]:
    """The arrays of either artifact."""
    return {name: array.numpy() for name, array in load_file(store.make(spec).files[0]).items()}


def _opened(store: Store, spec: ArtifactSpec) -> tuple[nn.Module, ImageSet]:
    images = imageset.load(store.make(spec.inputs["images"]))
    return open_classifier(store, spec), images.take(slice(spec.settings["count"]))


# maps


def maps(model: nn.Module, images: np.ndarray, labels: np.ndarray, batch: int = 32) -> np.ndarray:
    """Maps (n, H, W) float32 of the true class of uint8 images (n, h, w, 3)."""
    return explain(model, images, labels, batch)[0]


@torch.inference_mode()
def explain(model: nn.Module, images: np.ndarray, labels: np.ndarray, batch: int = 32,
            rectify: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Maps (n, H, W) of the true class, and the logits (n, classes) of the same forward pass."""
    pixels, labels = _checked(model, images, labels)
    (pool, head), network, seen = _head(model), _folded(model), []
    cams, logits, device = [], [], head.weight.device
    hook = network.get_submodule(pool).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with hook:
        for part, classes in zip(pixels.split(batch), labels.to(device).split(batch), strict=True):
            logits.append(network(normal(part.to(device))))
            cams.append(_cam(seen.pop(), head, classes))
    cams, logits = torch.cat(cams).cpu(), torch.cat(logits).cpu()
    _check_sum(cams, logits, labels, head)
    return (cams.clamp(min=0) if rectify else cams).numpy(), logits.numpy()


def _cam(features: torch.Tensor, head: nn.Linear, classes: torch.Tensor) -> torch.Tensor:
    """W[class] · features / (H W), (n, H, W)."""
    if features.shape[1] != head.in_features:
        raise GradcamError(f"the last linear layer takes not the {features.shape[1]} pooled "
                           "channels; use pytorch-grad-cam for such a network")
    cells = features.shape[2] * features.shape[3]
    if cells == 1:
        raise GradcamError("the layer's map is 1 x 1, which says nothing of where; train with a "
                           "stem for this resolution (training.stem_stride)")
    return torch.einsum("nkij,nk->nij", features, head.weight[classes]) / cells


def _check_sum(cams, logits, labels, head: nn.Linear) -> None:
    """A map's sum and the bias are the class's logit where nothing but the head follows."""
    bias = 0 if head.bias is None else head.bias.cpu()[labels]
    own = logits.gather(1, labels[:, None])[:, 0]
    if not torch.allclose(cams.sum((1, 2)) + bias, own, rtol=1e-3, atol=1e-3):
        raise GradcamError("maps and logits do not add up: more than a linear layer follows the "
                           "pooling; use pytorch-grad-cam for such a network")


def _head(model: nn.Module) -> tuple[str, nn.Linear]:
    """Name of the last average pooling to one cell, and the last linear layer."""
    pools = [name for name, part in model.named_modules()
             if isinstance(part, nn.AdaptiveAvgPool2d) and part.output_size in (1, (1, 1))]
    linear = [part for part in model.modules() if isinstance(part, nn.Linear)]
    if pools and linear:
        return pools[-1], linear[-1]
    raise GradcamError(f"{type(model).__name__} does not end in average pooling and a linear "
                       "layer; use pytorch-grad-cam for such a network")


def _folded(model: nn.Module) -> nn.Module:
    """A copy with batch norms folded into convolutions: the same function, 1.5 times as fast."""
    try:
        return fuse(model.eval()).to(memory_format=torch.channels_last)
    except torch.fx.proxy.TraceError:  # its forward branches on what it sees; it runs as it is
        return model


def _checked(model: nn.Module, images, labels) -> tuple[torch.Tensor, torch.Tensor]:
    pixels, labels = torch.as_tensor(images), torch.as_tensor(labels).long()
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or not len(pixels):
        raise GradcamError("maps need uint8 RGB images (n, h, w, 3), n >= 1; got "
                           f"{pixels.dtype} {tuple(pixels.shape)}; grey images (n, h, w) become "
                           "RGB by np.repeat(grey[..., None], 3, axis=3)")
    if labels.shape != pixels.shape[:1]:
        raise GradcamError(f"labels {tuple(labels.shape)} for {len(pixels)} images; "
                           "give the true class of each image")
    classes = predict(model, pixels[:1]).shape[1]
    if not 0 <= labels.min() <= labels.max() < classes:
        raise GradcamError(f"labels {labels.min()}..{labels.max()} do not fit the {classes} "
                           "classes of the classifier")
    return pixels, labels


# how far to trust a map


def road(model: nn.Module, images: np.ndarray, labels: np.ndarray, maps: np.ndarray, seed: int,
         percentiles: Sequence[int] = tuple(range(10, 100, 10))) -> np.ndarray:
    """Faithfulness (n,), ROAD combined (Rong et al. 2022); 0 for a map that knows nothing.

    True-class probability lost by removing the most attended pixels rather than the least attended,
    halved. Each image has its own seed, so batches change nothing.
    """
    pixels, labels = _checked(model, images, labels)
    x = normal(pixels.to(next(model.parameters()).device))
    measure, scores = ROADCombined(list(percentiles)), []
    for i, (attention, label) in enumerate(
            zip(upsampled(maps, pixels.shape[1:3]), labels.tolist(), strict=True)):
        own = compute.seed_of(seed, "road", i)
        target = [ClassifierOutputSoftmaxTarget(label)]
        with torch.random.fork_rng(devices=[]):  # the filling's noise is torch's global one
            torch.manual_seed(own)
            scores.append(measure(x[i:i + 1], _ranked(attention, own), target, model)[0])
    return np.array(scores)


def _ranked(attention: np.ndarray, seed: int) -> np.ndarray:
    """Ranks (1, h, w) in 0..1, ties at random: a percentile would remove all of them at once."""
    order = np.lexsort((np.random.default_rng(seed).random(attention.size), attention.ravel()))
    return (order.argsort() / attention.size).astype(np.float32).reshape(1, *attention.shape)


def sanity(model: nn.Module, images: np.ndarray, labels: np.ndarray, seed: int,
           batch: int = 32) -> np.ndarray:
    """Rank correlation (n,) of each map with that of a copy with random weights.

    Near 1, it shows the image and not what was learned. Before the relu, which would leave a random
    network's maps empty where its class weight points down.
    """
    other = copy.deepcopy(model).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(compute.seed_of(seed, "sanity"))
        for module in other.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    networks = model, other.to(next(model.parameters()).device)
    flat = [explain(network, images, labels, batch, rectify=False)[0].reshape(len(images), -1)
            for network in networks]
    ranks = [zscore(rankdata(values, axis=1), axis=1) for values in flat]
    return (ranks[0] * ranks[1]).mean(1)


# pictures


def overlay(images: np.ndarray, maps: np.ndarray, shared: bool = True) -> np.ndarray:
    """Maps over grey images, uint8 (n, h, w, 3); `shared`: one colour scale for all."""
    up = upsampled(maps, images.shape[1:3])
    top = up.max() if shared else up.max((1, 2), keepdims=True)
    scaled = np.divide(up, top, out=np.zeros_like(up), where=top > 0)
    heat = matplotlib.colormaps["viridis"](scaled)[..., :3]
    return np.rint(255 * (0.4 * (images @ GREY)[..., None] + 0.6 * heat)).astype(np.uint8)


def heat(part: ImageSet, maps: Sequence[np.ndarray], index: int) -> np.ndarray:
    """Several classifiers' maps over the image at this position, uint8 (k, h, w, 3)."""
    stack = np.stack([values[index] for values in maps])
    return overlay(np.repeat(part.images[index][None], len(stack), 0), stack)


def upsampled(maps: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Maps (n, h, w) drawn bilinearly to image resolution."""
    tensor = torch.from_numpy(maps)[:, None]
    return F.interpolate(tensor, tuple(size), mode="bilinear")[:, 0].numpy()
