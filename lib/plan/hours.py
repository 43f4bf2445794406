"""From units and their prices to hours: what each artifact takes, and when the last of many workers is done."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping

from lib.core.store import ArtifactSpec
from lib.data import real
from lib.measure import features, fidelity
from lib.measure import geometry_steps as lines
from lib.plan import units
from lib.plan.chapters import Known
from lib.plan.units import Unit, Units, unit
from lib.remedies import split

Prices = Mapping[Unit, float]
ONE_BY_ONE = {builder.kind for builder in (real.real_images, real.copies, real.inspection, features.features,
                                     fidelity.comparison,
                                     fidelity.copies, split.part)}  # what a notebook makes in its own process
WITHIN = {real.real_images.kind, lines.calibration.kind}  # of these, what shares its own work among the cores
ITSELF = {"00_summary": 10, "01_data": 14, "02_inversion": 38, "03_generation": 24, "04_training": 50, "05_gradcam": 22,
          "06_geometry": 35, "07_representation": 24, "08_repair": 22}  # s: kernel, imports, figures, measured beside PACED
PACE, PACED = unit("pace"), 0.01  # s: plain work of a processor then; where that takes longer, so do kernels and figures
KEPT = 4  # image sets that a process keeps
SEEDS = 3  # tasks that read the same sets come about so many at a time
FILE = 0.05  # s: a file of an artifact, opened, written and synced


def spent(recipes: Iterable[ArtifactSpec], classes: int, prices: Prices, workers: int) -> dict[str, float]:
    """Seconds of each artifact of a chapter by its key; each process reads an image set again when it has read four others."""
    found, kept = {}, []
    for recipe in recipes:
        loads = Counter()
        for part in units.reads(recipe):
            if part.key not in kept:
                loads[unit("load", size=units.side(part))] += min(workers, SEEDS) * units.count(part)
            kept = [part.key, *(key for key in kept if key != part.key)][:KEPT]
        found[recipe.key] = FILE * units.files(recipe) + seconds(units.cost(recipe, classes) + loads, prices)
    return found


def seconds(wanted: Units, prices: Prices) -> float:
    return sum(amount * prices.get(one, 0.0) for one, amount in wanted.items())


def wall(recipes: Iterable[ArtifactSpec], spent: Mapping[str, float], workers: int) -> float:
    """Seconds until all of these (upstream first) are made by so many workers, a file each; `spent` is by key."""
    there, free, alone, waiting = {}, [0.0] * workers, 0.0, {one.key: one for one in recipes}
    wanted = {up.key for one in waiting.values() for up in one.inputs.values()}
    while waiting:
        ready = {key: max((there.get(up.key, 0.0) for up in one.inputs.values()), default=0.0) for key, one in waiting.items()
                 if not any(up.key in waiting for up in one.inputs.values())}
        recipe = waiting.pop(min(ready, key=lambda key: (ready[key], key not in wanted)))
        if recipe.kind in ONE_BY_ONE | WITHIN:
            alone += spent[recipe.key] / (workers if recipe.kind in WITHIN else 1)
            continue
        each, ends = spent[recipe.key] / units.files(recipe), []
        for _ in range(units.files(recipe)):
            ends.append(max(heapq.heappop(free), ready[recipe.key]) + each)
            heapq.heappush(free, ends[-1])
        there[recipe.key] = max(ends)
    return max(free) + alone


def own(chapter: str, known: Known, prices: Prices) -> float:
    """Seconds of a notebook itself: to start, to read and compare sets, to draw."""
    return ITSELF[chapter] * prices[PACE] / PACED + seconds(itself(chapter, known), prices)


def itself(chapter: str, known: Known) -> Units:
    """What a notebook computes besides artifacts: it reads sets, and compares thumbnails of all with all."""
    sizes = {name: units.count(one) for name, one in known.sets.items()}
    train, test, made = units.count(known.real["train"]), units.count(known.real["test"]), sum(sizes.values())
    arms = [sum(min(sizes.get(name, train), train) for name in one[0].inputs) for one in known.models.values()]
    pairs = {"01_data": train * (train + test), "02_inversion": train * (train + test + 3 * sizes.get("di", 0)),
             "03_generation": train * (made + test), "04_training": sum(arms) * test}
    reads = {"01_data": sum(map(units.count, known.real.values())), "02_inversion": train + test + sizes.get("di", 0),
             "03_generation": train + test + 2 * made, "04_training": train + 2 * test + made, "05_gradcam": test + made,
             "06_geometry": test + made, "07_representation": train + 2 * test + made, "08_repair": train + test + made}
    return Counter({unit("pairs"): pairs.get(chapter, 0), unit("load", size=known.data["resolution"]): reads.get(chapter, 0)})
