"""One Generator: noise predictor, conditioning and (if any) autoencoder, over diffusers' classes.

Conditioning is always a tensor (n, tokens, width) for cross-attention, whether a text encoder, a
table of classes or an embedding made it. Stable Diffusion, the shipped model and a model trained
here take the same path.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from diffusers import (
    ConfigMixin,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    ModelMixin,
    UNet2DConditionModel,
)
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import nn

from lib.core import compute, precision
from lib.core.paths import ROOT
from lib.diffusion import parts as storage
from lib.diffusion.hub import INDEX, PARTS, GeneratorError
from lib.diffusion.tokenizer import build_text_encoder, tokenize

CARD = "trained_on.json"  # beside the index: trained_on, classes, images_seen, flop
SHIPPED = Path(__file__).parent / "pretrained" / "world"
transformers.utils.logging.disable_progress_bar()  # of loading, which takes a moment


@dataclass(frozen=True)
class Design:
    """The architecture of a generator that is to be trained."""

    resolution: int = 64  # pixels a side
    channels: tuple[int, ...] = (96, 128)  # of the U-Net, finest level first
    attention: tuple[bool, ...] = (False, True)  # by level; the lowest needs it, for the words
    layers: int = 1  # residual blocks per level
    width: int = 128  # of the conditioning
    tokens: int = 4  # of the conditioning of a class; text has the tokenizer's length
    classes: int = 0  # rows of the class table; 0: conditioned on text
    film: bool = False  # timestep and class scale and shift each residual block (FiLM)
    prediction: str = "v_prediction"  # or "epsilon"
    class_names: tuple[str, ...] = ()


class ClassTable(ModelMixin, ConfigMixin):
    """Learned conditioning of each class, with their names; the last row stands for no class."""

    @register_to_config
    def __init__(self, classes: int, tokens: int, width: int, names: list[str] | None = None):
        super().__init__()
        self.rows = nn.Embedding(classes + 1, tokens * width)

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """(n,) labels -> (n, tokens, width)."""
        return self.rows(labels).unflatten(1, (self.config.tokens, self.config.width))


class Generator:
    """Images from noise and conditioning: `load` one, or `build` one and train it."""

    def __init__(self, unet, scheduler, vae=None, text_encoder=None, tokenizer=None, table=None):
        self.unet, self.scheduler, self.vae = unet, scheduler, vae
        self.text_encoder, self.tokenizer, self.table = text_encoder, tokenizer, table
        self.cut: set[str] = set()  # prompts that were longer than the text encoder reads
        self.sliced = False  # memory ran out: attention and autoencoder work slice by slice
        for part in self.parts().values():
            part.eval().requires_grad_(False)

    @classmethod
    def load(cls, source: str | Path = SHIPPED, revision: str | None = None,
             device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Generator:
        """From a diffusers folder or hub id, in float32 unless `dtype` is given."""
        return cls(**storage.load_parts(source, revision, dtype or torch.float32)).to(device)

    @classmethod
    def unpack(cls, path: Path, device: torch.device | str = "cpu") -> tuple[Generator, dict]:
        """From one file that `pack` wrote, and the facts in it."""
        parts, facts = storage.unpack(path)
        return cls(**parts).to(device), facts

    @classmethod
    def build(cls, design: Design, vae=None, tokenizer=None, text_layers: int = 2,
              seed: int = 0) -> Generator:
        """Untrained, from a design: in latent space with `vae`, in pixel space without."""
        if bool(design.classes) == (tokenizer is not None):
            raise GeneratorError("conditioned on classes or on text: give `Design.classes` or a "
                                 "tokenizer, not both")
        table = text = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if design.classes:
                table = ClassTable(design.classes, design.tokens, design.width,
                                   list(design.class_names) or None)
            else:
                text = build_text_encoder(tokenizer, design.width, text_layers)
            unet = _build_unet(design, vae)
        scheduler = DPMSolverMultistepScheduler(
            beta_schedule="squaredcos_cap_v2", steps_offset=1, prediction_type=design.prediction)
        return cls(unet, scheduler, vae, text, tokenizer, table)

    def save(self, folder: str | Path, half: bool = False) -> Path:
        """A diffusers folder; with text and an autoencoder it is one of StableDiffusionPipeline."""
        storage.save_parts({name: getattr(self, name) for name in PARTS}, Path(folder), half)
        return Path(folder)

    def pack(self, path: Path, facts: dict[str, Any]) -> None:
        """One file, for the store; only of a class-conditional generator."""
        storage.pack(self.parts() | {"scheduler": self.scheduler}, path, facts)

    def copy(self, **parts) -> Generator:
        """The same networks with these parts in place of theirs; the U-Net's weights are copied."""
        unet = type(self.unet).from_config(self.unet.config)
        unet.load_state_dict(self.unet.state_dict())
        return Generator(unet, self.scheduler, self.vae, **parts)

    def to(self, device: torch.device | str) -> Generator:
        """Move every network; channels last on a GPU, where convolutions are faster so."""
        for part in self.parts().values():
            part.to(device)
        if torch.device(device).type == "cuda":
            self.unet.to(memory_format=torch.channels_last)
        return self

    def parts(self) -> dict[str, nn.Module]:
        """The networks by name."""
        return {name: part for name in PARTS
                if isinstance(part := getattr(self, name), nn.Module)}

    def learned(self) -> list[nn.Parameter]:
        """What training changes: U-Net, and table or text encoder; never the autoencoder."""
        return [weight for name, part in self.parts().items() if name != "vae"
                for weight in part.parameters()]

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of what is denoised."""
        side = self.unet.config.sample_size
        return (self.unet.config.in_channels, side, side)

    @property
    def resolution(self) -> int:
        """Pixels a side."""
        return self.shape[1] * _scale_factor(self.vae)

    @property
    def tokens(self) -> int:
        """Rows of one conditioning."""
        return (self.tokenizer.model_max_length if self.table is None
                else self.table.config.tokens)

    @property
    def width(self) -> int:
        """Columns of one conditioning."""
        return self.unet.config.cross_attention_dim

    @property
    def prediction(self) -> str:
        """`epsilon` or `v_prediction`."""
        kind = self.scheduler.config.prediction_type
        if kind not in ("epsilon", "v_prediction"):
            raise GeneratorError(f"the scheduler predicts {kind!r}; this project handles epsilon "
                                 "and v_prediction")
        return kind

    # images <-> latents

    def encode(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Images, uint8 (n, h, w, 3) or float (n, 3, h, w) -> scaled latents (n, c, h', w')."""
        if self.vae is None:
            return pixels(images).to(self.device, self.dtype)
        return self.scaled(self.posterior(images).mode()).to(self.dtype)

    def posterior(self, images: np.ndarray | torch.Tensor):
        """The autoencoder's distribution of the latents, not scaled."""
        return self.vae.encode(pixels(images).to(self.device, self.vae.dtype)).latent_dist

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents of the autoencoder as the diffusion expects them."""
        return (latents - _shift(self.vae)) * self.vae.config.scaling_factor

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents -> float images (n, 3, h, w) in about [-1, 1]; see `to_uint8`."""
        if self.vae is None:
            return latents
        unscaled = latents.to(self.vae.dtype) / self.vae.config.scaling_factor + _shift(self.vae)
        return self.vae.decode(unscaled).sample

    # conditioning

    def text(self, prompts: Sequence[str]) -> torch.Tensor:
        """Prompts -> (n, tokens, width); those too long are cut, and listed in `cut`."""
        if self.tokenizer is None:
            raise GeneratorError("this generator knows classes, not words: use `classes(labels)` "
                                 "or another model")
        ids, cut = tokenize(self.tokenizer, list(prompts))
        self.cut |= {prompts[index] for index in cut}
        return self.condition(ids)

    def classes(self, labels) -> torch.Tensor:
        """Labels (n,) -> (n, tokens, width)."""
        if self.table is None:
            raise GeneratorError("this generator knows words, not classes: use `text(prompts)` or "
                                 "train one")
        return self.condition(torch.as_tensor(labels))

    def condition(self, raw: torch.Tensor) -> torch.Tensor:
        """Token ids (n, tokens) or labels (n,) -> (n, tokens, width)."""
        raw = raw.to(self.device)
        return self.table(raw) if self.table is not None else self.text_encoder(raw)[0]

    def unconditional(self) -> torch.Tensor:
        """One row for `condition` that stands for no words or no class; guidance needs it."""
        if self.table is not None:
            return torch.tensor([self.table.config.classes])
        return tokenize(self.tokenizer, [""])[0]

    # diffusion

    def predict(self, latents: torch.Tensor, t: torch.Tensor,
                conditioning: torch.Tensor) -> torch.Tensor:
        """The network's output, noise or v, for noisy latents (n, c, h, w) at t (n,) or ()."""
        return self.unet(latents, t, encoder_hidden_states=conditioning, return_dict=False)[0]

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor,
                  t: torch.Tensor) -> torch.Tensor:
        """Latents with noise of timestep t (n,)."""
        return self.noise_scheduler.add_noise(latents, noise, t.to(latents.device))

    def target(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What `predict` should return for `add_noise(latents, noise, t)`."""
        if self.prediction == "epsilon":
            return noise
        return self.noise_scheduler.get_velocity(latents, noise, t.to(latents.device))

    @functools.cached_property
    def noise_scheduler(self) -> DDPMScheduler:
        """The noise levels of training; most samplers' schedulers have no `get_velocity`."""
        return DDPMScheduler.from_config(self.scheduler.config)

    def use(self, compute_in: str) -> Generator:
        """Sample in this precision and with this attention from now on, see `precision.WAYS`."""
        nn.Module.to(self.unet, precision.way(compute_in).dtype)  # diffusers' own `to` would warn
        return self.attend(compute_in)

    def attend(self, compute_in: str) -> Generator:
        """Plain or fused attention from now on, as this way of computing says."""
        plain = precision.way(compute_in).plain_attention
        self.unet.set_attn_processor(AttnProcessor() if plain else AttnProcessor2_0())
        return self


def class_rows(generator: Generator, classes: Sequence[str]) -> list[int]:
    """The rows of a class table that stand for these classes, matched by name if it has names."""
    names, count = generator.table.config.names, generator.table.config.classes
    if names is None:
        if count != len(classes):
            raise GeneratorError(f"the generator knows {count} classes without names, the images "
                                 f"have {len(classes)}: train one on them (`scratch`)")
        return list(range(count))
    rows = {name.casefold(): row for row, name in enumerate(names)}
    missing = [name for name in classes if name.casefold() not in rows]
    if missing:
        raise GeneratorError(
            f"the generator was not trained on {', '.join(missing)}; it knows {', '.join(names)}. "
            "Rename the classes of the images, or train a generator on them (`scratch`)")
    return [rows[name.casefold()] for name in classes]


def class_conditioning(generator: Generator, names: Sequence[str]) -> torch.Tensor:
    """The generator's own conditioning (classes, tokens, width): of its rows, or of bare names."""
    if generator.table is None:
        return generator.text(list(names)).float()
    return generator.classes(class_rows(generator, names)).float()


def check_fits(model: str | Path, data_source: str | None) -> None:
    """Refuse a generator whose card says that it was trained on another kind of images."""
    card = Path(model) / CARD
    if data_source is None or not card.is_file():
        return
    trained_on = json.loads(card.read_text(encoding="utf-8")).get("trained_on")
    fits = {"world": data_source == "world",
            "photographs": data_source not in ("world", "digits")}
    if not fits.get(trained_on, True):
        raise GeneratorError(
            f"this generator was trained on {trained_on} and cannot stand for images of source "
            f"{data_source!r}: choose a model trained on such images, or `scratch` to train one."
            f"\n{card}")


# the generators that settings name

@functools.lru_cache(maxsize=2)
def load_named(model: str, revision: str, device: str, size: int = 0,
               compute_in: str = "float32") -> Generator:
    """The generator of a setting, at its own size or at `size` pixels; loaded once a process."""
    generator = Generator.load(locate(model), revision or None, compute.device(device))
    if size:
        side = size * generator.shape[1] // generator.resolution
        generator.unet.register_to_config(sample_size=side)
    return generator.use(compute_in)


def load_from_settings(settings: dict[str, Any]) -> Generator:
    """The generator that an artifact's settings name, in its precision."""
    return load_named(settings["model"], settings["revision"], settings["device"],
                      settings.get("size", 0), settings["precision"])


def locate(model: str) -> str | Path:
    """`shipped` is the model in this project; a path that exists is a folder; else a hub id."""
    if model == "shipped":
        return SHIPPED
    return ROOT / model if (ROOT / model).is_dir() else model


def weights_hash(model: str) -> str:
    """A hash over the parts of a local model, so that other weights make other sets."""
    folder = locate(model)
    if not isinstance(folder, Path):
        return ""  # a hub id has its revision
    files = [folder / INDEX, *sorted(path for path in folder.glob("*/*")
                                     if path.suffix in (".json", ".safetensors", ".txt"))]
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in files]
    return hashlib.sha256(b"".join(digests)).hexdigest()[:20]


# pixels

def pixels(images: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Images as float (n, 3, h, w) in [-1, 1]; uint8 images come as (n, h, w, 3)."""
    x = torch.as_tensor(images)
    return x.permute(0, 3, 1, 2).float() / 127.5 - 1 if x.dtype == torch.uint8 else x


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Float images (n, 3, h, w) in [-1, 1] -> uint8 (n, h, w, 3), rounded as diffusers rounds."""
    unit = (images.float() / 2 + 0.5).clamp(0, 1).nan_to_num()
    return (unit.permute(0, 2, 3, 1).cpu().numpy() * 255).round().astype(np.uint8)


def _build_unet(design: Design, vae) -> UNet2DConditionModel:
    """The noise predictor of a design."""
    channels = vae.config.latent_channels if vae is not None else 3
    down = ["CrossAttnDownBlock2D" if level else "DownBlock2D" for level in design.attention]
    up = ["CrossAttnUpBlock2D" if level else "UpBlock2D" for level in reversed(design.attention)]
    return UNet2DConditionModel(
        sample_size=design.resolution // _scale_factor(vae), in_channels=channels,
        out_channels=channels, block_out_channels=design.channels, down_block_types=down,
        up_block_types=up, layers_per_block=design.layers, cross_attention_dim=design.width,
        attention_head_dim=[max(1, c // 32) for c in design.channels],
        norm_num_groups=math.gcd(16, *design.channels),
        resnet_time_scale_shift="scale_shift" if design.film else "default",
        addition_embed_type="text",  # words reach every level
        addition_embed_type_num_heads=max(1, design.width // 32))


def _scale_factor(vae) -> int:
    """Pixels per latent along a side."""
    return 1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)


def _shift(vae) -> float:
    """Some autoencoders centre their latents; most do not."""
    return getattr(vae.config, "shift_factor", None) or 0.0
