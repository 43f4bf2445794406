"""1 and 2 workers on 16, 64 and 256 images through inversion, sampling and training.

Each combination runs from scratch in a process of its own; seconds and peak memory of every step
are drawn in reports/bench. `ours` is the exponent of time over images (1 is linear); `equal`: it is
at most 1.1, the main process needs at most 1.2 times the memory for 16 times the images, and two
workers use at least 0.8 of two cores.
"""

import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import pandas as pd

from lib import world
from lib.classifier import comparison
from lib.core import executor
from lib.core.config import load
from lib.core.paths import REPORTS, ROOT
from lib.core.store import ArtifactSpec, Store
from lib.data import imageset, real
from lib.diffusion import embeddings, sets
from lib.report import figures

IMAGES, SCALES, WORKERS, SHARD = 16, (1, 4, 16), (1, 2), 8
TRAINING = {"arms": ["real", "real+sd"], "base_width": 16, "batch_size": 16, "lr": 0.05,
            "architecture": "resnet8"}
DATA = {"classes": list(world.CLASSES), "resolution": 32, "flip": True}
MAIN, WORKER = "main process, MB", "workers, MB"
Step = tuple[str, float, list[ArtifactSpec]]


def run() -> dict:
    """Every combination, the figure, and the three bounds."""
    rows = pd.DataFrame([row for workers in WORKERS for scale in SCALES
                         for row in measure_in_process(workers, scale)])
    total = rows.groupby(["workers", "images"])["seconds"].sum()
    peak = rows.groupby(["workers", "images"])[MAIN].max().unstack()
    slope = max(exponent(total[workers]) for workers in WORKERS)
    steps = {step: round(max(exponent(group.set_index("images")["seconds"])
                             for _, group in part.groupby("workers")), 2)
             for step, part in rows.groupby("step")}
    memory = float((peak[max(peak)] / peak[min(peak)]).max())
    efficiency = float(total[1].iloc[-1] / total[2].iloc[-1] / 2)
    draw(rows)
    return {"unit": "exponent of time over images", "reference": 1, "ours": round(slope, 2),
            "memory": round(memory, 2), "efficiency": round(efficiency, 2), "steps": steps,
            "equal": slope <= 1.1 and memory <= 1.2 and efficiency >= 0.8,
            "what": f"{IMAGES} to {IMAGES * max(SCALES)} images, reports/bench/figures"}


def exponent(seconds: pd.Series) -> float:
    """Slope of log time over log images (the index)."""
    return float(np.polyfit(np.log(seconds.index), np.log(seconds), 1)[0])


def measure_in_process(workers: int, scale: int) -> list[dict]:
    """The rows of one combination."""
    command = [sys.executable, "-m", "lib.tools.bench.scale", str(workers), str(scale)]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(output.stdout)


def measure(workers: int, scale: int) -> list[dict]:
    """Make everything step by step; a first pass on another seed lets workers load their models."""
    with tempfile.TemporaryDirectory() as folder:
        store, rows = Store(folder, workers), []
        for _ in steps(store, 2 * SHARD, 1):
            pass
        for name, seconds, specs in steps(store, IMAGES * scale, 0):
            peaks = [store.found(spec).manifest["made"]["peak_memory_mb"] for spec in specs]
            main = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            rows.append({"workers": workers, "images": IMAGES * scale, "step": name,
                         "seconds": round(seconds, 2), MAIN: round(main), WORKER: max(peaks)})
    return rows


def steps(store: Store, count: int, seed: int) -> Iterator[Step]:
    """Name, seconds and specs of each step in turn."""
    profile = load("world")
    study = profile.study.model_copy(update={"seed": seed, "precision": "float32"})
    inversion = profile.inversion.model_copy(update={
        "num_embedded": count, "max_train_steps": 8, "batch_size": SHARD, "shard_size": SHARD,
        "num_images": count, "num_inference_steps": 4, "eval_images": 2})
    generation = profile.generation.model_copy(update={
        "num_images": count, "batch_size": SHARD // 4, "num_inference_steps": 4})
    training = profile.training.model_copy(update=TRAINING)
    train = real.real_images({"source": "world", "root": "", "resolution": 32, "shard": SHARD,
                              "fingerprint": "", "split": "train", "count": count}, seed)
    yield timed(store, "rendering", [train])
    labels = imageset.load(store.make(train)).labels
    inverted = embeddings.specs(inversion, study, DATA, train, labels)
    yield timed(store, "inversion", [inverted["embeddings"]])
    prompted = sets.prompted_spec(generation, study, DATA)
    yield timed(store, "sampling", [inverted["di"], prompted])
    classifiers = comparison.specs_of(training, study, 2 * count // training.batch_size, True,
                                      {"real": train, "sd": prompted})
    yield timed(store, "training", [spec for seeds in classifiers.values() for spec in seeds])


def timed(store: Store, name: str, specs: list[ArtifactSpec]) -> Step:
    """How long it takes to make these."""
    began = time.perf_counter()
    executor.make(store, specs)
    return name, time.perf_counter() - began, specs


def draw(rows: pd.DataFrame) -> None:
    """Seconds and memory over images."""
    figures.begin(REPORTS / "bench", "scale")
    fig, (left, right) = figures.figure(1, 2, "full", 400)
    styles = dict(zip(WORKERS, ("-", "--"), strict=True))
    for i, (step, part) in enumerate(rows.groupby("step", sort=False)):
        for workers, group in part.groupby("workers"):
            left.plot(group["images"], group["seconds"], color=f"C{i}", marker="o",
                      ls=styles[workers], label=f"{step}, workers: {workers}")
    for workers, group in rows.groupby("workers"):
        for i, (name, peak) in enumerate(group.groupby("images")[[MAIN, WORKER]].max().items()):
            right.plot(peak.index, peak, color=f"C{i}", marker="o", ls=styles[workers],
                       label=f"{name.partition(',')[0]}, workers: {workers}")
    left.set(xscale="log", yscale="log", ylabel="seconds")
    right.set(xscale="log", ylabel="peak memory (MB)", ylim=(0, None))
    for axis in (left, right):
        axis.minorticks_off()
        axis.set_xticks(sorted(set(rows["images"])), [str(n) for n in sorted(set(rows["images"]))])
        axis.set_xlabel("images")
        axis.legend(fontsize=7, ncols=2, loc="upper left", bbox_to_anchor=(0, -0.25))
    with contextlib.redirect_stdout(io.StringIO()):  # outside a notebook it would print markup
        figures.show(fig, "images", "Seconds and peak memory of each step over images.",
                     "Seconds of each step on logarithmic axes; peak memory.", rows)


if __name__ == "__main__":
    print(json.dumps(measure(*map(int, sys.argv[1:]))))
