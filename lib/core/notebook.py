"""One run of one notebook: its settings, the store, the results of other chapters, and its own."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from lib.core import compute, freshness, precision
from lib.core.config import RUN, Settings
from lib.core.paths import REPORTS
from lib.core.store import ArtifactSpec, Store, write_json


class NotebookError(RuntimeError):
    """A notebook that lacks what it needs; the message says which command makes it."""


class Chapter:
    """Where a notebook's results are, and those of the chapters before it. Base of `Study`."""

    chapters: dict[str, list[ArtifactSpec]] = {}

    def __init__(self, config: Settings, profile: str = "", chapter: str = ""):
        self.profile, self.name = profile, chapter
        self.store = Store(config.study.store, config.study.workers, config.study.engine)
        self.config = precision.resolved(self.store, config)
        self.out = REPORTS / profile
        self.began = time.monotonic()

    def result(self, name: str) -> dict[str, Any]:
        """What an earlier notebook left: `results`, and when and on what it ran."""
        folders = [self.results_folder(True), self.results_folder(False)]
        paths = [folder / f"{name}.json" for folder in folders]
        paths = [path for path in (paths[:1] if RUN in os.environ else paths) if path.exists()]
        if not paths:
            raise NotebookError(
                f"{name} has left no results yet; run `make notebooks PROFILE={self.profile}` first"
            )
        newest = max(paths, key=lambda path: path.stat().st_mtime)
        return json.loads(newest.read_text(encoding="utf-8"))

    def results_folder(self, by_make: bool) -> Path:
        """Results of `make` are the study's; what is explored by hand stays apart from them."""
        return self.out / ("results" if by_make else "scratch/results")

    def write_results(self, results: dict[str, Any], named: dict[str, ArtifactSpec]) -> float:
        """`results/<chapter>.json`; returns the seconds that the notebook took."""
        seconds = round(time.monotonic() - self.began, 1)
        folder = self.results_folder(RUN in os.environ)
        folder.mkdir(parents=True, exist_ok=True)
        tree = {
            "notebook": self.name,
            "profile": self.profile,
            "seconds": seconds,
            "device": f"{compute.describe()}, {self.config.study.precision}",
            "settings": self.config.parameters(self.name),
            "artifacts": freshness.artifact_keys(self.chapters.get(self.name, [])),
            "results": results,
            "specs": {name: spec.to_json() for name, spec in named.items()},
        }
        write_json(folder / f"{self.name}.json", tree)
        return seconds
