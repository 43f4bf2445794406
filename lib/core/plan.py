"""What a profile makes, what is there, what is missing, and roughly how long and how much disk.

Nothing is made. Seconds and bytes per unit of work come from the manifests of earlier runs in the
store. Kinds of artifact that the store does not know take the rates of a kept run (`rates.json`),
scaled by how fast a probe of one second is here. A kind that neither knows, such as a new remedy's
own, is named, and its seconds are not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import yaml
from scipy.optimize import nnls

from lib import preflight
from lib.core import compute, fetch, progress
from lib.core import config as settings
from lib.core.paths import PARAMS, ROOT
from lib.core.store import ArtifactSpec, Store, write_json
from lib.data import real
from lib.data.source import Source, SourceError
from lib.diffusion import sets
from lib.study import Specs, Study

RATES = Path(__file__).with_name("rates.json")
BYTES_PER_PIXEL = 2.0  # of losslessly stored images, where no run has left any
STEPS = ("num_inference_steps", "max_train_steps", "generator_train_steps", "steps")
BATCH = ("batch_size", "generator_batch_size", "batch")
UNNAMED_CLASSES = 10  # where neither the data nor a file of class facts is here


class PlannedStudy(Study):
    """A study that may look ahead: what is not downloaded yet is counted as the profile says."""

    @cached_property
    def source(self) -> Source | None:
        try:
            return super().source
        except (SourceError, OSError):
            return None

    @cached_property
    def real(self) -> Specs:
        if self.source:
            return super().real
        data = self.config.data
        where = data.source, data.root, data.shard
        counts = {"train": data.train, "test": data.test}
        return {split: self._undownloaded(*where, split, n) for split, n in counts.items()}

    def _undownloaded(self, source: str, root: str, shard: int, split: str, count: int):
        facts = {"source": source, "root": root, "shard": shard, "split": split, "count": count}
        facts |= {"resolution": self.config.data.resolution, "fingerprint": ""}
        return real.real_images(facts, self.config.study.seed)

    @property
    def class_names(self) -> list[str]:
        path = PARAMS / "classes" / f"{self.config.generation.class_info}.yaml"
        if self.source:
            return super().class_names
        if not path.is_file():
            return [f"class {k}" for k in range(UNNAMED_CLASSES)]
        return [row["name"] for row in yaml.safe_load(path.read_text("utf-8"))["classes"]]

    @cached_property
    def labels(self) -> np.ndarray:
        if self.source:
            return super().labels
        return np.arange(self.config.data.train) % len(self.class_names)

    @cached_property
    def inversion(self) -> Specs:
        section = self.config.inversion
        if section.generator_data != "published" or fetch.downloaded(ROOT / section.published_path):
            return super().inversion
        as_long = section.model_copy(update={"generator_data": "real"})
        return PlannedStudy(self.config.model_copy(update={"inversion": as_long})).inversion

    @cached_property
    def synthetic(self) -> Specs:
        section = self.config.generation
        published = {"published", *(["sd"] if section.model == sets.PUBLISHED else [])}
        absent = [name for name in section.sets if name in published]
        if not absent or fetch.downloaded(ROOT / section.published_path):
            return super().synthetic
        where = real.PUBLISHED, section.published_path, real.SHARD
        spec = self._undownloaded(*where, "train", section.num_images)
        here = [name for name in section.sets if name not in absent]
        update = {"generation": section.model_copy(update={"sets": here})}
        others = PlannedStudy(self.config.model_copy(update=update)).synthetic
        return dict.fromkeys(absent, spec) | others


def closure(specs: Iterable[ArtifactSpec]) -> list[ArtifactSpec]:
    """These artifacts and all that they are made from, inputs first, no key twice."""
    ordered: dict[str, ArtifactSpec] = {}

    def visit(spec: ArtifactSpec) -> None:
        if spec.key not in ordered:
            for source in spec.inputs.values():
                visit(source)
            ordered[spec.key] = spec

    for spec in specs:
        visit(spec)
    return list(ordered.values())


def new_specs(study: Study) -> Iterator[tuple[str, list[ArtifactSpec]]]:
    """By chapter, all artifacts that no chapter before it needs."""
    seen: set[str] = set()
    for chapter, specs in study.chapters.items():
        new = [spec for spec in closure(specs) if spec.key not in seen]
        seen |= {spec.key for spec in new}
        yield chapter, new


# how much work an artifact is


def flat(tree: dict) -> dict:
    """Settings with those of inner mappings beside them."""
    inner = [value for value in tree.values() if isinstance(value, dict)]
    return {key: value for part in (*inner, tree) for key, value in part.items()}


def num_images(spec: ArtifactSpec) -> int:
    """Images that an artifact holds or looks at."""
    own = spec.settings.get("count") or len(spec.settings.get("plan", ()))
    return own or max((num_images(source) for source in spec.inputs.values()), default=1)


def side(spec: ArtifactSpec) -> int:
    """Height of its images, pixels."""
    own = spec.settings.get("size") or spec.settings.get("resolution")
    return own or max((side(source) for source in spec.inputs.values()), default=32)


def work(spec: ArtifactSpec) -> float:
    """Images, times the steps that each takes, times pixels; of training, steps times the batch."""
    facts = flat(spec.settings)
    steps = next((facts[name] for name in STEPS if name in facts), 1)
    batch = next((facts[name] for name in BATCH if name in facts), 1)
    training = "count" not in facts and "plan" not in facts and steps > 1
    width = (facts.get("base_width", 16) / 16) ** 2  # of a classifier's layers
    return float((batch if training else num_images(spec)) * steps * side(spec) ** 2 * width)


def volume(spec: ArtifactSpec) -> float:
    """Pixels of all its images, on which the bytes of an artifact depend."""
    return float(num_images(spec) * side(spec) ** 2)


# how fast such work is


@dataclass(frozen=True)
class Rate:
    """Seconds and bytes of one kind of artifact."""

    overhead: float  # seconds of the smallest
    seconds: float  # per unit of work
    bytes: float  # per pixel
    factor: float  # how far single artifacts were from that
    largest: float  # work of the largest that was seen

    @classmethod
    def fit(cls, runs: list[tuple[float, float, float]]) -> Rate:
        """From (work, seconds, bytes per pixel); relative errors are minimised."""
        amount, seconds, sizes = map(np.array, zip(*runs, strict=True))
        seconds = np.maximum(seconds, 0.01)
        alike = amount.max() < 2 * amount.min()  # says nothing about the overhead
        scale = amount.max()
        design = np.stack([(not alike) / seconds, amount / scale / seconds], axis=1)
        overhead, rate = nnls(design, np.ones(len(runs)))[0] / (1, scale)
        errors = np.log(seconds / (overhead + rate * amount).clip(1e-9))
        factor = float(np.clip(np.exp(errors.std()), 1.5, 10)) if len(runs) > 2 else 3.0
        return cls(overhead, rate, float(np.median(sizes)), factor, float(amount.max()))

    def scaled(self, times: float) -> Rate:
        """On another machine, `times` as slow."""
        slower = {"overhead": self.overhead * times, "seconds": self.seconds * times}
        return replace(self, **slower, factor=min(1.5 * self.factor, 10.0))

    def of(self, spec: ArtifactSpec) -> float:
        """Seconds of an artifact."""
        return self.overhead + self.seconds * work(spec)


class Rates:
    """Of earlier runs here, and where those were much smaller or none, of the kept run."""

    def __init__(self, here: dict[str, Rate], kept: dict[str, Rate]):
        self.here, self.kept = here, kept

    def get(self, spec: ArtifactSpec) -> Rate | None:
        rate = self.here.get(spec.kind)
        small = rate is None or work(spec) > 10 * rate.largest
        return self.kept.get(spec.kind, rate) if small else rate


def rates(store: Store) -> dict[str, Rate]:
    """By kind, from the manifests of whole artifacts that were made in one go."""
    runs: dict[str, list[tuple[float, float, float]]] = {}
    for path in store.root.glob("*/*/manifest.json"):
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            spec = ArtifactSpec.from_json(tree)
            if not tree["made"]["resumed_from"]:
                size = sum(file["bytes"] for file in tree["files"].values()) / volume(spec)
                runs.setdefault(spec.kind, []).append((work(spec), tree["made"]["seconds"], size))
        except (KeyError, TypeError, ValueError):
            continue  # of an older version of this project: it proves nothing
    return {kind: Rate.fit(group) for kind, group in runs.items()}


def probe(seconds: float = 1.0) -> float:
    """Seconds of one training step of a small convolutional network on this machine."""
    where = compute.device("auto")
    clock = time.process_time if where.type == "cpu" else time.perf_counter
    layers = [torch.nn.Conv2d(32, 32, 3, padding=1), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers, *layers).to(where)
    images, times = torch.randn(4, 32, 32, 32, device=where), []
    with compute.one_thread():
        while sum(times) < seconds:
            began = clock()
            network(images).square().mean().backward()
            float(layers[0].weight.grad.sum())  # waits for a GPU
            times.append(clock() - began)
    return statistics.median(times)


def kept_rates() -> dict[str, Rate]:
    """Those of `rates.json`, scaled to this machine; one probe of a second."""
    tree = json.loads(RATES.read_text(encoding="utf-8"))
    slower = probe() / tree["probe"]
    return {kind: Rate(*numbers).scaled(slower) for kind, numbers in tree["kinds"].items()}


def keep_rates(store: Store) -> None:
    """Write `rates.json` from the artifacts of a store that this machine has made."""
    kinds = {
        kind: [float(f"{number:.3g}") for number in astuple(rate)]
        for kind, rate in sorted(rates(store).items())
    }
    write_json(RATES, {"probe": float(f"{probe(5):.3g}"), "kinds": kinds})


# the table


@dataclass
class Row:
    """One chapter of the plan."""

    chapter: str
    artifacts: int = 0
    missing: Counter = field(default_factory=Counter)  # kind -> number
    seconds: float = 0.0
    bytes: float = 0.0
    high: float = 0.0  # seconds, if every kind were as slow as its factor allows
    unknown: set[str] = field(default_factory=set)

    def add(self, spec: ArtifactSpec, rate: Rate | None) -> None:
        """Count a missing artifact; without a rate its seconds are unknown."""
        self.missing[spec.kind] += 1
        if rate is None:
            self.unknown.add(spec.kind)
            self.bytes += BYTES_PER_PIXEL * volume(spec) * spec.kind.endswith("images")
            return
        self.seconds += rate.of(spec)
        self.high += rate.of(spec) * rate.factor
        self.bytes += rate.bytes * volume(spec)

    def __str__(self) -> str:
        absent = self.missing.total()
        return (
            f"{self.chapter:20}{self.artifacts:>10}{self.artifacts - absent:>8}{absent:>9}"
            f"{progress.clock(self.seconds):>10}{self.bytes / 1e9:>7.2f} GB"
        )


def rows(study: Study, fitted: Rates) -> list[Row]:
    """What is missing of each chapter and what it takes."""
    table = []
    for chapter, specs in new_specs(study):
        row = Row(chapter, len(specs))
        for spec in specs:
            if not study.store.found(spec):
                row.add(spec, fitted.get(spec))
        table.append(row)
    return table


def total(table: list[Row]) -> Row:
    """The sum of all chapters."""
    whole = Row("all")
    for row in table:
        for name in ("artifacts", "missing", "seconds", "bytes", "high"):
            setattr(whole, name, getattr(whole, name) + getattr(row, name))
        whole.unknown |= row.unknown
    return whole


def plan(profile: str) -> list[str]:
    """The lines of `make plan`."""
    config = settings.load(profile)
    preflight.check(config, profile, downloads=False)  # those are listed below the table
    study = PlannedStudy(config, profile)
    table = rows(study, Rates(rates(study.store), kept_rates()))
    whole, workers = total(table), study.config.study.workers or compute.capacity()
    factor = max(whole.high, 1.0) / max(whole.seconds, 1.0)
    lines = [f"{'chapter':20}{'artifacts':>10}{'there':>8}{'missing':>9}{'work':>10}{'disk':>10}"]
    lines += [str(row) for row in (*table, whole)]
    lines.append(
        f"work: of one process, within a factor of {factor:.1f}; with {workers} side by side about "
        f"{progress.clock(whole.seconds / workers)}, and half a minute per notebook"
    )
    lines += [f"seconds unknown, not counted: {kind}" for kind in sorted(whole.unknown)]
    return [*lines, *(f"lacks {what}" for _, _, what in fetch.missing(config))]


def main() -> int:
    """`python -m lib.core.plan --profile world`."""
    parser = argparse.ArgumentParser(prog="python -m lib.core.plan", description=__doc__)
    parser.add_argument("--profile", default="world")
    parser.add_argument("--keep-rates", metavar="STORE", help="write rates.json from this store")
    options = parser.parse_args()
    try:
        if options.keep_rates:
            keep_rates(Store(options.keep_rates))
        else:
            print("\n".join(plan(options.profile)))
    except (ValueError, RuntimeError, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
