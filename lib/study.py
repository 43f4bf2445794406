"""The whole study, top to bottom: every artifact of every chapter, and what it is made from.

Nothing else knows the graph. Notebooks, `make plan`, `make status` and staleness all read it here; nothing in this
file runs a computation. A new artifact is one more line in the property of its chapter.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import yaml

from lib.classifier import arms, comparison
from lib.classifier.comparison import ArmKey
from lib.classifier.train import steps_for
from lib.core import compute, executor, fetch, progress
from lib.core import config as settings
from lib.core.config import Settings
from lib.core.notebook import Chapter
from lib.core.paths import PARAMS, ROOT
from lib.core.store import ArtifactSpec
from lib.data import imageset, inspection, real
from lib.data.imageset import ImageSet
from lib.data.source import Source, SourceError
from lib.diffusion import embeddings, sets
from lib.measure import (
    accuracy,
    features,
    fidelity,
    geometry_steps,
    gradcam_steps,
    probes,
    reference,
    robustness,
    scaling,
)
from lib.remedies import filter as filters
from lib.remedies import registry, split
from lib.report import figures, text

Specs = dict[str, ArtifactSpec]
UNNAMED_CLASSES = (
    10  # where neither the data nor a file of class facts is here; only `make plan` gets that far
)


class Study(Chapter):
    """One profile's graph. In a notebook: `study = Study.open("04_training", globals())`."""

    @classmethod
    def open(cls, chapter: str, variables: Mapping) -> Study:
        """The study of a notebook's parameter cell: the profile, overridden by what is not None there."""
        resolved = settings.resolve(chapter, variables)
        study = cls(resolved.config, resolved.profile, chapter)
        figures.begin(study.out if settings.RUN in os.environ else study.out / "scratch", chapter)
        if resolved.changes:
            figures.say(f"This run {resolved}.")
        if settings.RUN not in os.environ:
            print(f"run by hand: results and figures go to {study.out / 'scratch'}", file=sys.stderr)
        return study

    # what a notebook does with it

    def make(self, *specs: ArtifactSpec | Iterable[ArtifactSpec]) -> None:
        """These artifacts and all that they are made from, side by side where the machine has room."""
        groups = [[group] if isinstance(group, ArtifactSpec) else list(group) for group in specs]
        executor.make(self.store, [spec for group in groups for spec in group])

    def load(self, spec: ArtifactSpec) -> ImageSet:
        """An image set, made first where it is not there yet."""
        return imageset.load(self.store.make(spec))

    def close(self, results: dict[str, Any]) -> None:
        """Leave the chapter's results for later chapters and for the page, and print its text."""
        seconds = self.write_results(results, self.named_artifacts())
        text.show(self.name, results)
        print(f"{progress.clock(seconds)} on {compute.describe()}")

    def named_artifacts(self) -> Specs:
        """What the page lists as this chapter's own."""
        classifiers = (
            {
                f"{arm}-{k}": spec
                for arm, seeds in self.classifiers.items()
                for k, spec in enumerate(seeds)
            }
            if self.name == "04_training"
            else {}
        )
        inverted = {
            name: self.inversion[name] for name in ("di", "embeddings") if name in self.inversion
        }
        return {
            "01_data": self.real,
            "02_inversion": inverted,
            "03_generation": self.synthetic,
            "04_training": classifiers,
        }.get(self.name, {})

    # 01_data: the real images

    @functools.cached_property
    def source(self) -> Source | None:
        """Where the real images come from; None where `make plan` runs before the download."""
        try:
            return real.opened(self.config.data, self.config.study.seed)
        except (SourceError, OSError):
            if not self.planning:
                raise
        return None

    @functools.cached_property
    def real(self) -> Specs:
        """`train`, `test`, and each shift set."""
        section, seed = self.config.data, self.config.study.seed
        if self.source:
            return real.specs(section, seed, self.source)
        shared = {name: getattr(section, name) for name in ("source", "root", "resolution")}
        shared |= {"fingerprint": "", "shard": section.shard}  # specs of the same size
        counts = {"train": section.train, "test": section.test}
        return {
            split: real.real_images(shared | {"split": split, "count": count}, seed)
            for split, count in counts.items()
        }

    @functools.cached_property
    def class_names(self) -> list[str]:
        """From the source, or from the class facts where `make plan` runs before the download."""
        if self.source:
            return list(self.source.classes)
        path = PARAMS / "classes" / f"{self.config.generation.class_info}.yaml"
        if path.is_file():
            return [
                row["name"] for row in yaml.safe_load(path.read_text(encoding="utf-8"))["classes"]
            ]
        return [f"class {k}" for k in range(UNNAMED_CLASSES)]

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Of the real training images; before the download, classes in turn."""
        count = self.config.data.train
        if self.source:
            return self.source.labels("train", count)
        return np.arange(count) % len(self.class_names)

    @functools.cached_property
    def facts(self) -> dict:
        """What generators and classifiers must know of the data."""
        section, counts = (
            self.config.data,
            np.bincount(self.labels, minlength=len(self.class_names)),
        )
        return {
            "classes": self.class_names,
            "train": section.train,
            "test": section.test,
            "resolution": section.resolution,
            "source": section.source,
            "flip": section.flip,
            "max_corrupt_files": section.max_corrupt_files,
            "uneven": bool(counts.max() > 1.25 * counts.min()),
        }

    def data_artifacts(self) -> list[ArtifactSpec]:
        train = self.real["train"]
        return [*self.real.values(), *inspection.specs(train).values()]

    # 02_inversion: one learned embedding per real image, and the set `di` sampled around them

    @functools.cached_property
    def inversion(self) -> Specs:
        """`embeddings`, the set `di`, and what measures them; nothing where no image is inverted."""
        section = self.config.inversion
        if (
            self.planning
            and section.generator_data == "published"
            and not fetch.downloaded(ROOT / section.published_path)
        ):
            section = section.model_copy(update={"generator_data": "real"})  # which takes as long
        return embeddings.specs(
            section, self.config.study, self.facts, self.real["train"], self.labels
        )

    @functools.cached_property
    def inversion_variants(self) -> Specs:
        """The first embeddings once more under other settings."""
        if not self.inversion:
            return {}
        return embeddings.variants(self.inversion["embeddings"], self.config.inversion.ablation_images)

    def inversion_artifacts(self) -> list[ArtifactSpec]:
        return [*self.inversion.values(), *self.inversion_variants.values()]

    # 03_generation: the synthetic sets

    @functools.cached_property
    def synthetic(self) -> Specs:
        """`sd`, `cd`, `di` and others that the profile names, in its order."""
        section, absent = self.config.generation, self._absent_published()
        here = section.model_copy(
            update={"sets": [name for name in section.sets if name not in absent]}
        )
        made_here = sets.specs(here, self.config.study, self.facts, self.real["train"])
        inverted = {"di": self.inversion["di"]} if self.inversion else {}
        return absent | made_here | inverted

    def _absent_published(self) -> Specs:
        """Published sets whose files are not here: only `make plan` goes on without them."""
        section = self.config.generation
        if not self.planning or fetch.downloaded(ROOT / section.published_path):
            return {}
        names = [
            name
            for name in section.sets
            if name == sets.PUBLISHED or (name, section.model) == ("sd", sets.PUBLISHED)
        ]
        facts = {
            "source": real.PUBLISHED,
            "root": section.published_path,
            "split": "train",
            "count": section.num_images,
            "resolution": self.facts["resolution"],
            "shard": real.SHARD,
            "fingerprint": "",
        }
        return {name: real.real_images(facts, self.config.study.seed) for name in names}

    @functools.cached_property
    def sweep(self) -> dict[tuple[str, float], ArtifactSpec]:
        """The same seeds under other prompts and guidance: (prompt template, guidance scale) -> set."""
        if "sd" not in self.synthetic or "sd" in self._absent_published():
            return {}
        return sets.sweep_specs(self.config.generation, self.config.study, self.facts)

    @functools.cached_property
    def reference(self) -> ArtifactSpec:
        """A classifier of the real training images that no training set uses: it looks at synthetic images."""
        epochs = self.config.generation.reference_epochs
        return reference.reference_classifier(
            self.config.training, self.config.study, self.facts, self.real["train"], epochs
        )

    def generation_artifacts(self) -> list[ArtifactSpec]:
        compared = [self.real["test"], *self.synthetic.values()]
        published = [spec for spec in self.synthetic.values() if real.is_published(spec)]
        return [
            *self.synthetic.values(),
            *self.sweep.values(),
            self.reference,
            *[inspection.specs(spec)["copies"] for spec in published],
            *self.predictions([self.reference], [*compared, *self.sweep.values()]),
            *self.features([self.real["train"], *compared], "reference", self.reference),
        ]

    # 04_training: one classifier per training set and seed

    @functools.cached_property
    def sets(self) -> Specs:
        """Every image set that a training set may be made of, by the names that `training.arms` uses."""
        return {"real": self.real["train"], **self.synthetic, **self.swept}

    @functools.cached_property
    def swept(self) -> Specs:
        """The points of the sweep that are trained on: `sd-1`, `sd-2`, …"""
        if not self.config.training.train_on_sweep:
            return {}
        return {f"sd-{k}": spec for k, spec in enumerate(self.sweep.values(), 1)}

    @functools.cached_property
    def curves(self) -> dict[str, list[str]]:
        """The training sets of each curve of accuracy over the number of images."""
        return scaling.drawn(self.config.training)

    @functools.cached_property
    def variants(self) -> dict[ArmKey, list[ArtifactSpec]]:
        """Every training set and variant, one per seed: points of curves, equal epochs …"""
        section = self.config.training
        points = [*self.swept, *(arm for curve in self.curves.values() for arm in curve)]
        names = {
            "real",
            *(name for arm in (*section.arms, *points) for name in arms.names(arm, self.sets)),
        }
        sizes = {name: spec.settings["count"] for name, spec in self.sets.items() if name in names}
        return comparison.planned(
            section, self.config.study, self.steps, self.facts["flip"], self.sets, sizes, points
        )

    @functools.cached_property
    def all_classifiers(self) -> dict[str, list[ArtifactSpec]]:
        """The same by label."""
        return {key.label: specs for key, specs in self.variants.items()}

    @property
    def steps(self) -> int:
        """Optimiser steps of every classifier: `epochs` passes over the real training images."""
        section = self.config.training
        return steps_for(self.facts["train"], section.batch_size, section.epochs)

    @functools.cached_property
    def classifiers(self) -> dict[str, list[ArtifactSpec]]:
        """Of the compared training sets: name -> one per seed."""
        return {arm: self.all_classifiers[arm] for arm in self.config.training.arms}

    @property
    def baseline(self) -> str:
        """The training set that others are compared with."""
        return "real" if "real" in self.classifiers else next(iter(self.classifiers))

    def training_artifacts(self) -> list[ArtifactSpec]:
        tests = [spec for name, spec in self.real.items() if name != "train"]
        compared = [spec for seeds in self.classifiers.values() for spec in seeds]
        others = [
            spec
            for arm, seeds in self.all_classifiers.items()
            if arm not in self.classifiers
            for spec in seeds
        ]
        trained_on = [self.synthetic[name] for name in self.synthetic if name in self.classifiers]
        return [
            *compared,
            *others,
            *self.predictions(compared, tests),
            *self.predictions(others, [self.real["test"]]),
            *self.predictions(self.classifiers[self.baseline], trained_on),
        ]

    # 05_gradcam: where the classifiers look

    def maps(
        self, classifiers: Iterable[ArtifactSpec], images: ArtifactSpec, count: int
    ) -> list[ArtifactSpec]:
        """Grad-CAM of the first `count` images of a set under each classifier."""
        count = min(count, images.settings["count"])
        return [
            gradcam_steps.recipe(gradcam_steps.attended, spec, images, count, self.config.study)
            for spec in classifiers
        ]

    @functools.cached_property
    def map_tests(self) -> Specs:
        """What tests the maps themselves, for the first classifier of each training set."""
        count, test = self.config.gradcam.sanity_images, self.real["test"]
        return {
            arm: gradcam_steps.recipe(
                gradcam_steps.trusted, seeds[0], test, count, self.config.study
            )
            for arm, seeds in self.classifiers.items()
        }

    def gradcam_artifacts(self) -> list[ArtifactSpec]:
        count, base = self.config.gradcam.max_images, self.classifiers[self.baseline]
        on_test = [
            spec
            for seeds in self.classifiers.values()
            for spec in self.maps(seeds, self.real["test"], count)
        ]
        on_sets = [
            spec for images in self.synthetic.values() for spec in self.maps(base, images, count)
        ]
        return [*on_test, *on_sets, *self.source_maps(), *self.map_tests.values()]

    def source_maps(self) -> list[ArtifactSpec]:
        """Of the real images whose embeddings `di` was sampled around: they are the first of the training set."""
        if "di" not in self.synthetic:
            return []
        sources_of_di = min(
            self.synthetic["di"].settings["count"],
            self.config.gradcam.max_images,
            self.config.inversion.num_embedded,
        )
        return self.maps(self.classifiers[self.baseline], self.real["train"], 2 * sources_of_di)

    # 06_geometry: lines, vanishing points, horizon

    @functools.cached_property
    def calibration(self) -> ArtifactSpec:
        """Rendered scenes of known camera at several sizes."""
        section = self.config.geometry
        return geometry_steps.calibration(
            {"sizes": section.calibration_sizes, "scenes": section.calibration_scenes}, self.config.study.seed
        )

    @functools.cached_property
    def lines(self) -> Specs:
        """Line segments and vanishing points of real test images and of each synthetic set."""
        section = self.config.geometry
        facts = {"count": section.max_images} | ({"native": True} if section.native_resolution else {})
        return {
            name: geometry_steps.lines(facts, self.config.study.seed, images=spec)
            for name, spec in {"real": self.real["test"], **self.synthetic}.items()
        }

    def geometry_artifacts(self) -> list[ArtifactSpec]:
        return [self.calibration, *self.lines.values()]

    # 07_representation: distances between sets, and the classifiers' features

    @property
    def comparison_count(self) -> int:
        """Images a side; the other half of the test images is compared like any other set."""
        return min(self.config.representation.comparison_images, self.config.data.test // 2)

    @functools.cached_property
    def compared_sets(self) -> Specs:
        """What is compared with the first half of the real test images."""
        return {fidelity.OTHER_REAL: self.real["test"], **self.synthetic}

    @functools.cached_property
    def comparisons(self) -> dict[str, Specs]:
        """Distance and coverage of each set: feature extractor -> set -> artifact."""
        section, device = self.config.representation, self.config.study.device
        shared = {"nearest_k": section.nearest_k, "device": device}
        return {
            extractor: {
                name: fidelity.comparison(
                    shared | {"extractor": extractor} | self._compared_part(name),
                    self.config.study.seed,
                    real=self.real["test"],
                    images=spec,
                    **({"classifier": self.reference} if extractor == "reference" else {}),
                )
                for name, spec in self.compared_sets.items()
            }
            for extractor in section.feature_extractors
        }

    @functools.cached_property
    def memorisation(self) -> Specs:
        """How much of each set is copied from the training images."""
        return {
            name: fidelity.copies(
                self._compared_part(name),
                images=spec,
                train=self.real["train"],
                test=self.real["test"],
            )
            for name, spec in self.compared_sets.items()
        }

    def _compared_part(self, name: str) -> dict[str, int]:
        """Real test images are compared with those after them."""
        count = self.comparison_count
        return {"count": count, "skip": count if name == fidelity.OTHER_REAL else 0}

    @functools.cached_property
    def layer_features(self) -> dict[str, list[ArtifactSpec]]:
        """Features by layer of the same real test images under every classifier."""
        facts = {
            "count": self.config.representation.feature_images,
            "device": self.config.study.device,
        }
        return {
            arm: [
                probes.layer_features(facts, classifier=spec, images=self.real["test"])
                for spec in seeds
            ]
            for arm, seeds in self.classifiers.items()
        }

    @functools.cached_property
    def linear_probes(self) -> dict[str, list[ArtifactSpec]]:
        """Linear probes of every classifier's layers, on all real images; chapters 07 and 08."""
        return self.probes_on(self.real["train"], self.real["test"], last_only=False)

    def probes_on(
        self, train: ArtifactSpec, test: ArtifactSpec, last_only: bool = True
    ) -> dict[str, list[ArtifactSpec]]:
        """Linear probes of every classifier: fitted on one set, tested on another."""
        facts = {"last_only": last_only, "device": self.config.study.device}
        return {
            arm: [
                probes.linear_probes(
                    facts, self.config.study.seed, classifier=spec, train=train, test=test
                )
                for spec in seeds
            ]
            for arm, seeds in self.classifiers.items()
        }

    @functools.cached_property
    def transfer(self) -> tuple[dict[str, dict[str, list[ArtifactSpec]]], dict[str, str]]:
        """Probes on images of other sources: source -> training set -> artifacts; and the absent."""
        section, available, absent = self.config.representation, {}, {}
        for name in section.transfer:
            wanted = self.config.data.model_copy(
                update={
                    "source": name,
                    "root": section.transfer_root,
                    "train": section.probe_train_images,
                    "test": section.feature_images,
                    "shift_images": 0,
                    "max_corrupt_files": 0,
                }
            )
            try:
                parts = real.specs(wanted, self.config.study.seed)
                available[name] = self.probes_on(parts["train"], parts["test"])
            except SourceError as error:
                absent[name] = f"not run: {error}"
        return available, absent

    @functools.cached_property
    def robustness(self) -> dict[str, list[ArtifactSpec]]:
        """Every classifier on damaged and attacked test images."""
        section = self.config.representation
        names = ("corruptions", "severities", "corruption_images", "eps_255")
        names += ("pgd_steps", "attack_images")
        facts = {name: getattr(section, name) for name in names}
        facts["device"] = self.config.study.device
        seed, test = self.config.study.seed, self.real["test"]
        return {
            arm: [robustness.robustness(facts, seed, classifier=spec, images=test) for spec in seeds]
            for arm, seeds in self.classifiers.items()
        }

    def representation_artifacts(self) -> list[ArtifactSpec]:
        enough = [
            name
            for name, spec in self.compared_sets.items()
            if spec.settings["count"] >= self.comparison_count
        ]  # smaller sets are refused
        images = list(self.compared_sets.values())
        by_arm = [self.layer_features, self.linear_probes, self.robustness]
        by_arm += self.transfer[0].values()
        return [
            *[spec for arms in by_arm for seeds in arms.values() for spec in seeds],
            *[
                spec
                for name in self.comparisons
                for spec in self.features(images, name, self.reference)
            ],
            *[sets[name] for sets in self.comparisons.values() for name in enough],
            *[self.memorisation[name] for name in enough],
        ]

    # 08_repair: what closes the gap

    @functools.cached_property
    def repair_splits(self) -> tuple[ArtifactSpec, ArtifactSpec]:
        """The real training images that remedies may learn from, and those that only choose between remedies."""
        return split.parts(
            self.real["train"], self.config.repair.val_fraction, self.config.study.seed
        )

    @functools.cached_property
    def repair_count(self) -> int:
        """Real images that remedies may learn from."""
        held_out = arms.positions(
            arms.Term("validation", self.config.repair.val_fraction), self.labels, None, 0
        )
        return len(self.labels) - len(held_out)

    @functools.cached_property
    def repair_reference(self) -> ArtifactSpec:
        """The classifier by which images are filtered: of the images that remedies may learn from."""
        facts = self.facts | {"train": self.repair_count}
        return reference.reference_classifier(
            self.config.training,
            self.config.study,
            facts,
            self.repair_splits[0],
            self.config.repair.reference_epochs,
        )

    @functools.cached_property
    def repair_context(self) -> dict:
        """What every remedy is given beside models and sets."""
        base = self.classifiers[self.config.repair.base][0]
        return registry.context(self.config.repair, self.config.study, base) | {
            "train": self.facts["train"],
            "fit": self.repair_count,
        }

    @functools.cached_property
    def repair_models(self) -> dict[str, list[ArtifactSpec]]:
        """The classifiers that remedies may start from, and the reference classifier, one per seed."""
        return self.classifiers | {"reference": [self.repair_reference] * self.config.study.seeds}

    @functools.cached_property
    def repair_images(self) -> Specs:
        """The image sets that remedies learn from, and `validation`, which chooses learning rates."""
        fit, validation = self.repair_splits
        return {"real": fit, "validation": validation, **self.synthetic}

    @functools.cached_property
    def remedies(self) -> tuple[dict[str, registry.Remedy], dict[str, str]]:
        """Every remedy by name, and why others cannot run."""
        names = self.config.repair.remedies
        return registry.planned(names, self.repair_models, self.repair_images, self.repair_context)

    @property
    def filters(self) -> Specs:
        """What each filter keeps of the repaired training set's images."""
        return filters.sets_of(self.repair_images, self.repair_reference, self.repair_context)

    def repair_artifacts(self) -> list[ArtifactSpec]:
        fitted, validation = self.repair_splits
        remedies, base = self.remedies[0].values(), self.classifiers[self.config.repair.base]
        kept = self.filters.values() if "filter" in self.config.repair.remedies else []
        repaired = [spec for remedy in remedies for spec in (*remedy.classifiers, *remedy.control)]
        candidates = [
            spec for remedy in remedies if remedy.candidate for spec in remedy.classifiers
        ]
        return [
            fitted,
            validation,
            self.repair_reference,
            *kept,
            *repaired,
            *self.predictions([*repaired, *base], [self.real["test"]]),
            *self.predictions([*candidates, *base], [validation]),
        ]

    # what several chapters need

    def predictions(
        self, classifiers: Iterable[ArtifactSpec], images: Iterable[ArtifactSpec]
    ) -> list[ArtifactSpec]:
        """Logits of each classifier on each set."""
        images = list(images)
        return [
            accuracy.logits({"device": self.config.study.device}, classifier=spec, images=part)
            for spec in classifiers
            for part in images
        ]

    def features(
        self, images: Iterable[ArtifactSpec], extractor: str, own: ArtifactSpec
    ) -> list[ArtifactSpec]:
        """Features of each set under one feature extractor."""
        device = self.config.study.device
        return [features.spec_of(spec, device, extractor, own) for spec in images]

    @functools.cached_property
    def chapters(self) -> dict[str, list[ArtifactSpec]]:
        """What each notebook needs, in the order of the notebooks."""
        return {
            "01_data": self.data_artifacts(),
            "02_inversion": self.inversion_artifacts(),
            "03_generation": self.generation_artifacts(),
            "04_training": self.training_artifacts(),
            "05_gradcam": self.gradcam_artifacts(),
            "06_geometry": self.geometry_artifacts(),
            "07_representation": self.representation_artifacts(),
            "08_repair": self.repair_artifacts(),
        }


def plan(config: Settings, profile: str = "") -> Study:
    """A study that may look ahead: missing downloads are counted by the numbers in the profile."""
    return Study(config, profile, planning=True)


def closure(specs: Iterable[ArtifactSpec]) -> list[ArtifactSpec]:
    """These artifacts and all that they are made from, inputs first, each once."""
    ordered: dict[str, ArtifactSpec] = {}

    def visit(spec: ArtifactSpec) -> None:
        if spec.key not in ordered:
            for upstream in spec.inputs.values():
                visit(upstream)
            ordered[spec.key] = spec

    for spec in specs:
        visit(spec)
    return list(ordered.values())
