"""Everything that can be known before a study runs: the data, and settings that do not go together.

`make plan` and `make report` call this before any kernel starts. It opens the data, computes
nothing, and lists all that is wrong at once: each key, its value, and what would be allowed.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np

from lib.classifier import arms
from lib.classifier import model as networks
from lib.core import compute, fetch
from lib.core.config import SHORT, Settings
from lib.core.paths import PARAMS, ROOT
from lib.data import files, real
from lib.data.source import Source, SourceError
from lib.diffusion import model as generators
from lib.diffusion import prompts, sample, sets
from lib.measure import scaling
from lib.remedies import registry

MAX_SHARDS = 100_000  # files of one set
MAX_LABELS = 10**6  # labels that are looked at
MAX_CHECKED = 20_000  # files that are opened
BYTES_PER_PIXEL = 2.0  # of losslessly stored images
SCRATCH = "scratch"


class PreflightError(ValueError):
    """Settings with which a study cannot run; the message lists all of them."""


@dataclass(frozen=True)
class Problem:
    """One setting that cannot work."""

    key: str
    value: Any
    allowed: str
    download: bool = False  # only something that has not been downloaded yet

    def __str__(self) -> str:
        return f"{self.key} = {SHORT.repr(self.value)}: {self.allowed}"


Problems = Iterator[Problem]


@dataclass(frozen=True)
class Facts:
    """What the checks know: the settings, and the source where it can be opened."""

    config: Settings
    source: Source | None = None

    @property
    def classes(self) -> list[str]:
        return list(self.source.classes) if self.source else []

    @property
    def counts(self) -> dict[str, int]:
        """Images of each split that the study can use: as set, or as many as there are."""
        data = self.config.data
        counts = {"train": data.train, "test": data.test}
        available = self.source.splits if self.source else counts
        return {split: min(count, available[split]) for split, count in counts.items()}

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """Of the real training images."""
        count = min(self.counts["train"], MAX_LABELS)
        return self.source.labels("train", count) if self.source else None

    @property
    def sizes(self) -> dict[str, int]:
        """Images of every set that a training set may be made of."""
        generation, inversion = self.config.generation, self.config.inversion
        sizes = {"real": self.counts["train"]}
        sizes |= dict.fromkeys(generation.sets, generation.num_images)
        if inversion.num_embedded:
            sizes["di"] = inversion.num_images
        if self.config.training.train_on_sweep and self.sweep_points:
            names = [f"sd-{k}" for k in range(1, self.sweep_points + 1)]
            sizes |= dict.fromkeys(names, generation.sweep_num_images)
        return sizes

    @property
    def sweep_points(self) -> int:
        section = self.config.generation
        if not (section.sweep_num_images and "sd" in section.sets and self.prompted):
            return 0
        points = [(text, section.guidance_scale) for text in section.sweep_prompts]
        points += [(section.prompt_template, scale) for scale in section.sweep_guidance_scales]
        return len({(section.prompt_template, section.guidance_scale), *points})

    @property
    def prompted(self) -> bool:
        """Whether a text-to-image model samples `sd` here."""
        section = self.config.generation
        return "sd" in section.sets and section.model != sets.PUBLISHED

    @property
    def readers_of_published(self) -> list[str]:
        """Sections that read images which others published."""
        generation, inversion = self.config.generation, self.config.inversion
        named = sets.PUBLISHED in generation.sets
        as_sd = "sd" in generation.sets and generation.model == sets.PUBLISHED
        trained = inversion.num_embedded and inversion.model == SCRATCH
        taught = trained and inversion.generator_data == sets.PUBLISHED
        return ["generation"] * bool(named or as_sd) + ["inversion"] * bool(taught)


def check(config: Settings, profile: str, downloads: bool = True) -> None:
    """Stop with one list of all that is wrong; without `downloads`, what is not here yet may be."""
    listed = [problem for problem in problems(config) if downloads or not problem.download]
    if listed:
        raise PreflightError(report(listed, profile))


def report(listed: list[Problem], profile: str) -> str:
    """The list, and the file to correct."""
    number = f"{len(listed)} setting{'s' * (len(listed) > 1)}"
    lines = [f"{number} cannot work; nothing has been started.", *(f"  {line}" for line in listed)]
    return "\n".join([*lines, str(PARAMS / f"{profile}.yaml")])


def problems(config: Settings) -> Problems:
    """All that is wrong with a profile on this machine."""
    source, errors = None, list(check_downloads(config))
    if not any(problem.key.startswith("data.") for problem in errors):
        try:
            source = real.opened(config.data, config.study.seed)
        except (SourceError, OSError) as error:
            errors.append(_data_problem(config, str(error)))
    facts = Facts(config, source)
    yield from errors
    for part in CHECKS:
        yield from part(facts)


def _data_problem(config: Settings, message: str) -> Problem:
    text, _, where = message.rpartition("\n")
    key = "source" if "no source" in message else "root"
    return Problem(f"data.{key}", getattr(config.data, key), text or where)


def check_downloads(config: Settings) -> Problems:
    """What has to be brought first."""
    for key, value, what in fetch.missing(config):
        yield Problem(key, value, what, download=True)


def check_machine(facts: Facts) -> Problems:
    """Device, and the disk that the store lies on."""
    study, data = facts.config.study, facts.config.data
    try:
        compute.device(study.device)
    except compute.ComputeError as error:
        yield Problem("study.device", study.device, f"auto, or a device of this machine ({error})")
    if study.store.startswith("~") or "$" in study.store:
        yield Problem("study.store", study.store, "a path written out, without ~ or $")
        return
    synthetic = sum(count for name, count in facts.sizes.items() if name != "real")
    images = data.train + data.test + synthetic
    needed = images * data.resolution**2 * BYTES_PER_PIXEL
    folder = (ROOT / study.store).resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        allowed = f"a disk with {needed / 1e9:,.1f} GB free for the images"
        allowed += f"; it has {free / 1e9:,.1f}"
        yield Problem("study.store", study.store, allowed)


def check_counts(facts: Facts) -> Problems:
    """As many images as there are, and some of every class in every split."""
    data = facts.config.data
    largest = MAX_SHARDS * data.shard
    if data.train > largest:
        allowed = f"at least {data.train // MAX_SHARDS:,} for so many images"
        yield Problem("data.shard", data.shard, allowed)
    if facts.source is None:
        return
    for split, per_class in (("train", 2), ("test", 1)):
        count, available = getattr(data, split), facts.source.splits[split]
        needed = _count_with_every_class(facts.source, split, per_class)
        if needed is None:
            allowed = f"no class may have fewer than {per_class} {split} images"
            yield Problem("data.root", data.root, allowed + _rare(facts.source, split, per_class))
        elif not needed <= count <= available:
            reason = f"there are {available:,} {split} images of {len(facts.classes):,} classes, "
            reason += f"and every class needs at least {per_class}"
            yield Problem(f"data.{split}", count, f"{needed:,} to {available:,} ({reason})")
    yield from _check_shifts(facts)


def _check_shifts(facts: Facts) -> Problems:
    count = facts.config.data.shift_images
    for split, available in facts.source.splits.items():
        if split.startswith("shift-") and 0 < count < len(facts.classes):
            allowed = f"0, or at least one per class: {len(facts.classes)}"
            yield Problem("data.shift_images", count, allowed)
            return
        if split.startswith("shift-") and count > available:
            yield Problem("data.shift_images", count, f"0 to {available:,}")


def _count_with_every_class(source: Source, split: str, per_class: int) -> int | None:
    """How many of a split's first images hold so many of every class; None where it has too few."""
    labels = source.labels(split, min(source.splits[split], MAX_LABELS))
    rows = [np.flatnonzero(labels == k) for k in range(len(source.classes))]
    if any(len(row) < per_class for row in rows):
        return None
    return int(max(row[per_class - 1] for row in rows)) + 1


def _rare(source: Source, split: str, per_class: int) -> str:
    counts = np.bincount(source.labels(split, source.splits[split]), minlength=len(source.classes))
    rare = [name for name, count in zip(source.classes, counts, strict=True) if count < per_class]
    return f": add images of {', '.join(map(repr, rare[:20]))}, or remove the class"


def check_files(facts: Facts) -> Problems:
    """No test image among the training images, no file that is not a picture."""
    source, root = facts.source, facts.config.data.root
    if source is None or not source.names:
        return
    pairs = files.leaks(source, facts.counts)
    if pairs:
        allowed = f"no image in both train and test; {len(pairs):,} test files equal a training "
        yield Problem("data.root", root, f"{allowed}file, the first: {pairs[0][0]} = {pairs[0][1]}")
    used = {name for names in source.names.values() for name in names}
    if len(used) <= MAX_CHECKED:
        bad = files.not_pictures({name: source.files[name] for name in sorted(used)})
        allowed = facts.config.data.max_corrupt_files
        if bad:
            listed = "; ".join(f"{name}: {reason}" for name, reason in list(bad.items())[:20])
            yield Problem(
                "data.max_corrupt_files", allowed, f"at least {len(bad)}, or replace {listed}"
            )


def check_sets(facts: Facts) -> Problems:
    """Enough synthetic images for every class, from generators that fit the data."""
    generation, inversion, classes = facts.config.generation, facts.config.inversion, facts.classes
    least = f"at least {len(classes)}, one per class"
    if generation.sets and generation.num_images < len(classes):
        yield Problem("generation.num_images", generation.num_images, least)
    if facts.sweep_points and generation.sweep_num_images <= len(classes):
        allowed = f"0, or at least {len(classes) + 1}, two of one class"
        yield Problem("generation.sweep_num_images", generation.sweep_num_images, allowed)
    for name in facts.readers_of_published:
        if not getattr(facts.config, name).published_path:
            allowed = "where the published images lie: a CIFAKE folder, zip or tar"
            yield Problem(f"{name}.published_path", "", allowed)
    if inversion.num_embedded:
        yield from _check_inversion(facts)
    yield from _check_generators(facts)


def _check_inversion(facts: Facts) -> Problems:
    section, classes = facts.config.inversion, facts.classes
    if section.num_images < len(classes):
        allowed = f"at least {len(classes)}, one per class"
        yield Problem("inversion.num_images", section.num_images, allowed)
    if facts.source is None:
        return
    needed = _count_with_every_class(facts.source, "train", 1) or len(classes)
    if not needed <= section.num_embedded <= facts.counts["train"]:
        allowed = f"0, or {needed:,} to {facts.counts['train']:,}: some of every class"
        yield Problem("inversion.num_embedded", section.num_embedded, allowed)


def _check_generators(facts: Facts) -> Problems:
    generation, inversion = facts.config.generation, facts.config.inversion
    used = {"generation.model": generation.model} if facts.prompted else {}
    used |= {"generation.init_from": generation.init_from} if "cd" in generation.sets else {}
    used |= {"inversion.model": inversion.model} if inversion.num_embedded else {}
    for key, name in used.items():
        if key == "generation.model" and name == SCRATCH:
            allowed = "a text-to-image model (shipped, a diffusers folder, a hub id) or `published`"
            yield Problem(key, name, allowed)
        elif name != SCRATCH:
            yield from _check_generator(facts, key, name)
    used = {"generation.scheduler": generation.scheduler} if generation.sets else {}
    used |= {"inversion.scheduler": inversion.scheduler} if inversion.num_embedded else {}
    for key, name in used.items():
        if not is_scheduler(name):
            names = ", ".join(sample.SCHEDULERS)
            yield Problem(key, name, f"{names}, or the class name of a diffusers scheduler")


def _check_generator(facts: Facts, key: str, name: str) -> Problems:
    if name.startswith((".", "/", "~")) and not (ROOT / name).is_dir():
        yield Problem(key, name, "a folder that is there, a hub id, or shipped")
    try:
        generators.check_fits(generators.locate(name), facts.config.data.source)
    except generators.GeneratorError as error:
        if key == "generation.model":
            way_out = "take sd out of generation.sets and training.arms, or set a text-to-image "
            way_out += "model that knows such images: a hub id, a diffusers folder, or published"
        else:
            way_out = "scratch (trained on your images), a diffusers folder, or a hub id"
        yield Problem(key, name, f"{way_out} ({str(error).partition(':')[0]})")


def is_scheduler(name: str) -> bool:
    """Whether diffusers has it."""
    kind = getattr(diffusers, sample.SCHEDULERS.get(name, name), None)
    return isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)


def check_prompts(facts: Facts) -> Problems:
    """Class facts and prompt templates, where a text-to-image model samples."""
    section = facts.config.generation
    path = PARAMS / "classes" / f"{section.class_info}.yaml"
    if not facts.prompted or not facts.classes or not path.is_file():
        return
    try:
        class_facts = prompts.load_facts(path, facts.classes)
    except prompts.PromptError as error:
        allowed = f"a file of params/classes with facts about your classes: {_first_line(error)}"
        yield Problem("generation.class_info", section.class_info, allowed)
        return
    templates = {"prompt_template": [section.prompt_template]}
    templates |= {"sweep_prompts": section.sweep_prompts if section.sweep_num_images else []}
    for key, text in ((key, text) for key, texts in templates.items() for text in texts):
        try:
            prompts.build_prompt(text, facts.classes[0], class_facts, 0)
        except prompts.PromptError as error:
            yield Problem(f"generation.{key}", text, _first_line(error))


def check_training(facts: Facts) -> Problems:
    """Every training set is a sum of sets that exist and are large enough."""
    training, sizes = facts.config.training, facts.sizes
    for name in training.scaling_sets:
        if name not in sizes:
            synthetic = ", ".join(name for name in sizes if name != "real")
            allowed = f"one of the sets of this profile: {synthetic}"
            yield Problem("training.scaling_sets", name, allowed)
    available = [name for name in training.scaling_sets if name in sizes]
    curves = scaling.curves_of(training.model_copy(update={"scaling_sets": available}))
    named = {"arms": training.arms, "equal_epoch_arms": training.equal_epoch_arms}
    named |= {scaling.SETTINGS[curve.kind]: curve.arms for curve in curves}
    for key, arm in ((key, arm) for key, names in named.items() for arm in names):
        try:
            arms.size(arm, sizes)
        except arms.ArmError as error:
            yield Problem(f"training.{key}", arm, str(error))
    yield from _check_architecture(facts)


def _check_architecture(facts: Facts) -> Problems:
    try:
        _network(facts)
    except networks.ModelError as error:
        yield Problem("training.architecture", facts.config.training.architecture, str(error))


def _network(facts: Facts):
    training, size = facts.config.training, facts.config.data.resolution
    classes = max(2, len(facts.classes))
    name, width, stem = training.architecture, training.base_width, training.stem_stride
    return networks.build(classes, size, width, name, stem)


def check_measures(facts: Facts) -> Problems:
    """No more test images measured than there are."""
    test = facts.counts["test"]
    section = facts.config.representation
    limits = {"feature_images": test, "corruption_images": test}
    limits["attack_images"] = min(test, section.corruption_images)
    for key, limit in limits.items():
        if getattr(section, key) > limit:
            value = getattr(section, key)
            yield Problem(f"representation.{key}", value, f"at most {limit:,} (test images)")
    if facts.config.gradcam.sanity_images > test:
        value = facts.config.gradcam.sanity_images
        yield Problem("gradcam.sanity_images", value, f"at most {test:,} (test images)")


def check_repair(facts: Facts) -> Problems:
    """What is repaired is there, and there are as many real images as remedies may use."""
    section, trained = facts.config.repair, facts.config.training.arms
    synthetic = [arm for arm in trained if arm in facts.sizes and arm != "real"]
    if section.base not in synthetic:
        allowed = ", ".join(synthetic) or "none: training.arms has no synthetic set alone"
        yield Problem("repair.base", section.base, f"one of {allowed}")
    for name in section.remedies:
        try:
            registry.find(name)
        except ValueError as error:
            yield Problem("repair.remedies", name, _first_line(error))
    if facts.labels is not None and len(facts.labels) == facts.counts["train"]:
        term = arms.Term("validation", section.val_fraction)
        fit = len(facts.labels) - len(arms.positions(term, facts.labels, None, 0))
        for key in ("num_real", "num_real_curve"):
            value = getattr(section, key)
            largest = max(np.atleast_1d(value), default=0)
            if largest > fit:
                reason = f"{facts.counts['train']:,} training images without those for validation"
                yield Problem(f"repair.{key}", value, f"at most {fit:,} ({reason})")
    yield from _check_blocks(facts)


def _check_blocks(facts: Facts) -> Problems:
    try:
        limit = len(networks.blocks(_network(facts)))
    except networks.ModelError:
        return  # has been listed
    for key in ("unfreeze_last", "unfreeze_last_curve"):
        value = getattr(facts.config.repair, key)
        if max(value, default=0) > limit:
            yield Problem(f"repair.{key}", value, f"at most {limit}, the blocks of the network")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


CHECKS: tuple[Callable[[Facts], Problems], ...] = (
    check_machine, check_counts, check_files, check_sets, check_prompts, check_training,
    check_measures, check_repair,
)  # fmt: skip
