"""What the Makefile calls: validate, run a notebook through papermill, move it into place; status, publish."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from traitlets.config import Config

from lib.core import config as settings
from lib.core import progress
from lib.core.config import RUN, Settings, SettingsError
from lib.core.freshness import lost, names, read, stamp
from lib.core.paths import NOTEBOOKS, REPORTS, ROOT
from lib.core.store import ArtifactSpec, Store, StoreError, git, locked, write_json
from lib.report import ReportError

PRIVATE = Config(KernelManager={"transport_encryption": "auto"})  # nobody else on the machine reads the kernel's talk


class RunError(RuntimeError):
    """A run that cannot start or did not end well; the last lines say where to look."""


# --- running one notebook -------------------------------------------------------------------------------------------

def notebook(name: str, profile: str) -> None:
    """Run one notebook; a second run of it waits, since both would write the same files, and then finds all work in the store."""
    loaded = settings.load(profile)
    parameters = {"profile": profile}
    with locked(REPORTS / profile / "locks" / name):
        execute(name, profile, parameters, stamp(name, loaded))


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
    write_json(REPORTS / profile / "stamps" / f"{name}.done.json", {**seen, "seconds": seconds})
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
    state, stop = REPORTS / f".progress.{os.getpid()}", threading.Event()
    state.touch()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve each other under make -j
    os.environ |= {progress.STATE: str(state), RUN: "1",
                   "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    watcher = threading.Thread(target=_watch, args=(name, state, stop))
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
        state.unlink()


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

def publish(profile: str) -> Path:
    """Stitch the executed notebooks into reports/<profile>/report.html and leave results/run.json."""
    from lib.report import publish as page

    loaded, out = settings.load(profile), REPORTS / profile
    results = {name: read(out / "results" / f"{name}.json") for name in names()}
    for name, result in results.items():
        if result is None:
            raise RunError(f"no result of {name}, or not a readable one; `make report` runs it again.\n"
                           f"{out / 'results' / name}.json")
    seconds = {name: (read(out / "stamps" / f"{name}.done.json") or result)["seconds"] for name, result in results.items()}
    run = {"profile": profile, "device": results[names()[-1]]["device"], "total": round(sum(seconds.values()), 1),
           "seconds": seconds, **git()}
    write_json(out / "results" / "run.json", run)
    store, manifests = Store(loaded.study.store), {}
    for recipe in [ArtifactSpec.from_json(tree) for result in results.values() for tree in result["recipes"].values()]:
        manifests[recipe.key] = store.make(recipe).manifest
    banner = {"profile": profile, "small": loaded.study.small, "device": run["device"], "seeds": loaded.study.seeds,
              "resolution": loaded.data.resolution, "git": run["git"][:10] + (" (changed)" if run["dirty"] else ""),
              "last runs": f"{run['total'] / 60:.0f} min"}
    return page.publish([out / "notebooks" / f"{name}.ipynb" for name in names()], out / "report.html",
                        title=loaded.study.title, banner=banner, provenance=list(manifests.values()))


def status(profile: str) -> list[str]:
    """For each notebook and artifact whether it is fresh and, if not, why."""
    loaded, lines, stale = settings.load(profile), [], []
    store = Store(loaded.study.store)
    for name in names()[1:] + names()[:1]:
        why = _why_stale(name, profile, loaded) or (f"after {stale[0]}, which is not fresh" if stale else "")
        if why:
            stale.append(name)
        lines.append(f"{name:18} {why or 'fresh'}")
        result = read(REPORTS / profile / "results" / f"{name}.json") or {"recipes": {}}
        for label, tree in result["recipes"].items():
            recipe = ArtifactSpec.from_json(tree)
            lines.append(f"  {label:24} {recipe.kind}/{recipe.key}  {store.state(recipe)}")
    return [*lines, f"{'report.html':18} {_page_state(REPORTS / profile, stale)}"]


def _page_state(out: Path, stale: list[str]) -> str:
    """Whether the page holds what the notebooks found."""
    page, notebooks = out / "report.html", [out / "notebooks" / f"{name}.ipynb" for name in names()]
    if not page.exists():
        return "not written yet"
    late = [path.name for path in notebooks if path.exists() and path.stat().st_mtime > page.stat().st_mtime]
    return f"after {stale[0]}, which is not fresh" if stale else f"older than {late[0]}" if late else "fresh"


def _why_stale(name: str, profile: str, loaded: Settings) -> str:
    """Empty where the notebook's last run saw just what stands now."""
    out = REPORTS / profile
    if name in lost(profile):
        return f"its result is lost: results/{name}.json"
    if (out / "notebooks" / f"{name}.failed.ipynb").exists():
        return f"failed: {name}.failed.ipynb"
    seen, now = read(out / "stamps" / f"{name}.done.json"), stamp(name, loaded)
    if not seen or not (out / "notebooks" / f"{name}.ipynb").exists():
        return "not run yet"
    changed = [f"{k}: {seen['settings'].get(k)!r} is now {v!r}" for k, v in now["settings"].items()
               if seen["settings"].get(k) != v]
    changed += ["the notebook changed"] if seen["notebook"] != now["notebook"] else []
    files = {**seen["code"], **now["code"]}
    changed += [f"{file} changed" for file in files if seen["code"].get(file) != now["code"].get(file)]
    return f"stale: {'; '.join(changed)}" if changed else ""


def main(arguments: list[str] | None = None) -> int:
    """`python -m lib.core.run notebook NAME|publish|status|pdf --profile world`."""
    parser = argparse.ArgumentParser(prog="python -m lib.core.run", description=__doc__)
    parser.add_argument("command", choices=["notebook", "publish", "status", "pdf"])
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
    elif wanted.command == "pdf":
        from lib.report.publish import pdf

        print(pdf(REPORTS / wanted.profile / "report.html", REPORTS / wanted.profile / "report.pdf"))
    elif wanted.command == "publish":
        print(f"open {publish(wanted.profile).relative_to(ROOT)}")
    else:
        print("\n".join(status(wanted.profile)))


if __name__ == "__main__":
    sys.exit(main())
