"""Inversion as steps of the store: embeddings of the real training images, and the image sets drawn between and around them.

Below them, how good an inversion is before any classifier sees it: values of each image (n,), for `accuracy.interval`.
Which of these a study makes stands in `inversions.py`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from lib.core import compute, progress
from lib.core.compute import seed_of
from lib.core.store import Artifact, ArtifactSpec, FileWriters, Store, artifact
from lib.data import imageset as images
from lib.data.checks import thumbnails
from lib.data.imageset import ImageSet
from lib.diffusion import conditional
from lib.diffusion.inversion import (
    Inversion,
    InversionError,
    Inverted,
    Pictures,
    class_conditioning,
    encoded,
    invert,
    validation,
)
from lib.diffusion.model import Generator
from lib.diffusion.models import loaded_for
from lib.diffusion.sample import Sampler, sample
from lib.diffusion.sets import collected

OTHERS = 9  # embeddings that an image's own must beat to be identified; chance is one in ten


@dataclass(frozen=True)
class Learned:
    """What an artifact of embeddings holds."""

    inverted: Inverted
    labels: np.ndarray  # (n,) int64
    ids: tuple[str, ...]  # of the source images
    classes: tuple[str, ...]

    def mean(self) -> torch.Tensor:
        """The mean learned embedding (tokens, width), which guidance pushes away from."""
        return self.inverted.embeddings[~self.inverted.given_up].mean(0)


@artifact("embeddings")
def embeddings(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """Embeddings of the first `count` images of upstream `real`, in shards by position."""
    wanted = recipe.settings
    split = recipe.inputs["real"].settings.get("split")
    if split != "train":
        raise InversionError(
            f"only training images may be inverted, these are of split {split!r}: the test set is sacred. "
            "Give the recipe of split 'train' as `real`"
        )
    have = recipe.inputs["real"].settings["count"]
    if not 1 <= wanted["count"] <= have:
        raise InversionError(
            f"embeddings of {wanted['count']} images are wanted, of {have}: raise data.train or ask for fewer"
        )

    def write(positions: range, path: Path) -> None:
        real = images.load(store.make(recipe.inputs["real"])).take(positions)
        generator = generator_of(store, recipe)
        latents, spread = encoded(generator, real.images)
        found = invert(
            generator,
            latents,
            real.labels,
            real.sources,
            Inversion(**wanted["inversion"]),
            recipe.seed,
            class_conditioning(generator, real.classes),
            spread,
        )
        keep(path, Learned(found, real.labels, real.sources, real.classes))

    starts = range(0, wanted["count"], wanted["shard"])
    return {
        f"embeddings-{i:05}-of-{len(starts):05}.safetensors": functools.partial(
            write, range(s, min(s + wanted["shard"], wanted["count"]))
        )
        for i, s in enumerate(starts)
    }


def keep(path: Path, learned: Learned) -> None:
    """One shard."""
    tensors = {name: value.contiguous() for name, value in vars(learned.inverted).items()}
    facts = {
        "ids": learned.ids,
        "classes": learned.classes,
    }  # one key: the order of several is not the same every time
    try:
        save_file(
            tensors | {"labels": torch.as_tensor(learned.labels)},
            path,
            {"facts": json.dumps(facts)},
        )
    except (OSError, SafetensorError) as error:
        raise InversionError(
            f"embeddings cannot be written: {error}. Make room and give the same command again: every file that "
            f"is done stays and is not made again.\n{path}"
        ) from error


def opened(artifact: Artifact) -> Learned:
    """All shards as one."""
    parts, ids = [], []
    for path in artifact.files:
        parts.append(load_file(path))
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
        ids += facts["ids"]
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    labels = whole.pop("labels").numpy()
    return Learned(Inverted(**whole), labels, tuple(ids), tuple(facts["classes"]))


def loss_curve(inverted: Inverted, marks: Sequence[int]) -> pd.DataFrame:
    """Validation loss over updates, in % of each image's first: mean, and the middle 90 % of images.

    An embedding that stopped early keeps its last loss; one that was given up is left out.
    """
    losses = inverted.curves[~inverted.given_up].double()
    relative = pd.DataFrame((100 * losses / losses[:, :1]).numpy(), columns=list(marks))
    relative = relative.ffill(axis=1)
    return pd.DataFrame({
        "updates": list(marks), "mean": relative.mean(), "low": relative.quantile(0.05),
        "high": relative.quantile(0.95), "images": len(relative),
    })


@artifact("inverted-images")
def inverted(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """`count` images between and around the embeddings; labels go round, each image is its seed."""
    wanted = recipe.settings

    def write(positions: range, path: Path) -> None:
        learned = opened(store.make(recipe.inputs["embeddings"]))
        generator = generator_of(store, recipe)
        images.write(path, draw(generator, learned, wanted, recipe.seed, positions))

    parts = images.shards(wanted["count"], wanted["shard"])
    return {name: functools.partial(write, positions) for name, positions in parts.items()}


def generator_of(store: Store, recipe: ArtifactSpec) -> Generator:
    """The generator of a recipe's settings, or its upstream one that was trained here."""
    settings, trained_here = recipe.settings, recipe.inputs.get("generator")
    if trained_here is None:
        return loaded_for(settings)
    folder = store.make(trained_here).folder
    return _trained(folder, settings["device"], settings["precision"])


@functools.lru_cache(maxsize=1)
def _trained(folder: Path, device: str, compute_in: str) -> Generator:
    """A generator that was trained here, loaded once in a process."""
    return conditional.opened(Artifact(folder, {}), device)[0].use(compute_in)


class Place(NamedTuple):
    """Where one image is drawn: on the way from one embedding to another, a step aside, from the noise of its seed."""

    first: int
    second: int
    alpha: float  # share of the way
    noise: float  # size of the step
    seed: int


@artifact("inversion-paths")
def planned(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """Images at the places of a plan: the same source along several ways, or again from other noise."""
    wanted = recipe.settings

    def write(positions: range, path: Path) -> None:
        learned = opened(store.make(recipe.inputs["embeddings"]))
        places = [Place(*wanted["plan"][i]) for i in positions]
        images.write(path, follow(generator_of(store, recipe), learned, places, wanted))

    parts = images.shards(len(wanted["plan"]), wanted["shard"])
    return {name: functools.partial(write, positions) for name, positions in parts.items()}


def draw(
    generator: Generator, learned: Learned, wanted: dict, seed: int, positions: Sequence[int]
) -> ImageSet:
    """The images at these positions of an inversion set: classes and in each its sources in turn, partners by seed."""
    places = []
    for position, i in zip(positions, order(learned.labels, positions), strict=True):
        own = seed_of(seed, "inversion", position)
        places.append(
            Place(
                i,
                partner(learned.labels, i, own),
                wanted["interpolation"],
                wanted["embedding_noise"],
                own,
            )
        )
    return follow(generator, learned, places, wanted)


def follow(
    generator: Generator, learned: Learned, places: Sequence[Place], wanted: dict
) -> ImageSet:
    """The images at these places, with the two sources of each."""
    sampler = Sampler(
        **{
            **wanted["sampler"],
            "guidance_interval": tuple(wanted["sampler"].get("guidance_interval", (0.0, 1.0))),
        }
    )
    conditioning = torch.stack([between(learned, place) for place in places])
    drawn = list(
        sample(generator, conditioning, [place.seed for place in places], sampler, learned.mean())
    )
    labels = learned.labels[[place.first for place in places]]
    made = collected(drawn, labels, learned.classes, [""] * len(drawn), wanted["resolution"])
    names, partners = (tuple(learned.ids[place[k]] for place in places) for k in (0, 1))
    columns = {
        "first": list(names),
        "second": list(partners),
        "alone": [a == b for a, b in zip(names, partners, strict=True)],
        "alpha": [float(place.alpha) for place in places],
        "noise": [float(place.noise) for place in places],
    }
    return replace(made, sources=names, columns=made.columns | columns)


def order(labels: np.ndarray, positions: Sequence[int]) -> list[int]:
    """The source of the image at each position: classes go round, and in each of them its sources."""
    same = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    turns = [(same[p % len(same)], p // len(same)) for p in positions]
    return [int(sources[turn % len(sources)]) for sources, turn in turns]


def partner(labels: np.ndarray, i: int, seed: int) -> int:
    """Another image of the class of i, chosen by the seed; i itself where it is alone."""
    others = np.flatnonzero(labels == labels[i])
    others = others[others != i]
    return (
        int(
            others[
                int(torch.randint(len(others), (), generator=compute.generator(seed, "partner")))
            ]
        )
        if len(others)
        else i
    )


def between(learned: Learned, place: Place) -> torch.Tensor:
    """c_i + alpha (c_j - c_i) + noise N(0, 1) (tokens, width); the same seed steps aside the same way, by any noise."""
    known = learned.inverted.embeddings
    first, second = known[place.first], known[place.second]
    aside = torch.randn(first.shape, generator=compute.generator(place.seed, "around"))
    return first + place.alpha * (second - first) + place.noise * aside


# -- how good an inversion is ----------------------------------------------------------------------------------------------


def ranks(drawn: np.ndarray, real: np.ndarray, own: Sequence[int]) -> np.ndarray:
    """Rank (n,), 1 is nearest, of each drawn image's source, real[own], among all real images, by their thumbnails."""
    ours, theirs = thumbnails(drawn), thumbnails(real)
    distances = ((ours**2).sum(1)[:, None] + (theirs**2).sum(1) - 2 * ours @ theirs.T).astype(
        np.float64
    )
    return 1 + (distances < distances[np.arange(len(own)), own][:, None]).sum(1)


def psnr(drawn: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio (n,) in dB of uint8 images (n, h, w, 3); 8-bit rounding alone leaves about 59."""
    error = (drawn.astype(np.float64) - source).reshape(len(drawn), -1)
    return 10 * np.log10(255**2 / np.maximum(np.square(error).mean(1), 1 / 12))


@artifact("identification")
def identified(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """Whether each of the first `count` images is identified, in shards by position."""
    wanted = recipe.settings

    def write(positions: range, path: Path) -> None:
        learned = opened(store.make(recipe.inputs["embeddings"]))
        generator = generator_of(store, recipe)
        latents, spread = encoded(
            generator, images.load(store.make(recipe.inputs["real"])).images[: positions.stop]
        )
        hits = identification(
            generator, Pictures(latents, learned.ids, recipe.seed, spread), learned, positions
        )
        save_file({"identified": torch.from_numpy(hits)}, path)

    starts = range(0, wanted["count"], wanted["shard"])
    return {
        f"identified-{i:05}-of-{len(starts):05}.safetensors": functools.partial(
            write, range(s, min(s + wanted["shard"], wanted["count"]))
        )
        for i, s in enumerate(starts)
    }


def hits(artifact: Artifact) -> np.ndarray:
    """Whether each image (n,) was identified."""
    return np.concatenate([load_file(path)["identified"].numpy() for path in artifact.files])


def identification(
    generator: Generator,
    pictures: Pictures,
    learned: Learned,
    index: Sequence[int],
    batch: int = 64,
) -> np.ndarray:
    """Whether (k,) the loss of each image i of `index` is lowest under its own embedding among ten, half of its class."""
    pairs = [
        (i, j)
        for i in index
        for j in (
            i,
            *rivals(learned.labels, i, compute.generator(pictures.seed, "rivals", learned.ids[i])),
        )
    ]
    parts = [pairs[start : start + 80] for start in range(0, len(pairs), 80)]
    found = []
    for part in progress.each("identify", parts):
        image, embedding = ([pair[k] for pair in part] for k in (0, 1))
        under = learned.inverted.embeddings[embedding].to(generator.device)
        found.append(validation(generator, pictures, image, under, batch).cpu())
    return (torch.cat(found).view(len(index), -1).argmin(1) == 0).numpy()


def rivals(labels: np.ndarray, i: int, own: torch.Generator) -> list[int]:
    """Nine other images, five of them of the class of i where it has so many."""
    mixed = torch.randperm(len(labels), generator=own).numpy()
    same, rest = (
        [j for j in mixed if j != i and (labels[j] == labels[i]) == wanted]
        for wanted in (True, False)
    )
    some = same[: max((OTHERS + 1) // 2, OTHERS - len(rest))]
    return [int(j) for j in [*some, *rest[: OTHERS - len(some)]]]


def diversity(drawn: np.ndarray, groups: Sequence) -> np.ndarray:
    """Mean pairwise distance (groups,) in grey levels of the images of each group of two or more: of one source, of one class."""
    flat, groups = drawn.reshape(len(drawn), -1).astype(np.float32), np.asarray(groups)
    found = [flat[groups == group] for group in dict.fromkeys(groups.tolist())]
    return np.array([_apart(part) for part in found if len(part) > 1])


def _apart(flat: np.ndarray) -> float:
    """Mean over pairs of the root mean square difference of images (k, pixels)."""
    return float(torch.nn.functional.pdist(torch.from_numpy(flat)).mean()) / flat.shape[1] ** 0.5
