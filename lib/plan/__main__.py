"""`python -m lib.plan --profile world`: what a profile makes, what it takes here, and what it lacks; nothing is made."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import wait

from lib.core import compute, fetch, progress, workers
from lib.core import config as settings
from lib.core.config import SettingsError
from lib.core.freshness import names, read
from lib.core.paths import REPORTS
from lib.core.store import ArtifactSpec, Store, StoreError, write_json
from lib.diffusion.model import GeneratorError
from lib.plan import chapters, hours, paper, rates, units
from lib.plan.chapters import Known
from lib.plan.units import Unit, Units

PROBE = 30.0  # seconds of measuring, by as many processes at a time as the study will have
DEAR = 6  # units that are measured again for longer
SHOWN = {"write": "images", "train": "classifier steps", "train again": "classifier steps", "learn": "generator steps",
         "update": "updates of embeddings", "predict noise": "noise predictions"}

COLUMNS = {"wall": "from nothing", "wall left": "still", "wall measured": "last run", "work": "work",
           "of it measured": "of it made", "work measured": "it took"}
LEGEND = ["from nothing: by the clock, with an empty store; still: as things stand; last run: by the clock, with what was there;",
          "work: of all processes together; of it made: of the artifacts that are there, beside what those really took"]


def plan(profile: str, probe: float = PROBE) -> dict:
    """Everything that the table says, as plain data."""
    loaded = settings.load(profile)
    store, count = Store(loaded.study.store), loaded.study.workers or compute.rooms()
    known, asked = chapters.study(loaded, store)
    seen: set[str] = set()
    made = {name: list(chapters.closure(asked.get(name, []), seen)) for name in names()}
    wanted = sum((units.total(recipes, known.count) + hours.itself(name, known) for name, recipes in made.items()),
                 Counter({hours.PACE: 1}))
    prices, unknown = measured(store, loaded.study.device, wanted, count, probe)
    told = {name: chapter(name, recipes, known, prices, store, count) for name, recipes in made.items()}
    for name, row in told.items():
        row["wall measured"] = (read(REPORTS / profile / "stamps" / f"{name}.done.json") or {}).get("seconds")
    return {"profile": profile, "device": compute.describe(), "workers": count, "missing": fetch.missing(loaded),
            "unknown": unknown, "sets": sets(known, store), "chapters": told, "disk": disk(made, known, store),
            "paper": paper.larger(loaded, store, prices) if total(told, "wall") > paper.LONG else {},
            "prices": {f"{one.kind} {one.details}": price for one, price in sorted(prices.items())}}


def measured(store: Store, device: str, wanted: Units, count: int, probe: float) -> tuple[dict[Unit, float], dict[str, str]]:
    """The price of each unit, and why some have none: all of them a moment, then the dearest for longer."""
    prices, unknown, took, share = {}, {}, {}, probe / 2 / DEAR
    with progress.track("measure this machine", len(wanted)) as bar:
        for one in wanted:
            began = time.monotonic()
            try:
                prices[one] = price(store, device, one, count, probe / 2 / len(wanted))
            except (rates.Unknown, GeneratorError) as error:
                unknown[one.kind] = str(error).splitlines()[0]
            took[one] = time.monotonic() - began
            bar.add(1, f"{one.kind} {took[one]:.1f} s")
    for one in sorted(prices, key=lambda one: -prices[one] * wanted[one])[:DEAR]:
        if took[one] < share:
            prices[one] = price(store, device, one, count, share)
    return prices, unknown


def price(store: Store, device: str, one: Unit, count: int, seconds: float) -> float:
    """One unit, by as many processes at once as the study will have, since they slow each other."""
    given = (str(store.root), device, one, seconds)
    if count == 1 or workers.here():
        return rates.price(*given)
    tasks = [workers.processes(count).submit(rates.price, *given) for _ in range(count)]
    return sum(task.result() for task in wait(tasks).done) / count


def chapter(name: str, recipes: list[ArtifactSpec], known: Known, prices: dict[Unit, float], store: Store, count: int) -> dict:
    """A chapter from nothing and as it stands, and what was measured of those of its artifacts that are there."""
    spent = hours.spent(recipes, known.count, prices, count)
    there = {one.key: store.share(one) for one in recipes}
    absent = [one for one in recipes if there[one.key] < 1]
    if all(one.key in known.guessed for one in absent):  # the run has found out what these were
        absent = []
    left = {one.key: spent[one.key] * (1 - there[one.key]) for one in absent}
    whole = [one for one in recipes if there[one.key] == 1]
    own = hours.own(name, known, prices)
    return {"amounts": amounts(recipes, known), "work": sum(spent.values()), "wall": own + hours.wall(recipes, spent, count),
            "work left": sum(left.values()), "wall left": hours.wall(absent, left, count) + own * bool(absent),
            "of it measured": sum(spent[one.key] for one in whole), "work measured": sum(map(store.seconds, whole))}


def amounts(recipes: list[ArtifactSpec], known: Known) -> dict[str, int]:
    """Images, steps, updates and noise predictions of a chapter."""
    found = Counter()
    for one, amount in units.total(recipes, known.count).items():
        if one.kind in SHOWN:
            found[SHOWN[one.kind]] += round(amount / (one.about["batch"] if "steps" in SHOWN[one.kind] else 1))
    return dict(found)


def sets(known: Known, store: Store) -> dict[str, dict]:
    """The image sets: how many images, in how many steps of the sampler, and whether they are there."""
    return {name: {"images": units.count(one), "sampler steps": one.settings.get("sampler", {}).get("num_inference_steps", 0),
                   "state": store.state(one)} for name, one in {**known.real, **known.sets}.items()}


def disk(made: dict[str, list[ArtifactSpec]], known: Known, store: Store) -> dict[str, float]:
    """Gigabytes of all artifacts, and of those that are not there."""
    every = [one for recipes in made.values() for one in recipes]
    size = {one.key: units.size(one, known.count) / 1e9 for one in every}
    return {"all": sum(size.values()), "left": sum(size[one.key] * (1 - store.share(one)) for one in every)}


def total(told: dict[str, dict], column: str) -> float:
    """The sum of a column; nothing where a chapter has none."""
    return sum(row[column] or 0 for row in told.values())


# --- what is shown ----------------------------------------------------------------------------------------------------------

def table(found: dict) -> list[str]:
    """The plan as lines for a terminal."""
    told, count = found["chapters"], found["workers"]
    every = {**told, "all": {column: total(told, column) for column in COLUMNS}}
    return [f"{found['profile']} on {found['device']}, {count} process{'es' * (count > 1)} side by side", "",
            f"{'set':15}{'images':>10}{'sampler steps':>15}   state",
            *(f"{name:15}{row['images']:>10,}{row['sampler steps'] or '–':>15}   {row['state']}"
              for name, row in found["sets"].items()),
            "", f"{'chapter':19}" + "".join(f"{head:>13}" for head in COLUMNS.values()),
            *(line(name, row) for name, row in every.items()), "", *LEGEND, "",
            f"in all {every['all']['wall'] / 3600:.1f} hours by the clock, {every['all']['work'] / 3600:.1f} "
            f"{'GPU' if found['device'].startswith('cuda') else 'processor'}-hours of work",
            f"disk: {found['disk']['all']:.1f} GB, of which {found['disk']['left']:.1f} GB are not there yet",
            *([f"missing: {what}" for what in found["missing"]] or ["missing: nothing"]),
            *(f"not reckoned: {kind}: {why}" for kind, why in found["unknown"].items()), *paper.lines(found["paper"])]


def line(name: str, row: dict) -> str:
    """One chapter."""
    said = ", ".join(f"{number:,} {what}" for what, number in row.get("amounts", {}).items())
    cells = [progress.clock(row[key]) if row[key] else "–" for key in COLUMNS]
    return (f"{name:19}" + "".join(f"{cell:>13}" for cell in cells) + f"   {said}").rstrip()


def main(arguments: list[str] | None = None) -> int:
    """`python -m lib.plan --profile world`."""
    parser = argparse.ArgumentParser(prog="python -m lib.plan", description=__doc__)
    parser.add_argument("--profile", default="world")
    parser.add_argument("--seconds", type=float, default=PROBE, help="of measuring; more are more exact")
    wanted = parser.parse_args(arguments)
    profile = wanted.profile
    try:
        found = plan(profile, wanted.seconds)
        (REPORTS / profile).mkdir(parents=True, exist_ok=True)
        write_json(REPORTS / profile / "plan.json", found)
    except (SettingsError, StoreError, ValueError, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print("\n".join(table(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
