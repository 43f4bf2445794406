"""Features of image sets, made once for each set, feature extractor and resize mode.

`reference` is the reference classifier of this study; the weights of the others must lie here.
`inception` is the network of the published FID, a name that no other may carry; `dinov2` is that of
Stein et al. 2023.
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

from lib.classifier import train as classifier_training
from lib.core import compute, progress
from lib.core.store import Artifact, ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset
from lib.measure.probes import penultimate

FID = ("https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
       "inception-2015-12-05.pt")
DINO = {  # hub id and revision
    "dinov2": ("facebook/dinov2-large", "47b73eefe95e8d44ec3623f8890bd894b6ea2d6c")}
TORCHVISION = {"inception-torchvision": ("inception_v3", 299), "resnet18": ("resnet18", 224),
               "resnet50": ("resnet50", 224)}
REFERENCE = "reference"  # a classifier trained on real images of this study
EXTRACTORS = (REFERENCE, "inception", *DINO, *TORCHVISION)
RESIZES = ("bicubic", "bilinear")  # with antialiasing, as Parmar et al. 2022 ask for
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # channel means and deviations


class FeatureError(RuntimeError):
    """Features that cannot be had here; the message says what would bring them."""


@dataclass(frozen=True)
class FeatureExtractor:
    """Images of `size` pixels in grey levels (n, 3, size, size) to features (n, d)."""

    body: nn.Module
    size: int
    features: Callable[[torch.Tensor], torch.Tensor]


@artifact("features")
def features(store: Store, spec: ArtifactSpec) -> FileWriters:
    """Features (n, d) float32 of an image set; of `reference`, the input `classifier`."""
    def write(path: Path) -> None:
        name, resize = spec.settings["extractor"], spec.settings["resize"]
        classifier = spec.inputs.get("classifier")
        extractor = open_extractor(name, classifier and store.make(classifier))
        extractor.body.to(compute.device(spec.settings["device"]))
        pixels = imageset.load(store.make(spec.inputs["images"])).images
        values, facts = extract(extractor, pixels, resize), {"network": name}
        same = pixels.shape[1:3] == (extractor.size,) * 2
        way = "as they are, at" if same else f"{resize} with antialiasing to"
        facts["resize"] = f"{way} {extractor.size} px"
        progress.say(f"features of {len(values)} images: {name}, {facts['resize']}")
        save_file({"features": torch.from_numpy(values)}, path, {"facts": json.dumps(facts)})
    return {"features.safetensors": write}


def spec_of(images: ArtifactSpec, device: str, extractor: str,
            classifier: ArtifactSpec | None = None, resize: str = "bicubic") -> ArtifactSpec:
    """The `features` artifact of an image set; `classifier` is what `reference` means."""
    inputs = {"classifier": classifier} if extractor == REFERENCE and classifier else {}
    return features({"extractor": extractor, "resize": resize, "device": device}, images=images,
                    **inputs)


def of(store: Store, images: ArtifactSpec, device: str, extractor: str = REFERENCE,
       classifier: ArtifactSpec | None = None,
       resize: str = "bicubic") -> tuple[np.ndarray, dict[str, str]]:
    """Features (n, d) of an image set, and the `network` and `resize` that every table names."""
    spec = spec_of(images, device, extractor, classifier, resize)
    with safe_open(store.make(spec).path("features.safetensors"), "pt") as file:
        return file.get_tensor("features").numpy(), json.loads(file.metadata()["facts"])


@torch.inference_mode()
def extract(extractor: FeatureExtractor, images: np.ndarray, resize: str = "bicubic",
            batch: int = 64) -> np.ndarray:
    """Features (n, d) float32 of uint8 images (n, h, w, 3), the same for any batch size."""
    if resize not in RESIZES:
        raise FeatureError(f"no resize mode {resize!r}; there are {', '.join(RESIZES)}")
    device, outputs = next(extractor.body.parameters()).device, []
    for chunk in torch.from_numpy(images).split(batch):
        pixels = chunk.to(device).permute(0, 3, 1, 2).float()
        if pixels.shape[2:] != (extractor.size,) * 2:
            pixels = F.interpolate(pixels, extractor.size, mode=resize, antialias=True)
        outputs.append(extractor.features(pixels).float().cpu())
    return torch.cat(outputs).numpy()


def open_extractor(name: str, classifier: Artifact | None = None,
                   download: bool = False) -> FeatureExtractor:
    """A feature extractor with its weights, which must be on this machine unless `download`."""
    if name not in EXTRACTORS:
        raise FeatureError(f"no feature extractor {name!r}; there are {', '.join(EXTRACTORS)}")
    if name == REFERENCE:
        return _reference(classifier)
    try:
        return _load(name, not download)
    except OSError as error:
        raise FeatureError(f"not run: no weights of {name} here; "
                           f"`make fetch PROFILE=…` brings them\n{error}") from error


def _reference(classifier: Artifact | None) -> FeatureExtractor:
    """A classifier up to its head, at the size that it was trained at."""
    if classifier is None:
        raise FeatureError("extractor `reference` is a classifier of this study: give its spec")
    with safe_open(classifier.path("weights.safetensors"), "pt") as file:
        size = json.loads(file.metadata()["facts"])["model"]["size"]
    body = classifier_training.opened(classifier)[0]
    return FeatureExtractor(body, size, lambda pixels: torch.from_numpy(
        penultimate(body, pixels.permute(0, 2, 3, 1))))


def _load(name: str, here: bool) -> FeatureExtractor:
    """A network trained elsewhere; with `here`, weights must be on this machine, else OSError."""
    if name in DINO:
        return _dino(*DINO[name], here)
    from torchvision.datasets.utils import download_url  # seconds to import
    from torchvision.models import get_model, get_model_weights

    model, size = TORCHVISION.get(name, ("", 299))
    url = get_model_weights(model)["IMAGENET1K_V1"].url if model else FID
    path = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    if here and not path.is_file():
        raise FileNotFoundError(path)
    if model:
        body = get_model(model, weights="IMAGENET1K_V1").eval()
        body.fc = nn.Identity()
        return FeatureExtractor(body, size, lambda pixels: body(imagenet(pixels)))
    if not here:
        download_url(url, path.parent)
    body = torch.jit.load(str(path)).eval()  # its part `layers` comes after its own resizing
    return FeatureExtractor(body, size,
                            lambda pixels: body.layers((pixels - 128) / 128).flatten(1))


def _dino(source: str, revision: str | None, here: bool) -> FeatureExtractor:
    from transformers import AutoModel  # slow to import, and seldom needed

    body = AutoModel.from_pretrained(source, revision=revision, local_files_only=here,
                                     dtype=torch.float32).eval()
    return FeatureExtractor(body, 224, lambda pixels: body(imagenet(pixels)).pooler_output)


def imagenet(pixels: torch.Tensor) -> torch.Tensor:
    """Grey levels (n, 3, h, w) as networks of ImageNet take them."""
    mean, deviation = (pixels.new_tensor(values)[:, None, None] for values in IMAGENET)
    return (pixels / 255 - mean) / deviation
