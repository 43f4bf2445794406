"""The recipes that each chapter asks the store for, before anything is made: the same calls as in the notebooks.

A test holds the two together: after a run of `smoke` every artifact in its store is one of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow.parquet as pq
import yaml

from lib import study as graph
from lib.classifier import arms
from lib.classifier import train as fit
from lib.core import fetch
from lib.core.config import Generation, Settings, Study
from lib.core.paths import PARAMS, ROOT
from lib.core.store import ArtifactSpec, Store
from lib.data import real as real_data
from lib.data.source import SourceError, open_source
from lib.diffusion import inversions, sets
from lib.measure import accuracy, features
from lib.measure import geometry_steps as lines
from lib.measure import gradcam_steps as attended
from lib.measure import reference as verdict
from lib.measure import scaling as curves
from lib.remedies import filter as filters
from lib.remedies import registry, split

Chapters = dict[str, list[ArtifactSpec]]
NAMELESS = 10  # classes where neither the data nor a file of facts is here; they cost next to nothing


@dataclass
class Known:
    """What later chapters need of earlier ones."""

    study: Study
    data: dict  # classes, sizes, resolution, as 01_data leaves them
    real: dict[str, ArtifactSpec]  # train, test, shifts
    labels: np.ndarray  # of the training images
    sets: dict[str, ArtifactSpec] = field(default_factory=dict)  # sd, cd, di …
    points: list[ArtifactSpec] = field(default_factory=list)  # of the sweep over wording and guidance
    models: dict[str, list[ArtifactSpec]] = field(default_factory=dict)  # classifiers of each arm
    guessed: set[str] = field(default_factory=set)  # keys of what only the run can say

    @property
    def count(self) -> int:
        """How many classes."""
        return len(self.data["classes"])

    def logits(self, classifiers: Iterable[ArtifactSpec], pictures: Iterable[ArtifactSpec]) -> list[ArtifactSpec]:
        """What these classifiers say of these sets."""
        pictures = list(pictures)
        return [accuracy.logits({"device": self.study.device}, classifier=one, images=part)
                for one in classifiers for part in pictures]

    def features(self, pictures: Iterable[ArtifactSpec], network: str, own: ArtifactSpec) -> list[ArtifactSpec]:
        """What a network sees in these sets."""
        upstream = {"classifier": own} if network == "reference" else {}
        return [features.features({"extractor": network, "resize": "bicubic", "device": self.study.device}, images=one, **upstream)
                for one in pictures]

    def size(self, recipe: ArtifactSpec, most: int) -> int:
        """Images of a set, at most so many."""
        return min(recipe.settings["count"], most)


def study(loaded: Settings, store: Store) -> tuple[Known, Chapters]:
    """Recipes by chapter, in the order of the notebooks; each chapter's upstream comes with its recipes."""
    known = data(loaded, store)
    copies = real_data.copies_spec(known.real["train"])
    found = {"01_data": [*known.real.values(), *filter(None, [real_data.inspection_spec(known.real["train"]), copies])]}
    for name, chapter in (("02_inversion", inversion), ("03_generation", generation), ("04_training", training),
                          ("05_gradcam", gradcam), ("06_geometry", geometry), ("07_representation", representation),
                          ("08_repair", repair)):
        found[name] = chapter(loaded, known)
    return known, found


def data(loaded: Settings, store: Store) -> Known:
    """The real images; where their files are not here, recipes of the same size that nobody can make yet."""
    wanted, seed = loaded.data, loaded.study.seed
    try:
        real = real_data.specs(wanted, seed)
        classes = open_source(wanted.source, real_data.options(wanted, seed)).classes
    except (SourceError, OSError):
        shared = {name: getattr(wanted, name) for name in ("source", "root", "resolution", "shard")}
        shared |= {"fingerprint": ""}
        real = {name: real_data.real_images(shared | {"split": name, "count": getattr(wanted, name)}, seed)
                for name in ("train", "test")}
        classes = named(loaded.generation.class_info)
    truth = labels(store, real["train"], len(classes))
    counts = np.bincount(truth, minlength=len(classes))
    facts = {"classes": list(classes), "train": wanted.train, "test": wanted.test, "resolution": wanted.resolution,
             "flip": wanted.flip,
             "max_corrupt_files": wanted.max_corrupt_files, "uneven": bool(counts.max() > 1.25 * counts.min())}
    return Known(loaded.study, facts, real, truth)


def named(facts: str) -> list[str]:
    """Classes by the file of facts; without one, as many as make no difference to what is reckoned here."""
    path = PARAMS / "classes" / f"{facts}.yaml"
    if path.is_file():
        return [row["name"] for row in yaml.safe_load(path.read_text(encoding="utf-8"))["classes"]]
    return [f"class {k}" for k in range(NAMELESS)]


def labels(store: Store, train: ArtifactSpec, classes: int) -> np.ndarray:
    """Of the training images where they are made; else classes in turn, as every source but a folder gives them."""
    made = store.found(train)
    parts = [pq.read_table(path, columns=["label"])["label"].to_numpy() for path in made.files] if made else []
    return np.concatenate(parts) if parts else np.arange(train.settings["count"]) % classes


def inversion(loaded: Settings, known: Known) -> list[ArtifactSpec]:
    section = loaded.inversion
    if section.generator_data == "published" and not fetch.downloaded(ROOT / section.published_path):
        section = section.model_copy(update={"generator_data": "real"})  # which takes as long
    made = inversions.recipes(section, known.study, known.data, known.real["train"], known.labels)
    known.sets |= {"di": made["di"]} if made else {}
    return [*made.values(), *(inversions.faster(made["embeddings"], section.ablation_images).values() if made else ())]


def generation(loaded: Settings, known: Known) -> list[ArtifactSpec]:
    section, real = loaded.generation, known.real
    made = others(section, known)
    made |= sets.recipes(section.model_copy(update={"sets": [name for name in section.sets if name not in made]}), known.study,
                         known.data, real["train"])
    known.sets = made | known.sets
    points = known.points = list(sets.sweeps(section, known.study, known.data).values()) if "sd" in made else []
    judge = verdict.judge(known.study, known.data, real["train"], section.reference_epochs)
    looked = [real["test"], *known.sets.values()]
    halves = [real_data.copies_spec(one) for one in made.values() if real_data.is_published(one)]
    return [*made.values(), *halves, *points, judge, *known.logits([judge], [*looked, *points]),
            *known.features([real["train"], *looked], "reference", judge)]


def others(section: Generation, known: Known) -> dict[str, ArtifactSpec]:
    """Sets that somebody else made, where their files are not here."""
    wanted = [name for name in section.sets if name == sets.PUBLISHED or (name, section.model) == ("sd", sets.PUBLISHED)]
    shared = {"source": real_data.PUBLISHED, "root": section.published_path, "split": "train", "count": section.num_images,
              "resolution": known.data["resolution"], "shard": real_data.BATCH, "fingerprint": ""}
    return {name: real_data.real_images(shared, known.study.seed)
            for name in wanted if not fetch.downloaded(ROOT / section.published_path)}


def training(loaded: Settings, known: Known) -> list[ArtifactSpec]:
    section, points = loaded.training, known.points if loaded.training.train_on_sweep else []
    swept = {f"sd-{k}": point for k, point in enumerate(points, 1)}
    every = {"real": known.real["train"], **known.sets, **swept}
    points = [*swept, *(arm for order in curves.drawn(section).values() for arm in order)]
    used = {"real", *(name for arm in (*section.arms, *points) for name in arms.names(arm, every))}
    sizes = {name: every[name].settings["count"] for name in every if name in used}
    steps = fit.steps_for(known.data["train"], section.batch_size, section.epochs)
    made = fit.planned(section, known.study, steps, known.data["flip"], every, sizes, points)
    known.models = {arm: seeds for arm, seeds in made.items() if arm in section.arms}
    tests = {name: recipe for name, recipe in known.real.items() if name != "train"}
    base = known.models["real" if "real" in known.models else next(iter(known.models))]
    rest = [one for arm, seeds in made.items() if arm not in known.models for one in seeds]
    seen = [known.sets[name] for name in known.sets if name in known.models]
    classifiers = [one for seeds in known.models.values() for one in seeds]
    return [*classifiers, *rest, *known.logits(classifiers, tests.values()), *known.logits(rest, [tests["test"]]),
            *known.logits(base, seen)]


def gradcam(loaded: Settings, known: Known) -> list[ArtifactSpec]:
    section, test = loaded.gradcam, known.real["test"]
    base = known.models["real" if "real" in known.models else next(iter(known.models))]

    def maps(classifiers: Iterable[ArtifactSpec], pictures: ArtifactSpec, most: int) -> list[ArtifactSpec]:
        count = known.size(pictures, most)
        return [attended.recipe(attended.attended, one, pictures, count, known.study) for one in classifiers]
    found = [one for seeds in known.models.values() for one in maps(seeds, test, section.max_images)]
    found += [one for part in known.sets.values() for one in maps(base, part, section.max_images)]
    if "di" in known.sets:  # the first images are those that were inverted
        origins = min(known.size(known.sets["di"], section.max_images), loaded.inversion.num_embedded)
        found += maps(base, known.real["train"], 2 * origins)
    return found + [attended.recipe(attended.trusted, seeds[0], test, section.sanity_images, known.study)
                    for seeds in known.models.values()]


def geometry(loaded: Settings, known: Known) -> list[ArtifactSpec]:
    section, seed = loaded.geometry, known.study.seed
    how = {"count": section.max_images} | ({"native": True} if section.native_resolution else {})
    return [lines.calibration({"sizes": section.calibration_sizes, "scenes": section.calibration_scenes}, seed),
            *(lines.lines(how, seed, images=part) for part in (known.real["test"], *known.sets.values()))]


def representation(loaded: Settings, known: Known) -> list[ArtifactSpec]:
    return graph.plan(loaded).representation_artifacts()


def repair(loaded: Settings, known: Known) -> list[ArtifactSpec]:
    section, train, test = loaded.repair, known.real["train"], known.real["test"]
    fitted, validation = split.parts(train, section.val_fraction, known.study.seed)
    held = len(arms.positions(arms.Term("validation", section.val_fraction), known.labels, None, 0))
    judge = verdict.judge(known.study, known.data | {"train": len(known.labels) - held}, fitted, section.reference_epochs)
    models = known.models | {"judge": [judge] * known.study.seeds}
    wanted = registry.context(section, known.study, models[section.base][0])
    wanted |= {"train": known.data["train"], "fit": len(known.labels) - held}
    tried, _ = registry.planned(section.remedies, models, {"real": fitted, **known.sets}, wanted)
    kept = filters.sets_of({"real": fitted, **known.sets}, judge, wanted).values() if "filter" in section.remedies else []
    remedies = [one for remedy in tried.values() for one in (*remedy.classifiers, *remedy.control)]
    chosen = [one for remedy in tried.values() if remedy.candidate for one in remedy.classifiers]
    return [fitted, validation, judge, *kept, *remedies, *known.logits([*remedies, *models[section.base]], [test]),
            *known.logits([*chosen, *models[section.base]], [validation]),
            *second(tried, known, [test, validation])]


def second(tried: dict, known: Known, tests: list[ArtifactSpec]) -> list[ArtifactSpec]:
    """A stand-in for the remedy on top of a remedy, of which only the run can say what it is: the costliest of them."""
    last = max((one for one in tried.values() if one.candidate and one.changes == "weights" and one.k == 0),
               key=lambda one: one.real, default=None)
    seeds = last.classifiers if last else []
    again = [ArtifactSpec(one.kind, one.settings, one.inputs | {"classifier": one}, one.seed) for one in seeds]
    found = [*again, *known.logits(again, tests)]
    known.guessed |= {one.key for one in found}
    return found


def closure(recipes: Iterable[ArtifactSpec], seen: set[str]) -> Iterator[ArtifactSpec]:
    """These recipes and all upstream of them, upstream first, none that was seen before."""
    for recipe in recipes:
        if recipe.key not in seen:
            seen.add(recipe.key)
            yield from closure(recipe.inputs.values(), seen)
            yield recipe
