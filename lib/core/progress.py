"""Progress: which step, how far, how long still; one line that renews itself, one that stays.

Under `make` a notebook's kernel leaves its state in the file that the environment names, and
lib/core/run.py prints it on the terminal; in JupyterLab it is printed below the cell.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lib.core import workers

STATE = "STUDY_PROGRESS"  # environment: the file to leave the state in
EVERY = 0.5  # seconds between two updates


class Bar:
    """A count that knows its total and when it began."""

    def __init__(self, step: str, total: int, start: int = 0, quiet: bool = False):
        self.step, self.total, self.done, self.start = step, total, start, start
        self.quiet = (
            quiet or workers.here()
        )  # of several at once, who handed the work out tells how far it is
        self.began, self.shown = time.monotonic(), 0.0

    def add(self, n: int = 1, note: str = "") -> None:
        """n more are done."""
        self.done += n
        if (
            self.total
            and not self.quiet
            and (time.monotonic() - self.shown > EVERY or self.done >= self.total)
        ):
            self.shown = time.monotonic()
            _show(self.line(note), final=False)

    def line(self, note: str = "") -> str:
        """`fit real, seed 2 · 300/900 · 1:04 left`."""
        spent, count = time.monotonic() - self.began, self.done - self.start
        left = (
            f" · {clock(spent / count * (self.total - self.done))} left"
            if count and self.done < self.total
            else ""
        )
        return f"{self.step} · {self.done}/{self.total}{left}{' · ' + note if note else ''}"


@contextmanager
def track(step: str, total: int, start: int = 0, quiet: bool = False) -> Iterator[Bar]:
    """`with track("fit", 900) as bar: bar.add(1)`; leaves a line with the time it took."""
    bar = Bar(step, total, start, quiet)
    bar.add(0)
    yield bar
    if not bar.quiet:
        _show(f"{step} · {bar.done} in {clock(time.monotonic() - bar.began)}", final=True)


def each(step: str, items: Iterable, total: int | None = None) -> Iterator:
    """The items, counted as they pass."""
    items = list(items) if total is None else items
    with track(step, total if total is not None else len(items)) as bar:
        for item in items:
            yield item
            bar.add(1)


def say(text: str) -> None:
    """A line that stays: something was mended, skipped, or is being waited for."""
    _show(text, final=True)


def clock(seconds: float) -> str:
    """`1:04`, `2:03:00`."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _show(text: str, final: bool) -> None:
    """To the watching process where there is one, else to standard error."""
    path = os.environ.get(STATE)
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"text": text, "final": final}) + "\n")
    elif final:
        print(f"\r{text:<79}", file=sys.stderr, flush=True)
    elif sys.stderr.isatty() or "ipykernel" in sys.modules:
        print(f"\r{text[:79]:<79}", end="", file=sys.stderr, flush=True)
