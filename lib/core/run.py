"""What the Makefile calls: validate, run a notebook through papermill, move it into place; status."""

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
from lib.core.freshness import changes, names, page_stamp, read, result_of, stamp
from lib.core.paths import NOTEBOOKS, REPORTS, ROOT
from lib.core.store import StoreError, locked, write_json
from lib.report import ReportError

PRIVATE = Config(KernelManager={"transport_encryption": "auto"})  # nobody else on the machine reads the kernel's talk


class RunError(RuntimeError):
    """A run that cannot start or did not end well; the last lines say where to look."""


# --- running one notebook -------------------------------------------------------------------------------------------

def notebook(name: str, profile: str) -> None:
    """Run one notebook; a second run of it waits and then finds all work in the store."""
    settings.load(profile)
    with locked(REPORTS / profile / "locks" / name):
        seen = read(REPORTS / profile / "stamps" / f"{name}.json") or {}
        execute(name, profile, {"profile": profile}, seen)


def execute(name: str, profile: str, parameters: dict[str, Any], seen: dict[str, Any]) -> None:
    """Into `.partial.ipynb`; only a notebook that ran to its end gets its name."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    out, began = REPORTS / profile / "notebooks", time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    partial, failed = out / f"{name}.partial.ipynb", out / f"{name}.failed.ipynb"
    try:
        with watched(name):
            papermill.execute_notebook(NOTEBOOKS / f"{name}.ipynb", partial, parameters, progress_bar=False, cwd=ROOT,
                                       config=PRIVATE)
    except (PapermillExecutionError, DeadKernelError, KeyboardInterrupt) as error:
        if partial.exists():
            partial.replace(failed)
        raise RunError(_failure(name, error, failed)) from None
    failed.unlink(missing_ok=True)
    seconds = round(time.monotonic() - began, 1)
    result = read(REPORTS / profile / "results" / f"{name}.json") or {}
    artifacts = result.get("artifacts", seen.get("artifacts", {}))  # the kernel knows the images
    done = seen | {"artifacts": artifacts, "seconds": seconds}
    write_json(REPORTS / profile / "stamps" / f"{name}.done.json", done)
    partial.replace(out / f"{name}.ipynb")
    print(f"✓ {name} in {progress.clock(seconds)}", file=sys.stderr, flush=True)


def _failure(name: str, error: BaseException, failed: Path) -> str:
    """The cell's error, the file, and the way to reopen it."""
    shown = failed.relative_to(ROOT) if failed.is_relative_to(ROOT) else failed
    cause = {"PapermillExecutionError": lambda: f"failed in cell {error.exec_count}: {error.ename}: {_short(error.evalue)}",
             "DeadKernelError": lambda: "failed: the kernel died (killed, or out of memory)",
             "KeyboardInterrupt": lambda: "was interrupted"}[type(error).__name__]()
    return f"{name} {cause}\nfile:    {shown}\nreopen:  make lab NOTEBOOK={shown}"


def _short(text: str, lines: int = 8) -> str:
    """The last lines of a long message: they name the file."""
    parts = text.splitlines()
    return text if len(parts) <= lines else "\n".join(["…", *parts[-lines:]])


@contextlib.contextmanager
def watched(name: str) -> Iterator[None]:
    """Print what the kernel says of its progress for as long as it runs."""
    REPORTS.mkdir(exist_ok=True)
    _sweep_up()
    state, stop = REPORTS / f".progress.{os.getpid()}", threading.Event()
    state.write_bytes(b"")  # of an ended process with the same number, lines could be left
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve each other under make -j
    os.environ.pop("MPLBACKEND", None)  # the notebook's own; a user's would stop it
    profile = tempfile.mkdtemp(prefix="ipython-")  # and no start-up files or settings of the user's IPython
    os.environ |= {progress.STATE: str(state), RUN: "1", "IPYTHONDIR": profile,
                   "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    watcher = threading.Thread(target=_watch, args=(name, state, stop))
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
        state.unlink(missing_ok=True)
        shutil.rmtree(profile, ignore_errors=True)


def _sweep_up() -> None:
    """Remove the progress files of processes that were killed."""
    for path in REPORTS.glob(".progress.*"):
        try:
            os.kill(int(path.suffix[1:]), 0)
        except (ProcessLookupError, ValueError):
            path.unlink(missing_ok=True)
        except PermissionError:
            continue  # somebody's process is alive


def _watch(name: str, state: Path, stop: threading.Event) -> None:
    """Final lines stay, others renew themselves: at once on a terminal, every 10 s in a log."""
    terminal, shown = sys.stderr.isatty(), time.monotonic()
    with state.open(encoding="utf-8") as file:
        while True:
            ending = stop.wait(0.3)
            for line in [json.loads(line) for line in file.readlines()]:
                if line["final"] or terminal or time.monotonic() - shown > 10:
                    shown = time.monotonic()
                    _print(f"  {name} · {line['text']}", terminal, stays=line["final"] or not terminal)
            if ending:
                return _print("", terminal, stays=False)


def _print(text: str, terminal: bool, stays: bool) -> None:
    """One line on standard error; on a terminal it takes the place of the one before that did not stay."""
    width = shutil.get_terminal_size().columns - 1
    print(f"\r\033[K{text[:width]}" if terminal else text, end="\n" if stays else "", file=sys.stderr, flush=True)


# --- the whole study ------------------------------------------------------------------------------------------------

def status(profile: str) -> list[str]:
    """For each notebook whether it is fresh and, if not, why; for each kind of its artifacts what is there."""
    from lib import study as studies
    from lib.core import plan

    study, lines, stale = studies.plan(settings.load(profile), profile), [], []
    specs = dict(plan.new_specs(study))
    for name in names()[1:] + names()[:1]:
        why = _why_stale(name, profile, stamp(name, study)) or (f"after {stale[0]}, which is not fresh" if stale else "")
        stale += [name] * bool(why)
        lines.append(f"{name:18} {why or 'fresh'}")
        for kind in dict.fromkeys(spec.kind for spec in specs.get(name, [])):
            states = Counter(study.store.state(spec) for spec in specs[name] if spec.kind == kind)
            lines.append(f"  {kind:28} " + ", ".join(f"{count} {state}" for state, count in states.items()))
    why = f"after {stale[0]}, which is not fresh" if stale else _why_stale("report", profile, page_stamp(study))
    return [*lines, f"{'report.html':18} {why or 'fresh'}"]


def _why_stale(name: str, profile: str, now: dict[str, Any]) -> str:
    """Empty where the last run saw just what stands now."""
    out, target = REPORTS / profile, result_of(name, profile)
    seen = read(out / "stamps" / f"{name}.done.json")
    if (out / "notebooks" / f"{name}.failed.ipynb").exists():
        return f"failed: {name}.failed.ipynb"
    if not seen or not target.exists():
        return "not run yet" if name != "report" else "not written yet"
    if name != "report" and read(out / "results" / f"{name}.json") is None:
        return f"its result is lost: results/{name}.json"
    differing = changes(seen, json.loads(json.dumps(now)))
    return f"stale: {'; '.join(differing)}" if differing else ""


def main(arguments: list[str] | None = None) -> int:
    """`python -m lib.core.run notebook NAME|status --profile world`."""
    parser = argparse.ArgumentParser(prog="python -m lib.core.run", description=__doc__)
    parser.add_argument("command", choices=["notebook", "status"])
    parser.add_argument("name", nargs="?", help="notebook, e.g. 04_training")
    parser.add_argument("--profile", default="world")
    wanted = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended from outside: tidy up as after Ctrl-C
    try:
        _dispatch(wanted)
    except (SettingsError, RunError, StoreError, ReportError, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; what was made is kept, and the same command goes on from there", file=sys.stderr)
        return 130
    return 0


def _dispatch(wanted: argparse.Namespace) -> None:
    if wanted.command == "notebook":
        if wanted.name not in names():
            raise RunError(f"no notebook named {wanted.name!r}; there are {', '.join(names())}")
        notebook(wanted.name, wanted.profile)
    else:
        print("\n".join(status(wanted.profile)))


if __name__ == "__main__":
    sys.exit(main())
