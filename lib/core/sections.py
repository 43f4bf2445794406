"""Every setting: one declaration with type, range and description; one section a chapter.

Default values are in params/defaults.yaml, not in code.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def doc(description: str, **limits: Any) -> Any:
    """A setting without a default."""
    return Field(description=description, **limits)


def _unique(values: list) -> list:
    """A list without repetition."""
    if len(set(values)) < len(values):
        raise ValueError("each name once")
    return values


def _engine(value: str) -> str:
    """A way to run tasks."""
    if not re.fullmatch(r"local|dask|(tcp|tls)://[\w.\-\[\]:]+:\d{1,5}", value):
        raise ValueError("local, dask, or the address tcp://host:port of a running Dask scheduler")
    return value


Item = TypeVar("Item")
Unique = Annotated[list[Item], AfterValidator(_unique)]

Text = Annotated[str, Field(pattern=r"^[^\x00]*[^\s\x00][^\x00]*$")]  # not blank, fit for a path
TERM = r"(\d+(\.\d+)?\*)?[a-z][\w-]*(@\d+(\.\d+)?x)?"  # 0.1*real, sd@4x
Arm = Annotated[str, Field(pattern=rf"^\s*{TERM}(\s*\+\s*{TERM})*\s*$")]
Engine = Annotated[str, AfterValidator(_engine)]
Precision = Literal[
    "auto", "float32", "float32-plain", "float32-first", "float32-first-plain",
    "bfloat16", "bfloat16-plain", "bfloat16-first", "bfloat16-first-plain",
]  # fmt: skip
Augmentation = Literal["standard", "reflect", "multicrop"]
Extractor = Literal[
    "reference", "inception", "dinov2", "inception-torchvision", "resnet18", "resnet50"
]

Count = Annotated[int, Field(ge=1, le=10**9)]
Natural = Annotated[int, Field(ge=0)]
Thousand = Annotated[int, Field(ge=1, le=1000)]
Few = Annotated[int, Field(ge=1, le=12)]
Channels = Annotated[int, Field(ge=16, multiple_of=16)]
Width = Annotated[int, Field(ge=4, le=256)]
Stride = Annotated[int, Field(ge=0, le=8)]
Side = Annotated[int, Field(ge=16, le=1024)]
Severity = Annotated[int, Field(ge=1, le=5)]
Blocks = Annotated[int, Field(ge=0, le=100)]

Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(gt=0, lt=1)]  # of a set: neither nothing nor all
Decay = Annotated[float, Field(ge=0, lt=1)]
Times = Annotated[float, Field(gt=0, le=1000)]
Rate = Annotated[float, Field(gt=0, le=10)]  # of learning
Noise = Annotated[float, Field(ge=0, le=2)]
Guidance = Annotated[float, Field(ge=1, le=30)]
GreyLevels = Annotated[float, Field(ge=0, le=255)]


class Section(BaseModel):
    """Strict: no unknown key, no conversion, no change after loading."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Study(Section):
    """What every notebook shares."""

    title: Text = doc("of the report")
    small: bool = doc("marks the report as a small run, whose numbers are uncertain")
    seed: Natural = doc("the seed that all other seeds derive from")
    seeds: int = doc("classifiers per training set; intervals need three", ge=3, le=1000)
    device: Literal["auto", "cpu", "cuda", "mps"] = doc("auto, cpu, cuda or mps")
    precision: Precision = doc(
        "of all networks; -first: channels first; -plain: attention in two products; auto: the "
        "fastest that agrees with float32, and float32 without hardware for bfloat16"
    )
    engine: Engine = doc("what runs the tasks: local, dask, or tcp://host:port of a Dask scheduler")
    workers: int = doc("processes side by side; 0: one per core, or one per GPU", ge=0, le=256)
    store: Text = doc("root folder of the artifacts; may be a shared file system")


class Data(Section):
    """01_data: the real images."""

    source: str = doc(
        "a file of lib/data/sources: world, digits, cifar10, cifake, imagenette, "
        "ham10000, folder, or one of your own",
        pattern="^[a-z]\\w*$",
    )
    root: Text = doc("where the files lie: folder, zip or tar; world and digits need none")
    resolution: int = doc("image size, pixels", ge=8, le=512)
    train: Count = doc("training images")
    test: Count = doc("test images")
    shift_images: Natural = doc("images of each shift set that the source offers")
    shard: Count = doc("images per Parquet file")
    max_corrupt_files: Natural = doc("unreadable files that may be left out")
    flip: bool = doc("whether a mirrored image still belongs to its class")


class GeneratorTraining(Section):
    """What chapters 02 and 03 say of a class-conditional generator that is trained here."""

    model_resolution: int = doc(
        "resolution at which a hub model or folder works, px; 0: its own",
        ge=0,
        le=2048,
        multiple_of=8,
    )
    published_path: str = doc(
        "a CIFAKE download (folder, zip, tar) whose FAKE half is the set `published`"
    )
    space: Literal["latent", "pixel"] = doc("what the generator denoises; pixel only from scratch")
    block_out_channels: list[Channels] = doc(
        "channels of each level of the U-Net from scratch, finest first", min_length=1, max_length=4
    )
    generator_train_steps: Count = doc("training steps of the generator")
    generator_batch_size: Count = doc("images per training step")
    generator_lr: float = doc("peak learning rate", gt=0, le=1)
    generator_lr_warmup: Share = doc("share of the steps over which the learning rate rises")
    generator_lr_decay: Share = doc(
        "last share of the steps, over which the learning rate falls to zero"
    )
    generator_weight_decay: Share = doc("of AdamW")
    generator_ema_decay: Decay = doc("of the moving average of the weights, which is what is kept")
    generator_snr_gamma: float = doc("gamma of min-SNR weighting (Hang et al. 2023); 0: none", ge=0)
    generator_condition_dropout: Decay = doc(
        "share of training examples without their class, for guidance"
    )


class Inversion(GeneratorTraining):
    """02_inversion: one learned embedding per real image, and the set `di` sampled around them."""

    num_embedded: Natural = doc("real training images that get an embedding; 0: no inversion")
    model: Text = doc(
        "shipped, a diffusers folder, a hub id, or scratch: a class-conditional one trained here"
    )
    revision: str = doc("of a hub id")
    generator_data: Literal["real", "published"] = doc(
        "images that a generator from scratch is trained on"
    )
    generator_num_images: Natural = doc(
        "how many of the published ones; 0: as many as there are real training images"
    )
    num_vectors: Count = doc("rows of an embedding")
    max_train_steps: Count = doc("updates of each embedding")
    lr: Rate = doc("learning rate of the embeddings")
    lr_scheduler: Literal["constant", "cosine"] = doc(
        "how the learning rate changes over the updates"
    )
    weight_decay: Share = doc("of AdamW")
    init: Literal["random", "class", "mean"] = doc(
        "where an embedding starts: random, its class, the mean of all classes"
    )
    timestep_sampling: Literal["uniform", "sensitive"] = doc(
        "sensitive: more of the timesteps at which the loss depends on the embedding"
    )
    num_validations: Count = doc("points of the validation curve")
    batch_size: Count = doc("embeddings, or images, at once")
    shard_size: Count = doc("embeddings in one file")
    num_images: Count = doc("images of the set `di`")
    interpolation: Share = doc("alpha: how far towards another image of the class")
    embedding_noise: Noise = doc("lambda: standard deviation of the noise added to the embedding")
    guidance_scale: Guidance = doc("away from the mean embedding; 1: no guidance")
    num_inference_steps: Thousand = doc("sampling steps")
    scheduler: Text = doc("DPMSolver++, or a diffusers scheduler by name")
    guidance_interval: list[Share] = doc(
        "part of the sampling steps with guidance", min_length=2, max_length=2
    )
    eval_images: int = doc("images whose inversion is measured", ge=2)
    ablation_images: Natural = doc("images that are inverted again under other settings; 0: none")
    gallery: Few = doc("sources that are shown")
    shown_interpolations: Unique[Share] = doc("values of alpha that are shown of each source")
    shown_noises: Unique[Noise] = doc("values of lambda that are shown of each source")


class Generation(GeneratorTraining):
    """03_generation: the synthetic images."""

    sets: Unique[Literal["sd", "cd", "published"]] = doc(
        "sd: prompted; cd: class-conditional, trained on the real images; published: CIFAKE"
    )
    num_images: Count = doc("images per set")
    model: Text = doc(
        "of sd: shipped, a diffusers folder, a hub id, or published: the images of CIFAKE"
    )
    revision: str = doc("of a hub id")
    class_info: Text = doc("what prompts can say of the classes: params/classes/<class_info>.yaml")
    prompt_template: Text = doc("prompt of sd")
    guidance_scale: Guidance = doc("classifier-free guidance of sd; 1: none")
    num_inference_steps: Thousand = doc("sampling steps")
    scheduler: Text = doc("DPMSolver++, or a diffusers scheduler by name")
    guidance_interval: list[Share] = doc(
        "part of the sampling steps with guidance", min_length=2, max_length=2
    )
    guidance_rescale: Share = doc("against over-exposure; 0: none")
    batch_size: Count = doc("images sampled at once")
    sweep_prompts: Unique[Text] = doc("prompt templates that are compared at guidance_scale")
    sweep_guidance_scales: Unique[Guidance] = doc(
        "guidance scales that are compared with prompt_template"
    )
    sweep_num_images: Natural = doc("images per point of the sweep; 0: no sweep")
    init_from: Text = doc(
        "what cd is trained from: shipped, scratch, a diffusers folder, or a hub id"
    )
    cd_guidance_scale: Guidance = doc("classifier-free guidance of cd; 1: none")
    reference_epochs: Count = doc(
        "of the reference classifier, on the real images that remedies may use"
    )
    held_out_images: Natural = doc(
        "more images of each set, which no classifier trains on, to test its classifiers; 0: none"
    )


class Training(Section):
    """04_training: the classifiers."""

    arms: Unique[Arm] = doc(
        "training sets, each a sum of image sets, e.g. 0.1*real+sd", min_length=1
    )
    architecture: Text = doc(
        "resnet8, resnet18, resnet50, fast, or any classifier of torchvision.models"
    )
    stem_stride: Stride = doc(
        "stride of the first convolution of those ResNets, pixels; 0: by resolution"
    )
    base_width: Width = doc("channels of the first stage; 64 is the published ResNet-18")
    epochs: Count = doc("passes over `real`; every training set takes as many optimiser steps")
    batch_size: Count = doc("images an optimiser step")
    lr: Rate = doc("peak learning rate of the one-cycle schedule")
    weight_decay: Share = doc("of matrices and kernels; norms and biases have none; 0: off")
    momentum: Decay = doc("Nesterov momentum of SGD")
    pct_start: Part = doc("share of the steps in which the learning rate rises")
    lr_schedule: Literal["one_cycle", "triangular"] = doc(
        "one_cycle (cosine) or triangular (linear, for `fast`)"
    )
    label_smoothing: Share = doc("of the labels; 0: off")
    augmentation: Augmentation = doc(
        "standard (shift, mirror), reflect (shift less), multicrop (after DINO)"
    )
    class_weights: Literal["none", "balanced"] = doc(
        "balanced: every class weighs alike in the loss, however many images it has"
    )
    ema_decay: Decay = doc("of the average of the weights that is kept; 0: the last weights")
    max_ram_mb: Count = doc(
        "images in memory, megabytes; larger training sets are decoded to disk first"
    )
    equal_epoch_arms: Unique[Arm] = doc(
        "training sets trained once more for as many passes as `real` gets"
    )
    train_on_sweep: bool = doc(
        "whether each point of the sweep of chapter 03 is a training set too"
    )
    compare_augmentations: Unique[Augmentation] = doc(
        "all training sets once more with each of these; costly"
    )
    scaling_sets: Unique[Text] = doc("synthetic sets whose curves stand beside that of `real`")
    synthetic_ratios: Unique[Times] = doc(
        "their sizes besides 1, in sizes of `real`: the scaling curve"
    )
    real_fractions: Unique[Part] = doc("of `real` alone: the low-real curve")
    mix_fractions: Unique[Part] = doc(
        "share of `real` in mixtures as large as `real`: the displacement curve"
    )
    added_to: Part = doc("share of `real` to which synthetic images are added")
    added_ratios: Unique[Times] = doc("how many, in sizes of that share: the add-on curve")
    reference_architecture: Text = doc(
        "of the reference classifier, which is trained on real images alone"
    )
    reference_stem_stride: Stride = doc(
        "stem stride of the reference classifier, pixels; 0: by resolution"
    )
    reference_base_width: Width = doc("channels of its first stage")
    reference_batch_size: Count = doc("images a step of its training")
    reference_lr: Rate = doc("peak learning rate of its training")


class Gradcam(Section):
    """05_gradcam: where the classifiers look."""

    max_images: int = doc("images of each set that are explained", ge=20)
    sanity_images: int = doc("test images on which the maps are tested", ge=2)
    gallery: Few = doc("images in a row of a figure")


class Geometry(Section):
    """06_geometry: line segments, vanishing points, horizon."""

    max_images: int = doc("images of each set that are measured", ge=10)
    calibration_sizes: Unique[Side] = doc("side of the calibration scenes, pixels", min_length=1)
    calibration_scenes: int = doc("scenes of each style and size", ge=2)
    native_resolution: bool = doc(
        "measure generated images at the size of the generator, not at data.resolution"
    )


class Representation(Section):
    """07_representation: how near the sets are, and what the classifiers make of images."""

    comparison_images: int = doc(
        "images per set in every comparison of sets; at most half of the test images", ge=50
    )
    feature_extractors: Unique[Extractor] = doc(
        "networks whose features sets are compared in; reference: the reference classifier",
        min_length=1,
    )
    nearest_k: Count = doc("k of precision, recall, density and coverage")
    feature_images: int = doc("real test images on which classifiers' features are measured", ge=20)
    probe_train_images: int = doc(
        "images of another source on which a transfer probe is fitted", ge=50
    )
    transfer: Unique[Literal["world", "digits", "cifar10"]] = doc(
        "other sources that linear probes are tested on"
    )
    transfer_root: Text = doc("folder of the files of cifar10 where it is such a source")
    corruptions: Unique[Literal["noise", "blur", "contrast", "jpeg", "brightness"]] = doc(
        "damage to test images", min_length=1
    )
    severities: Unique[Severity] = doc("of a corruption, 1 to 5", min_length=1)
    corruption_images: int = doc("test images under each corruption", ge=20)
    eps_255: Unique[GreyLevels] = doc(
        "largest change of a value under attack, grey levels of 255", min_length=1
    )
    pgd_steps: Count = doc("gradient steps of PGD")
    attack_images: int = doc("of the corruption images, the number attacked", ge=20)
    gallery: Few = doc("closest pairs shown of each set")


class Repair(Section):
    """08_repair: what closes the gap."""

    base: str = doc(
        "the synthetic training set whose classifiers are repaired", pattern="^[a-z][\\w-]*$"
    )
    remedies: Unique[Text] = doc("files of lib/remedies", min_length=1)
    val_fraction: float = doc(
        "share of the real training images that only chooses between remedies", gt=0, le=0.5
    )
    num_real: Count = doc("m: real images that every remedy may use")
    unfreeze_last: Unique[Blocks] = doc(
        "k: last blocks fine-tuned on `num_real` images; 1: the head, 0: all"
    )
    num_real_curve: Unique[Count] = doc("other m")
    unfreeze_last_curve: Unique[Blocks] = doc("k at those m")
    real_batch_fractions: Unique[Part] = doc("real share of a mixed batch")
    keep_fraction: Part = doc("share of the synthetic images that a filter keeps")
    epochs: Unique[Count] = doc(
        "passes over the m real images, of which remedies and the real-only baseline take the best "
        "on validation",
        min_length=1,
    )
    min_train_steps: Count = doc("optimiser steps where those passes have fewer")
    lrs: Unique[Rate] = doc(
        "peak learning rates, of which they take the best on validation", min_length=1
    )


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
        return {key: value for name in sections_of(chapter) for key, value in getattr(self, name)}


def section_of(chapter: str) -> str:
    """`04_training` reads section `training`."""
    return chapter.split("_", 1)[1]


def sections_of(chapter: str) -> list[str]:
    """The sections whose parameters a chapter's notebook lists."""
    own = section_of(chapter)
    return ["study", own] if own in Settings.model_fields else ["study"]


def keys_of(section: str) -> dict[str, Any]:
    """Of each key of a section what pydantic knows."""
    return Settings.model_fields[section].annotation.model_fields
