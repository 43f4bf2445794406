"""What a notebook holds while it runs: its settings, the store, upstream results, and where it writes."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lib import compute, progress, schedule, settings
from lib.data import images
from lib.data.images import ImageSet
from lib.paths import REPORTS
from lib.report import figures
from lib.settings import RUN
from lib.store import Recipe, Store, write_json


class NotebookError(RuntimeError):
    """A notebook that lacks what it needs; the message says which command makes it."""


class Notebook:
    """One run of one notebook."""

    def __init__(self, name: str, profile: str, study: settings.Study, section: settings.Section | None):
        self.name, self.profile, self.study, self.settings = name, profile, study, section
        self.store, self.out = Store(study.store, study.workers, study.engine), REPORTS / profile
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

    def recipes(self, name: str) -> dict[str, Recipe]:
        """The artefacts that an earlier notebook named."""
        return {label: Recipe.from_json(tree) for label, tree in self.result(name)["recipes"].items()}

    def make(self, *recipes: Recipe | Iterable[Recipe]) -> None:
        """Artefacts and all that they are made from, side by side where the machine has room."""
        schedule.make(self.store, [each for given in recipes for each in ([given] if isinstance(given, Recipe) else given)])

    def load(self, recipe: Recipe) -> ImageSet:
        """The image set of a recipe, made first where it is not whole."""
        return images.load(self.store.make(recipe))

    def close(self, findings: list[str], recipes: dict[str, Recipe], numbers: dict[str, Any]) -> None:
        """Show the findings, artefacts and time, and leave them as the notebook's result."""
        seconds = round(time.monotonic() - self.began, 1)
        for text in findings:
            figures.finding(text)
        made = ", ".join(f"{label} {recipe.key[:8]}" for label, recipe in recipes.items()) or "none"
        figures.say(f"Artefacts: {made}. Time: {progress.clock(seconds)} on {compute.describe()}.")
        folder = self._results(RUN in os.environ)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{self.name}.json", {
            "notebook": self.name, "profile": self.profile, "seconds": seconds, "device": compute.describe(),
            "findings": findings, "numbers": numbers, "recipes": {k: r.to_json() for k, r in recipes.items()}})

    def _results(self, run: bool) -> Path:
        """Results of `make` are the study's; what is explored by hand stays apart from them."""
        return self.out / ("results" if run else "scratch/results")


def begin(name: str, variables: dict[str, Any]) -> Notebook:
    """Check the parameters of a notebook (pass `globals()`) and open what it works with."""
    study, section = settings.section(name, variables)
    notebook = Notebook(name, variables["profile"], study, section)
    figures.begin(notebook.out if RUN in os.environ else notebook.out / "scratch", name)
    if RUN not in os.environ:
        print(f"explored by hand: results and figures go to reports/{notebook.profile}/scratch", file=sys.stderr)
    return notebook
