"""What a study makes of Diffusion Inversion: embeddings, the set `di`, and the images and numbers that say how good they are."""

from __future__ import annotations

from dataclasses import asdict, fields

import numpy as np
import pandas as pd

from lib.core.compute import seed_of
from lib.core.store import ArtifactSpec, Store
from lib.data import real as real_data
from lib.diffusion import conditional
from lib.diffusion.embeddings import (
    Place,
    embeddings,
    identified,
    inverted,
    opened,
    order,
    partner,
    planned,
)
from lib.diffusion.inversion import Inversion, Inverted
from lib.diffusion.model import check_fits
from lib.diffusion.models import fingerprint, source

AGAIN = 2  # reconstructions of each measured image, from other noise: what an embedding leaves open
STRIP = 7  # images on the way from one source to another
FASTER = {
    "steps t where the loss is sensitive": {"timestep_sampling": "sensitive"},
    "each image stops by itself": {"stop": 1, "num_validations": 10},
    "a single token": {"num_vectors": 1},
    "half the steps": {},
}


def recipes(
    inversion, study, data: dict, real: ArtifactSpec, labels: np.ndarray
) -> dict[str, ArtifactSpec]:
    """Everything, from section `inversion` and the labels of the real training images; nothing where none are inverted."""
    if not inversion.num_embedded:
        return {}
    seed, labels = study.seed, labels[: inversion.num_embedded]
    if inversion.model != conditional.SCRATCH:
        check_fits(source(inversion.model), data.get("source"))
    scratch = inversion.model == conditional.SCRATCH
    model = {
        "model": inversion.model,
        "revision": inversion.revision,
        "print": "" if scratch else fingerprint(inversion.model),
        "device": study.device,
        "precision": study.precision,
    } | ({"size": inversion.model_resolution} if inversion.model_resolution else {})
    frozen = {"generator": prior(inversion, study, data, real)} if scratch else {}
    learned = embeddings(
        model
        | {
            "count": len(labels),
            "shard": inversion.shard_size,
            "inversion": asdict(how(inversion)),
        },
        seed,
        real=real,
        **frozen,
    )
    sampler = {
        "guidance_scale": inversion.guidance_scale,
        "num_inference_steps": inversion.num_inference_steps,
        "scheduler": inversion.scheduler,
        "guidance_interval": inversion.guidance_interval,
        "batch_size": inversion.batch_size,
    }
    drawn = model | {
        "resolution": data["resolution"],
        "shard": 4 * inversion.batch_size,
        "sampler": sampler,
    }
    measured = min(inversion.eval_images, len(labels))
    plans = {
        "rebuilt": rebuilt(measured, seed),
        "ways": ways(labels, inversion, seed),
        "strips": strips(labels, inversion, seed),
    }
    return {
        "embeddings": learned,
        "di": inverted(
            drawn
            | {
                "count": inversion.num_images,
                "interpolation": inversion.interpolation,
                "embedding_noise": inversion.embedding_noise,
            },
            seed,
            embeddings=learned,
            **frozen,
        ),
        **{
            name: planned(drawn | {"plan": plan}, seed, embeddings=learned, **frozen)
            for name, plan in plans.items()
        },
        "identified": identified(
            model | {"count": measured, "shard": 20}, seed, embeddings=learned, real=real, **frozen
        ),
    }


def prior(inversion, study, data: dict, real: ArtifactSpec) -> ArtifactSpec:
    """The training of a class-conditional model from scratch that is then frozen: on real images, or on somebody else's only."""
    if inversion.generator_data == "real":
        return conditional.recipe(inversion, study, data, conditional.SCRATCH, real=real)
    count = inversion.generator_num_images or real.settings["count"]
    others = real_data.published_spec(
        inversion.published_path, count, data["resolution"], study.seed, data["max_corrupt_files"]
    )
    return conditional.recipe(inversion, study, data, conditional.SCRATCH, published=others)


def how(inversion, **changes) -> Inversion:
    """Section `inversion` as the library takes it."""
    return Inversion(
        **{
            f.name: getattr(inversion, f.name)
            for f in fields(Inversion)
            if hasattr(inversion, f.name)
        }
        | changes
    )


def rebuilt(count: int, seed: int) -> list[Place]:
    """Each of the first images from its own embedding, AGAIN times."""
    return [
        Place(i, i, 0.0, 0.0, seed_of(seed, "rebuilt", i, k))
        for i in range(count)
        for k in range(AGAIN)
    ]


def ways(labels: np.ndarray, inversion, seed: int) -> list[Place]:
    """For sources of several classes: itself, then towards another by each alpha, then aside by each noise; one seed a source."""
    steps = [
        (0.0, 0.0),
        *((alpha, 0.0) for alpha in inversion.shown_interpolations),
        *((0.0, noise) for noise in inversion.shown_noises),
    ]
    return [
        Place(i, j, *step, own)
        for i, j, own in _pairs(labels, inversion.gallery, seed)
        for step in steps
    ]


def strips(labels: np.ndarray, inversion, seed: int) -> list[Place]:
    """For the same sources: all the way to the other, in equal steps."""
    return [
        Place(i, j, float(alpha), 0.0, own)
        for i, j, own in _pairs(labels, inversion.gallery, seed)
        for alpha in np.linspace(0, 1, STRIP)
    ]


def _pairs(labels: np.ndarray, count: int, seed: int) -> list[tuple[int, int, int]]:
    """Source, partner and seed of the images that are shown, classes in turn."""
    found = [(i, seed_of(seed, "shown", i)) for i in order(labels, range(min(count, len(labels))))]
    return [(i, partner(labels, i, own), own) for i, own in found]


def faster(learned: ArtifactSpec, count: int) -> dict[str, ArtifactSpec]:
    """The first images again, under settings that could save time."""
    wanted, known = learned.settings, learned.settings["inversion"]
    changes = FASTER | {
        "half the steps": {"max_train_steps": max(1, known["max_train_steps"] // 2)}
    }
    return (
        {
            name: embeddings(
                wanted | {"count": min(count, wanted["count"]), "inversion": known | change},
                learned.seed,
                **learned.inputs,
            )
            for name, change in changes.items()
        }
        if count
        else {}
    )


def speeds(store: Store, learned: ArtifactSpec, others: dict[str, ArtifactSpec]) -> pd.DataFrame:
    """A row a setting: the images' loss less that of the study's own setting (n,), and the updates of each on average."""
    rows = []
    for name, recipe in others.items():
        base, found = (opened(store.make(each)).inverted for each in (learned, recipe))
        rows.append(
            {
                "setting": name,
                "loss": (found.losses - base.losses[: len(found.losses)]).numpy(),
                "updates": updates(recipe, found),
                "base": updates(learned, base),
            }
        )
    return pd.DataFrame(rows)


def updates(recipe: ArtifactSpec, inverted: Inverted) -> float:
    """How many an embedding took on average, until its last validation loss."""
    marks = np.array(Inversion(**recipe.settings["inversion"]).marks())
    return float(marks[np.maximum((~inverted.curves.isnan()).sum(1).numpy() - 1, 0)].mean())


def seconds(store: Store, recipe: ArtifactSpec) -> float:
    """Seconds of work an image of an artifact, of those that its last run made."""
    made = store.make(recipe)
    fresh = max(1, len(made.files) - made.manifest["made"]["resumed_from"]) / len(made.files)
    return made.manifest["made"]["seconds"] / (recipe.settings["count"] * fresh)
