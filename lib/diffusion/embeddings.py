"""Inversion in the store: embeddings of real training images, and the sets sampled around them."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from lib.core import compute
from lib.core.compute import seed_of
from lib.core.store import Artifact, ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset, real
from lib.data.checks import thumbnails
from lib.data.imageset import ImageSet
from lib.diffusion import conditional
from lib.diffusion.inversion import (
    Embeddings,
    EncodedImages,
    Inversion,
    InversionError,
    identify,
    invert,
)
from lib.diffusion.model import (
    Generator,
    check_fits,
    load_from_settings,
    locate,
    weights_hash,
)
from lib.diffusion.sample import Sampler, sample
from lib.diffusion.sets import to_image_set

REPEATS = 2  # reconstructions of each measured image, from different noise
STEPS = 7  # images from one source to another
VARIANTS = {"sensitive timesteps": {"timestep_sampling": "sensitive"},
            "one vector": {"num_vectors": 1}, "half the steps": {}}
TENSORS = ("values", "curves", "restarts", "given_up")


class Place(NamedTuple):
    """Where an image is sampled: between two embeddings, with noise, from the noise of its seed."""

    first: int
    second: int
    alpha: float  # share of the way from the first to the second
    noise: float  # standard deviation of what is added
    seed: int


@artifact("embeddings")
def embeddings(store: Store, spec: ArtifactSpec) -> FileWriters:
    """Embeddings of the first `count` images of the input `real`, in shards."""
    count, available = spec.settings["count"], spec.inputs["real"].settings["count"]
    split = spec.inputs["real"].settings.get("split")
    if split != "train":
        raise InversionError(f"only training images may be inverted, these are of split {split!r}: "
                             "the test set is sacred. Give the spec of split 'train' as `real`")
    if not 1 <= count <= available:
        raise InversionError(f"embeddings of {count} images are asked for, of {available}: raise "
                             "data.train or ask for fewer")

    def write(positions: range, path: Path) -> None:
        images = imageset.load(store.make(spec.inputs["real"])).take(positions)
        generator = frozen_generator(store, spec)
        encoded = EncodedImages.encode(generator, images, spec.seed)
        save(invert(generator, encoded, Inversion(**spec.settings["inversion"])), path)

    return _shards("embeddings", spec, write)


@artifact("inverted-images")
def inverted_images(store: Store, spec: ArtifactSpec) -> FileWriters:
    """Images at the places of a plan; without one, `count` images between and around embeddings."""
    plan = spec.settings.get("plan")
    count = spec.settings["count"] if plan is None else len(plan)

    def write(positions: range, path: Path) -> None:
        learned = load(store.make(spec.inputs["embeddings"]))
        places = _places(learned.labels, spec, positions) if plan is None else \
            [Place(*plan[position]) for position in positions]
        images = sample_places(frozen_generator(store, spec), learned, places,
                               Sampler.from_section(spec.settings["sampler"]),
                               spec.settings["resolution"])
        imageset.write(path, images)

    parts = imageset.shards(count, spec.settings["shard"])
    return {name: functools.partial(write, positions) for name, positions in parts.items()}


@artifact("identification")
def identification(store: Store, spec: ArtifactSpec) -> FileWriters:
    """Whether each of the first `count` images is identified by its embedding, in shards."""

    def write(positions: range, path: Path) -> None:
        generator = frozen_generator(store, spec)
        learned = load(store.make(spec.inputs["embeddings"]))
        images = imageset.load(store.make(spec.inputs["real"])).take(range(positions.stop))
        encoded = EncodedImages.encode(generator, images, spec.seed)
        flags = identify(generator, encoded, learned, positions)
        save_file({"identified": torch.from_numpy(flags)}, path)

    return _shards("identified", spec, write)


def load_identification(artifact: Artifact) -> np.ndarray:
    """Whether each image (n,) was identified."""
    return np.concatenate([load_file(path)["identified"].numpy() for path in artifact.files])


def save(learned: Embeddings, path: Path) -> None:
    """One shard; ids and classes under one key, since the order of several varies."""
    tensors = {name: getattr(learned, name).contiguous() for name in TENSORS}
    tensors["labels"] = torch.as_tensor(learned.labels)
    facts = json.dumps({"ids": learned.ids, "classes": learned.classes})
    try:
        save_file(tensors, path, {"facts": facts})
    except (OSError, SafetensorError) as error:
        raise InversionError(f"embeddings cannot be written: {error}. Make room and give the same "
                             "command again: every file that is done stays and is not made again."
                             f"\n{path}") from error


def load(artifact: Artifact) -> Embeddings:
    """All shards as one."""
    shards, ids = [], []
    for path in artifact.files:
        shards.append(load_file(path))
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
        ids += facts["ids"]
    tensors = {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}
    labels = tensors.pop("labels").numpy()
    return Embeddings(**tensors, labels=labels, ids=tuple(ids), classes=tuple(facts["classes"]))


def frozen_generator(store: Store, spec: ArtifactSpec) -> Generator:
    """The generator that a spec's settings name, or its input that was trained here."""
    if "generator" not in spec.inputs:
        return load_from_settings(spec.settings)
    path = store.make(spec.inputs["generator"]).path(conditional.FILE)
    return _trained(path, spec.settings["device"], spec.settings["precision"])


@functools.lru_cache(maxsize=1)
def _trained(path: Path, device: str, compute_in: str) -> Generator:
    return Generator.unpack(path, compute.device(device))[0].use(compute_in)


def _shards(name: str, spec: ArtifactSpec, write) -> FileWriters:
    """Files of `count` rows in all, `shard` rows each."""
    count, size = spec.settings["count"], spec.settings["shard"]
    starts = range(0, count, size)
    return {f"{name}-{i:05}-of-{len(starts):05}.safetensors":
            functools.partial(write, range(start, min(start + size, count)))
            for i, start in enumerate(starts)}


# sampling around embeddings

def sample_places(generator: Generator, learned: Embeddings, places: Sequence[Place],
                  sampler: Sampler, resolution: int) -> ImageSet:
    """The images at these places, with both sources of each; guided away from the mean."""
    conditioning = torch.stack([interpolate(learned, place) for place in places])
    seeds = [place.seed for place in places]
    samples = list(sample(generator, conditioning, seeds, sampler, learned.mean()))
    labels = learned.labels[[place.first for place in places]]
    images = to_image_set(samples, labels, learned.classes, [""] * len(samples), resolution)
    first, second = ([learned.ids[place[k]] for place in places] for k in (0, 1))
    columns = {"first": first, "second": second,
               "alone": [a == b for a, b in zip(first, second, strict=True)],
               "alpha": [float(place.alpha) for place in places],
               "noise": [float(place.noise) for place in places]}
    return replace(images, sources=tuple(first), columns=images.columns | columns)


def interpolate(learned: Embeddings, place: Place) -> torch.Tensor:
    """c_i + alpha (c_j - c_i) + noise N(0, 1); a seed has one direction at any size of noise."""
    first, second = learned.values[place.first], learned.values[place.second]
    direction = torch.randn(first.shape, generator=compute.generator(place.seed, "around"))
    return first + place.alpha * (second - first) + place.noise * direction


def source_order(labels: np.ndarray, positions: Sequence[int]) -> list[int]:
    """The source of the image at each position: classes in turn, and in each its sources."""
    by_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    turns = [(by_class[p % len(by_class)], p // len(by_class)) for p in positions]
    return [int(sources[turn % len(sources)]) for sources, turn in turns]


def partner(labels: np.ndarray, i: int, seed: int) -> int:
    """Another image of the class of i, chosen by the seed; i itself where there is none."""
    others = np.flatnonzero(labels == labels[i])
    others = others[others != i]
    if not len(others):
        return i
    rng = compute.generator(seed, "partner")
    return int(others[int(torch.randint(len(others), (), generator=rng))])


def _places(labels: np.ndarray, spec: ArtifactSpec, positions: Sequence[int]) -> list[Place]:
    """The places of a set whose classes take turns, each image from a seed of its own."""
    alpha, noise = spec.settings["interpolation"], spec.settings["embedding_noise"]
    seeds = [seed_of(spec.seed, "inversion", position) for position in positions]
    sources = source_order(labels, positions)
    return [Place(i, partner(labels, i, seed), alpha, noise, seed)
            for i, seed in zip(sources, seeds, strict=True)]


# the specs of a study

def specs(section, study, data: dict[str, Any], train: ArtifactSpec,
          labels: np.ndarray) -> dict[str, ArtifactSpec]:
    """Embeddings of the first training images and all that is sampled from them; {} for none."""
    if not section.num_embedded:
        return {}
    labels, model, inputs = labels[:section.num_embedded], _model(section, study, data), {}
    if section.model == conditional.SCRATCH:
        inputs = {"generator": _prior(section, study, data, train)}
    config = {field.name: getattr(section, field.name) for field in fields(Inversion)
              if hasattr(section, field.name)}
    learned = embeddings(
        model | {"count": len(labels), "shard": section.shard_size,
                 "inversion": asdict(Inversion(**config))},
        study.seed, real=train, **inputs)
    shared = model | {"resolution": data["resolution"], "shard": 4 * section.batch_size,
                      "sampler": asdict(Sampler.from_section(section))}
    measured = min(section.eval_images, len(labels))
    amounts = {name: getattr(section, name) for name in ("interpolation", "embedding_noise")}
    settings = {"di": {"count": section.num_images} | amounts,
                "reconstructions": {"plan": reconstructions(measured, study.seed)},
                "variations": {"plan": variations(labels, section, study.seed)},
                "interpolations": {"plan": interpolations(labels, section, study.seed)}}
    sets = {name: inverted_images(shared | own, study.seed, embeddings=learned, **inputs)
            for name, own in settings.items()}
    hits = identification(model | {"count": measured, "shard": 20}, study.seed,
                          embeddings=learned, real=train, **inputs)
    return {"embeddings": learned, **sets, "identification": hits}


def _model(section, study, data: dict[str, Any]) -> dict[str, Any]:
    """Settings that name the frozen generator."""
    scratch = section.model == conditional.SCRATCH
    if not scratch:
        check_fits(locate(section.model), data.get("source"))
    settings = {"model": section.model, "revision": section.revision,
                "print": "" if scratch else weights_hash(section.model),
                "device": study.device, "precision": study.precision}
    return settings | ({"size": section.model_resolution} if section.model_resolution else {})


def _prior(section, study, data: dict[str, Any], train: ArtifactSpec) -> ArtifactSpec:
    """A generator from scratch that is then frozen: of real images, or of published ones only."""
    if section.generator_data == "real":
        return conditional.training_spec(section, study, data, conditional.SCRATCH, real=train)
    count = section.generator_num_images or train.settings["count"]
    images = real.published_spec(section.published_path, count, data["resolution"], study.seed,
                                 data["max_corrupt_files"])
    return conditional.training_spec(section, study, data, conditional.SCRATCH, published=images)


def reconstructions(count: int, seed: int) -> list[Place]:
    """Each of the first images from its own embedding, from several noises."""
    return [Place(i, i, 0.0, 0.0, seed_of(seed, "rebuilt", i, k))
            for i in range(count) for k in range(REPEATS)]


def variations(labels: np.ndarray, section, seed: int) -> list[Place]:
    """Some sources: themselves, then every alpha, then every noise, always from one seed."""
    steps = [(0.0, 0.0), *((alpha, 0.0) for alpha in section.shown_interpolations),
             *((0.0, noise) for noise in section.shown_noises)]
    return [Place(i, j, *step, own) for i, j, own in _pairs(labels, section.gallery, seed)
            for step in steps]


def interpolations(labels: np.ndarray, section, seed: int) -> list[Place]:
    """The same sources: in equal steps to another image of their class."""
    return [Place(i, j, float(alpha), 0.0, own)
            for i, j, own in _pairs(labels, section.gallery, seed)
            for alpha in np.linspace(0, 1, STEPS)]


def _pairs(labels: np.ndarray, count: int, seed: int) -> list[tuple[int, int, int]]:
    """Source, partner and seed of the images that are shown, classes in turn."""
    sources = source_order(labels, range(min(count, len(labels))))
    seeds = [seed_of(seed, "shown", i) for i in sources]
    return [(i, partner(labels, i, own), own) for i, own in zip(sources, seeds, strict=True)]


def variants(learned: ArtifactSpec, count: int) -> dict[str, ArtifactSpec]:
    """The first images once more, under settings that could save time."""
    base = learned.settings["inversion"]
    half = max(1, base["max_train_steps"] // 2)
    changes = VARIANTS | {"half the steps": {"max_train_steps": half}}
    count = min(count, learned.settings["count"])
    return {name: embeddings(learned.settings | {"count": count, "inversion": base | change},
                             learned.seed, **learned.inputs)
            for name, change in changes.items() if count}


# what was learned, as numbers

def loss_curve(learned: Embeddings, spec: ArtifactSpec) -> pd.DataFrame:
    """Validation loss over updates, in % of an image's first: mean and middle 90 % of images."""
    steps = Inversion(**spec.settings["inversion"]).validation_steps()
    losses = learned.curves[~learned.given_up].double()
    relative = pd.DataFrame((100 * losses / losses[:, :1]).numpy(), columns=steps)
    return pd.DataFrame({
        "updates": steps, "mean": relative.mean(), "low": relative.quantile(0.05),
        "high": relative.quantile(0.95), "images": len(relative)})


def compare_variants(store: Store, learned: ArtifactSpec,
                     others: dict[str, ArtifactSpec]) -> list[dict[str, Any]]:
    """A row per variant: its losses less those of the study's settings (n,), and its updates."""
    config = Inversion(**learned.settings["inversion"])
    curves = {name: load(store.make(spec)).curves.numpy() for name, spec in others.items()}
    base = load(store.make(learned)).curves.numpy()[:len(next(iter(curves.values())))]
    updates = {name: spec.settings["inversion"]["max_train_steps"] for name, spec in others.items()}
    losses = {name: curve[:, -1] for name, curve in curves.items()}
    stopped, losses["early stopping"] = stop_early(base)
    updates["early stopping"] = float(np.array(config.validation_steps())[stopped].mean())
    return [{"setting": name, "loss": loss - base[:, -1], "updates": updates[name],
             "saved": 1 - updates[name] / config.max_train_steps} for name, loss in losses.items()]


def stop_early(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where (n,) each curve (n, validations) first does not fall, else its end; the loss before."""
    rises = np.diff(curves, axis=1) >= 0
    stopped = np.where(rises.any(1), rises.argmax(1) + 1, curves.shape[1] - 1)
    best = np.where(rises.any(1), stopped - 1, stopped)
    return stopped, curves[np.arange(len(curves)), best]


def nearest_rank(images: np.ndarray, train: np.ndarray, sources: Sequence[int]) -> np.ndarray:
    """Rank (n,), 1 is nearest, of each image's source train[i] among all, by thumbnails."""
    ours, theirs = thumbnails(images), thumbnails(train)
    squares = (ours**2).sum(1)[:, None] + (theirs**2).sum(1) - 2 * ours @ theirs.T
    squares = squares.astype(np.float64)
    return 1 + (squares < squares[np.arange(len(sources)), sources][:, None]).sum(1)


def psnr(images: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """PSNR (n,) in dB of uint8 images (n, h, w, 3); at most the 59 dB of 8-bit rounding."""
    error = (images.astype(np.float64) - sources).reshape(len(images), -1)
    return 10 * np.log10(255**2 / np.maximum(np.square(error).mean(1), 1 / 12))


def diversity(images: np.ndarray, groups: Sequence) -> np.ndarray:
    """Mean distance (groups,) in grey levels of the pairs of each group of two or more images."""
    flat, groups = images.reshape(len(images), -1).astype(np.float32), np.asarray(groups)
    parts = [flat[groups == group] for group in dict.fromkeys(groups.tolist())]
    return np.array([float(torch.nn.functional.pdist(torch.from_numpy(part)).mean())
                     for part in parts if len(part) > 1]) / flat.shape[1] ** 0.5
