"""Synthetic image sets: what a generator makes of prompts or classes, in shards that resume."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from lib.core.compute import seed_of
from lib.core.paths import PARAMS
from lib.core.store import ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset, real
from lib.data.imageset import ImageSet
from lib.data.pictures import fit
from lib.diffusion import conditional, prompts
from lib.diffusion.model import (
    Generator,
    GeneratorError,
    check_fits,
    load_from_settings,
    locate,
    weights_hash,
)
from lib.diffusion.sample import Sample, Sampler, sample

PUBLISHED = "published"  # in place of a model: images that others made
Condition = Callable[[np.ndarray, list[int]], tuple[list[str] | torch.Tensor, list[str]]]
SAMPLER = ("guidance_scale", "num_inference_steps", "scheduler", "guidance_interval",
           "guidance_rescale", "batch_size")


@artifact("prompted-images")
def prompted_images(store: Store, spec: ArtifactSpec) -> FileWriters:
    """`count` images of the classes in turn, each from its own seed and its class's prompt."""
    settings, classes = spec.settings, spec.settings["classes"]
    facts = prompts.load_facts(PARAMS / "classes" / f"{settings['class_info']}.yaml", classes)

    def condition(labels: np.ndarray, seeds: list[int]) -> tuple[list[str], list[str]]:
        names = [classes[label] for label in labels]
        texts = prompts.build_prompts(settings["prompt_template"], names, facts, seeds)
        return texts, texts

    return _shards(spec, lambda: load_from_settings(settings), condition)


@artifact("class-conditional-images")
def class_conditional_images(store: Store, spec: ArtifactSpec) -> FileWriters:
    """`count` images of the classes in turn from a generator trained on real training images."""
    classes = spec.settings["classes"]

    @functools.cache
    def generator() -> Generator:
        trained = store.make(spec.inputs["generator"])
        generator, facts = conditional.load(trained, spec.settings["device"])
        if facts["classes"] != list(classes):
            raise GeneratorError(
                f"the generator was trained on classes {facts['classes']}, not on {classes}")
        return generator.use(spec.settings["precision"])

    def condition(labels: np.ndarray, seeds: list[int]) -> tuple[torch.Tensor, list[str]]:
        return generator().classes(labels), [classes[label] for label in labels]

    return _shards(spec, generator, condition)


def _shards(spec: ArtifactSpec, generator: Callable[[], Generator],
            condition: Condition) -> FileWriters:
    """The files of a set; the generator is loaded for the first that is missing."""

    def write(positions: range, path: Path) -> None:
        imageset.write(path, _sample_positions(spec, generator(), condition, positions))

    parts = imageset.shards(spec.settings["count"], spec.settings["shard"])
    return {name: functools.partial(write, positions) for name, positions in parts.items()}


def _sample_positions(spec: ArtifactSpec, generator: Generator, condition: Condition,
                      positions: range) -> ImageSet:
    """Position i is of class i modulo their number, from a seed that depends on nothing else.

    So the same position of two sets starts from the same noise, whatever prompt and guidance.
    """
    classes = tuple(spec.settings["classes"])
    labels = np.array([position % len(classes) for position in positions], np.int64)
    seeds = [seed_of(spec.seed, "synthetic", position) for position in positions]
    conditioning, texts = condition(labels, seeds)
    sampler = Sampler.from_section(spec.settings["sampler"])
    samples = list(sample(generator, conditioning, seeds, sampler))
    return to_image_set(samples, labels, classes, texts, spec.settings["resolution"])


def to_image_set(samples: list[Sample], labels: np.ndarray, classes: tuple[str, ...],
                 texts: list[str], size: int) -> ImageSet:
    """Samples with their faults as an image set, also at their own size if it is another."""
    columns = {"faults": [json.dumps(sample.faults) for sample in samples],
               "fault": [sample.fault for sample in samples]}
    if samples[0].image.shape[0] != size:  # lines are measured at the size of sampling
        columns["native"] = [imageset.picture(sample.image, f"{sample.seed}-native.png")
                             for sample in samples]
    return ImageSet(np.stack([fit(sample.image, size) for sample in samples]), labels, classes,
                    np.array([sample.seed for sample in samples], np.int64),
                    tuple(f"synthetic/{sample.asked}" for sample in samples), tuple(texts), columns)


# the specs of a study

def specs(section, study, data: dict[str, Any], train: ArtifactSpec) -> dict[str, ArtifactSpec]:
    """The sets that section `generation` names: `sd` prompted, `cd` class-conditional …"""
    builders = {"sd": lambda: prompted_spec(section, study, data),
                "cd": lambda: class_conditional_spec(section, study, data, train),
                "published": lambda: published_spec(section, study, data)}
    if section.model == PUBLISHED:
        builders["sd"] = builders["published"]
    return {name: builders[name]() for name in section.sets}


def published_spec(section, study, data: dict[str, Any]) -> ArtifactSpec:
    """Images of Stable Diffusion that others made and published."""
    return real.published_spec(section.published_path, section.num_images, data["resolution"],
                               study.seed, data["max_corrupt_files"])


def prompted_spec(section, study, data: dict[str, Any], **changes) -> ArtifactSpec:
    """A prompted set; `changes` of prompt, guidance or count make a point of the sweep."""
    check_fits(locate(section.model), data.get("source"))
    section = section.model_copy(update=changes)
    settings = {name: getattr(section, name) for name in
                ("model", "revision", "prompt_template", "class_info")}
    settings |= {"print": weights_hash(section.model)}
    settings |= {"size": section.model_resolution} if section.model_resolution else {}
    return prompted_images(settings | _shared(section, study, data), study.seed)


def class_conditional_spec(section, study, data: dict[str, Any],
                           train: ArtifactSpec) -> ArtifactSpec:
    """A class-conditional set and, as its input, the training of its generator."""
    section = section.model_copy(update={"guidance_scale": section.cd_guidance_scale})
    generator = conditional.training_spec(section, study, data, section.init_from,
                                          section.revision, real=train)
    return class_conditional_images(_shared(section, study, data), study.seed, generator=generator)


def sweep_specs(section, study, data: dict[str, Any]) -> dict[tuple[str, float], ArtifactSpec]:
    """Small prompted sets by (prompt, guidance): as `sd`, then other prompts, other scales."""
    if not section.sweep_num_images or section.model == PUBLISHED:
        return {}
    template, scale = section.prompt_template, section.guidance_scale
    points = [(text, scale) for text in (template, *section.sweep_prompts)]
    points += [(template, guidance) for guidance in section.sweep_guidance_scales]
    return {(text, guidance): prompted_spec(
        section, study, data, prompt_template=text, guidance_scale=guidance,
        num_images=section.sweep_num_images) for text, guidance in dict.fromkeys(points)}


def _shared(section, study, data: dict[str, Any]) -> dict[str, Any]:
    """Settings of every synthetic set."""
    return {"classes": data["classes"], "resolution": data["resolution"],
            "count": section.num_images, "shard": 4 * section.batch_size,
            "sampler": {name: getattr(section, name) for name in SAMPLER},
            "device": study.device, "precision": study.precision}


# what was made, in numbers

def num_real_images(spec: ArtifactSpec) -> int:
    """How many real images of the study had a part in making a set."""
    generator, learned = spec.inputs.get("generator"), spec.inputs.get("embeddings")
    if generator is not None and "real" in generator.inputs:
        return generator.inputs["real"].settings["count"]
    return learned.settings["count"] if learned is not None else 0


def overview(specs: dict[str, ArtifactSpec]) -> pd.DataFrame:
    """A row per set: model, what it was trained on, prompt and sampler; – where there is none."""
    rows = []
    for name, spec in specs.items():
        settings, trained = spec.settings, spec.inputs.get("generator")
        sampler = settings.get("sampler", {})
        row = {"set": name, "model": settings.get("model", PUBLISHED), "trained_on": "–",
               "prompt": settings.get("prompt_template", "–"),
               "steps": sampler.get("num_inference_steps", "–"),
               "guidance": sampler.get("guidance_scale", "–")}
        if trained is not None:
            (images,) = trained.inputs.values()
            kind = "published" if real.is_published(images) else "real"
            row |= {"model": trained.settings["start"],
                    "trained_on": f"{images.settings['count']:,} {kind} images"}
        rows.append(row)
    return pd.DataFrame(rows)


def costs(store: Store, specs: dict[str, ArtifactSpec]) -> pd.DataFrame:
    """A row per set: images, faults, seconds of training and of sampling, images per second."""
    rows = []
    for name, spec in specs.items():
        artifact = store.make(spec)
        images, seconds = imageset.load(artifact), store.seconds(spec)
        sampled = not real.is_published(spec)
        rows.append({
            "set": name, "images": len(images),
            "again": sum(text != "[]" for text in images.columns.get("faults", [])),
            "faulty": sum(map(bool, images.columns.get("fault", []))),
            "training": sum((store.seconds(upstream) for upstream in spec.inputs.values()), 0.0),
            "seconds": seconds if sampled else "–", "device": artifact.manifest["made"]["device"],
            "rate": len(images) / seconds if sampled else "–"})
    return pd.DataFrame(rows)
