"""One Generator: noise predictor, conditioning and (if any) autoencoder, over diffusers' own classes.

Conditioning is always a tensor (n, tokens, width) for cross-attention, whether a text encoder, a table of classes or an
inverted embedding made it. Stable Diffusion, the shipped model and a model trained here take the same path.
"""

from __future__ import annotations

import copy
import functools
import importlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import diffusers
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
from huggingface_hub.errors import StrictDataclassError
from pydantic import BaseModel, Field
from safetensors import SafetensorError
from torch import nn

from lib.core import precision
from lib.diffusion import tokenizer as words
from lib.diffusion.hub import INDEX, PARTS, GeneratorError, index_file

CARD = "trained_on.json"  # beside the index: trained_on, classes, images_seen, flop
SHIPPED = Path(__file__).parent / "pretrained" / "world"
transformers.utils.logging.disable_progress_bar()  # of loading, which is over before anybody reads it


Home = tuple[str | None, str | None]  # library and class


class IndexFile(BaseModel):
    """model_index.json, as far as it is read."""

    pipeline: str = Field("", alias="_class_name")
    unet: Home = (None, None)
    scheduler: Home = (None, None)
    vae: Home = (None, None)
    text_encoder: Home = (None, None)
    tokenizer: Home = (None, None)
    table: Home = (None, None)


@dataclass(frozen=True)
class Design:
    """The architecture of a generator that is to be trained."""

    resolution: int = 64  # pixels a side
    channels: tuple[int, ...] = (96, 128)  # of the U-Net, finest level first
    attention: tuple[bool, ...] = (False, True)  # which levels have it; the lowest must, it is where the words enter
    layers: int = 1  # residual blocks a level
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
    """Images from noise and conditioning. `load` one, or `build` one and train it with `lib.diffusion.train`."""

    def __init__(self, unet, scheduler, vae=None, text_encoder=None, tokenizer=None, table=None):
        self.unet, self.scheduler, self.vae = unet, scheduler, vae
        self.text_encoder, self.tokenizer, self.table = text_encoder, tokenizer, table
        self.cut: set[str] = set()  # prompts that were longer than the text encoder reads
        self.sliced = False  # whether memory ran out and attention and autoencoder go slice by slice
        for part in self.parts().values():
            part.eval().requires_grad_(False)

    # -- made and kept -----------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, source: str | Path = SHIPPED, revision: str | None = None, device: torch.device | str = "cpu",
             dtype: torch.dtype | None = None) -> Generator:
        """From a diffusers folder or hub id, in float32 unless `dtype` says."""
        device, dtype = torch.device(device), dtype or torch.float32
        index = _index(source, revision)
        named = [name for name in PARTS if index[name][0]]
        return cls(**{name: _part(source, name, index[name], revision, dtype) for name in named}).to(device)

    @classmethod
    def build(cls, design: Design, vae=None, tokenizer=None, text_layers: int = 2, seed: int = 0) -> Generator:
        """Untrained, from a design: in latent space with `vae`, in pixel space without."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            names = list(design.class_names) or None
            table = ClassTable(design.classes, design.tokens, design.width, names) if design.classes else None
            text = words.build_text_encoder(tokenizer, design.width, text_layers) if tokenizer is not None else None
            unet = _unet(design, vae)
        if (table is None) == (text is None):
            raise GeneratorError("conditioned on classes or on text: give `Design.classes` or a tokenizer, not both")
        scheduler = DPMSolverMultistepScheduler(beta_schedule="squaredcos_cap_v2", steps_offset=1,
                                                prediction_type=design.prediction)
        return cls(unet, scheduler, vae, text, tokenizer, table)

    def save(self, folder: str | Path, half: bool = False) -> Path:
        """A diffusers folder; with text and an autoencoder it is one of StableDiffusionPipeline."""
        folder, index = Path(folder), {}
        for name in PARTS:
            part = getattr(self, name)
            if part is not None:
                _halved(part, half).save_pretrained(folder / name)
                _anywhere(folder / name / "config.json")
            index[name] = [None, None] if part is None else _home(part)
        whole = self.vae is not None and self.tokenizer is not None
        if whole:
            del index["table"]  # a name that the pipeline's constructor does not know
            index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
            index |= {"requires_safety_checker": False}
        head = {"_class_name": "StableDiffusionPipeline" if whole else "Generator"}
        (folder / INDEX).write_text(json.dumps(head | index, indent=2) + "\n", encoding="utf-8")
        return folder

    def to(self, device: torch.device | str) -> Generator:
        """Move every network; channels last on a GPU, where convolutions want it."""
        for part in self.parts().values():
            part.to(device)
        if torch.device(device).type == "cuda":
            self.unet.to(memory_format=torch.channels_last)
        return self

    def parts(self) -> dict[str, nn.Module]:
        """The networks by name."""
        return {name: part for name in PARTS if isinstance(part := getattr(self, name), nn.Module)}

    def learned(self) -> list[nn.Parameter]:
        """What training changes: the U-Net, and the table or the text encoder; never the autoencoder."""
        return [p for name, part in self.parts().items() if name != "vae" for p in part.parameters()]

    # -- what it is --------------------------------------------------------------------------------------------------

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
        return self.shape[1] * (2 ** (len(self.vae.config.block_out_channels) - 1) if self.vae is not None else 1)

    @property
    def tokens(self) -> int:
        """Rows of one conditioning."""
        return self.table.config.tokens if self.table is not None else self.tokenizer.model_max_length

    @property
    def width(self) -> int:
        """Columns of one conditioning."""
        return self.unet.config.cross_attention_dim

    # -- images <-> latents ------------------------------------------------------------------------------------------

    def encode(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Images, uint8 (n, h, w, 3) or float (n, 3, h, w) in [-1, 1] -> scaled latents (n, c, h', w')."""
        x = pixels(images).to(self.device, (self.vae or self.unet).dtype)  # `use` lowers the U-Net's alone
        if self.vae is None:
            return x
        mean = self.vae.encode(x).latent_dist.mode()
        return ((mean - _shift(self.vae)) * self.vae.config.scaling_factor).to(self.dtype)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents -> float images (n, 3, h, w) in about [-1, 1]; `to_uint8` finishes them."""
        if self.vae is None:
            return latents
        return self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor + _shift(self.vae)).sample

    # -- conditioning ------------------------------------------------------------------------------------------------

    def text(self, prompts: list[str]) -> torch.Tensor:
        """Prompts -> (n, tokens, width); those too long are cut, as Stable Diffusion cuts them, and noted in `cut`."""
        if self.tokenizer is None:
            raise GeneratorError("this generator knows classes, not words: use `classes(labels)` or another model")
        ids, cut = words.tokenize(self.tokenizer, list(prompts))
        self.cut |= {prompts[index] for index in cut}
        return self.condition(ids)

    def classes(self, labels) -> torch.Tensor:
        """Labels (n,) -> (n, tokens, width)."""
        if self.table is None:
            raise GeneratorError("this generator knows words, not classes: use `text(prompts)` or train one")
        return self.condition(torch.as_tensor(labels))

    def condition(self, raw: torch.Tensor) -> torch.Tensor:
        """Token ids (n, tokens) or labels (n,) -> (n, tokens, width), with gradients where they are asked for."""
        raw = raw.to(self.device)
        return self.table(raw) if self.table is not None else self.text_encoder(raw)[0]

    def unconditional(self) -> torch.Tensor:
        """What `condition` takes for no words or no class, one row; guidance pushes away from it."""
        if self.table is not None:
            return torch.tensor([self.table.config.classes])
        return words.tokenize(self.tokenizer, [""])[0]

    # -- diffusion ---------------------------------------------------------------------------------------------------

    def predict(self, latents: torch.Tensor, t: torch.Tensor, conditioning: torch.Tensor) -> torch.Tensor:
        """The network's own output, noise or v, for noisy latents (n, c, h, w) at t (n,) or ()."""
        return self.unet(latents, t, encoder_hidden_states=conditioning, return_dict=False)[0]

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
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
        """Sample in float32 or bfloat16 from now on; on a processor the latter is faster with plain attention."""
        nn.Module.to(self.unet, precision.DTYPES[compute_in])  # diffusers' own `to` warns of layers that it has not
        plain_attention = compute_in == "bfloat16" and self.device.type == "cpu"
        self.unet.set_attn_processor(AttnProcessor() if plain_attention else AttnProcessor2_0())
        return self

    @property
    def prediction(self) -> str:
        """`epsilon` or `v_prediction`."""
        kind = self.scheduler.config.prediction_type
        if kind not in ("epsilon", "v_prediction"):
            raise GeneratorError(f"the scheduler predicts {kind!r}; this project handles epsilon and v_prediction")
        return kind


def class_rows(generator: Generator, classes: Sequence[str]) -> list[int]:
    """The rows of a class table that stand for these classes, matched by name where it has names."""
    names = generator.table.config.names
    if names is None:
        if generator.table.config.classes != len(classes):
            raise GeneratorError(f"the generator knows {generator.table.config.classes} classes without names, the "
                                 f"images have {len(classes)}: train one on them (`scratch`)")
        return list(range(len(classes)))
    known = {name.casefold(): row for row, name in enumerate(names)}
    missing = [name for name in classes if name.casefold() not in known]
    if missing:
        raise GeneratorError(f"the generator was not trained on {', '.join(missing)}; it knows {', '.join(names)}. "
                             "Rename the classes of the images, or train a generator on them (`scratch`)")
    return [known[name.casefold()] for name in classes]


def check_fits(model: str | Path, data_source: str | None) -> None:
    """Refuse a generator that was trained on another kind of images; where no card says so, it cannot be known."""
    card = Path(model) / CARD
    if data_source is None or not card.is_file():
        return
    trained_on = json.loads(card.read_text(encoding="utf-8")).get("trained_on")
    fits = {"world": data_source == "world", "photographs": data_source not in ("world", "digits")}
    if not fits.get(trained_on, True):
        raise GeneratorError(f"this generator was trained on {trained_on} and cannot stand for images of source "
                             f"{data_source!r}: choose a model trained on such images, or `scratch` to train one.\n{card}")


def pixels(images: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Images as float (n, 3, h, w) in [-1, 1]; uint8 ones come as (n, h, w, 3)."""
    x = torch.as_tensor(images)
    return x.permute(0, 3, 1, 2).float() / 127.5 - 1 if x.dtype == torch.uint8 else x


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Float images (n, 3, h, w) in [-1, 1] -> uint8 (n, h, w, 3), rounded as diffusers' image processor rounds."""
    unit = (images.float() / 2 + 0.5).clamp(0, 1).nan_to_num()
    return (unit.permute(0, 2, 3, 1).cpu().numpy() * 255).round().astype(np.uint8)


def _unet(design: Design, vae) -> UNet2DConditionModel:
    """The noise predictor of a design."""
    channels = vae.config.latent_channels if vae is not None else 3
    scale = 2 ** (len(vae.config.block_out_channels) - 1) if vae is not None else 1
    down = ["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in design.attention]
    up = ["CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(design.attention)]
    return UNet2DConditionModel(
        sample_size=design.resolution // scale, in_channels=channels, out_channels=channels,
        block_out_channels=design.channels, down_block_types=down, up_block_types=up, layers_per_block=design.layers,
        cross_attention_dim=design.width, attention_head_dim=[max(1, c // 32) for c in design.channels],
        norm_num_groups=math.gcd(16, *design.channels),
        resnet_time_scale_shift="scale_shift" if design.film else "default",
        addition_embed_type="text", addition_embed_type_num_heads=max(1, design.width // 32))  # words reach every level


def _index(source: str | Path, revision: str | None) -> dict:
    """The list of parts of a folder or hub id."""
    folder = Path(source)
    if folder.is_dir() and not (folder / INDEX).is_file():
        raise GeneratorError(f"this folder holds no diffusers model: {INDEX} is missing.\n{folder / INDEX}")
    path = folder / INDEX if folder.is_dir() else index_file(str(source), revision)
    try:
        index = IndexFile.model_validate_json(Path(path).read_bytes()).model_dump()
    except ValueError as error:
        raise GeneratorError(f"not an index of a diffusers model: {' '.join(str(error).split())[:300]}\n{path}") from error
    unet, text = (index[name][1] for name in ("unet", "text_encoder"))
    if unet != "UNet2DConditionModel" or text not in (None, "CLIPTextModel"):
        raise GeneratorError(f"{index['pipeline']} is another architecture: expected a UNet2DConditionModel with "
                             f"a CLIPTextModel or a class table, got unet {unet}, text encoder {text}.\n{path}")
    if None in index["scheduler"]:
        raise GeneratorError(f"the index names no scheduler, without which nothing can be drawn.\n{path}")
    return index


def _part(source: str | Path, name: str, home: list[str], revision: str | None, dtype: torch.dtype):
    """One part of a pipeline by the class that its index names; incomplete weights are an error, not a warning."""
    where = Path(source) / name
    kind = kind_of(home, where)
    options = {"output_loading_info": True, "use_safetensors": True,  # a pickle could run code
               "torch_dtype" if home[0] != "transformers" else "dtype": dtype}
    try:
        if not issubclass(kind, nn.Module):
            return kind.from_pretrained(source, subfolder=name, revision=revision)
        part, info = kind.from_pretrained(source, subfolder=name, revision=revision, **options)
    except (OSError, ValueError, RuntimeError, TypeError, LookupError, AttributeError, ArithmeticError, ImportError,
            MemoryError, SafetensorError, StrictDataclassError) as error:  # what the libraries make of damaged configurations
        reason = " ".join(str(error).split())[:300]
        raise GeneratorError(f"part {name!r} of the model cannot be loaded as {home[1]}: {reason}\n"
                             f"Restore the folder, or fetch the model again.\n{where}") from error
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if wrong:
        raise GeneratorError(f"the weights of {name!r} do not fit {home[1]}: {len(wrong)} tensors, "
                             f"first {wrong[0]!r}.\n{where}")
    return part


def kind_of(home: list[str], where: Path) -> type:
    """The class that an index names: of the two libraries or of this project, since a file shall not choose what code runs."""
    kinds = (diffusers.ModelMixin, diffusers.SchedulerMixin, transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase)
    ours = home[0] in ("lib.diffusion.model", "lib.diffusion.autoencoder")
    known = ours or home[0] in ("diffusers", "transformers")
    found = getattr(importlib.import_module(home[0]), str(home[1]), None) if known else None
    if not (isinstance(found, type) and issubclass(found, kinds)):
        raise GeneratorError(f"the index names {home[0]}.{home[1]}, which is no part of diffusers, transformers or this "
                             f"project.\n{where}")
    return found


def _home(part) -> list[str]:
    """The library and class that an index names for a part."""
    module = type(part).__module__
    return [module if module.startswith("lib.") else module.split(".")[0], type(part).__name__]


def _halved(part, half: bool):
    """The part in half precision, where it has weights."""
    return copy.deepcopy(part).half() if half and isinstance(part, nn.Module) else part


def _anywhere(config: Path) -> None:
    """No word of the folder it was loaded from; and half-precision files, single-precision networks, where transformers
    would else load the files' own dtype."""
    settings = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    told = {name: value for name, value in settings.items() if name != "_name_or_path"}
    told |= {"dtype": "float32"} if "dtype" in settings else {}
    if told != settings:
        config.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def plain(part) -> dict:
    """The configuration of a part, without where it came from."""
    return {name: value for name, value in part.config.items() if not name.startswith("_")}


def _shift(vae) -> float:
    """Some autoencoders centre their latents; most do not."""
    return getattr(vae.config, "shift_factor", None) or 0.0
