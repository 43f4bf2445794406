"""The whole study, top to bottom: every artifact of every chapter, and what it is made from.

Nothing else knows the graph. Notebooks, `make plan`, `make status` and staleness all read it here;
nothing in this file runs a computation. A new artifact is one more line in the property of its
chapter; a new chapter is a method and a line in `chapters`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from lib.classifier import arms, comparison
from lib.classifier.comparison import ArmKey
from lib.classifier.train import steps_for
from lib.core import compute, executor, progress
from lib.core import config as settings
from lib.core.notebook import Chapter
from lib.core.store import ArtifactSpec
from lib.data import imageset, inspection, real
from lib.data.imageset import ImageSet
from lib.data.source import Source, SourceError
from lib.diffusion import embeddings, sets
from lib.measure import (
    accuracy,
    features,
    geometry_steps,
    gradcam,
    memorisation,
    openness,
    probes,
    reference,
    robustness,
    scaling,
    set_distance,
)
from lib.remedies import filter as filters
from lib.remedies import registry, split
from lib.report import figures, text

Specs = dict[str, ArtifactSpec]
SeedSpecs = dict[str, list[ArtifactSpec]]  # training set -> one spec per seed


class Study(Chapter):
    """One profile's graph. In a notebook: `study = Study.open("04_training", globals())`."""

    @classmethod
    def open(cls, chapter: str, variables: Mapping) -> Study:
        """The study of a parameter cell: the profile, overridden by what is not None there."""
        resolved = settings.resolve(chapter, variables)
        study = cls(resolved.config, resolved.profile, chapter)
        by_make = settings.RUN in os.environ
        figures.begin(study.out if by_make else study.out / "scratch", chapter)
        if resolved.changes:
            figures.say(f"This run {resolved}.")
        if not by_make:
            print(f"run by hand: results and figures go to {study.out}/scratch", file=sys.stderr)
        return study

    # what a notebook does with it

    def make(self, *specs: ArtifactSpec | Iterable[ArtifactSpec]) -> None:
        """These artifacts and their inputs, side by side where the machine has room."""
        groups = [[group] if isinstance(group, ArtifactSpec) else list(group) for group in specs]
        executor.make(self.store, [spec for group in groups for spec in group])

    def load(self, spec: ArtifactSpec) -> ImageSet:
        """An image set, made first where it is not there yet."""
        return imageset.load(self.store.make(spec))

    def close(self, results: dict[str, Any]) -> None:
        """Leave the chapter's results for later chapters and for the page, and print its text."""
        seconds = self.write_results(results, self.named_artifacts)
        text.show(self.name, results)
        print(f"{progress.clock(seconds)} on {compute.describe()}")

    @property
    def named_artifacts(self) -> Specs:
        """What the page lists as this chapter's own."""
        inverted = {name: spec for name, spec in self.inversion.items() if name in INVERTED}
        classifiers = {
            f"{arm}-{k}": spec
            for arm, seeds in self.classifiers.items()
            for k, spec in enumerate(seeds)
        }
        own = {"01_data": self.real, "02_inversion": inverted, "03_generation": self.synthetic}
        return (own | {"04_training": classifiers}).get(self.name, {})

    # 01_data: the real images

    @cached_property
    def source(self) -> Source:
        """Where the real images come from."""
        return real.opened(self.config.data, self.config.study.seed)

    @cached_property
    def real(self) -> Specs:
        """`train`, `test`, and each shift set."""
        return real.specs(self.config.data, self.config.study.seed, self.source)

    @property
    def class_names(self) -> list[str]:
        return list(self.source.classes)

    @cached_property
    def labels(self) -> np.ndarray:
        """Of the real training images."""
        return self.source.labels("train", self.config.data.train)

    @cached_property
    def facts(self) -> dict:
        """What generators and classifiers must know of the data."""
        names = ("train", "test", "resolution", "source", "flip", "max_corrupt_files")
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        uneven = bool(counts.max() > 1.25 * counts.min())
        facts = {name: getattr(self.config.data, name) for name in names}
        return facts | {"classes": self.class_names, "uneven": uneven}

    def data_artifacts(self) -> list[ArtifactSpec]:
        return [*self.real.values(), *inspection.specs(self.real["train"]).values()]

    # 02_inversion: one learned embedding per real image, and the set `di` sampled around them

    @cached_property
    def inversion(self) -> Specs:
        """`embeddings`, the set `di`, and what measures them; empty where no image is inverted."""
        sections = self.config.inversion, self.config.study
        return embeddings.specs(*sections, self.facts, self.real["train"], self.labels)

    @cached_property
    def inversion_variants(self) -> Specs:
        """The first embeddings once more under other settings."""
        count = self.config.inversion.ablation_images
        return embeddings.variants(self.inversion["embeddings"], count) if self.inversion else {}

    def inversion_artifacts(self) -> list[ArtifactSpec]:
        return [*self.inversion.values(), *self.inversion_variants.values()]

    # 03_generation: the synthetic sets

    @cached_property
    def synthetic(self) -> Specs:
        """`sd`, `cd`, `di` and others that the profile names, in its order."""
        sections = self.config.generation, self.config.study
        generated = sets.specs(*sections, self.facts, self.real["train"])
        return generated | ({"di": self.inversion["di"]} if self.inversion else {})

    @cached_property
    def sweep(self) -> dict[tuple[str, float], ArtifactSpec]:
        """The same seeds as `sd` under other prompts and guidance: (prompt, scale) -> set."""
        sections = self.config.generation, self.config.study
        return sets.sweep_specs(*sections, self.facts) if "sd" in self.synthetic else {}

    @cached_property
    def reference(self) -> ArtifactSpec:
        """A classifier of the real images from which remedies may learn; it joins no comparison."""
        sections = self.config.training, self.config.study
        facts = self.facts | {"train": self.repair_count}
        epochs = self.config.generation.reference_epochs
        return reference.reference_classifier(*sections, facts, self.repair_splits[0], epochs)

    def generation_artifacts(self) -> list[ArtifactSpec]:
        compared = [self.real["test"], *self.synthetic.values()]
        published = [spec for spec in self.synthetic.values() if real.is_published(spec)]
        return [
            *self.synthetic.values(),
            *self.sweep.values(),
            self.reference,
            *[inspection.specs(spec)["copies"] for spec in published],
            *self.predictions([self.reference], [*compared, *self.sweep.values()]),
            *self.features(compared, "reference", self.reference),
        ]

    # 04_training: one classifier per training set and seed

    @cached_property
    def sets(self) -> Specs:
        """Every image set of which a training set may be made, by its name in `training.arms`."""
        return {"real": self.real["train"], **self.synthetic, **self.swept}

    @cached_property
    def swept(self) -> Specs:
        """The points of the sweep that are trained on: `sd-1`, `sd-2`, …"""
        points = self.sweep.values() if self.config.training.train_on_sweep else ()
        return {f"sd-{k}": spec for k, spec in enumerate(points, 1)}

    @cached_property
    def curves(self) -> list[scaling.Curve]:
        """The training sets of each curve of accuracy over the number of images."""
        return scaling.curves_of(self.config.training)

    @cached_property
    def variants(self) -> dict[ArmKey, list[ArtifactSpec]]:
        """Every training set and variant, one per seed: points of curves, equal epochs …"""
        section, flip = self.config.training, self.config.data.flip
        points = [*self.swept, *(arm for curve in self.curves for arm in curve.arms)]
        used = [name for arm in (*section.arms, *points) for name in arms.names(arm, self.sets)]
        sizes = {name: self.sets[name].settings["count"] for name in {"real", *used}}
        common = section, self.config.study, self.steps, flip, self.sets, sizes
        return comparison.planned(*common, points)

    @cached_property
    def all_classifiers(self) -> SeedSpecs:
        """The same by label."""
        return {key.label: specs for key, specs in self.variants.items()}

    @property
    def steps(self) -> int:
        """Optimiser steps of every classifier: `epochs` passes over the real training images."""
        section = self.config.training
        return steps_for(self.config.data.train, section.batch_size, section.epochs)

    @cached_property
    def classifiers(self) -> SeedSpecs:
        """Of the compared training sets."""
        return {arm: self.all_classifiers[arm] for arm in self.config.training.arms}

    @property
    def baseline(self) -> str:
        """The training set that others are compared with."""
        return "real" if "real" in self.classifiers else next(iter(self.classifiers))

    @cached_property
    def held_out(self) -> Specs:
        """Unseen images of every synthetic set that is a training set."""
        count, compared = self.config.generation.held_out_images, self.config.training.arms
        made_here = [
            name
            for name, spec in self.synthetic.items()
            if count and name in compared and not real.is_published(spec)
        ]
        return {name: openness.held_out(self.synthetic[name], count) for name in made_here}

    def training_artifacts(self) -> list[ArtifactSpec]:
        tests = [spec for name, spec in self.real.items() if name != "train"]
        others = {
            arm: seeds for arm, seeds in self.all_classifiers.items() if arm not in self.classifiers
        }
        compared, base = flat(self.classifiers), self.classifiers[self.baseline]
        trained_on = [spec for name, spec in self.synthetic.items() if name in self.classifiers]
        return [
            *compared,
            *flat(others),
            *self.predictions(compared, tests),
            *self.predictions(flat(others), [self.real["test"]]),
            *self.predictions(base, trained_on),
            *(
                spec
                for name, images in self.held_out.items()
                for spec in (images, *self.predictions(self.classifiers[name], [images]))
            ),
        ]

    # 05_gradcam: where the classifiers look

    def maps(
        self, classifiers: Iterable[ArtifactSpec], images: ArtifactSpec, count: int
    ) -> list[ArtifactSpec]:
        """Grad-CAM of the first `count` images of a set under each classifier."""
        count = min(count, images.settings["count"])
        return [self._gradcam(gradcam.gradcam_maps, spec, images, count) for spec in classifiers]

    @cached_property
    def map_tests(self) -> Specs:
        """What tests the maps themselves, for the first classifier of each training set."""
        count, test = self.config.gradcam.sanity_images, self.real["test"]
        return {
            arm: self._gradcam(gradcam.gradcam_checks, seeds[0], test, count)
            for arm, seeds in self.classifiers.items()
        }

    def _gradcam(self, step, classifier: ArtifactSpec, images: ArtifactSpec, count: int):
        facts = {"count": count, "device": self.config.study.device}
        return step(facts, self.config.study.seed, classifier=classifier, images=images)

    def source_maps(self) -> list[ArtifactSpec]:
        """Of the real images around whose embeddings `di` was sampled: the first of `train`."""
        if "di" not in self.synthetic:
            return []
        counts = self.synthetic["di"].settings["count"], self.config.inversion.num_embedded
        count = min(*counts, self.config.gradcam.max_images)
        return self.maps(self.classifiers[self.baseline], self.real["train"], 2 * count)

    def gradcam_artifacts(self) -> list[ArtifactSpec]:
        count, base = self.config.gradcam.max_images, self.classifiers[self.baseline]
        on_sets = [self.maps(base, images, count) for images in self.synthetic.values()]
        return [
            *self.maps(flat(self.classifiers), self.real["test"], count),
            *(spec for specs in on_sets for spec in specs),
            *self.source_maps(),
            *self.map_tests.values(),
        ]

    # 06_geometry: lines, vanishing points, horizon

    @cached_property
    def calibration(self) -> ArtifactSpec:
        """Rendered scenes of known camera at several sizes."""
        section = self.config.geometry
        facts = {"sizes": section.calibration_sizes, "scenes": section.calibration_scenes}
        return geometry_steps.calibration(facts, self.config.study.seed)

    @cached_property
    def lines(self) -> Specs:
        """Line segments and vanishing points of real test images and of each synthetic set."""
        section, seed = self.config.geometry, self.config.study.seed
        facts = {"count": section.max_images}
        facts |= {"native": True} if section.native_resolution else {}
        images = {"real": self.real["test"], **self.synthetic}
        return {name: geometry_steps.lines(facts, seed, images=s) for name, s in images.items()}

    def geometry_artifacts(self) -> list[ArtifactSpec]:
        return [self.calibration, *self.lines.values()]

    # 07_representation: distances between sets, and the classifiers' features

    @property
    def comparison_count(self) -> int:
        """Images per set; the other half of the test images is compared like any other set."""
        return min(self.config.representation.comparison_images, self.config.data.test // 2)

    @cached_property
    def compared_sets(self) -> Specs:
        """What is compared with the first half of the real test images."""
        return {set_distance.OTHER_REAL: self.real["test"], **self.synthetic}

    @cached_property
    def comparisons(self) -> dict[str, Specs]:
        """Distance and coverage of each set: feature extractor -> set -> artifact."""
        section = self.config.representation
        return {
            extractor: {name: self._comparison(extractor, name) for name in self.compared_sets}
            for extractor in section.feature_extractors
        }

    def _comparison(self, extractor: str, name: str) -> ArtifactSpec:
        facts = {"nearest_k": self.config.representation.nearest_k, "extractor": extractor}
        facts |= {"device": self.config.study.device} | self._compared_part(name)
        inputs = {"real": self.real["test"], "images": self.compared_sets[name]}
        inputs |= {"classifier": self.reference} if extractor == "reference" else {}
        return set_distance.comparison(facts, self.config.study.seed, **inputs)

    @cached_property
    def memorisation(self) -> Specs:
        """How much of each set is copied from the training images."""
        inputs = {"train": self.real["train"], "test": self.real["test"]}
        return {
            name: memorisation.copies(self._compared_part(name), images=spec, **inputs)
            for name, spec in self.compared_sets.items()
        }

    def _compared_part(self, name: str) -> dict[str, int]:
        """Real test images are compared with those after them."""
        count = self.comparison_count
        return {"count": count, "skip": count if name == set_distance.OTHER_REAL else 0}

    @cached_property
    def layer_features(self) -> SeedSpecs:
        """Features by layer of the same real test images under every classifier."""
        facts = {"count": self.config.representation.feature_images}
        facts["device"] = self.config.study.device
        return self._per_classifier(probes.layer_features, facts, 0, images=self.real["test"])

    @cached_property
    def linear_probes(self) -> SeedSpecs:
        """Linear probes of every classifier's layers, on all real images; chapters 07 and 08."""
        return self.probes_on(self.real["train"], self.real["test"], last_only=False)

    def probes_on(
        self, train: ArtifactSpec, test: ArtifactSpec, last_only: bool = True
    ) -> SeedSpecs:
        """Linear probes of every classifier: fitted on one set, tested on another."""
        facts = {"last_only": last_only, "device": self.config.study.device}
        seed = self.config.study.seed
        return self._per_classifier(probes.linear_probes, facts, seed, train=train, test=test)

    @cached_property
    def transfer(self) -> tuple[dict[str, SeedSpecs], dict[str, str]]:
        """Probes on images of other sources, by source; and why others are absent."""
        section, available, absent = self.config.representation, {}, {}
        other = {"root": section.transfer_root, "train": section.probe_train_images}
        other |= {"test": section.feature_images, "shift_images": 0, "max_corrupt_files": 0}
        for name in section.transfer:
            data = self.config.data.model_copy(update=other | {"source": name})
            try:
                parts = real.specs(data, self.config.study.seed)
                available[name] = self.probes_on(parts["train"], parts["test"])
            except SourceError as error:
                absent[name] = f"not run: {error}"
        return available, absent

    @cached_property
    def robustness(self) -> SeedSpecs:
        """Every classifier on damaged and attacked test images."""
        names = ("corruptions", "severities", "corruption_images")
        names += ("eps_255", "pgd_steps", "attack_images")
        facts = {name: getattr(self.config.representation, name) for name in names}
        facts["device"], seed = self.config.study.device, self.config.study.seed
        return self._per_classifier(robustness.robustness, facts, seed, images=self.real["test"])

    def _per_classifier(self, step, facts: dict, seed: int, **inputs: ArtifactSpec) -> SeedSpecs:
        return {
            arm: [step(facts, seed, classifier=spec, **inputs) for spec in seeds]
            for arm, seeds in self.classifiers.items()
        }

    def representation_artifacts(self) -> list[ArtifactSpec]:
        compared, by_arm = self.compared_sets, [*self.transfer[0].values()]
        by_arm += [self.layer_features, self.linear_probes, self.robustness]
        enough = [
            name
            for name, spec in compared.items()
            if spec.settings["count"] >= self.comparison_count  # smaller sets are refused
        ]
        images = list(compared.values())
        return [
            *(spec for specs in by_arm for spec in flat(specs)),
            *(s for name in self.comparisons for s in self.features(images, name, self.reference)),
            *(specs[name] for specs in self.comparisons.values() for name in enough),
            *(self.memorisation[name] for name in enough),
        ]

    # 08_repair: what closes the gap

    @cached_property
    def repair_splits(self) -> tuple[ArtifactSpec, ArtifactSpec]:
        """Real training images from which remedies learn, and those that choose between them."""
        share, seed = self.config.repair.val_fraction, self.config.study.seed
        return split.parts(self.real["train"], share, seed)

    @cached_property
    def repair_count(self) -> int:
        """Real images from which remedies may learn."""
        term = arms.Term("validation", self.config.repair.val_fraction)
        return len(self.labels) - len(arms.positions(term, self.labels, None, 0))

    @cached_property
    def repair_context(self) -> dict:
        """What every remedy is given beside models and sets."""
        base = self.classifiers[self.config.repair.base][0]
        counts = {"train": self.config.data.train, "fit": self.repair_count}
        return registry.context(self.config.repair, self.config.study, base) | counts

    @cached_property
    def repair_models(self) -> SeedSpecs:
        """The classifiers from which remedies may start, and the reference classifier."""
        return self.classifiers | {"reference": [self.reference] * self.config.study.seeds}

    @cached_property
    def repair_images(self) -> Specs:
        """The image sets of remedies, and `validation`, which chooses learning rates."""
        fit, validation = self.repair_splits
        return {"real": fit, "validation": validation, **self.synthetic}

    @cached_property
    def remedies(self) -> tuple[dict[str, registry.Remedy], dict[str, str]]:
        """Every remedy by name, and why others cannot run."""
        names = self.config.repair.remedies
        return registry.planned(names, self.repair_models, self.repair_images, self.repair_context)

    @property
    def filters(self) -> Specs:
        """What each filter keeps of the repaired training set's images."""
        return filters.sets_of(self.repair_images, self.reference, self.repair_context)

    def repair_artifacts(self) -> list[ArtifactSpec]:
        remedies, base = self.remedies[0].values(), self.classifiers[self.config.repair.base]
        kept = self.filters.values() if "filter" in self.config.repair.remedies else []
        repaired = [s for remedy in remedies for s in (*remedy.classifiers, *remedy.control)]
        candidates = [s for remedy in remedies if remedy.candidate for s in remedy.classifiers]
        return [
            *self.repair_splits,
            self.reference,
            *kept,
            *repaired,
            *self.predictions([*repaired, *base], [self.real["test"]]),
            *self.predictions([*candidates, *base], [self.repair_images["validation"]]),
        ]

    # what several chapters need

    def predictions(
        self, classifiers: Iterable[ArtifactSpec], images: Iterable[ArtifactSpec]
    ) -> list[ArtifactSpec]:
        """Logits of each classifier on each set."""
        facts, images = {"device": self.config.study.device}, list(images)
        pairs = [(spec, part) for spec in classifiers for part in images]
        return [accuracy.logits(facts, classifier=spec, images=part) for spec, part in pairs]

    def features(
        self, images: Iterable[ArtifactSpec], extractor: str, own: ArtifactSpec
    ) -> list[ArtifactSpec]:
        """Features of each set under one feature extractor."""
        device = self.config.study.device
        return [features.spec_of(spec, device, extractor, own) for spec in images]

    @cached_property
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


INVERTED = ("di", "embeddings")


def flat(specs: SeedSpecs) -> list[ArtifactSpec]:
    """Of every training set and seed."""
    return [spec for seeds in specs.values() for spec in seeds]
