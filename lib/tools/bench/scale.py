"""The soak: 1 and 2 workers on 16, 64 and 256 images through inversion, sampling and training, each from nothing in a process of
its own; seconds and peak memory of every step, as a figure in reports/bench.

`ours` is the exponent of time over images, all steps together (1 is linear); `equal` says that it is at most 1.1, that the main
process needs at most 1.2 times the memory for 16 times the images, and that two workers use at least 0.8 of two cores.
"""

import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd

from lib import world
from lib.classifier import comparison
from lib.core import executor as schedule
from lib.core.config import load
from lib.core.paths import REPORTS, ROOT
from lib.core.store import ArtifactSpec, Store
from lib.data import imageset as images
from lib.data import real as real_data
from lib.diffusion import embeddings, sets
from lib.report import figures

IMAGES, SCALES, WORKERS, SHARD = 16, (1, 4, 16), (1, 2), 8
TRAINING = SimpleNamespace(
    arms=["real", "real+sd"],
    base_width=16,
    batch_size=16,
    lr=0.05,
    label_smoothing=0.1,
    architecture="resnet8",
)
DATA = {"classes": list(world.CLASSES), "resolution": 32, "flip": True}


def run() -> dict:
    """Every combination; the figure; what became of the three bounds."""
    rows = pd.DataFrame([row for workers in WORKERS for scale in SCALES for row in measured(workers, scale)])
    total = rows.groupby(["workers", "images"])["seconds"].sum()
    slope = {workers: exponent(total[workers]) for workers in WORKERS}
    steps = {step: round(max(exponent(one.set_index("images")["seconds"]) for _, one in part.groupby("workers")), 2)
             for step, part in rows.groupby("step")}
    main = rows.groupby(["workers", "images"])["main process, MB"].max().unstack()
    memory = float((main[max(main)] / main[min(main)]).max())
    efficiency = float(total[1].iloc[-1] / total[2].iloc[-1] / 2)
    bounds = {"ours": round(max(slope.values()), 2), "memory": round(memory, 2), "efficiency": round(efficiency, 2)}
    drawn(rows, bounds)
    return {"unit": "exponent of time over images", "reference": 1, **bounds, "steps": steps,
            "equal": max(slope.values()) <= 1.1 and memory <= 1.2 and efficiency >= 0.8,
            "what": f"{IMAGES} to {IMAGES * max(SCALES)} images, figure: reports/bench/figures/scale_images.svg"}


def exponent(seconds: pd.Series) -> float:
    """Slope of log time over log images (the index)."""
    return float(np.polyfit(np.log(seconds.index), np.log(seconds), 1)[0])


def measured(workers: int, scale: int) -> list[dict]:
    """The rows of one combination, from a process of its own."""
    command = [sys.executable, "-m", "lib.tools.bench.scale", str(workers), str(scale)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def soak(workers: int, scale: int) -> list[dict]:
    """Make everything step by step; the workers have loaded their models before, on images of another seed."""
    with tempfile.TemporaryDirectory() as folder:
        store, rows = Store(folder, workers), []
        for _ in steps(store, 2 * SHARD, 1):
            pass
        for name, seconds, recipes in steps(store, IMAGES * scale, 0):
            made = [store.found(recipe).manifest["made"] for recipe in recipes]
            rows.append({"workers": workers, "images": IMAGES * scale, "step": name, "seconds": round(seconds, 2),
                         "main process, MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
                         "workers, MB": max(one["peak_memory_mb"] for one in made)})
    return rows


def steps(store: Store, count: int, seed: int):
    """Name, seconds and recipes of each step in turn."""
    profile = load("world")
    study = profile.study.model_copy(update={"seed": seed})
    inversion = profile.inversion.model_copy(update={"count": count, "steps": 8, "batch": SHARD, "shard": SHARD, "images": count,
                                                     "sampler_steps": 4, "measured": 2})
    generation = profile.generation.model_copy(update={"images": count, "batch": SHARD // 4, "steps": 4})
    real = real_data.real_images({"source": "world", "root": "", "resolution": 32, "shard": SHARD, "fingerprint": "",
                         "split": "train",
                         "count": count}, seed)
    yield timed(store, "rendering", [real])
    inverted = embeddings.specs(inversion, study, DATA, real, images.load(store.make(real)).labels)
    yield timed(store, "inversion", [inverted["embeddings"]])
    prompted = sets.prompted_spec(generation, study, DATA)
    yield timed(store, "sampling", [inverted["di"], prompted])
    arms = comparison.specs_of(TRAINING, study, 2 * count // TRAINING.batch_size, True, {"real": real, "sd": prompted})
    yield timed(store, "training", [one for seeds in arms.values() for one in seeds])


def timed(store: Store, name: str, recipes: list[ArtifactSpec]) -> tuple[str, float, list[ArtifactSpec]]:
    """How long it takes to make these."""
    began = time.perf_counter()
    schedule.make(store, recipes)
    return name, time.perf_counter() - began, recipes


def drawn(rows: pd.DataFrame, bounds: dict) -> None:
    """Seconds and memory over images."""
    figures.begin(REPORTS / "bench", "scale")
    fig, (left, right) = figures.figure(1, 2, "full", 400)
    for i, (step, part) in enumerate(rows.groupby("step", sort=False)):
        for workers, one in part.groupby("workers"):
            left.plot(one["images"], one["seconds"], color=f"C{i}", marker="o", ls="-" if workers == 1 else "--",
                      label=f"{step}, {workers} worker{'s' * (workers > 1)}")
    for workers, one in rows.groupby("workers"):
        peak = one.groupby("images")[["main process, MB", "workers, MB"]].max()
        for i, name in enumerate(peak):
            right.plot(peak.index, peak[name], color=f"C{i}", marker="o", ls="-" if workers == 1 else "--",
                       label=f"{name.partition(',')[0]} of {workers}" if i else f"main process, {workers} at work")
    left.set(xscale="log", yscale="log", ylabel="seconds")
    right.set(xscale="log", ylabel="peak memory, MB", ylim=(0, 1.1 * rows[["main process, MB", "workers, MB"]].max().max()))
    for ax in (left, right):
        ax.minorticks_off()
        ax.set_xticks(sorted(set(rows["images"])), [str(n) for n in sorted(set(rows["images"]))])
        ax.set_xlabel("images")
        ax.legend(fontsize=7, ncols=2, loc="upper left", bbox_to_anchor=(0, -0.25))  # below, where it hides nothing
    kept = bounds["ours"] <= 1.1 and bounds["memory"] <= 1.2 and bounds["efficiency"] >= 0.8
    caption = (f"Time grows as images to the power {bounds['ours']}; 16 times the images need {bounds['memory']} times the "
               f"memory of the main process; two workers use {bounds['efficiency']:.0%} of two cores. "
               f"{'All bounds are' if kept else 'Not every bound is'} kept (1.1, 1.2, 80%).")
    with contextlib.redirect_stdout(io.StringIO()):  # outside a notebook it would print the page's markup
        figures.show(fig, "images", caption, "Seconds of each step over images on logarithmic axes; peak memory.", rows)


if __name__ == "__main__":
    said = soak(*map(int, sys.argv[1:]))
    print(json.dumps(said))
