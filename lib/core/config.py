"""Typed parameters: one section a notebook, one YAML a profile, errors that teach."""

from __future__ import annotations

import difflib
import json
import re
import reprlib
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from lib.core.paths import NOTEBOOKS, PARAMS

RUN = "STUDY_RUN"  # environment of a kernel that Make started: its results are the study's

SHORT = reprlib.Repr()  # a few lines of YAML can stand for more text than there is memory
SHORT.maxstring, SHORT.maxother, SHORT.maxlevel = 300, 300, 2
MOST_FAULTS = 20  # listed in one error
# What PyYAML raises, among others over the 31st of February, 5,000 digits, `!!bool maybe`, `!!timestamp x`, what is not UTF-8.
UNREADABLE = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError)

Count = Annotated[int, Field(ge=1, le=10**9)]
Text = Annotated[str, Field(pattern=r"^[^\x00]*[^\s\x00][^\x00]*$")]  # not blank, and fit for a path
TERM = r"(\d+(\.\d+)?\*)?[a-z][\w-]*(@\d+(\.\d+)?x)?"  # 0.1*real, sd@4x
Arm = Annotated[str, Field(pattern=rf"^\s*{TERM}(\s*\+\s*{TERM})*\s*$")]
Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(gt=0, lt=1)]  # of a set: neither nothing nor all
Times = Annotated[float, Field(gt=0, le=1000)]


RENAMED = {  # old key: its name now
    "training.stem": "training.stem_stride",
    "training.width": "training.base_width",
    "training.batch": "training.batch_size",
    "training.rate": "training.lr",
    "training.smoothing": "training.label_smoothing",
    "training.recipe": "training.augmentation",
    "training.balance": "training.class_weights",
    "training.ema": "training.ema_decay",
    "training.memory": "training.max_ram_mb",
    "training.by_epochs": "training.equal_epoch_arms",
    "training.wordings": "training.train_on_sweep",
    "training.compare_recipes": "training.compare_augmentations",
    "training.traded": "training.scaling_sets",
    "training.counts": "training.synthetic_ratios",
    "training.shares": "training.real_fractions",
    "training.helped": "training.real_fractions_with_set",
    "training.mixes": "training.mix_fractions",
    "repair.validation": "repair.val_fraction",
    "repair.images": "repair.num_real",
    "repair.blocks": "repair.unfreeze_last",
    "repair.curve": "repair.num_real_curve",
    "repair.late": "repair.unfreeze_last_curve",
    "repair.ratios": "repair.real_batch_fractions",
    "repair.keep": "repair.keep_fraction",
    "repair.steps": "repair.max_train_steps",
    "repair.rate": "repair.lr",
    "repair.judge_epochs": "repair.reference_epochs",
}


class SettingsError(ValueError):
    """A setting that cannot be used; the message names file, key, what was expected."""


def _each_once(values: list) -> list:
    """A list without repetition."""
    if len(set(values)) < len(values):
        raise ValueError("each name once")
    return values


def _engine(value: str) -> str:
    """A way to run tasks."""
    if not re.fullmatch(r"local|dask|(tcp|tls)://[\w.\-\[\]:]+:\d{1,5}", value):
        raise ValueError("local, dask, or the address tcp://host:port of a running Dask scheduler")
    return value


class Section(BaseModel):
    """Strict: no unknown key, no conversion, no change after loading."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Study(Section):
    """What every notebook shares."""

    title: Text = Field(description="of the report")
    small: bool = Field(description="marks the report as a small run, whose numbers are uncertain")
    seed: int = Field(ge=0, description="the seed that all other seeds derive from")
    seeds: int = Field(ge=3, description="classifiers per training set; intervals need three")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(description="auto, cpu, cuda or mps")
    engine: Annotated[str, AfterValidator(_engine)] = Field(
        description="what runs the tasks: local, dask, or tcp://host:port of a Dask scheduler")
    workers: int = Field(ge=0, le=256, description=(
        "processes side by side; 0: one per core, or one per GPU"))
    store: Text = Field(description="root folder of the artifacts; may be a shared file system")


class Data(Section):
    """01_data: the real images."""

    source: Literal["world", "digits", "cifar10", "cifake", "imagenette", "ham10000", "folder"]
    path: Text  # where the files of the others than `world` and `digits` lie
    resolution: Annotated[int, Field(ge=8, le=512)]
    train: Count
    test: Count
    shift: Annotated[int, Field(ge=0)]  # images of each shift set the source offers
    shard: Count  # images in one Parquet file
    bad_files: Annotated[int, Field(ge=0)]  # unreadable images of a download that may be left out
    flip: bool  # whether a mirrored image is still of its class


class Trained(Section):
    """What both chapters that draw images say of a class-conditional model that is trained here."""

    size: Annotated[int, Field(ge=0, le=2048, multiple_of=8)]  # pixels a side at which a model from elsewhere works; 0: its own
    given: str  # a CIFAKE download whose FAKE half is the set `given`
    space: Literal["latent", "pixel"]  # pixel only from scratch
    channels: Annotated[list[Annotated[int, Field(ge=16, multiple_of=16)]], Field(min_length=1, max_length=4)]  # from scratch
    fit_steps: Count
    fit_batch: Count
    fit_rate: Annotated[float, Field(gt=0, le=1)]
    fit_snr: Annotated[float, Field(ge=0)]  # min-SNR weighting; 0: none


class Inversion(Trained):
    """02_inversion: one learned conditioning for each real image, and the set `di` drawn between and around them."""

    count: Annotated[int, Field(ge=0)]  # real training images that get one; 0: no inversion in this profile
    model: Text  # shipped, a diffusers folder, a hub id, or scratch
    revision: str  # of a hub id
    prior: Literal["real", "given"]  # the images that a model from scratch learns from
    known: Annotated[int, Field(ge=0)]  # so many of the images of `given`; 0: as many as there are real ones
    tokens: Count  # rows of an embedding
    steps: Count  # updates of each embedding
    rate: Annotated[float, Field(gt=0, le=10)]
    schedule: Literal["constant", "cosine"]
    start: Literal["random", "class", "mean"]
    timesteps: Literal["uniform", "sensitive"]
    checks: Count  # parts of the curve of validation losses
    stop: Annotated[int, Field(ge=0)]  # checks without a new lowest loss that end an embedding; 0: never
    batch: Count
    shard: Count  # embeddings in one file
    images: Count  # of the set `di`
    alpha: Share  # how far towards another image of the class
    noise: Annotated[float, Field(ge=0, le=2)]  # added to the embedding
    guidance: Annotated[float, Field(ge=1, le=30)]  # away from the mean embedding; 1: none
    sampler_steps: Annotated[int, Field(ge=1, le=1000)]
    scheduler: Text  # DPMSolver++, or any diffusers scheduler by name
    guided: Annotated[list[Share], Field(min_length=2, max_length=2)]  # part of the steps with guidance
    measured: Annotated[int, Field(ge=2)]  # images whose inversion is measured
    tried: Annotated[int, Field(ge=0)]  # images that are inverted again under faster settings
    gallery: Annotated[int, Field(ge=1, le=12)]  # sources that are shown
    alphas: Annotated[list[Share], AfterValidator(_each_once)]  # shown of each source
    noises: Annotated[list[Annotated[float, Field(ge=0, le=2)]], AfterValidator(_each_once)]


class Generation(Trained):
    """03_generation: the synthetic images."""

    sets: Annotated[list[Literal["sd", "cd", "given"]], AfterValidator(_each_once)]  # prompted, class-conditional, of others
    images: Count  # of each set
    model: Text  # of `sd`: shipped, a diffusers folder, a hub id, or given: the images that somebody else published
    revision: str  # of a hub id
    facts: Text  # what the recipes can say of the classes: params/classes/<facts>.yaml
    recipe: Text  # of the prompts
    guidance: Annotated[float, Field(ge=1, le=30)]  # 1: none
    steps: Annotated[int, Field(ge=1, le=1000)]  # of the sampler
    scheduler: Text  # DPMSolver++, or any diffusers scheduler by name
    guided: Annotated[list[Share], Field(min_length=2, max_length=2)]  # part of the steps with guidance
    rescale: Share  # of the guidance
    batch: Count
    recipes: Annotated[list[Text], AfterValidator(_each_once)]  # the sweep's recipes, at `guidance`
    guidances: Annotated[list[Annotated[float, Field(ge=1, le=30)]], AfterValidator(_each_once)]  # at `recipe`
    sweep: Annotated[int, Field(ge=0)]  # images of each point of the sweep
    start: Text  # what `cd` is trained from: shipped, scratch, a diffusers folder, or a hub id
    class_guidance: Annotated[float, Field(ge=1, le=30)]
    judge_epochs: Count  # of the real-trained classifier that says what it sees in each set


class Training(Section):
    """04_training: the classifiers."""

    arms: Annotated[list[Arm], Field(
        min_length=1, description="training sets, each a sum of image sets, e.g. 0.1*real+sd"),
        AfterValidator(_each_once)]
    architecture: Text = Field(
        description="resnet8, resnet18, resnet50, or any classifier of torchvision.models")
    stem_stride: Annotated[int, Field(ge=0, le=8)] = Field(
        description="stride of the first convolution of those ResNets, pixels; 0: by resolution")
    base_width: Annotated[int, Field(ge=4, le=256)] = Field(
        description="channels of the first stage; 64 is the published ResNet-18")
    epochs: Count = Field(
        description="passes over `real`; every training set takes as many optimiser steps")
    batch_size: Count = Field(description="images an optimiser step")
    lr: Annotated[float, Field(gt=0, le=10)] = Field(
        description="peak learning rate of the one-cycle schedule")
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(
        description="of matrices and kernels; norms and biases have none; 0: off")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(description="Nesterov momentum of SGD")
    pct_start: Part = Field(description="share of the steps in which the learning rate rises")
    label_smoothing: Share = Field(description="of the labels; 0: off")
    augmentation: Literal["standard", "multicrop"] = Field(
        description="standard (shift and mirror) or multicrop (after DINO)")
    precision: Literal["auto", "float32", "bf16"] = Field(description="auto: bf16 on CUDA")
    class_weights: Literal["none", "balanced"] = Field(
        description="balanced: every class weighs alike in the loss, however many images it has")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="of the average of the weights that is kept; 0: the last weights")
    max_ram_mb: Count = Field(
        description="images in memory, megabytes; larger training sets are read while training")
    shuffle_buffer: Count = Field(
        description="images that are shuffled together where a training set does not fit")
    equal_epoch_arms: Annotated[list[Arm], AfterValidator(_each_once)] = Field(
        description="training sets trained once more for as many passes as `real` gets")
    train_on_sweep: bool = Field(
        description="whether each point of the sweep of chapter 03 is a training set too")
    compare_augmentations: Annotated[
        list[Literal["standard", "multicrop"]], AfterValidator(_each_once)] = Field(
        description="all training sets once more with each of these; costly")
    scaling_sets: Annotated[list[Text], AfterValidator(_each_once)] = Field(
        description="synthetic sets whose curves stand beside that of `real`")
    synthetic_ratios: Annotated[list[Times], AfterValidator(_each_once)] = Field(
        description="their sizes besides 1, in sizes of `real`: the scaling curve")
    real_fractions: Annotated[list[Part], AfterValidator(_each_once)] = Field(
        description="of `real` alone: the low-real curve")
    real_fractions_with_set: Annotated[list[Part], AfterValidator(_each_once)] = Field(
        description="of `real` beside a whole synthetic set")
    mix_fractions: Annotated[list[Part], AfterValidator(_each_once)] = Field(
        description="share of `real` in mixtures as large as `real`")
    reference_stem_stride: Annotated[int, Field(ge=0, le=8)] = Field(
        description="stem stride of the reference classifier, pixels; 0: by resolution")
    reference_base_width: Annotated[int, Field(ge=4, le=256)] = Field(
        description="channels of its first stage")
    reference_batch_size: Count = Field(description="images a step of its training")
    reference_lr: Annotated[float, Field(gt=0, le=10)] = Field(
        description="peak learning rate of its training")


class Gradcam(Section):
    """05_gradcam: where the classifiers look."""

    images: Annotated[int, Field(ge=20)]  # of each set that is explained
    trust: Annotated[int, Field(ge=2)]  # images on which the maps themselves are tested
    gallery: Annotated[int, Field(ge=1, le=12)]  # images in a row of pictures


class Geometry(Section):
    """06_geometry: whether the lines hold."""

    images: Annotated[int, Field(ge=10)]  # of each set that is measured
    sizes: Annotated[list[Annotated[int, Field(ge=16, le=1024)]], Field(min_length=1), AfterValidator(_each_once)]
    scenes: Annotated[int, Field(ge=2)]  # calibration scenes of each style and size
    native: bool  # measure generated images at the size at which they were drawn


class Representation(Section):
    """07_representation: how near the sets are, and what the classifiers make of images."""

    images: Annotated[int, Field(ge=50)]  # a side of every comparison of sets; at most half of the test images
    networks: Annotated[list[Literal["own", "inception", "dinov2", "inception-torchvision", "resnet18", "resnet50"]],
                        Field(min_length=1), AfterValidator(_each_once)]  # whose features are compared
    neighbours: Count  # k of precision, recall, density and coverage
    seen: Annotated[int, Field(ge=20)]  # real test images on which classifiers' features are measured
    probe: Annotated[int, Field(ge=50)]  # labelled images from which a linear probe learns
    transfer: Annotated[list[Literal["world", "digits", "cifar10"]], AfterValidator(_each_once)]  # other sources to be probed on
    path: Text  # where cifar10 lies
    corruptions: Annotated[list[Literal["noise", "blur", "contrast", "jpeg", "brightness"]], Field(min_length=1),
                           AfterValidator(_each_once)]
    severities: Annotated[list[Annotated[int, Field(ge=1, le=5)]], Field(min_length=1), AfterValidator(_each_once)]
    damaged: Annotated[int, Field(ge=20)]  # test images under each corruption
    eps: Annotated[list[Annotated[float, Field(ge=0, le=255)]], Field(min_length=1), AfterValidator(_each_once)]  # grey levels
    climbs: Count  # steps of PGD
    attacked: Annotated[int, Field(ge=20)]  # of the damaged images, those that are attacked
    gallery: Annotated[int, Field(ge=1, le=12)]  # closest pairs shown of each set


class Repair(Section):
    """08_repair: what closes the gap."""

    base: Annotated[str, Field(pattern=r"^[a-z][\w-]*$")] = Field(
        description="the synthetic training set whose classifiers are repaired")
    remedies: Annotated[list[Text], Field(min_length=1), AfterValidator(_each_once)] = Field(
        description="files of lib/remedies")
    val_fraction: Annotated[float, Field(gt=0, le=0.5)] = Field(
        description="share of the real training images that only chooses between remedies")
    num_real: Count = Field(description="m: real images that every remedy may use")
    unfreeze_last: Annotated[
        list[Annotated[int, Field(ge=0, le=100)]], AfterValidator(_each_once)] = Field(
        description="k: last blocks fine-tuned on `num_real` images; 1: the head, 0: all")
    num_real_curve: Annotated[list[Count], AfterValidator(_each_once)] = Field(description="other m")
    unfreeze_last_curve: Annotated[
        list[Annotated[int, Field(ge=0, le=100)]], AfterValidator(_each_once)] = Field(
        description="k at those m")
    real_batch_fractions: Annotated[
        list[Annotated[float, Field(gt=0, lt=1)]], AfterValidator(_each_once)] = Field(
        description="real share of a mixed batch")
    keep_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="share of the synthetic images that a filter keeps")
    max_train_steps: Count = Field(description="optimiser steps of every fine-tuning")
    lr: Annotated[float, Field(gt=0, le=10)] = Field(description="peak learning rate of fine-tuning")
    reference_epochs: Count = Field(
        description="epochs of the reference classifier by which images are filtered")


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
        names = sections_of(chapter)
        return {key: value for name in names for key, value in getattr(self, name)}


@dataclass(frozen=True)
class Resolved:
    """A profile with what a parameter cell changes in it."""

    profile: str
    config: Settings
    changes: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # key -> (profile, used)

    def __str__(self) -> str:
        """One line for JupyterLab and the page; empty where nothing differs."""
        texts = [f"{key} = {json.dumps(used)} (profile: {json.dumps(own)})"
                 for key, (own, used) in self.changes.items()]
        return f"differs from profile {self.profile}: {'; '.join(texts)}" if texts else ""


def section_of(chapter: str) -> str:
    """`04_training` reads section `training`."""
    return chapter.split("_", 1)[1]


def sections_of(chapter: str) -> list[str]:
    """The sections whose parameters a chapter's notebook lists."""
    own = section_of(chapter)
    return ["study", own] if own in Settings.model_fields else ["study"]


def load(profile: str, overrides: Mapping[str, Mapping] | None = None, params: Path = PARAMS,
         where: str = "overrides") -> Settings:
    """`params/defaults.yaml` under `params/<profile>.yaml` under overrides by section."""
    default, own = params / "defaults.yaml", params / f"{profile}.yaml"
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", profile) or profile == "defaults" or not own.is_file():
        raise SettingsError(f"no profile named {profile!r}{_nearest(profile, profiles(params))}.\n{own}")
    layers = {default: _read(default), own: _sections(_read(own), own), where: overrides or {}}
    names = [*Settings.model_fields, *layers[default]]
    merged = {name: {key: value for layer in layers.values() for key, value in layer.get(name, {}).items()}
              for name in dict.fromkeys(names) if any(name in layer for layer in layers.values())}

    def origin(keys: tuple) -> Any:
        return next((file for file in reversed(layers) if _holds(layers[file], keys)), default)

    return _validate(Settings, merged, origin)


def resolve(chapter: str, variables: Mapping[str, Any], params: Path = PARAMS) -> Resolved:
    """A notebook's variables over its profile: every parameter that is not None replaces the profile's."""
    profile = variables["profile"]
    overrides = {name: {key: variables[key] for key in Settings.model_fields[name].annotation.model_fields
                        if variables.get(key) is not None} for name in sections_of(chapter)}
    base = load(profile, params=params)
    config = load(profile, overrides, params, f"notebooks/{chapter}.ipynb, cell tagged `parameters`")
    changes = {f"{name}.{key}": (own, used) for name in overrides for key, own in getattr(base, name)
               if (used := getattr(getattr(config, name), key)) != own}
    return Resolved(profile, config, changes)


def profiles(params: Path = PARAMS) -> list[str]:
    """Names of the profiles that exist."""
    return sorted(p.stem for p in params.glob("*.yaml") if p.stem != "defaults" and p.is_file())


def _sections(tree: dict[str, Any], file: Path) -> dict[str, dict]:
    """A profile's sections, each a mapping and each known."""
    for name, section in tree.items():
        if name not in Settings.model_fields:
            raise SettingsError(f"unknown section {name!r}{_nearest(name, Settings.model_fields)}.\n{file}: {name}")
        if not isinstance(section, dict):
            raise SettingsError(f"section {name!r} must hold `key: value` lines, got {SHORT.repr(section)}."
                                f"\n{file}: {name}")
    return tree


class _Loader(yaml.SafeLoader):
    """Plain YAML that refuses a key written twice."""

    def construct_mapping(self, node, deep=False):
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(
                None, None, "merge keys (<<) are not supported, write the keys out", node.start_mark)
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node):
        """YAML 1.1 reads 0200 as 128 and 3:20 as 200; nobody who writes a setting means that."""
        if re.fullmatch(r"[+-]?0[0-9_]+|.*:.*", node.value):
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value} is not a decimal number; put text in quotes", node.start_mark)
        return super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _read(path: Path) -> dict[str, Any]:
    """One YAML file as a dict; every way it can be wrong names the file."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError as error:
        raise SettingsError(f"the file is missing; restore it with `git checkout params`.\n{path}") from error
    except UNREADABLE as error:
        raise SettingsError(f"not readable as YAML: {' '.join(str(error).split())}.\n{path}") from error
    if tree is not None and not isinstance(tree, dict):
        raise SettingsError(f"expected sections such as `data:`, got {SHORT.repr(tree)}.\n{path}")
    return tree or {}


def _validate(model: type[Section], tree: dict[str, Any], where) -> Any:
    """The typed section, or one SettingsError that lists every fault."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        listed = error.errors()[:MOST_FAULTS]
        more = error.error_count() - len(listed)
        faults = [f"… and {more} more faults"] * bool(more) + [
            _explain(model, fault, where(fault["loc"])) for fault in listed]
        raise SettingsError("\n".join(faults)) from error


def _explain(model: type[Section], fault: dict[str, Any], where) -> str:
    """One fault in words: what was found, what was expected, the nearest name, and last the file and key."""
    keys = [str(k) for k in fault["loc"]]
    key, got = ".".join(keys), fault["input"]
    if fault["type"] == "extra_forbidden" and key in RENAMED:
        text = f"{key} is now called {RENAMED[key]}"
    elif fault["type"] == "extra_forbidden":
        text = f"unknown key {keys[-1]!r}{_nearest(keys[-1], _siblings(model, keys))}"
    elif fault["type"] == "missing":
        text = f"key {keys[-1]!r} is missing"
    else:
        expected = re.sub(r"^(Input|List|String|Value error,|Keys) (should )?(be )?(a valid )?", "", fault["msg"])
        text = f"{key} = {SHORT.repr(got)} ({type(got).__name__}): expected {expected}{_hint(got)}"
    return f"{text}.\n{where}: {key}"


def _hint(got: Any) -> str:
    """The two traps of YAML that were seen to bite."""
    if isinstance(got, str) and re.fullmatch(r"[+-]?\d+e[+-]?\d+", got.lower()):
        return "; YAML reads 1e-3 as text, write 1.0e-3"
    if isinstance(got, bool):
        return "; YAML reads yes, no, on, off as true or false, put text in quotes"
    return ""


def _siblings(model: type[Section], keys: list[str]) -> list[str]:
    """Names that would have been valid where an unknown key stood."""
    for key in keys[:-1]:
        model = model.model_fields[key].annotation
    return list(model.model_fields)


def _nearest(name: str, names) -> str:
    """`; did you mean 'x'?` or the list of what there is."""
    close = difflib.get_close_matches(str(name), list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(names))}"


def _holds(tree: dict[str, Any], keys: tuple) -> bool:
    """Whether a profile itself wrote this key (else it came from the defaults)."""
    for key in keys[:2]:
        if not isinstance(tree, dict) or key not in tree:
            return False
        tree = tree[key]
    return True


# the parameter cells of the notebooks


def cell(chapter: str) -> str:
    """The text of a notebook's parameter cell: every parameter with its description, None as in the profile."""
    lines = ['profile = "world"  # which params/<profile>.yaml; below, None: as in the profile']
    for section in reversed(sections_of(chapter)):
        lines.append(f"\n# {section}")
        for key, info in Settings.model_fields[section].annotation.model_fields.items():
            lines += _lines(key, info)
    return "\n".join(lines)


def _lines(key: str, info: FieldInfo) -> list[str]:
    """`epochs = None  # passes over real`; a long description stands above."""
    text = info.description or ""
    line = f"{key} = None  # {text}".rstrip(" #")
    return [line] if len(line) <= 100 else [*textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="# "),
                                            f"{key} = None"]


def write_cells(folder: Path = NOTEBOOKS, write: bool = True) -> list[str]:
    """Generate the parameter cell of every notebook; the names of those that were not up to date."""
    outdated = []
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        (tagged,) = (c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", []))
        source = cell(path.stem).splitlines(keepends=True)
        if tagged["source"] != source:
            outdated.append(path.stem)
            tagged["source"] = source
            if write:
                path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return outdated


if __name__ == "__main__":  # python -m lib.core.config cells
    if sys.argv[1:] != ["cells"]:
        sys.exit("python -m lib.core.config cells: generates the parameter cells of all notebooks")
    print("\n".join(f"notebooks/{name}.ipynb" for name in write_cells()) or "all parameter cells are up to date")
