"""The method `class`: class-conditional diffusion trained on the real training images, from pretrained weights or nothing.

Trained from nothing on images that somebody else made, it is a generator that knows the synthetic domain only.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import torch

from lib.core import compute, progress
from lib.core.store import Artifact, ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset as images
from lib.data.imageset import ImageSet
from lib.diffusion import train as fit
from lib.diffusion.autoencoder import PatchAutoencoder, refine
from lib.diffusion.model import (
    ClassTable,
    Design,
    Generator,
    GeneratorError,
    check_fits,
    class_rows,
    pixels,
)
from lib.diffusion.models import fingerprint, loaded, source
from lib.diffusion.packed import pack, unpack
from lib.diffusion.sample import Sampler, sample
from lib.world.captions import article

SCRATCH = "scratch"
GRID = 8  # latents a side of a model trained from nothing, where the images are large enough


@artifact("class-conditional-model")
def trained(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """A generator of the classes of upstream `real` or `published`; resumes from its last checkpoint."""
    (teacher,) = recipe.inputs.values()
    if teacher.settings.get("split") != "train":
        raise GeneratorError(
            "a generator may learn from real training images or from images that somebody else made: give "
            f"the recipe of split `train` or of `published`, not {teacher.settings.get('split', teacher.kind)!r}"
        )

    def write(path: Path) -> None:
        wanted, state = recipe.settings, store.folder(recipe) / "fit"
        real = images.load(store.make(teacher))
        config = fit.TrainConfig(**wanted["train"], seed=recipe.seed)
        generator = begin(wanted, real, recipe.seed).to(compute.device(wanted["device"]))
        losses = fit.fit(
            generator,
            examples(generator, real, wanted["flip"]),
            config,
            state,
            SampleSheet(state, len(real.classes)),
            wanted["precision"],
        )
        pack(generator, path, {"losses": losses, "classes": real.classes, "train": asdict(config)})
        shutil.rmtree(state, ignore_errors=True)

    return {"generator.safetensors": write}


def opened(artifact: Artifact, device: str = "auto") -> tuple[Generator, dict]:
    """The generator of an artifact, and its losses, one per checkpoint."""
    return unpack(artifact.path("generator.safetensors"), compute.device(device))


def begin(wanted: dict, real: ImageSet, seed: int) -> Generator:
    """What training starts from: a text-to-image model whose words become a table of classes, or nothing."""
    if wanted["start"] == SCRATCH:
        return from_nothing(
            real, wanted["space"], wanted["channels"], seed, min(200, wanted["train"]["max_train_steps"])
        )
    if wanted["space"] == "pixel":
        raise GeneratorError(
            "generation.space = 'pixel' needs generation.init_from = 'scratch': pretrained weights have latents"
        )
    start = loaded(wanted["start"], wanted["revision"], wanted["device"])
    return (reordered if start.table is not None else with_classes)(start, real.classes)


def reordered(prior: Generator, classes: Sequence[str]) -> Generator:
    """A class-conditional generator whose table has the rows of these classes, matched by name."""
    rows = class_rows(prior, classes)
    table = ClassTable(len(classes), prior.tokens, prior.width, list(classes))
    with torch.no_grad():
        nothing = prior.table.config.classes
        table.rows.weight.copy_(prior.table.rows.weight[[*rows, nothing]].float())
    unet = type(prior.unet).from_config(prior.unet.config)
    unet.load_state_dict(prior.unet.state_dict())
    return Generator(unet, prior.scheduler, prior.vae, table=table)


def with_classes(text: Generator, classes: tuple[str, ...]) -> Generator:
    """The same networks with a table in place of words; each class starts as what the text encoder says of its name."""
    table = ClassTable(len(classes), text.tokens, text.width, list(classes))
    with torch.no_grad():
        said = text.text([f"a photo of {article(name)}" for name in classes])
        rows = torch.cat([said, text.condition(text.unconditional())])
        table.rows.weight.copy_(rows.flatten(1).float())
    unet = type(text.unet).from_config(text.unet.config)
    unet.load_state_dict(text.unet.state_dict())
    return Generator(unet, text.scheduler, text.vae, table=table)


def from_nothing(
    real: ImageSet, space: str, channels: Sequence[int], seed: int, refining: int
) -> Generator:
    """Untrained, of the images' own size; in latent space with an autoencoder of their own patches."""
    size = real.images.shape[1]
    vae = patches(real.images, seed, refining) if space == "latent" else None
    attention = tuple(
        level > 0 or len(channels) == 1 for level in range(len(channels))
    )  # none at the finest level
    return Generator.build(
        Design(
            size,
            tuple(channels),
            attention,
            classes=len(real.classes),
            class_names=tuple(real.classes),
        ),
        vae,
        seed=seed,
    )


def patches(pictures: np.ndarray, seed: int, steps: int) -> PatchAutoencoder:
    """An autoencoder to a grid of 8 x 8 (more from 128 px on), closed form, its decoder refined for a moment."""
    size = pictures.shape[1]
    halvings = int(np.clip(np.log2(size / GRID), 1, 3))
    vae = PatchAutoencoder(
        latent_channels=min(16, 3 * 4**halvings),
        block_out_channels=(3, 24, 48, 96)[: halvings + 1],
        sample_size=size,
    )
    vae.fit_patches(pixels(pictures[:4000]))
    refine(vae, torch.from_numpy(pictures), steps, 64, 2e-3, seed)
    return vae


@torch.no_grad()
def examples(generator: Generator, real: ImageSet, flip: bool, batch: int = 250) -> fit.Examples:
    """Latents of all images, and of their mirror images where those are still of their class."""
    fitted = [images.fit(image, generator.resolution) for image in real.images]
    parts = torch.from_numpy(np.stack(fitted)).split(batch)
    views = [torch.cat([generator.encode(part) for part in parts])]
    if flip:
        views.append(torch.cat([generator.encode(part.flip(2)) for part in parts]))
    weights = generator.vae.importance() if isinstance(generator.vae, PatchAutoencoder) else 1.0
    return fit.Examples(torch.stack(views).half().cpu(), torch.from_numpy(real.labels), weights)


class SampleSheet:
    """Draws a sheet of samples at each checkpoint, a column a class, where an impatient eye finds it."""

    def __init__(self, folder: Path, classes: int):
        self.folder, self.classes = folder, classes

    def __call__(self, step: int, generator: Generator) -> None:
        drawn = list(
            sample(
                generator,
                generator.classes(range(self.classes)),
                range(self.classes),
                Sampler(num_inference_steps=8),
            )
        )
        path = self.folder / f"step-{step:06}.png"
        cv2.imwrite(str(path), np.concatenate([one.image for one in drawn], 1)[..., ::-1])
        progress.say(f"samples at step {step}: {path}")


def recipe(
    section, study, data: dict, start: str, revision: str = "", **teacher: ArtifactSpec
) -> ArtifactSpec:
    """The training that a section of the settings describes; `teacher` is real=recipe or published=recipe."""
    if start != SCRATCH:
        check_fits(source(start), data.get("source"))
    steps = section.generator_train_steps
    how = fit.TrainConfig(
        steps,
        section.generator_batch_size,
        section.generator_lr,
        lr_warmup_steps=int(section.generator_lr_warmup * steps),
        lr_decay=section.generator_lr_decay,
        ema_decay=section.generator_ema_decay,
        condition_dropout=section.generator_condition_dropout,
        snr_gamma=section.generator_snr_gamma,
        weight_decay=section.generator_weight_decay,
        checkpointing_steps=max(20, steps // 3),
    )
    how = {name: value for name, value in asdict(how).items() if name != "seed"}
    own = (
        {"revision": "", "print": "", "channels": section.block_out_channels}
        if start == SCRATCH
        else {"revision": revision, "print": fingerprint(start)}
    )
    return trained(
        {
            "start": start,
            "space": section.space,
            "train": how,
            "precision": study.precision,
            "flip": data["flip"],
            "device": study.device,
        }
        | own,
        study.seed,
        **teacher,
    )
