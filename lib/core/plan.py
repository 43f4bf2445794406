"""What a profile makes, what is there, what is missing, how long it takes and how much disk; nothing is made.

Seconds and bytes come from the manifests of earlier runs, by kind, scaled by the amount of work; kinds that no run has
made yet are measured once by a probe: the artifacts of profile `smoke` in a temporary store.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from lib import preflight
from lib import study as studies
from lib.core import config as settings
from lib.core import executor, fetch, progress
from lib.core.store import ArtifactSpec, Store
from lib.study import Study, closure

PROBE_SECONDS = 60.0
BYTES_PER_PIXEL = 2.0  # of losslessly stored images, where no run has left any
STEPS = ("num_inference_steps", "max_train_steps", "generator_train_steps", "steps")
BATCH = ("batch_size", "generator_batch_size", "batch")


@dataclass
class Rate:
    """Per unit of work of one kind; `factor`: how far single artifacts were from the median."""

    seconds: float
    bytes: float
    factor: float


@dataclass
class Row:
    """One chapter of the plan."""

    chapter: str
    artifacts: int = 0
    missing: Counter = field(default_factory=Counter)  # kind -> number
    seconds: float = 0.0
    bytes: float = 0.0
    factor: float = 1.0
    unknown: set[str] = field(default_factory=set)


def flat(tree: dict) -> dict:
    """Settings with those of inner mappings beside them."""
    inner = [value for value in tree.values() if isinstance(value, dict)]
    return {key: value for part in (*inner, tree) for key, value in part.items()}


def num_images(spec: ArtifactSpec) -> int:
    """Images that an artifact holds or looks at."""
    own = spec.settings.get("count") or len(spec.settings.get("plan", ()))
    return own or max((num_images(inner) for inner in spec.inputs.values()), default=1)


def side(spec: ArtifactSpec) -> int:
    """Pixels a side of its images."""
    own = spec.settings.get("size") or spec.settings.get("resolution")
    return own or max((side(inner) for inner in spec.inputs.values()), default=32)


def work(spec: ArtifactSpec) -> float:
    """Images, times the steps that each takes, times pixels; of training, steps times the batch."""
    known = flat(spec.settings)
    steps = next((known[name] for name in STEPS if name in known), 1)
    batch = next((known[name] for name in BATCH if name in known), 1)
    images = batch if "count" not in known and "plan" not in known and steps > 1 else num_images(spec)
    return float(images * steps * side(spec) ** 2)


def volume(spec: ArtifactSpec) -> float:
    """Pixels of all its images, on which the bytes of an artifact depend."""
    return float(num_images(spec) * side(spec) ** 2)


def rates(stores: Iterable[Store]) -> dict[str, Rate]:
    """By kind, from the manifests of whole artifacts."""
    seen: dict[str, list[tuple[float, float]]] = {}
    for path in (p for store in stores for p in store.root.glob("*/*/manifest.json")):
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            spec = ArtifactSpec.from_json(tree)
            stored = sum(file["bytes"] for file in tree["files"].values())
            seen.setdefault(spec.kind, []).append(
                (tree["made"]["seconds"] / work(spec), stored / volume(spec)))
        except (KeyError, TypeError, ValueError):
            continue  # of an older version of this project: it proves nothing
    return {kind: _rate(pairs) for kind, pairs in seen.items()}


def _rate(pairs: list[tuple[float, float]]) -> Rate:
    seconds = [max(pair[0], 1e-12) for pair in pairs]
    middle = statistics.median(seconds)
    factor = max(2.0, statistics.quantiles([s / middle for s in seconds], n=10)[-1]) if len(pairs) > 2 else 5.0
    return Rate(middle, statistics.median(pair[1] for pair in pairs), min(factor, 10.0))


def new_specs(study: Study) -> Iterator[tuple[str, list[ArtifactSpec]]]:
    """By chapter, all artifacts that no chapter before it needs."""
    seen: set[str] = set()
    for chapter, specs in study.chapters.items():
        fresh = [spec for spec in closure(specs) if spec.key not in seen]
        seen |= {spec.key for spec in fresh}
        yield chapter, fresh


def probe(kinds: set[str], store: Store, seconds: float = PROBE_SECONDS) -> None:
    """Make artifacts of these kinds in the smallest sizes, until the time is over."""
    config = settings.load("smoke", {"study": {"store": str(store.root), "workers": 1}})
    small, deadline = Study(config, "smoke"), time.monotonic() + seconds
    chapters = [specs for _, specs in new_specs(small)]
    firsts = {spec.kind: spec for specs in reversed(chapters) for spec in reversed(specs)}
    wanted = [spec for kind, spec in firsts.items() if kind in kinds]
    for spec in progress.each("measure this machine", sorted(wanted, key=lambda s: len(closure([s])))):
        if time.monotonic() < deadline:
            executor.make(store, [spec])


def rows(study: Study, known: dict[str, Rate]) -> list[Row]:
    """The table: what is missing of each chapter and what it takes."""
    table = []
    for chapter, specs in new_specs(study):
        row = Row(chapter, len(specs))
        for spec in (s for s in specs if not study.store.found(s)):
            row.missing[spec.kind] += 1
            rate = known.get(spec.kind)
            if rate is None:
                row.unknown.add(spec.kind)
                row.bytes += BYTES_PER_PIXEL * volume(spec) if spec.kind.endswith("images") else 0
                continue
            row.seconds += rate.seconds * work(spec)
            row.bytes += rate.bytes * volume(spec)
            row.factor = max(row.factor, rate.factor)
        table.append(row)
    return table


def plan(profile: str, seconds: float = PROBE_SECONDS) -> list[str]:
    """The lines of `make plan`."""
    config = settings.load(profile)
    preflight.check(config, profile, downloads=False)  # those are listed below the table
    study = studies.plan(config, profile)
    with tempfile.TemporaryDirectory() as folder:
        known = rates([study.store])
        missing = {kind for row in rows(study, known) for kind in row.unknown}
        if missing and seconds > 0:
            probe(missing, Store(folder))
            known = rates([Store(folder)]) | known
        table = rows(study, known)
    workers = study.config.study.workers or studies.compute.capacity()
    return [*_table(table, workers), *(f"lacks {what}" for _, _, what in fetch.missing(study.config))]


def _table(table: list[Row], workers: int) -> list[str]:
    lines = [f"{'chapter':20}{'artifacts':>10}{'there':>8}{'missing':>9}{'work':>10}{'disk':>10}"]
    total = Row("all", factor=max(row.factor for row in table))
    for row in table:
        total.artifacts += row.artifacts
        total.missing += row.missing
        total.seconds += row.seconds
        total.bytes += row.bytes
        total.unknown |= row.unknown
    for row in (*table, total):
        absent = row.missing.total()
        lines.append(f"{row.chapter:20}{row.artifacts:>10}{row.artifacts - absent:>8}{absent:>9}"
                     f"{progress.clock(row.seconds):>10}{row.bytes / 1e9:>7.2f} GB")
    lines.append(f"work: of one process, within a factor of {total.factor:.0f}; with {workers} side by side about "
                 f"{progress.clock(total.seconds / workers)}, and half a minute per notebook")
    return [*lines, *(f"cannot be estimated: {kind}" for kind in sorted(total.unknown))]


def main() -> int:
    """`python -m lib.core.plan --profile world`."""
    parser = argparse.ArgumentParser(prog="python -m lib.core.plan", description=__doc__)
    parser.add_argument("--profile", default="world")
    parser.add_argument("--seconds", type=float, default=PROBE_SECONDS, help="of the probe; 0: none")
    options = parser.parse_args()
    try:
        print("\n".join(plan(options.profile, options.seconds)))
    except (ValueError, RuntimeError, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
