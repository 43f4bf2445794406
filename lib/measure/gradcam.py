"""Where a classifier looks: class activation maps, what they measure, and how far to trust them.

A map is the rectified CAM of the true class, (n, H, W) at the resolution of its layer and never scaled; p = map / sum.
A map that is zero everywhere has no p: its focus and spread are nan, and `compare` says how many were dropped.
"""

from __future__ import annotations

import contextlib
import copy

import cv2
import matplotlib
import numpy as np
import torch
from pytorch_grad_cam import EigenCAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.metrics.road import ROADCombined
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from scipy import special, stats
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F

from lib.classifier.model import normal, predict
from lib.core import compute

METHODS = {"GradCAM": GradCAM, "GradCAM++": GradCAMPlusPlus, "HiResCAM": HiResCAM, "LayerCAM": LayerCAM, "EigenCAM": EigenCAM}


class AttentionError(ValueError):
    """Maps that cannot be made or measured."""


def maps(model: nn.Module, images: np.ndarray, labels: np.ndarray, batch: int = 32) -> np.ndarray:
    """Raw maps (n, H, W) float32 of the true class of uint8 images (n, h, w, 3)."""
    return explain(model, images, labels, batch)[0]


@torch.inference_mode()
def explain(model: nn.Module, images: np.ndarray, labels: np.ndarray, batch: int = 32,
            rectify: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Raw maps (n, H, W) of the true class, and the logits (n, classes) of the same forward pass. By hand, as with a pooled
    linear head the gradient that pytorch-grad-cam goes back for is known: W / (H W)."""
    pixels, labels = _checked(model, images, labels)
    (pool, head), folded, seen, found, logits = _head(model), _folded(model), [], [], []
    where = head.weight.device
    with folded.get_submodule(pool).register_forward_pre_hook(lambda module, given: seen.append(given[0])):
        for chunk, wanted in zip(pixels.split(batch), labels.to(where).split(batch), strict=True):
            logits.append(folded(normal(chunk.to(where))))
            features = seen.pop()
            if features.shape[1] != head.in_features:
                raise AttentionError(f"the last linear layer takes not the {features.shape[1]} pooled channels; use library_maps")
            found.append(torch.einsum("nkij,nk->nij", features, head.weight[wanted]) / _cells(features.shape[2:]))
    found, logits = torch.cat(found).cpu(), torch.cat(logits).cpu()
    bias = 0 if head.bias is None else head.bias.cpu()[labels]
    if not torch.allclose(found.sum((1, 2)) + bias, logits.gather(1, labels[:, None])[:, 0], rtol=1e-3, atol=1e-3):
        raise AttentionError("maps and logits do not add up: more than a linear layer follows the pooling; use library_maps")
    return (found.clamp(min=0) if rectify else found).numpy(), logits.numpy()


def library_maps(model: nn.Module, images: np.ndarray, labels: np.ndarray, method: str = "GradCAM",
                 layer: str | None = None, batch: int = 32) -> np.ndarray:
    """Raw maps (n, H, W) by a method of pytorch-grad-cam at a named layer, the last one with a map unless told."""
    pixels, labels = _checked(model, images, labels)
    if method not in METHODS:
        raise AttentionError(f"no method {method!r}; there are {', '.join(METHODS)}")
    there = layers(model, pixels)
    layer = list(there)[-1] if layer is None and there else layer
    if layer not in there:
        raise AttentionError(f"no layer {layer!r} that gives one map; there are {', '.join(there) or 'none'}")
    _cells(there[layer][1:])
    # clone: residual blocks add and rectify in place, which would change the activation that the library holds
    cam = METHODS[method](model, [model.get_submodule(layer)], reshape_transform=torch.clone)
    try:  # and no `with`, as the library's swallows every IndexError
        return np.concatenate([_raw(cam, *pair) for pair in zip(pixels.split(batch), labels.split(batch), strict=True)])
    finally:
        cam.activations_and_grads.release()


def _raw(cam: BaseCAM, pixels: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Maps of one batch, taken before `compute_cam_per_layer` scales each to 0..1: there a map and its 100-fold are equal."""
    with torch.enable_grad():
        x = normal(pixels.to(cam.device)).requires_grad_()  # a frozen network has gradients too
        logits = cam.activations_and_grads(x)
        if cam.uses_gradients:  # towards the input: the library's backward() would fill the weights' gradients as well
            torch.autograd.grad(logits.gather(1, labels.to(cam.device)[:, None]).sum(), x)
    kept = cam.activations_and_grads
    seen = [kept.activations[0].numpy(), kept.gradients[0].numpy() if kept.gradients else None]
    return np.maximum(cam.get_cam_image(x, cam.target_layers[0], None, *seen, False), 0).astype(np.float32)


def layers(model: nn.Module, images: np.ndarray) -> dict[str, tuple[int, int, int]]:
    """(channels, H, W) of every layer that gives one map in a forward pass, by name, in the order they finish."""
    names, outs = {module: name for name, module in model.named_modules()}, {}
    with contextlib.ExitStack() as stack:
        for module in names:
            stack.enter_context(module.register_forward_hook(lambda one, given, out: outs.setdefault(one, []).append(out)))
        predict(model, torch.as_tensor(images)[:1])
    single = {one: out[0] for one, out in outs.items() if len(out) == 1 and not isinstance(one, nn.AdaptiveAvgPool2d)}
    return {names[one]: tuple(out.shape[1:]) for one, out in single.items() if isinstance(out, torch.Tensor) and out.ndim == 4}


def _cells(shape: tuple[int, int]) -> int:
    """H W, which must be more than one."""
    if shape[0] * shape[1] > 1:
        return shape[0] * shape[1]
    raise AttentionError("the layer's map is 1 x 1, which says nothing of where; train with a stem for this resolution "
                         "(Classifier(size=...)), or give library_maps an earlier layer; layers(model, images) lists them")


def _head(model: nn.Module) -> tuple[str, nn.Linear]:
    """Name of the last average pooling to one cell, and the last linear layer."""
    pools = [name for name, m in model.named_modules() if isinstance(m, nn.AdaptiveAvgPool2d) and m.output_size in (1, (1, 1))]
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    if pools and linear:
        return pools[-1], linear[-1]
    raise AttentionError(f"{type(model).__name__} does not end in average pooling and a linear layer; use library_maps")


def _folded(model: nn.Module) -> nn.Module:
    """A copy with batch norms folded into convolutions, channels last: the same function, about 1.5 times as fast."""
    try:
        return fuse(model.eval()).to(memory_format=torch.channels_last)
    except torch.fx.proxy.TraceError:  # its forward branches on what it sees; it runs as it is
        return model


def _checked(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    pixels, labels = torch.as_tensor(images), torch.as_tensor(labels).long()
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or not len(pixels):
        raise AttentionError(f"maps need uint8 RGB images (n, h, w, 3), n >= 1; got {pixels.dtype} {tuple(pixels.shape)}; "
                             "grey images (n, h, w) become RGB by np.repeat(grey[..., None], 3, axis=3)")
    if labels.shape != pixels.shape[:1]:
        raise AttentionError(f"labels {tuple(labels.shape)} for {len(pixels)} images; give the true class of each image")
    classes = predict(model, pixels[:1]).shape[1]
    if not 0 <= labels.min() <= labels.max() < classes:
        raise AttentionError(f"labels {labels.min()}..{labels.max()} do not fit the {classes} classes of the classifier")
    return pixels, labels


def focus(maps: np.ndarray, masks: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """`{"mass": share of p on the object}` with masks (n, h, w) at image resolution, else `{"gini": Gini of p}`, each (n,).
    Masks are averaged down to the map's cells; maps drawn up bilinearly would smear half of a cell's mass off its object."""
    p = _shares(maps)
    if masks is None:
        ranks = 2 * np.arange(1, p.shape[1] + 1) - p.shape[1] - 1
        return {"gini": np.sort(p, axis=1) @ ranks / p.shape[1]}
    if masks.ndim != 3 or len(masks) != len(maps) or (np.array(masks.shape[1:]) < maps.shape[1:]).any():
        raise AttentionError(f"maps {maps.shape} need as many masks (n, h, w) of at least their size; got {masks.shape}")
    size = maps.shape[:0:-1]  # cv2 takes (width, height); its area means are exact for sides that do not divide, too
    covered = [cv2.resize(np.asarray(mask, np.float32), size, interpolation=cv2.INTER_AREA) for mask in masks]
    return {"mass": (p * np.reshape(covered, p.shape)).sum(1)}


def spread(maps: np.ndarray) -> np.ndarray:
    """Share of the image effectively attended (n,): exp(entropy of p) / (H W), 1 where a map is even."""
    p = _shares(maps)
    return np.exp(special.entr(p).sum(1)) / p.shape[1]


def intensity(maps: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean of each map (n,) in standard deviations of its class's logit over a set, logits (m, classes)."""
    unit = np.std(logits, axis=0, dtype=np.float64)[labels]
    if not (unit > 0).all():
        raise AttentionError("intensity is in units of the class logit's deviation, which is 0 here; give logits of more images")
    return maps.mean((1, 2), dtype=np.float64) / unit


def posters(maps: np.ndarray, size: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
    """The poster's three (n,): each map scaled to 0..1, at (h, w) if given; its focus and intensity are the same number."""
    scaled = scale_cam_image(scale_cam_image(maps, size[::-1]) if size else maps)  # its library scales again after resizing
    return {"focus": scaled.sum((1, 2)) / scaled[0].size, "intensity": scaled.mean((1, 2)),
            "spread": (scaled > 0.5).mean((1, 2))}


def statistics(maps: np.ndarray, logits: np.ndarray, labels: np.ndarray, masks: np.ndarray | None = None,
               size: tuple[int, int] | None = None, reference: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Columns (n,) of a set: class explained and predicted, focus (and that of an even map), spread, intensity, the poster's.
    `reference`: logits whose deviation is the unit of intensity, so that two sets can share one; else the set's own."""
    known = {} if masks is None else {"focus_mass": focus(maps, masks)["mass"], "focus_even": masks.mean((1, 2))}
    return {"label": np.asarray(labels), "predicted": logits.argmax(1), "focus_gini": focus(maps)["gini"], **known,
            "spread": spread(maps), "intensity": intensity(maps, logits if reference is None else reference, labels),
            **{f"poster_{name}": values for name, values in posters(maps, size).items()}}


def compare(a: np.ndarray, b: np.ndarray, seed: int, pairs: bool = False) -> dict[str, float | int | None]:
    """Difference of means a - b (n and n_base values) with its 95 % bootstrap interval over images, and Cohen's d: over the
    pooled deviation, or that of the pairs' differences; None where nothing deviates. Values that are nan are dropped."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if pairs and a.shape != b.shape:
        raise AttentionError(f"pairs need as many values on both sides; got {len(a)} and {len(b)}")
    total, there = len(a) + len(b), (np.isfinite(a), np.isfinite(b))
    a, b = (a[there[0] & there[1]], b[there[0] & there[1]]) if pairs else (a[there[0]], b[there[1]])
    if min(len(a), len(b)) < 2:
        raise AttentionError(f"an interval over images needs at least two values a side; got {len(a)} and {len(b)}")
    samples = (a - b,) if pairs else (a, b)
    found = stats.bootstrap(samples, lambda *drawn, axis: drawn[0].mean(axis) - sum(one.mean(axis) for one in drawn[1:]),
                            n_resamples=2000, batch=100, method="percentile",
                            rng=np.random.default_rng(compute.seed_of(seed, "compare"))).confidence_interval
    variance = np.average([one.var(ddof=1) for one in samples], weights=[len(one) - 1 for one in samples])
    mean = float(a.mean() - b.mean())
    return {"mean": mean, "low": float(found.low), "high": float(found.high), "n": len(a), "n_base": len(b),
            "dropped": total - len(a) - len(b), "d": mean / float(np.sqrt(variance)) if variance > 0 else None}


def road(model: nn.Module, images: np.ndarray, labels: np.ndarray, maps: np.ndarray, seed: int,
         percentiles: tuple[int, ...] = tuple(range(10, 100, 10))) -> np.ndarray:
    """Faithfulness (n,), ROAD combined: true-class probability lost by removing the most attended pixels rather than the
    least attended, halved; 0 for a map that knows nothing. Each image has its own seed, so batches change nothing."""
    pixels, labels = _checked(model, images, labels)
    x = normal(pixels.to(next(model.parameters()).device))
    measure, scores = ROADCombined(list(percentiles)), []
    for i, (up, label) in enumerate(zip(_upsampled(maps, pixels.shape[1:3]), labels.tolist(), strict=True)):
        own = compute.seed_of(seed, "road", i)
        # Ranks, ties at random: with ties at zero a percentile would remove the whole image and leave nothing to fill from.
        order = np.lexsort((np.random.default_rng(own).random(up.size), up.ravel()))
        ranks = (order.argsort() / up.size).astype(np.float32).reshape(1, *up.shape)
        with torch.random.fork_rng(devices=[]):  # the filling's noise comes from torch's global generator
            torch.manual_seed(own)
            scores.append(measure(x[i:i + 1], ranks, [ClassifierOutputSoftmaxTarget(label)], model)[0])
    return np.array(scores)


def sanity(model: nn.Module, images: np.ndarray, labels: np.ndarray, seed: int, batch: int = 32) -> np.ndarray:
    """Rank correlation (n,) of each map with that of a copy with random weights: near 1, it shows the picture and not what
    was learnt. Before the relu, which would leave a random network's maps empty where its class weight points down."""
    other = copy.deepcopy(model).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(compute.seed_of(seed, "sanity"))
        for module in filter(lambda one: hasattr(one, "reset_parameters"), other.modules()):
            module.reset_parameters()
    pair = [explain(one, images, labels, batch, rectify=False)[0].reshape(len(images), -1)
            for one in (model, other.to(next(model.parameters()).device))]
    ranks = [stats.zscore(stats.rankdata(flat, axis=1), axis=1) for flat in pair]
    return (ranks[0] * ranks[1]).mean(1)


def overlay(images: np.ndarray, maps: np.ndarray, shared: bool = True) -> np.ndarray:
    """Maps over grey images, uint8 (n, h, w, 3); `shared`: one colour scale from 0 to the largest value of all."""
    up = _upsampled(maps, images.shape[1:3])
    top = up.max() if shared else up.max((1, 2), keepdims=True)
    heat = matplotlib.colormaps["viridis"](np.divide(up, top, out=np.zeros_like(up), where=top > 0))[..., :3]
    grey = images @ np.array([0.299, 0.587, 0.114]) / 255
    return np.rint(255 * (0.4 * grey[..., None] + 0.6 * heat)).astype(np.uint8)


def _shares(maps: np.ndarray) -> np.ndarray:
    """p = map / its sum, (n, H W) float64; nan where a map is zero everywhere."""
    if maps.ndim != 3 or not (maps >= 0).all():
        raise AttentionError(f"a measure needs raw maps (n, H, W), none below 0; got {maps.shape}")
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    total = flat.sum(1, keepdims=True)
    return np.divide(flat, total, out=np.full_like(flat, np.nan), where=total > 0)


def _upsampled(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps (n, h, w) drawn bilinearly to image resolution."""
    return F.interpolate(torch.from_numpy(maps)[:, None], tuple(size), mode="bilinear")[:, 0].numpy()
