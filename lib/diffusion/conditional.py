"""Class-conditional generators that are trained here, from pretrained weights or from scratch.

Trained on the real training images it is the generator of `cd`. Trained from scratch on published
synthetic images it knows the synthetic domain only.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from lib.core import compute, progress
from lib.core.store import Artifact, ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset
from lib.data.imageset import ImageSet
from lib.data.pictures import fit
from lib.diffusion.autoencoder import PatchAutoencoder, refine
from lib.diffusion.model import (
    ClassTable,
    Design,
    Generator,
    GeneratorError,
    check_fits,
    class_rows,
    load_named,
    locate,
    pixels,
    weights_hash,
)
from lib.diffusion.sample import Sampler, sample
from lib.diffusion.train import Examples, TrainConfig, train
from lib.world.captions import article

FILE = "generator.safetensors"
SCRATCH = "scratch"
GRID = 8  # latents a side of a model from scratch, where the images are large enough
FITTED_ON, REFINE_STEPS, REFINE_BATCH, REFINE_LR = 4000, 200, 64, 2e-3  # of its autoencoder


@artifact("class-conditional-model")
def class_conditional_model(store: Store, spec: ArtifactSpec) -> FileWriters:
    """A generator of the classes of its input `real` or `published`; resumes from a checkpoint."""
    (source,) = spec.inputs.values()
    if source.settings.get("split") != "train":
        raise GeneratorError(
            "a generator may learn from real training images or from published ones: give a spec "
            f"of split 'train', not {source.settings.get('split', source.kind)!r}")

    def write(path: Path) -> None:
        settings, checkpoints = spec.settings, store.folder(spec) / "fit"
        images = imageset.load(store.make(source))
        config = TrainConfig(**settings["train"], seed=spec.seed)
        generator = initialise(settings, images, spec.seed)
        generator.to(compute.device(settings["device"]))
        losses = train(generator, encode(generator, images, settings["flip"]), config, checkpoints,
                       SampleSheet(checkpoints, len(images.classes)), settings["precision"])
        generator.pack(path, {"losses": losses, "classes": images.classes, "train": asdict(config)})
        shutil.rmtree(checkpoints, ignore_errors=True)

    return {FILE: write}


def load(artifact: Artifact, device: str = "auto") -> tuple[Generator, dict[str, Any]]:
    """The generator of an artifact; its classes, and its losses, one per checkpoint."""
    return Generator.unpack(artifact.path(FILE), compute.device(device))


def training_spec(section, study, data: dict[str, Any], start: str, revision: str = "",
                  **source: ArtifactSpec) -> ArtifactSpec:
    """The training that a section describes, of real=spec or published=spec."""
    scratch = start == SCRATCH
    if not scratch:
        check_fits(locate(start), data.get("source"))
    config = asdict(TrainConfig.from_section(section))
    del config["seed"]  # the spec has it
    settings = {"start": start, "space": section.space, "train": config, "flip": data["flip"],
                "precision": study.precision, "device": study.device,
                "revision": "" if scratch else revision,
                "print": "" if scratch else weights_hash(start)}
    settings |= {"channels": section.block_out_channels} if scratch else {}
    return class_conditional_model(settings, study.seed, **source)


def initialise(settings: dict[str, Any], images: ImageSet, seed: int) -> Generator:
    """What training starts from: pretrained weights with a table of these classes, or nothing."""
    if settings["start"] == SCRATCH:
        steps = min(REFINE_STEPS, settings["train"]["max_train_steps"])
        return from_scratch(images, settings["space"], settings["channels"], seed, steps)
    if settings["space"] == "pixel":
        raise GeneratorError("generation.space = 'pixel' needs generation.init_from = 'scratch': "
                             "pretrained weights have latents")
    pretrained = load_named(settings["start"], settings["revision"], settings["device"])
    if pretrained.table is not None:
        return with_rows_of(pretrained, images.classes)
    return with_class_table(pretrained, images.classes)


def with_rows_of(prior: Generator, classes: Sequence[str]) -> Generator:
    """A class-conditional generator whose table has the rows of these classes, by name."""
    rows = [*class_rows(prior, classes), prior.table.config.classes]
    return _with_table(prior, classes, prior.table.rows.weight[rows])


def with_class_table(prior: Generator, classes: Sequence[str]) -> Generator:
    """A text-to-image generator with a table for its words; rows start as the text of a class."""
    with torch.no_grad():
        texts = prior.text([f"a photo of {article(name)}" for name in classes])
        rows = torch.cat([texts, prior.condition(prior.unconditional())])
    return _with_table(prior, classes, rows.flatten(1))


def _with_table(prior: Generator, classes: Sequence[str], weight: torch.Tensor) -> Generator:
    table = ClassTable(len(classes), prior.tokens, prior.width, list(classes))
    table.rows.weight.data.copy_(weight.float())
    return prior.copy(table=table)


def from_scratch(images: ImageSet, space: str, channels: Sequence[int], seed: int,
                 refine_steps: int) -> Generator:
    """Untrained, of the images' own size; in latent space with an autoencoder of their patches."""
    vae = fit_autoencoder(images.images, seed, refine_steps) if space == "latent" else None
    attention = tuple(level > 0 or len(channels) == 1 for level in range(len(channels)))
    design = Design(images.images.shape[1], tuple(channels), attention,  # none at the finest level
                    classes=len(images.classes), class_names=tuple(images.classes))
    return Generator.build(design, vae, seed=seed)


def fit_autoencoder(images: np.ndarray, seed: int, refine_steps: int) -> PatchAutoencoder:
    """To a grid of 8 x 8 (more from 128 px on): in closed form, then its decoder refined."""
    size = images.shape[1]
    halvings = int(np.clip(np.log2(size / GRID), 1, 3))
    vae = PatchAutoencoder(latent_channels=min(16, 3 * 4**halvings),
                           block_out_channels=(3, 24, 48, 96)[:halvings + 1], sample_size=size)
    vae.fit_patches(pixels(images[:FITTED_ON]))
    refine(vae, torch.from_numpy(images), refine_steps, REFINE_BATCH, REFINE_LR, seed)
    return vae


@torch.no_grad()
def encode(generator: Generator, images: ImageSet, flip: bool, batch: int = 250) -> Examples:
    """Latents of all images, and of their mirror images where those are still of their class."""
    resized = np.stack([fit(image, generator.resolution) for image in images.images])
    parts = torch.from_numpy(resized).split(batch)
    views = [torch.cat([generator.encode(part) for part in parts])]
    if flip:
        views.append(torch.cat([generator.encode(part.flip(2)) for part in parts]))
    weights = generator.vae.importance() if isinstance(generator.vae, PatchAutoencoder) else 1.0
    return Examples(torch.stack(views).half().cpu(), torch.from_numpy(images.labels), weights)


class SampleSheet:
    """Saves a row of samples at each checkpoint, a column per class."""

    def __init__(self, folder: Path, classes: int):
        self.folder, self.classes = folder, classes

    def __call__(self, step: int, generator: Generator) -> None:
        labels = range(self.classes)
        samples = sample(generator, generator.classes(labels), labels,
                         Sampler(num_inference_steps=8))
        path = self.folder / f"step-{step:06}.png"
        cv2.imwrite(str(path), np.concatenate([one.image for one in samples], 1)[..., ::-1])
        progress.say(f"samples at step {step}: {path}")
