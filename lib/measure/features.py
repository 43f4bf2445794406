"""Penultimate features of image sets, made once for each set, network and resize mode.

`own` is a classifier of this study; the others' weights must lie here already. `inception` is the network of the published
FID, a name that no other may carry; `dinov2` is that of Stein et al. 2023.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torchvision.datasets.utils import download_url
from torchvision.models import get_model, get_model_weights
from torchvision.transforms import Normalize

from lib.classifier import train as fit
from lib.core import compute, progress
from lib.core.store import Artifact, ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset as images
from lib.measure.representation import penultimate

FID = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
DINO = {"dinov2": ("facebook/dinov2-large", "47b73eefe95e8d44ec3623f8890bd894b6ea2d6c")}  # hub id and revision
TORCHVISION = {"inception-torchvision": ("inception_v3", 299), "resnet18": ("resnet18", 224), "resnet50": ("resnet50", 224)}
NETWORKS = ("own", "inception", *DINO, *TORCHVISION)
RESIZES = ("bicubic", "bilinear")  # both with antialiasing, without which a Fréchet distance moves (Parmar et al. 2022)
IMAGENET = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


class FeatureError(RuntimeError):
    """Features that cannot be had here; the message says what would bring them."""


@dataclass(frozen=True)
class Network:
    """Images of `size` pixels in grey levels (n, 3, size, size) to features (n, d)."""

    body: nn.Module
    size: int
    features: Callable[[torch.Tensor], torch.Tensor]


@artifact("features")
def features(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """Features (n, d) float32 of upstream `images` by the network of the settings, `own` being upstream `classifier`."""
    def write(path: Path) -> None:
        name, resize = recipe.settings["network"], recipe.settings["resize"]
        network = opened(name, store.make(recipe.inputs["classifier"]) if "classifier" in recipe.inputs else None)
        network.body.to(compute.device(recipe.settings["device"]))
        pictures = images.load(store.make(recipe.inputs["images"])).images
        found = extract(network, pictures, resize)
        way = "as they are, at" if pictures.shape[1:3] == (network.size,) * 2 else f"{resize} with antialiasing to"
        facts = {"network": name, "resize": f"{way} {network.size} px"}
        progress.say(f"features of {len(found)} images: {name}, {facts['resize']}")
        save_file({"features": torch.from_numpy(found)}, path, {"facts": json.dumps(facts)})
    return {"features.safetensors": write}


def of(store: Store, pictures: ArtifactSpec, device: str, network: str = "own", classifier: ArtifactSpec | None = None,
       resize: str = "bicubic") -> tuple[np.ndarray, dict[str, str]]:
    """Features (n, d) of an image set, from the store or made, and the `network` and `resize` that every table names."""
    upstream = {"images": pictures} | ({"classifier": classifier} if network == "own" and classifier else {})
    made = store.make(features({"network": network, "resize": resize, "device": device}, **upstream))
    with safe_open(made.path("features.safetensors"), "pt") as file:
        return file.get_tensor("features").numpy(), json.loads(file.metadata()["facts"])


@torch.inference_mode()
def extract(network: Network, pictures: np.ndarray, resize: str = "bicubic", batch: int = 64) -> np.ndarray:
    """Features (n, d) float32 of uint8 pictures (n, h, w, 3); the batch is for memory and changes nothing."""
    if resize not in RESIZES:
        raise FeatureError(f"no resize mode {resize!r}; there are {', '.join(RESIZES)}")
    where, found = next(network.body.parameters()).device, []
    for chunk in torch.from_numpy(pictures).split(batch):
        grey = chunk.to(where).permute(0, 3, 1, 2).float()
        if grey.shape[2:] != (network.size,) * 2:
            grey = F.interpolate(grey, network.size, mode=resize, antialias=True)
        found.append(network.features(grey).float().cpu())
    return torch.cat(found).numpy()


def opened(name: str, classifier: Artifact | None = None, here: bool = True) -> Network:
    """A network with its weights, from this machine alone; with `here` false they are downloaded where they are missing."""
    if name not in NETWORKS:
        raise FeatureError(f"no feature network {name!r}; there are {', '.join(NETWORKS)}")
    if name == "own":
        return _own(classifier)
    try:
        return _load(name, here)
    except OSError as error:
        raise FeatureError(f"not run: no weights of {name} here; `make fetch PROFILE=…` brings them\n{error}") from error


def _own(classifier: Artifact | None) -> Network:
    """A classifier up to its head, at the size that it was trained at."""
    if classifier is None:
        raise FeatureError("network `own` is a classifier of this study: give its recipe as `classifier`")
    with safe_open(classifier.path("weights.safetensors"), "pt") as file:
        size = json.loads(file.metadata()["facts"])["model"]["size"]
    body = fit.opened(classifier)[0]
    return Network(body, size, lambda grey: torch.from_numpy(penultimate(body, grey.permute(0, 2, 3, 1))))


def _load(name: str, here: bool) -> Network:
    """A network trained elsewhere; with `here`, weights that are not on this machine are an OSError."""
    if name in DINO:
        from transformers import AutoModel  # slow to import, and seldom needed

        source, revision = DINO[name]
        body = AutoModel.from_pretrained(source, revision=revision, local_files_only=here, dtype=torch.float32).eval()
        return Network(body, 224, lambda grey: body(IMAGENET(grey / 255)).pooler_output)
    model, size = TORCHVISION.get(name, ("", 299))
    url = get_model_weights(model)["IMAGENET1K_V1"].url if model else FID
    path = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    if here and not path.is_file():
        raise FileNotFoundError(path)
    if model:
        body = get_model(model, weights="IMAGENET1K_V1").eval()
        body.fc = nn.Identity()
        return Network(body, size, lambda grey: body(IMAGENET(grey / 255)))
    if not here:
        download_url(url, path.parent)
    body = torch.jit.load(str(path)).eval()  # TorchScript, which holds its own code; `layers` is the part after its resizing
    return Network(body, size, lambda grey: body.layers((grey - 128) / 128).flatten(1))
