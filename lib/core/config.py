"""Typed parameters: one section a notebook, one YAML a profile, errors that teach."""

from __future__ import annotations

import difflib
import json
import re
import reprlib
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from lib.core.paths import NOTEBOOKS, PARAMS, ROOT

RUN = "STUDY_RUN"  # environment of a kernel that Make started: its results are the study's

SHORT = reprlib.Repr()  # a few lines of YAML can stand for more text than there is memory
SHORT.maxstring, SHORT.maxother, SHORT.maxlevel = 300, 300, 2
MOST_FAULTS = 20  # listed in one error
# What PyYAML raises, among others over the 31st of February, 5,000 digits, `!!bool maybe`, `!!timestamp x`, what is not UTF-8.
UNREADABLE = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError)

Count = Annotated[int, Field(ge=1, le=10**9)]
Text = Annotated[str, Field(pattern=r"^[^\x00]*[^\s\x00][^\x00]*$")]  # not blank, and fit for a path
TERM = r"(\d+(\.\d+)?\*)?[a-z][\w-]*(@\d+(\.\d+)?x)?"  # 0.1*real, sd@4x
Arm = Annotated[str, Field(pattern=rf"^\s*{TERM}(\s*\+\s*{TERM})*\s*$")]
Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(gt=0, lt=1)]  # of a set: neither nothing nor all
Times = Annotated[float, Field(gt=0, le=1000)]


RENAMED = {  # old key: its name now
    "gradcam.images": "gradcam.max_images",
    "gradcam.trust": "gradcam.sanity_images",
    "geometry.images": "geometry.max_images",
    "geometry.sizes": "geometry.calibration_sizes",
    "geometry.scenes": "geometry.calibration_scenes",
    "geometry.native": "geometry.native_resolution",
    "inversion.size": "inversion.model_resolution",
    "inversion.given": "inversion.published_path",
    "inversion.channels": "inversion.block_out_channels",
    "inversion.fit_steps": "inversion.generator_train_steps",
    "inversion.fit_batch": "inversion.generator_batch_size",
    "inversion.fit_rate": "inversion.generator_lr",
    "inversion.fit_snr": "inversion.generator_snr_gamma",
    "inversion.count": "inversion.num_embedded",
    "inversion.prior": "inversion.generator_data",
    "inversion.known": "inversion.generator_num_images",
    "inversion.tokens": "inversion.num_vectors",
    "inversion.steps": "inversion.max_train_steps",
    "inversion.rate": "inversion.lr",
    "inversion.schedule": "inversion.lr_scheduler",
    "inversion.start": "inversion.init",
    "inversion.timesteps": "inversion.timestep_sampling",
    "inversion.checks": "inversion.num_validations",
    "inversion.batch": "inversion.batch_size",
    "inversion.shard": "inversion.shard_size",
    "inversion.images": "inversion.num_images",
    "inversion.alpha": "inversion.interpolation",
    "inversion.noise": "inversion.embedding_noise",
    "inversion.guidance": "inversion.guidance_scale",
    "inversion.sampler_steps": "inversion.num_inference_steps",
    "inversion.guided": "inversion.guidance_interval",
    "inversion.measured": "inversion.eval_images",
    "inversion.tried": "inversion.ablation_images",
    "inversion.alphas": "inversion.shown_interpolations",
    "inversion.noises": "inversion.shown_noises",
    "generation.size": "generation.model_resolution",
    "generation.given": "generation.published_path",
    "generation.channels": "generation.block_out_channels",
    "generation.fit_steps": "generation.generator_train_steps",
    "generation.fit_batch": "generation.generator_batch_size",
    "generation.fit_rate": "generation.generator_lr",
    "generation.fit_snr": "generation.generator_snr_gamma",
    "generation.images": "generation.num_images",
    "generation.facts": "generation.class_info",
    "generation.recipe": "generation.prompt_template",
    "generation.guidance": "generation.guidance_scale",
    "generation.steps": "generation.num_inference_steps",
    "generation.guided": "generation.guidance_interval",
    "generation.rescale": "generation.guidance_rescale",
    "generation.batch": "generation.batch_size",
    "generation.recipes": "generation.sweep_prompts",
    "generation.guidances": "generation.sweep_guidance_scales",
    "generation.sweep": "generation.sweep_num_images",
    "generation.start": "generation.init_from",
    "generation.class_guidance": "generation.cd_guidance_scale",
    "generation.judge_epochs": "generation.reference_epochs",
    "data.path": "data.root",
    "data.shift": "data.shift_images",
    "data.bad_files": "data.max_corrupt_files",
    "training.stem": "training.stem_stride",
    "training.width": "training.base_width",
    "training.batch": "training.batch_size",
    "training.rate": "training.lr",
    "training.smoothing": "training.label_smoothing",
    "training.recipe": "training.augmentation",
    "training.balance": "training.class_weights",
    "training.ema": "training.ema_decay",
    "training.memory": "training.max_ram_mb",
    "training.by_epochs": "training.equal_epoch_arms",
    "training.wordings": "training.train_on_sweep",
    "training.compare_recipes": "training.compare_augmentations",
    "training.traded": "training.scaling_sets",
    "training.counts": "training.synthetic_ratios",
    "training.shares": "training.real_fractions",
    "training.helped": "training.real_fractions_with_set",
    "training.mixes": "training.mix_fractions",
    "representation.images": "representation.comparison_images",
    "representation.networks": "representation.feature_extractors",
    "representation.neighbours": "representation.nearest_k",
    "representation.seen": "representation.feature_images",
    "representation.probe": "representation.probe_train_images",
    "representation.path": "representation.transfer_root",
    "representation.damaged": "representation.corruption_images",
    "representation.eps": "representation.eps_255",
    "representation.climbs": "representation.pgd_steps",
    "representation.attacked": "representation.attack_images",
    "repair.validation": "repair.val_fraction",
    "repair.images": "repair.num_real",
    "repair.blocks": "repair.unfreeze_last",
    "repair.curve": "repair.num_real_curve",
    "repair.late": "repair.unfreeze_last_curve",
    "repair.ratios": "repair.real_batch_fractions",
    "repair.keep": "repair.keep_fraction",
    "repair.steps": "repair.epochs",
    "repair.rate": "repair.lrs",
    "repair.judge_epochs": "repair.reference_epochs",
}


class SettingsError(ValueError):
    """A setting that cannot be used; the message names file, key, what was expected."""


def _each_once(values: list) -> list:
    """A list without repetition."""
    if len(set(values)) < len(values):
        raise ValueError("each name once")
    return values


def _engine(value: str) -> str:
    """A way to run tasks."""
    if not re.fullmatch(r"local|dask|(tcp|tls)://[\w.\-\[\]:]+:\d{1,5}", value):
        raise ValueError("local, dask, or the address tcp://host:port of a running Dask scheduler")
    return value


class Section(BaseModel):
    """Strict: no unknown key, no conversion, no change after loading."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Study(Section):
    """What every notebook shares."""

    title: Text = Field(description="of the report")
    small: bool = Field(description="marks the report as a small run, whose numbers are uncertain")
    seed: int = Field(ge=0, description="the seed that all other seeds derive from")
    seeds: int = Field(
        ge=3, le=1000, description="classifiers per training set; intervals need three")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(description="auto, cpu, cuda or mps")
    precision: Literal[
        "auto", "float32", "float32-plain", "float32-first", "float32-first-plain",
        "bfloat16", "bfloat16-plain", "bfloat16-first", "bfloat16-first-plain"] = Field(description=(
            "of all networks; -first: channels first; -plain: attention in two products; auto: the "
            "fastest that agrees with float32, and float32 without hardware for bfloat16"))
    engine: Annotated[str, AfterValidator(_engine)] = Field(
        description="what runs the tasks: local, dask, or tcp://host:port of a Dask scheduler")
    workers: int = Field(ge=0, le=256, description=(
        "processes side by side; 0: one per core, or one per GPU"))
    store: Text = Field(description="root folder of the artifacts; may be a shared file system")


class Data(Section):
    """01_data: the real images."""

    source: Annotated[str, Field(pattern=r"^[a-z]\w*$")] = Field(
        description="a file of lib/data/sources: world, digits, cifar10, cifake, imagenette, "
        "ham10000, folder, or one of your own")
    root: Text = Field(
        description="where the files lie: folder, zip or tar; world and digits need none")
    resolution: Annotated[int, Field(ge=8, le=512)] = Field(description="image size, pixels")
    train: Count = Field(description="training images")
    test: Count = Field(description="test images")
    shift_images: Annotated[int, Field(ge=0)] = Field(
        description="images of each shift set that the source offers")
    shard: Count = Field(description="images per Parquet file")
    max_corrupt_files: Annotated[int, Field(ge=0)] = Field(
        description="unreadable files that may be left out")
    flip: bool = Field(description="whether a mirrored image still belongs to its class")


class GeneratorTraining(Section):
    """What chapters 02 and 03 say of a class-conditional generator that is trained here."""

    model_resolution: Annotated[int, Field(ge=0, le=2048, multiple_of=8, description=(
        "resolution at which a hub model or folder works, px; 0: its own"))]
    published_path: Annotated[str, Field(description=(
        "a CIFAKE download (folder, zip, tar) whose FAKE half is the set `published`"))]
    space: Annotated[Literal["latent", "pixel"], Field(description=(
        "what the generator denoises; pixel only from scratch"))]
    block_out_channels: Annotated[
        list[Annotated[int, Field(ge=16, multiple_of=16)]],
        Field(min_length=1, max_length=4, description=(
            "channels of each level of the U-Net from scratch, finest first"))]
    generator_train_steps: Annotated[Count, Field(description="training steps of the generator")]
    generator_batch_size: Annotated[Count, Field(description="images per training step")]
    generator_lr: Annotated[float, Field(gt=0, le=1, description="peak learning rate")]
    generator_lr_warmup: Annotated[Share, Field(description=(
        "share of the steps over which the learning rate rises"))]
    generator_lr_decay: Annotated[Share, Field(description=(
        "last share of the steps, over which the learning rate falls to zero"))]
    generator_weight_decay: Annotated[float, Field(ge=0, le=1, description="of AdamW")]
    generator_ema_decay: Annotated[float, Field(ge=0, lt=1, description=(
        "of the moving average of the weights, which is what is kept"))]
    generator_snr_gamma: Annotated[float, Field(ge=0, description=(
        "gamma of min-SNR weighting (Hang et al. 2023); 0: none"))]
    generator_condition_dropout: Annotated[float, Field(ge=0, lt=1, description=(
        "share of training examples without their class, for guidance"))]


class Inversion(GeneratorTraining):
    """02_inversion: one learned embedding per real image, and the set `di` sampled around them."""

    num_embedded: Annotated[int, Field(ge=0, description=(
        "real training images that get an embedding; 0: no inversion"))]
    model: Annotated[Text, Field(description=(
        "shipped, a diffusers folder, a hub id, or scratch: a class-conditional one trained here"))]
    revision: Annotated[str, Field(description="of a hub id")]
    generator_data: Annotated[Literal["real", "published"], Field(description=(
        "images that a generator from scratch is trained on"))]
    generator_num_images: Annotated[int, Field(ge=0, description=(
        "how many of the published ones; 0: as many as there are real training images"))]
    num_vectors: Annotated[Count, Field(description="rows of an embedding")]
    max_train_steps: Annotated[Count, Field(description="updates of each embedding")]
    lr: Annotated[float, Field(gt=0, le=10, description="learning rate of the embeddings")]
    lr_scheduler: Annotated[Literal["constant", "cosine"], Field(description=(
        "how the learning rate changes over the updates"))]
    weight_decay: Annotated[float, Field(ge=0, le=1, description="of AdamW")]
    init: Annotated[Literal["random", "class", "mean"], Field(description=(
        "where an embedding starts: random, its class, the mean of all classes"))]
    timestep_sampling: Annotated[Literal["uniform", "sensitive"], Field(description=(
        "sensitive: more of the timesteps at which the loss depends on the embedding"))]
    num_validations: Annotated[Count, Field(description="points of the validation curve")]
    batch_size: Annotated[Count, Field(description="embeddings, or images, at once")]
    shard_size: Annotated[Count, Field(description="embeddings in one file")]
    num_images: Annotated[Count, Field(description="images of the set `di`")]
    interpolation: Annotated[Share, Field(description=(
        "alpha: how far towards another image of the class"))]
    embedding_noise: Annotated[float, Field(ge=0, le=2, description=(
        "lambda: standard deviation of the noise added to the embedding"))]
    guidance_scale: Annotated[float, Field(ge=1, le=30, description=(
        "away from the mean embedding; 1: no guidance"))]
    num_inference_steps: Annotated[int, Field(ge=1, le=1000, description="sampling steps")]
    scheduler: Annotated[Text, Field(description="DPMSolver++, or a diffusers scheduler by name")]
    guidance_interval: Annotated[list[Share], Field(min_length=2, max_length=2, description=(
        "part of the sampling steps with guidance"))]
    eval_images: Annotated[int, Field(ge=2, description="images whose inversion is measured")]
    ablation_images: Annotated[int, Field(ge=0, description=(
        "images that are inverted again under other settings; 0: none"))]
    gallery: Annotated[int, Field(ge=1, le=12, description="sources that are shown")]
    shown_interpolations: Annotated[list[Share], AfterValidator(_each_once), Field(description=(
        "values of alpha that are shown of each source"))]
    shown_noises: Annotated[
        list[Annotated[float, Field(ge=0, le=2)]], AfterValidator(_each_once), Field(description=(
            "values of lambda that are shown of each source"))]


class Generation(GeneratorTraining):
    """03_generation: the synthetic images."""

    sets: Annotated[
        list[Literal["sd", "cd", "published"]], AfterValidator(_each_once), Field(description=(
            "sd: prompted; cd: class-conditional, trained on the real images; published: CIFAKE"))]
    num_images: Annotated[Count, Field(description="images per set")]
    model: Annotated[Text, Field(description=(
        "of sd: shipped, a diffusers folder, a hub id, or published: the images of CIFAKE"))]
    revision: Annotated[str, Field(description="of a hub id")]
    class_info: Annotated[Text, Field(description=(
        "what prompts can say of the classes: params/classes/<class_info>.yaml"))]
    prompt_template: Annotated[Text, Field(description="prompt of sd")]
    guidance_scale: Annotated[float, Field(ge=1, le=30, description=(
        "classifier-free guidance of sd; 1: none"))]
    num_inference_steps: Annotated[int, Field(ge=1, le=1000, description="sampling steps")]
    scheduler: Annotated[Text, Field(description="DPMSolver++, or a diffusers scheduler by name")]
    guidance_interval: Annotated[list[Share], Field(min_length=2, max_length=2, description=(
        "part of the sampling steps with guidance"))]
    guidance_rescale: Annotated[Share, Field(description="against over-exposure; 0: none")]
    batch_size: Annotated[Count, Field(description="images sampled at once")]
    sweep_prompts: Annotated[list[Text], AfterValidator(_each_once), Field(description=(
        "prompt templates that are compared at guidance_scale"))]
    sweep_guidance_scales: Annotated[
        list[Annotated[float, Field(ge=1, le=30)]], AfterValidator(_each_once), Field(description=(
            "guidance scales that are compared with prompt_template"))]
    sweep_num_images: Annotated[int, Field(ge=0, description=(
        "images per point of the sweep; 0: no sweep"))]
    init_from: Annotated[Text, Field(description=(
        "what cd is trained from: shipped, scratch, a diffusers folder, or a hub id"))]
    cd_guidance_scale: Annotated[float, Field(ge=1, le=30, description=(
        "classifier-free guidance of cd; 1: none"))]
    reference_epochs: Annotated[Count, Field(description=(
        "of the reference classifier, which is trained on the real images"))]


class Training(Section):
    """04_training: the classifiers."""

    arms: Annotated[list[Arm], Field(
        min_length=1, description="training sets, each a sum of image sets, e.g. 0.1*real+sd"),
        AfterValidator(_each_once)]
    architecture: Text = Field(
        description="resnet8, resnet18, resnet50, fast, or any classifier of torchvision.models")
    stem_stride: Annotated[int, Field(ge=0, le=8)] = Field(
        description="stride of the first convolution of those ResNets, pixels; 0: by resolution")
    base_width: Annotated[int, Field(ge=4, le=256)] = Field(
        description="channels of the first stage; 64 is the published ResNet-18")
    epochs: Count = Field(
        description="passes over `real`; every training set takes as many optimiser steps")
    batch_size: Count = Field(description="images an optimiser step")
    lr: Annotated[float, Field(gt=0, le=10)] = Field(
        description="peak learning rate of the one-cycle schedule")
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(
        description="of matrices and kernels; norms and biases have none; 0: off")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(description="Nesterov momentum of SGD")
    pct_start: Part = Field(description="share of the steps in which the learning rate rises")
    lr_schedule: Literal["one_cycle", "triangular"] = Field(
        description="one_cycle (cosine) or triangular (linear, for `fast`)")
    label_smoothing: Share = Field(description="of the labels; 0: off")
    augmentation: Literal["standard", "reflect", "multicrop"] = Field(
        description="standard (shift, mirror), reflect (shift less), multicrop (after DINO)")
    class_weights: Literal["none", "balanced"] = Field(
        description="balanced: every class weighs alike in the loss, however many images it has")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="of the average of the weights that is kept; 0: the last weights")
    max_ram_mb: Count = Field(
        description="images in memory, megabytes; larger training sets are decoded to disk first")
    equal_epoch_arms: Annotated[list[Arm], AfterValidator(_each_once)] = Field(
        description="training sets trained once more for as many passes as `real` gets")
    train_on_sweep: bool = Field(
        description="whether each point of the sweep of chapter 03 is a training set too")
    compare_augmentations: Annotated[
        list[Literal["standard", "reflect", "multicrop"]], AfterValidator(_each_once)] = Field(
        description="all training sets once more with each of these; costly")
    scaling_sets: Annotated[list[Text], AfterValidator(_each_once)] = Field(
        description="synthetic sets whose curves stand beside that of `real`")
    synthetic_ratios: Annotated[list[Times], AfterValidator(_each_once)] = Field(
        description="their sizes besides 1, in sizes of `real`: the scaling curve")
    real_fractions: Annotated[list[Part], AfterValidator(_each_once)] = Field(
        description="of `real` alone: the low-real curve")
    real_fractions_with_set: Annotated[list[Part], AfterValidator(_each_once)] = Field(
        description="of `real` beside a whole synthetic set")
    mix_fractions: Annotated[list[Part], AfterValidator(_each_once)] = Field(
        description="share of `real` in mixtures as large as `real`")
    reference_architecture: Text = Field(
        description="of the reference classifier, which is trained on real images alone")
    reference_stem_stride: Annotated[int, Field(ge=0, le=8)] = Field(
        description="stem stride of the reference classifier, pixels; 0: by resolution")
    reference_base_width: Annotated[int, Field(ge=4, le=256)] = Field(
        description="channels of its first stage")
    reference_batch_size: Count = Field(description="images a step of its training")
    reference_lr: Annotated[float, Field(gt=0, le=10)] = Field(
        description="peak learning rate of its training")


class Gradcam(Section):
    """05_gradcam: where the classifiers look."""

    max_images: Annotated[int, Field(ge=20, description="images of each set that are explained")]
    sanity_images: Annotated[int, Field(ge=2, description="test images on which the maps are tested")]
    gallery: Annotated[int, Field(ge=1, le=12, description="images in a row of a figure")]


class Geometry(Section):
    """06_geometry: line segments, vanishing points, horizon."""

    max_images: Annotated[int, Field(ge=10, description="images of each set that are measured")]
    calibration_sizes: Annotated[
        list[Annotated[int, Field(ge=16, le=1024)]], Field(min_length=1), AfterValidator(_each_once),
        Field(description="side of the calibration scenes, pixels")]
    calibration_scenes: Annotated[int, Field(ge=2, description="scenes of each style and size")]
    native_resolution: Annotated[bool, Field(
        description="measure generated images at the size of the generator, not at data.resolution")]


class Representation(Section):
    """07_representation: how near the sets are, and what the classifiers make of images."""

    comparison_images: Annotated[int, Field(ge=50)] = Field(
        description="images a side of every comparison of sets; at most half of the test images")
    feature_extractors: Annotated[
        list[Literal["reference", "inception", "dinov2", "inception-torchvision", "resnet18", "resnet50"]],
        Field(min_length=1), AfterValidator(_each_once)] = Field(
        description="networks whose features sets are compared in; reference: the reference classifier")
    nearest_k: Count = Field(description="k of precision, recall, density and coverage")
    feature_images: Annotated[int, Field(ge=20)] = Field(
        description="real test images on which classifiers' features are measured")
    probe_train_images: Annotated[int, Field(ge=50)] = Field(
        description="images of another source on which a transfer probe is fitted")
    transfer: Annotated[list[Literal["world", "digits", "cifar10"]], AfterValidator(_each_once)] = Field(
        description="other sources that linear probes are tested on")
    transfer_root: Text = Field(description="folder of the files of cifar10 where it is such a source")
    corruptions: Annotated[list[Literal["noise", "blur", "contrast", "jpeg", "brightness"]],
                           Field(min_length=1), AfterValidator(_each_once)] = Field(
        description="damage to test images")
    severities: Annotated[list[Annotated[int, Field(ge=1, le=5)]], Field(min_length=1),
                          AfterValidator(_each_once)] = Field(description="of a corruption, 1 to 5")
    corruption_images: Annotated[int, Field(ge=20)] = Field(
        description="test images under each corruption")
    eps_255: Annotated[list[Annotated[float, Field(ge=0, le=255)]], Field(min_length=1),
                       AfterValidator(_each_once)] = Field(
        description="largest change of a value under attack, grey levels of 255")
    pgd_steps: Count = Field(description="gradient steps of PGD")
    attack_images: Annotated[int, Field(ge=20)] = Field(
        description="of the corruption images, the number attacked")
    gallery: Annotated[int, Field(ge=1, le=12)] = Field(description="closest pairs shown of each set")


class Repair(Section):
    """08_repair: what closes the gap."""

    base: Annotated[str, Field(pattern=r"^[a-z][\w-]*$")] = Field(
        description="the synthetic training set whose classifiers are repaired")
    remedies: Annotated[list[Text], Field(min_length=1), AfterValidator(_each_once)] = Field(
        description="files of lib/remedies")
    val_fraction: Annotated[float, Field(gt=0, le=0.5)] = Field(
        description="share of the real training images that only chooses between remedies")
    num_real: Count = Field(description="m: real images that every remedy may use")
    unfreeze_last: Annotated[
        list[Annotated[int, Field(ge=0, le=100)]], AfterValidator(_each_once)] = Field(
        description="k: last blocks fine-tuned on `num_real` images; 1: the head, 0: all")
    num_real_curve: Annotated[list[Count], AfterValidator(_each_once)] = Field(description="other m")
    unfreeze_last_curve: Annotated[
        list[Annotated[int, Field(ge=0, le=100)]], AfterValidator(_each_once)] = Field(
        description="k at those m")
    real_batch_fractions: Annotated[
        list[Annotated[float, Field(gt=0, lt=1)]], AfterValidator(_each_once)] = Field(
        description="real share of a mixed batch")
    keep_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="share of the synthetic images that a filter keeps")
    epochs: Annotated[list[Count], Field(min_length=1), AfterValidator(_each_once)] = Field(
        description="passes over the m real images, of which remedies and the real-only baseline "
        "take the best on validation")
    min_train_steps: Count = Field(description="optimiser steps where those passes have fewer")
    lrs: Annotated[
        list[Annotated[float, Field(gt=0, le=10)]], Field(min_length=1), AfterValidator(_each_once)
    ] = Field(description="peak learning rates, of which they take the best on validation")
    reference_epochs: Count = Field(
        description="epochs of the reference classifier by which images are filtered")


class Settings(Section):
    """A whole profile."""

    study: Study
    data: Data
    inversion: Inversion
    generation: Generation
    training: Training
    gradcam: Gradcam
    geometry: Geometry
    repair: Repair
    representation: Representation

    def parameters(self, chapter: str) -> dict[str, Any]:
        """The flat parameters of one chapter, e.g. `01_data`: the study's and its own section's."""
        names = sections_of(chapter)
        return {key: value for name in names for key, value in getattr(self, name)}


@dataclass(frozen=True)
class Resolved:
    """A profile with what a parameter cell changes in it."""

    profile: str
    config: Settings
    changes: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # key -> (profile, used)

    def __str__(self) -> str:
        """One line for JupyterLab and the page; empty where nothing differs."""
        texts = [f"{key} = {json.dumps(used)} (profile: {json.dumps(own)})"
                 for key, (own, used) in self.changes.items()]
        return f"differs from profile {self.profile}: {'; '.join(texts)}" if texts else ""


def section_of(chapter: str) -> str:
    """`04_training` reads section `training`."""
    return chapter.split("_", 1)[1]


def sections_of(chapter: str) -> list[str]:
    """The sections whose parameters a chapter's notebook lists."""
    own = section_of(chapter)
    return ["study", own] if own in Settings.model_fields else ["study"]


def load(profile: str, overrides: Mapping[str, Mapping] | None = None, params: Path = PARAMS,
         where: str = "overrides") -> Settings:
    """`params/defaults.yaml` under `params/<profile>.yaml` under overrides by section."""
    default, own = params / "defaults.yaml", params / f"{profile}.yaml"
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", profile) or profile == "defaults" or not own.is_file():
        raise SettingsError(f"no profile named {profile!r}{_nearest(profile, profiles(params))}.\n{own}")
    layers = {default: _read(default), own: _sections(_read(own), own), where: overrides or {}}
    names = [*Settings.model_fields, *layers[default]]
    merged = {name: {key: value for layer in layers.values() for key, value in layer.get(name, {}).items()}
              for name in dict.fromkeys(names) if any(name in layer for layer in layers.values())}

    def origin(keys: tuple) -> Any:
        return next((file for file in reversed(layers) if _holds(layers[file], keys)), default)

    return _validate(Settings, merged, origin)


def resolve(chapter: str, variables: Mapping[str, Any], params: Path = PARAMS) -> Resolved:
    """A notebook's variables over its profile: every parameter that is not None replaces the profile's."""
    profile = variables["profile"]
    overrides = {name: {key: variables[key] for key in Settings.model_fields[name].annotation.model_fields
                        if variables.get(key) is not None} for name in sections_of(chapter)}
    base = load(profile, params=params)
    config = load(profile, overrides, params, f"notebooks/{chapter}.ipynb, cell tagged `parameters`")
    changes = {f"{name}.{key}": (own, used) for name in overrides for key, own in getattr(base, name)
               if (used := getattr(getattr(config, name), key)) != own}
    return Resolved(profile, config, changes)


def local_paths(config: Settings) -> list[str]:
    """Files and folders outside params/ that settings name: images, published sets, models."""
    texts = [value for name in ("data", "inversion", "generation") for key, value in getattr(config, name)
             if isinstance(value, str) and (key != "path" or config.data.source not in ("world", "digits"))]
    return sorted({text for text in texts if text and text not in (".", "/") and (ROOT / text).exists()})


def profiles(params: Path = PARAMS) -> list[str]:
    """Names of the profiles that exist."""
    return sorted(p.stem for p in params.glob("*.yaml") if p.stem != "defaults" and p.is_file())


def _sections(tree: dict[str, Any], file: Path) -> dict[str, dict]:
    """A profile's sections, each a mapping and each known."""
    for name, section in tree.items():
        if name not in Settings.model_fields:
            raise SettingsError(f"unknown section {name!r}{_nearest(name, Settings.model_fields)}.\n{file}: {name}")
        if not isinstance(section, dict):
            raise SettingsError(f"section {name!r} must hold `key: value` lines, got {SHORT.repr(section)}."
                                f"\n{file}: {name}")
    return tree


class _Loader(yaml.SafeLoader):
    """Plain YAML that refuses a key written twice."""

    def construct_mapping(self, node, deep=False):
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(
                None, None, "merge keys (<<) are not supported, write the keys out", node.start_mark)
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node):
        """YAML 1.1 reads 0200 as 128 and 3:20 as 200; nobody who writes a setting means that."""
        if re.fullmatch(r"[+-]?0[0-9_]+|.*:.*", node.value):
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value} is not a decimal number; put text in quotes", node.start_mark)
        return super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _read(path: Path) -> dict[str, Any]:
    """One YAML file as a dict; every way it can be wrong names the file."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError as error:
        raise SettingsError(f"the file is missing; restore it with `git checkout params`.\n{path}") from error
    except UNREADABLE as error:
        raise SettingsError(f"not readable as YAML: {' '.join(str(error).split())}.\n{path}") from error
    if tree is not None and not isinstance(tree, dict):
        raise SettingsError(f"expected sections such as `data:`, got {SHORT.repr(tree)}.\n{path}")
    return tree or {}


def _validate(model: type[Section], tree: dict[str, Any], where) -> Any:
    """The typed section, or one SettingsError that lists every fault."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        listed = error.errors()[:MOST_FAULTS]
        more = error.error_count() - len(listed)
        faults = [f"… and {more} more faults"] * bool(more) + [
            _explain(model, fault, where(fault["loc"])) for fault in listed]
        raise SettingsError("\n".join(faults)) from error


def _explain(model: type[Section], fault: dict[str, Any], where) -> str:
    """One fault in words: what was found, what was expected, the nearest name, and last the file and key."""
    keys = [str(k) for k in fault["loc"]]
    key, got = ".".join(keys), fault["input"]
    if fault["type"] == "extra_forbidden" and key in RENAMED:
        text = f"{key} is now called {RENAMED[key]}"
    elif fault["type"] == "extra_forbidden":
        text = f"unknown key {keys[-1]!r}{_nearest(keys[-1], _siblings(model, keys))}"
    elif fault["type"] == "missing":
        text = f"key {keys[-1]!r} is missing"
    else:
        expected = re.sub(r"^(Input|List|String|Value error,|Keys) (should )?(be )?(a valid )?", "", fault["msg"])
        text = f"{key} = {SHORT.repr(got)} ({type(got).__name__}): expected {expected}{_hint(got)}"
    return f"{text}.\n{where}: {key}"


def _hint(got: Any) -> str:
    """The two traps of YAML that were seen to bite."""
    if isinstance(got, str) and re.fullmatch(r"[+-]?\d+e[+-]?\d+", got.lower()):
        return "; YAML reads 1e-3 as text, write 1.0e-3"
    if isinstance(got, bool):
        return "; YAML reads yes, no, on, off as true or false, put text in quotes"
    return ""


def _siblings(model: type[Section], keys: list[str]) -> list[str]:
    """Names that would have been valid where an unknown key stood."""
    for key in keys[:-1]:
        model = model.model_fields[key].annotation
    return list(model.model_fields)


def _nearest(name: str, names) -> str:
    """`; did you mean 'x'?` or the list of what there is."""
    close = difflib.get_close_matches(str(name), list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(names))}"


def _holds(tree: dict[str, Any], keys: tuple) -> bool:
    """Whether a profile itself wrote this key (else it came from the defaults)."""
    for key in keys[:2]:
        if not isinstance(tree, dict) or key not in tree:
            return False
        tree = tree[key]
    return True


# the parameter cells of the notebooks


def cell(chapter: str) -> str:
    """The text of a notebook's parameter cell: every parameter with its description, None as in the profile."""
    lines = ['profile = "world"  # which params/<profile>.yaml; below, None: as in the profile']
    for section in reversed(sections_of(chapter)):
        lines.append(f"\n# {section}")
        for key, info in Settings.model_fields[section].annotation.model_fields.items():
            lines += _lines(key, info)
    return "\n".join(lines)


def _lines(key: str, info: FieldInfo) -> list[str]:
    """`epochs = None  # passes over real`; a long description stands above."""
    text = info.description or ""
    line = f"{key} = None  # {text}".rstrip(" #")
    return [line] if len(line) <= 100 else [*textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="# "),
                                            f"{key} = None"]


def write_cells(folder: Path = NOTEBOOKS, write: bool = True) -> list[str]:
    """Generate the parameter cell of every notebook; the names of those that were not up to date."""
    outdated = []
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        (tagged,) = (c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", []))
        source = cell(path.stem).splitlines(keepends=True)
        if tagged["source"] != source:
            outdated.append(path.stem)
            tagged["source"] = source
            if write:
                path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return outdated


if __name__ == "__main__":  # python -m lib.core.config cells
    if sys.argv[1:] != ["cells"]:
        sys.exit("python -m lib.core.config cells: generates the parameter cells of all notebooks")
    print("\n".join(f"notebooks/{name}.ipynb" for name in write_cells()) or "all parameter cells are up to date")
