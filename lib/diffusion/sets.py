"""Synthetic image sets: what a generator makes of prompts or classes, as shards that resume where they were."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lib.core.compute import seed_of
from lib.core.paths import PARAMS
from lib.core.store import ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset as images
from lib.data import real as real_data
from lib.data.imageset import ImageSet
from lib.diffusion import conditional, prompts
from lib.diffusion.model import Generator, GeneratorError, check_fits
from lib.diffusion.models import fingerprint, loaded_for, source
from lib.diffusion.sample import Drawn, Sampler, sample

PUBLISHED = "published"  # in place of a model: images that somebody else made
Say = Callable[
    [np.ndarray, list[int]], tuple[list[str] | torch.Tensor, list[str]]
]  # labels, seeds -> conditioning, words


@artifact("prompted-images")
def prompted(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """`count` images of the classes in turn, each from its own seed and its class's prompt."""
    wanted = recipe.settings
    known = prompts.facts(PARAMS / "classes" / f"{wanted['class_info']}.yaml", wanted["classes"])

    def say(labels: np.ndarray, seeds: list[int]) -> tuple[list[str], list[str]]:
        said = prompts.prompts(
            wanted["prompt_template"], [wanted["classes"][label] for label in labels], known, seeds
        )
        return said, said

    return shards(recipe, lambda: loaded_for(wanted), say)


@artifact("class-conditional-images")
def conditioned(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """`count` images of the classes in turn from a generator that was trained on the real training images."""
    wanted = recipe.settings

    @functools.cache
    def generator() -> Generator:
        made, facts = conditional.opened(store.make(recipe.inputs["generator"]), wanted["device"])
        if facts["classes"] != list(wanted["classes"]):
            raise GeneratorError(
                f"the generator was trained on classes {facts['classes']}, not on {wanted['classes']}"
            )
        return made.use(wanted["precision"])

    def say(labels: np.ndarray, seeds: list[int]) -> tuple[torch.Tensor, list[str]]:
        return generator().classes(labels), [wanted["classes"][label] for label in labels]

    return shards(recipe, generator, say)


def shards(recipe: ArtifactSpec, generator: Callable[[], Generator], say: Say) -> FileWriters:
    """The files of a set; the generator is loaded for the first that is missing."""
    parts = images.shards(recipe.settings["count"], recipe.settings["shard"])
    write = lambda positions, path: images.write(path, draw(recipe, generator(), say, positions))  # noqa: E731
    return {name: functools.partial(write, positions) for name, positions in parts.items()}


def draw(recipe: ArtifactSpec, generator: Generator, say: Say, positions: range) -> ImageSet:
    """The images at these positions: position i is of class i modulo their number, and its seed knows nothing else of it.

    So the same position of two sets, of other words or another guidance, starts from the same noise.
    """
    wanted, classes = recipe.settings, tuple(recipe.settings["classes"])
    labels = np.array([i % len(classes) for i in positions], np.int64)
    seeds = [seed_of(recipe.seed, "synthetic", i) for i in positions]
    conditioning, said = say(labels, seeds)
    sampler = Sampler(
        **{**wanted["sampler"], "guidance_interval": tuple(wanted["sampler"]["guidance_interval"])}
    )
    return collected(
        list(sample(generator, conditioning, seeds, sampler)),
        labels,
        classes,
        said,
        wanted["resolution"],
    )


def collected(
    drawn: list[Drawn], labels: np.ndarray, classes: tuple[str, ...], said: list[str], size: int
) -> ImageSet:
    """What was drawn as an image set, with the faults of each image, and at its own size too where that is another."""
    pictures = np.stack([images.fit(one.image, size) for one in drawn])
    columns = {
        "faults": [json.dumps(one.faults) for one in drawn],
        "fault": [one.fault for one in drawn],
    }
    if drawn[0].image.shape[0] != size:  # lines are worth measuring where they were drawn
        columns["native"] = [images.picture(one.image, f"{one.seed}-native.png") for one in drawn]
    return ImageSet(
        pictures,
        labels,
        classes,
        np.array([one.seed for one in drawn], np.int64),
        tuple(f"synthetic/{one.asked}" for one in drawn),
        tuple(said),
        columns,
    )


def recipes(generation, study, data: dict, real: ArtifactSpec) -> dict[str, ArtifactSpec]:
    """The sets that section `generation` of the settings names: `sd` prompted, `cd` class-conditional, `published` of CIFAKE.

    Where the model of `sd` is `published`, its images are those that somebody else made and published.
    """

    def others() -> ArtifactSpec:
        return real_data.published_spec(
            generation.published_path,
            generation.num_images,
            data["resolution"],
            study.seed,
            data["max_corrupt_files"],
        )

    makers = {
        "sd": others
        if generation.model == PUBLISHED
        else lambda: prompt_recipe(generation, study, data),
        "cd": lambda: class_recipe(generation, study, data, real),
        "published": others,
    }
    return {name: makers[name]() for name in generation.sets}


def prompt_recipe(generation, study, data: dict, **changes) -> ArtifactSpec:
    """A prompted set; `changes` of prompt_template, guidance_scale or num_images are a point of a sweep."""
    check_fits(source(generation.model), data.get("source"))
    said = changes.pop("prompt_template", generation.prompt_template)
    model = {
        "model": generation.model,
        "revision": generation.revision,
        "print": fingerprint(generation.model),
    }
    model |= {"size": generation.model_resolution} if generation.model_resolution else {}
    return prompted(
        model
        | {"prompt_template": said, "class_info": generation.class_info}
        | shared(generation, study, data, **changes),
        study.seed,
    )


def class_recipe(generation, study, data: dict, real: ArtifactSpec) -> ArtifactSpec:
    """A class-conditional set and, upstream of it, the training of its generator."""
    return conditioned(
        shared(generation, study, data, guidance_scale=generation.cd_guidance_scale),
        study.seed,
        generator=conditional.recipe(
            generation, study, data, generation.init_from, generation.revision, real=real
        ),
    )


def shared(generation, study, data: dict, **changes) -> dict:
    """Settings of every synthetic set."""
    sampler = {
        name: getattr(generation, name)
        for name in (
            "guidance_scale",
            "num_inference_steps",
            "scheduler",
            "guidance_interval",
            "guidance_rescale",
            "batch_size",
        )
    }
    count = changes.pop("num_images", generation.num_images)
    return {
        "classes": data["classes"],
        "resolution": data["resolution"],
        "count": count,
        "shard": 4 * generation.batch_size,
        "sampler": sampler | changes,
        "device": study.device,
        "precision": study.precision,
    }


def sweeps(generation, study, data: dict) -> dict[tuple[str, float], ArtifactSpec]:
    """Small prompted sets of one seed: as `sd`, then every recipe at its guidance, then its recipe at every guidance."""
    points = [
        (said, generation.guidance_scale)
        for said in (generation.prompt_template, *generation.sweep_prompts)
    ]
    points += [
        (generation.prompt_template, guidance) for guidance in generation.sweep_guidance_scales
    ]
    return (
        {
            (said, guidance): prompt_recipe(
                generation,
                study,
                data,
                prompt_template=said,
                guidance_scale=guidance,
                num_images=generation.sweep_num_images,
            )
            for said, guidance in dict.fromkeys(points)
        }
        if generation.sweep_num_images and generation.model != PUBLISHED
        else {}
    )


def described(recipe: ArtifactSpec) -> str:
    """How a set was made, in one sentence."""
    wanted = recipe.settings
    if real_data.is_published(recipe):
        return f"Stable Diffusion 1.4's images, published as CIFAKE, read from {Path(wanted['root']).name}."
    how = "{num_inference_steps} steps of {scheduler}, guidance {guidance_scale:g}".format(
        **wanted["sampler"]
    )
    how += guided(*wanted["sampler"]["guidance_interval"])
    if "prompt_template" in wanted:
        return f"Prompt: “{wanted['prompt_template']}”, {called(wanted['model'])}, {how}."
    if "interpolation" in wanted:
        learned = recipe.inputs["embeddings"].settings
        return (
            f"Drawn around {learned['count']:,} embeddings of {learned['inversion']['max_train_steps']:,} updates each, "
            f"α = {wanted['interpolation']:g}, λ = {wanted['embedding_noise']:g}, {model(recipe)}, {how}."
        )
    return f"Trained {taught(recipe.inputs['generator'])}; {how}."


def guided(first: float, last: float) -> str:
    """Which part of the steps has guidance, where it is not all of them."""
    part = (
        f"from {first:.0%} to {last:.0%} of them" if first else f"in the first {last:.0%} of them"
    )
    return f" {part}".replace("%", " %") * ((first, last) != (0, 1))


def learnt_from(recipe: ArtifactSpec) -> int:
    """How many real images of the study had a part in making a set."""
    model, learned = recipe.inputs.get("generator"), recipe.inputs.get("embeddings")
    if model is not None and "real" in model.inputs:
        return model.inputs["real"].settings["count"]
    return learned.settings["count"] if learned is not None else 0


def model(recipe: ArtifactSpec) -> str:
    """The generator of an inversion set or its embeddings in a few words."""
    own = recipe.inputs.get("generator")
    return f"a model trained here {taught(own)}" if own else called(recipe.settings["model"])


def called(name: str) -> str:
    """A text-to-image model as a sentence names it."""
    return "the shipped model" if name == "shipped" else f"model {name}"


def taught(training: ArtifactSpec) -> str:
    """What a class-conditional generator was trained from, on what, and how long."""
    wanted, (teacher,) = training.settings, training.inputs.values()
    start = "nothing" if wanted["start"] == conditional.SCRATCH else called(wanted["start"])
    kind = "published synthetic" if real_data.is_published(teacher) else "real training"
    return (
        f"from {start} on {teacher.settings['count']:,} {kind} images for {wanted['train']['max_train_steps']:,} steps of "
        f"{wanted['train']['batch_size']}"
    )


def costs(store: Store, recipes: dict[str, ArtifactSpec]) -> pd.DataFrame:
    """A row a set: images, faults, seconds of sampling (if it was sampled here), of training before it, images a second."""
    rows = []
    for name, recipe in recipes.items():
        made, part = store.make(recipe), images.load(store.make(recipe))
        training = [
            store.make(upstream).manifest["made"]["seconds"] for upstream in recipe.inputs.values()
        ]
        own = not real_data.is_published(recipe)
        spent = made.manifest[
            "made"
        ]  # of the run that finished the set; one that resumed made only a part of it
        fresh = max(1, len(made.files) - spent["resumed_from"]) / len(made.files)
        rows.append(
            {
                "set": name,
                "images": len(part),
                "again": sum(text != "[]" for text in part.columns.get("faults", [])),
                "faulty": sum(map(bool, part.columns.get("fault", []))),
                "training": sum(training, 0.0),
                "seconds": spent["seconds"] / fresh if own else "–",
                "rate": len(part) * fresh / spent["seconds"] if own else "–",
                "device": spent["device"],
            }
        )
    return pd.DataFrame(rows)
