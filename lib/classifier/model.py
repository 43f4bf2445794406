"""Networks by name: ResNets of any width and stem, `fast` for small images, and torchvision's."""

from __future__ import annotations

import difflib
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from lib.classifier.fast import FastNet

RESNETS = ("resnet8", "resnet18", "resnet50")
OWN = (*RESNETS, "fast")


class ModelError(ValueError):
    """A classifier that cannot be built."""


def build(
    classes: int, size: int, width: int = 64, name: str = "resnet18", stem: int = 0
) -> nn.Module:
    """An untrained classifier; `width` and `stem` (its stride, 0: by size) are for our networks."""
    if name == "fast":
        return FastNet(classes, size, width, stem)
    if name in RESNETS:
        from lib.classifier.resnet import Classifier  # torchvision takes seconds to import

        return Classifier(classes, size, width, name, stem)
    return _build_torchvision(classes, size, name)


def _build_torchvision(classes: int, size: int, name: str) -> nn.Module:
    """An untrained classifier of torchvision.models."""
    from torchvision import models  # seconds to import

    available = models.list_models(models)
    if name not in available:
        raise ModelError(f"no classifier {name!r}; {_suggestion(name, available)}")
    options = {
        "vit": {"image_size": size},
        "goo": {"aux_logits": False},
        "inc": {"aux_logits": False},
    }
    try:
        model = models.get_model(
            name, weights=None, num_classes=classes, **options.get(name[:3], {})
        )
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, size, size))  # some refuse small images only then
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ModelError(
            f"{name} cannot take images of {size} px ({error}); choose larger images or a ResNet"
        ) from error
    return model


def _suggestion(name: str, available: list[str]) -> str:
    """`did you mean 'resnet18'?` or what there is."""
    close = difflib.get_close_matches(name, [*OWN, *available], n=3)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"there are {', '.join(OWN)} and those of torchvision.models"


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """The model with the weights of a safetensors file, ready to predict."""
    model.load_state_dict(load_file(path))
    return model.eval()


def blocks(model: nn.Module) -> list[list[nn.Module]]:
    """From input to head: children with weights, each batch norm together with what it follows."""
    groups: list[list[nn.Module]] = []
    for child in model.children():
        if isinstance(child, nn.BatchNorm2d) and groups:
            groups[-1].append(child)
        elif any(True for _ in child.parameters()):
            groups.append([child])
    return groups


def unfreeze_last(model: nn.Module, count: int) -> None:
    """Only the last `count` blocks train (0: all); the rest stays, batch statistics too."""
    groups = blocks(model)
    if count > len(groups):
        raise ModelError(
            f"{count} blocks to fine-tune, the network has {len(groups)}: "
            "lower repair.unfreeze_last and repair.unfreeze_last_curve"
        )
    if not count:
        model.train()
        return
    trainable = {p for p in model.parameters() if p.requires_grad}
    model.eval().requires_grad_(False)
    for module in (module for group in groups[-count:] for module in group):
        for parameter in trainable.intersection(module.train().parameters()):
            parameter.requires_grad_(True)


@torch.inference_mode()
def predict(model: nn.Module, images: torch.Tensor, batch: int = 500) -> torch.Tensor:
    """Logits (n, classes) of uint8 images (n, h, w, 3), on the model's device."""
    device = next(model.parameters()).device
    chunks = images.split(batch)
    return torch.cat([model.eval()(normal(chunk.to(device))).float().cpu() for chunk in chunks])


def normal(images: torch.Tensor) -> torch.Tensor:
    """uint8 (n, h, w, 3) to float (n, 3, h, w) in about -2..2; channels stay last in memory."""
    return images.permute(0, 3, 1, 2).to(torch.float32, copy=True).sub_(127.5).div_(63.75)
