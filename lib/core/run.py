"""What the Makefile calls: run a notebook through papermill; status."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from traitlets.config import Config

from lib.core import config as settings
from lib.core import progress
from lib.core.config import RUN, SettingsError
from lib.core.freshness import names, stamps, why_stale
from lib.core.paths import NOTEBOOKS, REPORTS, ROOT
from lib.core.store import StoreError, locked, read_json, write_json
from lib.report import ReportError

# nobody else on the machine reads what the kernel sends
PRIVATE = Config(KernelManager={"transport_encryption": "auto"})


class RunError(RuntimeError):
    """A run that cannot start or did not end well; the last lines say where to look."""


# one notebook


def notebook(name: str, profile: str) -> None:
    """Run one notebook; a second run of it waits and then finds all work in the store."""
    settings.load(profile)
    with locked(REPORTS / profile / "locks" / name):
        stamp = read_json(REPORTS / profile / "stamps" / f"{name}.json") or {}
        execute(name, profile, {"profile": profile}, stamp)


def execute(name: str, profile: str, parameters: dict[str, Any], stamp: dict[str, Any]) -> None:
    """Into `.partial.ipynb`; only a notebook that ran to its end gets its name."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    out, began = REPORTS / profile / "notebooks", time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    partial, failed = out / f"{name}.partial.ipynb", out / f"{name}.failed.ipynb"
    options = {"progress_bar": False, "cwd": ROOT, "config": PRIVATE}
    try:
        with watched(name):
            papermill.execute_notebook(NOTEBOOKS / f"{name}.ipynb", partial, parameters, **options)
    except (PapermillExecutionError, DeadKernelError, KeyboardInterrupt) as error:
        if partial.exists():
            partial.replace(failed)
        raise RunError(_failure(name, error, failed)) from None
    failed.unlink(missing_ok=True)
    seconds = round(time.monotonic() - began, 1)
    result = read_json(REPORTS / profile / "results" / f"{name}.json") or {}
    artifacts = result.get("artifacts", stamp.get("artifacts", {}))  # the kernel knows the images
    done = stamp | {"artifacts": artifacts, "seconds": seconds}
    write_json(REPORTS / profile / "stamps" / f"{name}.done.json", done)
    partial.replace(out / f"{name}.ipynb")
    print(f"✓ {name} in {progress.clock(seconds)}", file=sys.stderr, flush=True)


def _failure(name: str, error: BaseException, failed: Path) -> str:
    """The cell's error, the file, and the way to reopen it."""
    shown = failed.relative_to(ROOT) if failed.is_relative_to(ROOT) else failed
    if isinstance(error, KeyboardInterrupt):
        cause = "was interrupted"
    elif type(error).__name__ == "DeadKernelError":
        cause = "failed: the kernel died (killed, or out of memory)"
    else:
        cause = f"failed in cell {error.exec_count}: {error.ename}: {_last_lines(error.evalue)}"
    return f"{name} {cause}\nfile:    {shown}\nreopen:  make lab NOTEBOOK={shown}"


def _last_lines(text: str, count: int = 8) -> str:
    """Of a long message: they name the file."""
    lines = text.splitlines()
    return text if len(lines) <= count else "\n".join(["…", *lines[-count:]])


@contextlib.contextmanager
def watched(name: str) -> Iterator[None]:
    """The environment of a kernel; prints the progress that it reports for as long as it runs."""
    REPORTS.mkdir(exist_ok=True)
    _remove_orphans()
    state, stop = REPORTS / f".progress.{os.getpid()}", threading.Event()
    state.write_bytes(b"")  # of an ended process with the same number, lines could be left
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve under make -j
    os.environ.pop("MPLBACKEND", None)  # the notebook's own; a user's would stop it
    ipython = tempfile.mkdtemp(prefix="ipython-")  # no start-up files of the user's IPython
    python_path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ |= {progress.STATE: str(state), RUN: "1", "IPYTHONDIR": ipython}
    os.environ["PYTHONPATH"] = os.pathsep.join(python_path)
    watcher = threading.Thread(target=_watch, args=(name, state, stop))
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
        state.unlink(missing_ok=True)
        shutil.rmtree(ipython, ignore_errors=True)


def _remove_orphans() -> None:
    """Progress files of processes that were killed."""
    for path in REPORTS.glob(".progress.*"):
        try:
            os.kill(int(path.suffix[1:]), 0)
        except (ProcessLookupError, ValueError):
            path.unlink(missing_ok=True)
        except PermissionError:
            continue  # another user's process is alive


def _watch(name: str, state: Path, stop: threading.Event) -> None:
    """Final lines stay, others renew themselves: at once on a terminal, every 10 s in a log."""
    terminal, shown = sys.stderr.isatty(), time.monotonic()
    with state.open(encoding="utf-8") as file:
        while True:
            ending = stop.wait(0.3)
            for line in [json.loads(line) for line in file.readlines()]:
                if line["final"] or terminal or time.monotonic() - shown > 10:
                    shown = time.monotonic()
                    stays = line["final"] or not terminal
                    _print(f"  {name} · {line['text']}", terminal, stays)
            if ending:
                return _print("", terminal, stays=False)


def _print(text: str, terminal: bool, stays: bool) -> None:
    """On a terminal a line takes the place of the one before that did not stay."""
    if terminal:
        text = f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}"
    print(text, end="\n" if stays else "", file=sys.stderr, flush=True)


# the whole study


def status(profile: str) -> list[str]:
    """Of each notebook whether it is fresh and, if not, why; of its artifacts what is there."""
    from lib.core.plan import PlannedStudy, new_specs

    study = PlannedStudy(settings.load(profile), profile)
    specs, now, lines, stale = dict(new_specs(study)), stamps(study), [], []
    for name in [*names()[1:], names()[0], "report"]:
        why = why_stale(name, profile, now[name])
        why = why or (f"after {stale[0]}, which is not fresh" if stale else "")
        stale += [name] * bool(why)
        lines.append(f"{'report.html' if name == 'report' else name:18} {why or 'fresh'}")
        by_kind: dict[str, Counter] = {}
        for spec in specs.get(name, []):
            by_kind.setdefault(spec.kind, Counter())[study.store.state(spec)] += 1
        for kind, states in by_kind.items():
            counts = ", ".join(f"{count} {state}" for state, count in states.items())
            lines.append(f"  {kind:28} {counts}")
    return lines


def main(arguments: list[str] | None = None) -> int:
    """`python -m lib.core.run notebook NAME|status --profile world`."""
    parser = argparse.ArgumentParser(prog="python -m lib.core.run", description=__doc__)
    parser.add_argument("command", choices=["notebook", "status"])
    parser.add_argument("name", nargs="?", help="notebook, e.g. 04_training")
    parser.add_argument("--profile", default="world")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended from outside: as Ctrl-C
    try:
        _dispatch(options.command, options.name, options.profile)
    except (SettingsError, RunError, StoreError, ReportError, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from what was made", file=sys.stderr)
        return 130
    return 0


def _dispatch(command: str, name: str | None, profile: str) -> None:
    if command == "notebook":
        if name not in names():
            raise RunError(f"no notebook named {name!r}; there are {', '.join(names())}")
        notebook(name, profile)
    else:
        print("\n".join(status(profile)))


if __name__ == "__main__":
    sys.exit(main())
