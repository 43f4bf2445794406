"""Seconds a unit of work takes on this machine: the study's own functions on a few images of its own shapes, timed.

Each work function takes a unit's details and returns a function of n that does n units, at once or one after the other; the
price is the slope over n, so that setting up costs nothing.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from lib import world
from lib.classifier import train as fit
from lib.classifier.model import build, predict
from lib.core import compute, fetch, progress
from lib.core.paths import ROOT
from lib.core.store import Artifact, Store, canonical
from lib.data import checks
from lib.data import imageset as images
from lib.data.imageset import ImageSet
from lib.data.source import SourceError, SourceOptions, open_source
from lib.diffusion import conditional, sample
from lib.diffusion import inversion as invert
from lib.diffusion import train as learning
from lib.diffusion.model import ClassTable, Generator, to_uint8
from lib.diffusion.models import loaded
from lib.measure import features, fidelity, geometry, probes, robustness
from lib.measure import gradcam as attention
from lib.plan.units import NETWORK, Unit
from lib.remedies import late_layers

Work = Callable[[int], object]
SD1 = re.compile(r"(.*/)?stable-diffusion-v?1[-.]\d")  # whose U-Net is diffusers' default, but for the words' width
NARROWER = 8  # what stands in for a model of the hub that is not here, on a processor: so many times fewer channels
PICTURES = 16
SHARD = 128  # images of a file
CLASSES = 10  # of made-up images
BATCH = 64  # of what has no batch in its settings
MOMENT = 1e10  # operations of a forward pass for which a processor takes a moment


class Unknown(RuntimeError):
    """A unit whose price cannot be had here; the message says why."""


def price(root: str, device: str, one: Unit, seconds: float) -> float:
    """Seconds of one unit."""
    with compute.one_thread(), silence(), tempfile.TemporaryDirectory() as folder:
        bench = Bench(Store(root), device, Path(folder))
        work, each, scale = bench.work(one)
        return scale * slope(work, seconds) / each


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """No word of the progress of what is only measured."""
    before = os.environ.pop(progress.STATE, None)
    os.environ[progress.STATE] = os.devnull
    try:
        yield
    finally:
        os.environ.pop(progress.STATE)
        os.environ |= {progress.STATE: before} if before else {}


def slope(work: Work, seconds: float) -> float:
    """Seconds that one more of n takes: the median of looks at 1 and at a larger n, until the time is over."""
    began, warm = clock(), clocked(work, 1)
    if warm > 2 * seconds:
        return max(clocked(work, 2) - warm, warm / 4)
    n, few, many = 1, [clocked(work, 1)], []
    while not many or (n < 256 and many[0] < seconds / 5):
        n, many = 2 * n, [clocked(work, 2 * n)]
    while clock() - began < seconds:
        few.append(clocked(work, 1))
        many.append(clocked(work, n))
    return max(statistics.median(many) - statistics.median(few), 1e-9) / (n - 1)


def clocked(work: Work, n: int) -> float:
    began = clock()
    work(n)
    return clock() - began


def clock() -> float:
    """Seconds: on a processor those that this process computed, so that what else goes on there counts little."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def speed() -> float:
    """Operations a second of one process in large matrix products."""
    with compute.one_thread():
        one = torch.randn(1024, 1024)
        return 2 * 1024**3 / slope(lambda n: [one @ one for _ in range(n)], 1.0)


class Bench:
    """What the work functions share: the store, for how a generator runs fastest here; a device; a folder for files."""

    def __init__(self, store: Store, device: str, folder: Path):
        self.store, self.device, self.folder = store, device, folder

    def work(self, one: Unit) -> tuple[Work, float, float]:
        """The work, how many units one of its n is, and what its price is to be multiplied by."""
        kind = one.kind.replace(" ", "_")
        found = getattr(self, kind)(**one.about)
        return (*found, 1.0)[:3] if isinstance(found, tuple) else (found, 1.0, 1.0)

    # --- images -------------------------------------------------------------------------------------------------------

    def read(self, source: str, path: str, size: int) -> Work:
        """Real images where their files are; else a JPEG of half a megapixel, as downloads have them."""
        try:
            opened = open_source(source, SourceOptions(ROOT / path, size))
        except (SourceError, OSError):
            jpeg = cv2.imencode(".jpg", cv2.resize(pictures(64)[0], (500, 400)))[1]
            return lambda n: [images.fit(cv2.imdecode(jpeg, cv2.IMREAD_COLOR_RGB), size) for _ in range(n)]
        return lambda n: opened.read("train", range(min(n, opened.splits["train"])))

    def write(self, size: int) -> tuple[Work, float]:
        return lambda n: [images.write(self.folder / "one.parquet", made_up(size)) for _ in range(n)], PICTURES

    def load(self, size: int) -> tuple[Work, float]:
        file = self.folder / "some.parquet"
        images.write(file, made_up(size, SHARD))

        def work(n: int) -> None:
            file.touch()  # or the set would be the one that this process has just read
            images.load(Artifact(self.folder, {"files": [file.name] * n}))
        return work, SHARD

    def lines(self, size: int) -> Work:
        return lambda n: geometry.features(many(size, n))

    def damage(self, size: int) -> tuple[Work, float]:
        return (lambda n: [robustness.corrupt(many(size, n), kind, 3, 0) for kind in robustness.STRENGTHS],
                len(robustness.STRENGTHS))

    def trial(self, size: int) -> Work:
        return lambda n: [geometry.trial((k, geometry.STYLES[k % 3], size)) for k in range(n)]

    def pace(self) -> Work:
        """Plain work of a processor, of the kinds that drawing figures is made of."""
        def work(n: int) -> None:
            for _ in range(n):
                found = cv2.GaussianBlur(np.sort(np.random.default_rng(0).random((256, 256)), axis=0), (9, 9), 2)
                json.dumps(found[:32].tolist())
        return work

    def pairs(self) -> tuple[Work, float]:
        few = np.random.default_rng(0).integers(0, 255, (2000, 8, 8, 3), np.uint8)
        return lambda n: [checks.nearest(few[:500], few) for _ in range(n)], 500 * 2000

    def compare(self) -> tuple[Work, float]:
        found = np.random.default_rng(0).random((8 * SHARD, 128), np.float32)
        half = len(found) // 2
        return lambda n: [fidelity.measures(found[:half], found[half:], 0, "reference", 5) for _ in range(n)], half

    def fit_probes(self) -> tuple[Work, float]:
        labels = np.arange(2 * SHARD) % CLASSES
        found = np.random.default_rng(0).normal(labels[:, None] / CLASSES, 1, (2 * SHARD, 64)).astype(np.float32)
        return lambda n: [probes.linear_probe(found, labels, found, 0) for _ in range(n * len(probes.LAYERS))], 2 * SHARD

    # --- generators ---------------------------------------------------------------------------------------------------

    def generator(self, **of) -> tuple[Generator, float]:
        """The generator, or what stands in for it and how much more the real one does."""
        return generator(self.store, canonical(of), self.device)

    def predict_noise(self, batch: int, **of) -> tuple[Work, float, float]:
        made, scale = self.generator(**of)
        batch = batch if scale == 1 else 1  # a stand-in takes its time
        said = condition(made).expand(batch, -1, -1)
        how = functools.partial(sample.Sampler, guidance=1.0)
        return lambda n: sample.denoise(made, said, range(batch), how(steps=1 + n)).cpu(), batch, scale

    def decode(self, **of) -> tuple[Work, float, float]:
        made, scale = self.generator(**of)
        noise = torch.randn(1, *made.shape, device=made.device, dtype=made.dtype)
        return torch.no_grad()(lambda n: to_uint8(made.decode(noise.expand(n, -1, -1, -1)))), 1, scale if made.vae else 1

    def encode(self, **of) -> tuple[Work, float, float]:
        made, scale = self.generator(**of)
        return torch.no_grad()(lambda n: made.encode(many(made.resolution, n)).cpu()), 1, scale if made.vae else 1

    def validate(self, **of) -> tuple[Work, float, float]:
        made, scale = self.generator(**of)
        held, said = self.held(made, BATCH), condition(made)
        return (lambda n: invert.validation(made, held, [k % BATCH for k in range(n)], said.float().expand(n, -1, -1)).cpu(),
                invert.PROBES, scale)

    def update(self, batch: int, **of) -> tuple[Work, float, float]:
        made, scale = self.generator(**of)
        batch = batch if scale == 1 else 1
        held, rows, how = self.held(made, batch), list(range(batch)), invert.Inversion(num_vectors=1, max_train_steps=10**6)
        table = invert.Table(condition(made).float().expand(batch, -1, -1).contiguous(), 1)

        def work(n: int) -> None:
            for _ in range(n):
                loss, gradient = invert.gradients(made, held, table, rows)
                loss.sum().item()
                invert.update(table, rows, gradient, how)
        return work, batch, scale

    def held(self, made: Generator, count: int) -> invert.Pictures:
        return invert.Pictures(torch.randn(count, *made.shape), [str(k) for k in range(count)], 0)

    def learn(self, batch: int, **of) -> tuple[Work, float, float]:
        made, scale = self.generator(**of)
        own, batch = with_table(made), batch if scale == 1 else 1
        examples = learning.Examples(torch.randn(1, BATCH, *own.shape), torch.arange(BATCH) % CLASSES)
        return lambda n: learning.fit(own, examples, learning.TrainConfig(n, batch, 1e-6)), batch, scale

    # --- classifiers --------------------------------------------------------------------------------------------------

    def train(self, batch: int, classes: int, **settings) -> tuple[Work, float]:
        network = {name: settings[name] for name in NETWORK}
        batch, size = self.few(batch, network), settings.pop("size")
        part = made_up(size, 2 * batch, classes)
        settings |= {"batch": batch, "rate": 1e-3, "device": self.device, "arm": "plan"}
        return lambda n: fit.fit(part, settings | {"steps": 2 * n}, 0), 2 * batch

    def train_again(self, batch: int, blocks: int, recipe: str, flip: bool, smoothing: float, **network) -> tuple[Work, float]:
        batch, model = self.few(batch, network), self.classifier(**network)
        part = [(made_up(network["size"], 2 * batch, network["classes"]), batch)]
        settings = {"rate": 1e-3, "blocks": blocks, "recipe": recipe, "flip": flip, "smoothing": smoothing, "device": self.device}
        return lambda n: late_layers.retrain(copy.deepcopy(model), part, settings | {"steps": 2 * n}, 0), 2 * batch

    def classify(self, **network) -> tuple[Work, float]:
        batch, model = self.few(BATCH, network), self.classifier(**network)
        part = torch.from_numpy(many(network["size"], batch))
        return lambda n: [predict(model, part) for _ in range(n)], batch

    def classifier(self, **network) -> torch.nn.Module:
        return classifier(**network).to(compute.device(self.device)).eval()

    def few(self, batch: int, network: dict) -> int:
        """The batch, or as many images as one processor gets through in a moment."""
        if compute.device(self.device).type == "cuda":
            return batch
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            classifier(**network).eval()(torch.empty(1, 3, network["size"], network["size"]))
        return int(np.clip(MOMENT / counter.get_total_flops(), 2, batch))

    def road(self, **network) -> Work:
        from lib.measure.gradcam_steps import REMOVED

        model, size = self.classifier(**network), network["size"]

        def work(n: int) -> None:
            part, labels = many(size, n), np.zeros(n, np.int64)
            attention.road(model, part, labels, attention.maps(model, part, labels), 0, REMOVED)
            attention.sanity(model, part, labels, 0)
        return work

    def look(self, network: str) -> Work:
        try:
            found = features.open_extractor(network)
        except features.FeatureError as error:
            raise Unknown(f"the weights of {network} are not here") from error
        found.body.to(compute.device(self.device))
        return lambda n: features.extract(found, many(found.size, n))


def classifier(architecture: str, stem: int, width: int, size: int, classes: int = CLASSES, **_) -> torch.nn.Module:
    """An untrained classifier by its details in a unit."""
    return build(classes, size, width, architecture, stem)


@functools.lru_cache(maxsize=4)
def generator(store: Store, details: str, device: str) -> tuple[Generator, float]:
    """A generator that the settings name, or of the same shapes, and how many times more work the real one is."""
    where, of = compute.device(device), json.loads(details)
    model, size = of["model"], of["size"]
    if model == conditional.SCRATCH:
        made = conditional.begin(of | {"start": model, "train": {"max_train_steps": 1}}, made_up(size, 4 * PICTURES), 0)
        return made.to(where), 1.0
    if fetch.here(model, of["revision"]):
        return loaded(model, of["revision"], device, size), 1.0
    if not SD1.fullmatch(model):
        raise Unknown(f"what {model} costs cannot be said before `make fetch`")
    times, size = 1 if where.type == "cuda" else NARROWER, size or 512
    made = stable_diffusion(times, size).to(where)
    with torch.device("meta"):
        return made, flops(stable_diffusion(1, size)) / flops(stable_diffusion(times, size)) if times > 1 else 1.0


def stable_diffusion(narrower: int, size: int = 512) -> Generator:
    """Stable Diffusion 1's networks with random weights, `narrower` times fewer channels; a table for words."""
    channels = lambda *counts: tuple(count // narrower for count in counts)  # noqa: E731
    unet = UNet2DConditionModel(sample_size=size // 8, cross_attention_dim=768, block_out_channels=channels(320, 640, 1280, 1280),
                                norm_num_groups=32 // narrower)
    vae = AutoencoderKL(block_out_channels=channels(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
                        norm_num_groups=32 // narrower, down_block_types=("DownEncoderBlock2D",) * 4,
                        up_block_types=("UpDecoderBlock2D",) * 4, sample_size=512)
    networks = {"unet": unet, "vae": vae, "table": ClassTable(CLASSES, 77, 768)}
    if torch.cuda.is_available():
        networks = {name: torch.nn.Module.half(network) for name, network in networks.items()}
    with torch.device("cpu"):  # it computes with its numbers, also where the networks are shapes alone
        return Generator(scheduler=DPMSolverMultistepScheduler(), **networks)


def flops(made: Generator) -> float:
    """Of one noise prediction, counted by shapes alone."""
    with FlopCounterMode(display=False) as counter:
        made.unet(torch.empty(1, *made.shape, dtype=made.dtype), torch.zeros(1, dtype=torch.long),
                  encoder_hidden_states=torch.empty(1, 77, 768, dtype=made.dtype))
    return counter.get_total_flops()


def with_table(made: Generator) -> Generator:
    """The same, to be trained for classes, in single precision; the one that is kept stays as it is."""
    unet = type(made.unet).from_config(made.unet.config).to(made.device)
    table = ClassTable(CLASSES, made.tokens, made.width).to(made.device)
    return Generator(unet, made.scheduler, made.vae, table=table)


def condition(made: Generator) -> torch.Tensor:
    """One row of conditioning (1, tokens, width)."""
    return torch.zeros(1, made.tokens, made.width, device=made.device, dtype=made.dtype)


@functools.lru_cache(maxsize=4)
def pictures(size: int) -> np.ndarray:
    """A few pictures with lines and patterns in them (PICTURES, size, size, 3)."""
    drawn = [world.render(world.scene(k, "photo"), min(size, 64))[0] for k in range(PICTURES)]
    return np.stack([images.fit(image, size) for image in drawn])


def many(size: int, n: int) -> np.ndarray:
    """The same pictures n times over (n, size, size, 3)."""
    return pictures(size)[np.arange(n) % PICTURES]


def made_up(size: int, count: int = PICTURES, classes: int = CLASSES) -> ImageSet:
    """An image set of these pictures."""
    return ImageSet(many(size, count), np.arange(count) % classes, tuple(map(str, range(classes))), np.arange(count),
                    ("plan",) * count, ("",) * count)
