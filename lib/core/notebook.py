"""What a notebook holds while it runs: its settings, the store, upstream results, and where it writes."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lib.core import compute, freshness, precision, progress
from lib.core import config as settings
from lib.core import executor as schedule
from lib.core.config import RUN
from lib.core.paths import REPORTS
from lib.core.store import ArtifactSpec, Store, write_json
from lib.data import imageset as images
from lib.data.imageset import ImageSet
from lib.report import figures


class NotebookError(RuntimeError):
    """A notebook that lacks what it needs; the message says which command makes it."""


class Chapter:
    """One run of one notebook: where its results lie, and those of the chapters before it. Base of `lib.study.Study`."""

    def __init__(self, config: settings.Settings, profile: str = "", chapter: str = "", planning: bool = False):
        self.config, self.profile, self.name, self.planning = config, profile, chapter, planning
        self.store = Store(config.study.store, config.study.workers, config.study.engine)
        self.config = precision.resolved(self.store, config)
        self.out = REPORTS / profile
        self.began = time.monotonic()

    def result(self, name: str) -> dict[str, Any]:
        """What an earlier notebook left: `results`, and when and on what it ran."""
        paths = [folder / f"{name}.json" for folder in (self.results_folder(True), self.results_folder(False))]
        paths = [path for path in (paths[:1] if RUN in os.environ else paths) if path.exists()]
        if not paths:
            raise NotebookError(f"{name} has left no results yet; run `make notebooks PROFILE={self.profile}` first")
        return json.loads(max(paths, key=lambda path: path.stat().st_mtime).read_text(encoding="utf-8"))

    def results_folder(self, made_by_make: bool) -> Path:
        """Results of `make` are the study's; what is explored by hand stays apart from them."""
        return self.out / ("results" if made_by_make else "scratch/results")

    def write_results(self, results: dict[str, Any], specs: dict[str, ArtifactSpec]) -> float:
        """`results/<chapter>.json`; returns the seconds that the notebook took."""
        seconds = round(time.monotonic() - self.began, 1)
        folder = self.results_folder(RUN in os.environ)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{self.name}.json", {
            "notebook": self.name, "profile": self.profile, "seconds": seconds, "device": compute.describe(),
            "settings": self.config.parameters(self.name), "artifacts": freshness.artifact_keys(self.name, self),
            "results": results, "specs": {name: spec.to_json() for name, spec in specs.items()},
            # for notebooks that still read the old names
            "numbers": results, "findings": [], "recipes": {name: spec.to_json() for name, spec in specs.items()}})
        return seconds


class Notebook:
    """One run of one notebook."""

    def __init__(self, name: str, profile: str, study: settings.Study, section: settings.Section | None):
        self.name, self.profile, self.study, self.settings = name, profile, study, section
        self.parameters = study.model_dump() | (section.model_dump() if section else {})
        self.store, self.out = Store(study.store, study.workers, study.engine), REPORTS / profile
        self.study = study.model_copy(update={"precision": precision.decide(self.store, study)})
        self.began = time.monotonic()

    def result(self, name: str) -> dict[str, Any]:
        """What an earlier notebook found: `recipes`, `numbers`, `findings`."""
        found = [p for p in (self._results(run=True) / f"{name}.json", self._results(run=False) / f"{name}.json")
                 if p.exists()]
        if RUN in os.environ:
            found = found[:1]
        if not found:
            raise NotebookError(f"{name} has left no result yet; run `make notebooks PROFILE={self.profile}` first")
        return json.loads(max(found, key=lambda p: p.stat().st_mtime).read_text(encoding="utf-8"))

    def recipes(self, name: str) -> dict[str, ArtifactSpec]:
        """The artifacts that an earlier notebook named."""
        return {label: ArtifactSpec.from_json(tree) for label, tree in self.result(name)["recipes"].items()}

    def make(self, *recipes: ArtifactSpec | Iterable[ArtifactSpec]) -> None:
        """Artifacts and all that they are made from, side by side where the machine has room."""
        schedule.make(self.store, [each for given in recipes for each in ([given] if isinstance(given, ArtifactSpec) else given)])

    def load(self, recipe: ArtifactSpec) -> ImageSet:
        """The image set of a recipe, made first where it is not whole."""
        return images.load(self.store.make(recipe))

    def close(self, findings: list[str], recipes: dict[str, ArtifactSpec], numbers: dict[str, Any]) -> None:
        """Show the findings, artifacts and time, and leave them as the notebook's result."""
        seconds = round(time.monotonic() - self.began, 1)
        for text in findings:
            figures.finding(text)
        made = ", ".join(f"{label} {recipe.key[:8]}" for label, recipe in recipes.items()) or "none"
        figures.say(f"Artifacts: {made}. Time: {progress.clock(seconds)} on {compute.describe()}.")
        folder = self._results(RUN in os.environ)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{self.name}.json", {
            "notebook": self.name, "profile": self.profile, "seconds": seconds, "device": compute.describe(),
            "settings": self.parameters, "findings": findings, "numbers": numbers, "results": numbers,
            "recipes": {name: spec.to_json() for name, spec in recipes.items()}})

    def _results(self, run: bool) -> Path:
        """Results of `make` are the study's; what is explored by hand stays apart from them."""
        return self.out / ("results" if run else "scratch/results")


def begin(name: str, variables: dict[str, Any]) -> Notebook:
    """Resolve the parameters of a notebook (pass `globals()`) and open what it works with."""
    resolved = settings.resolve(name, variables)
    section = getattr(resolved.config, settings.section_of(name), None)
    variables.update(resolved.config.parameters(name))  # for cells that still read them by name
    notebook = Notebook(name, resolved.profile, resolved.config.study, section)
    figures.begin(notebook.out if RUN in os.environ else notebook.out / "scratch", name)
    announce(resolved)
    return notebook


def announce(resolved: settings.Resolved) -> None:
    """Say in JupyterLab and on the page what is not as in the profile, and where results go."""
    if resolved.changes:
        figures.say(f"This run {resolved}.")
    if RUN not in os.environ:
        print(f"run by hand: results and figures go to reports/{resolved.profile}/scratch", file=sys.stderr)
