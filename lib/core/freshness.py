"""What a notebook depends on, and whether its last run saw just that; Make compares only the times of the stamps.

A stamp holds the chapter's settings, the keys of its artifacts (settings and code), its cells, its text template, the
class facts and the code of reports and measures. Nothing slow is imported until a file has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lib.core.paths import NOTEBOOKS, PARAMS, REPORTS, ROOT

READ_BY_NOTEBOOKS = ("core", "measure", "report")  # rooms whose code runs in cells, not in artifacts
ELSEWHERE = {"title", "small", "engine", "workers", "store"}  # settings that change no number


def names() -> list[str]:
    """The notebooks, in order."""
    return sorted(p.stem for p in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def read(path: Path) -> dict[str, Any] | None:
    """A JSON object that this project wrote, or None where there is none or it is damaged."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


def listing(folders: Iterable[str]) -> str:
    """A hash over name, size and time of every file that a stamp could depend on; nothing is opened."""
    roots = [ROOT / "lib", NOTEBOOKS, PARAMS, *(ROOT / folder for folder in folders)]
    files = [p for root in roots for p in ([root] if root.is_file() else sorted(root.rglob("*")))]
    rows = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files
            if p.is_file() and p.suffix != ".pyc"]
    return _sha(repr(rows).encode())


def artifact_keys(name: str, study) -> dict[str, str]:
    """A hash over the keys of a chapter's artifacts, by kind; `study` is a lib.study.Study."""
    kinds: dict[str, list[str]] = {}
    for spec in study.chapters.get(name, []):
        kinds.setdefault(spec.kind, []).append(spec.key)
    return {kind: _sha(repr(sorted(keys)).encode()) for kind, keys in kinds.items()}


def stamp(name: str, study) -> dict[str, Any]:
    """All that one notebook reads."""
    rooms = [p for room in READ_BY_NOTEBOOKS for p in sorted((ROOT / "lib" / room).glob("*.py"))]
    files = [*rooms, ROOT / "lib/study.py", ROOT / f"lib/report/text/{name}.md.j2",
             *sorted((PARAMS / "classes").glob("*.yaml"))]
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    settings = study.config.parameters(name)
    return {"settings": {key: value for key, value in settings.items() if key not in ELSEWHERE},
            "artifacts": artifact_keys(name, study),
            "files": {str(p.relative_to(ROOT)): _sha(p.read_bytes()) for p in files if p.is_file()}
            | {f"notebooks/{name}.ipynb": _sha(repr([cell["source"] for cell in cells]).encode())}}


def page_stamp(study) -> dict[str, Any]:
    """What the page reads besides the notebooks."""
    files = sorted(p for p in (ROOT / "lib/report").rglob("*") if p.is_file() and p.suffix != ".pyc")
    return {"settings": {"title": study.config.study.title, "small": study.config.study.small},
            "artifacts": {}, "files": {str(p.relative_to(ROOT)): _sha(p.read_bytes()) for p in files}}


def changes(seen: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two stamps, in words."""
    texts = [f"{key}: {seen['settings'].get(key)!r} is now {value!r}"
             for key, value in now["settings"].items() if seen["settings"].get(key) != value]
    for part, what in (("artifacts", "settings, inputs or code of {} changed"), ("files", "{} changed")):
        keys = dict.fromkeys([*seen.get(part, {}), *now[part]])
        texts += [what.format(key) for key in keys if seen.get(part, {}).get(key) != now[part].get(key)]
    return texts


def write_stamps(profile: str) -> None:
    """Bring the stamps up to date; where a run saw what stands now, its stamp is older than its result."""
    folder = REPORTS / profile / "stamps"
    inputs = read(folder / "inputs.json") or {}
    lost = [name for name in names() if not _result_is_there(name, profile)]
    if not lost and inputs.get("listing") == listing(inputs.get("folders", [])):
        return
    from lib import preflight
    from lib import study as studies
    from lib.core import config as settings

    config = settings.load(profile)
    preflight.check(config, profile)
    study = studies.plan(config, profile)
    folder.mkdir(parents=True, exist_ok=True)
    folders = settings.local_paths(study.config)
    before = listing(folders)
    for name, now in {**{n: stamp(n, study) for n in names()}, "report": page_stamp(study)}.items():
        if read(folder / f"{name}.json") != json.loads(json.dumps(now)):
            _write(folder / f"{name}.json", now)
        seen, target = read(folder / f"{name}.done.json"), result_of(name, profile)
        if name in lost:
            (folder / f"{name}.json").touch()
        elif seen and target.exists() and not changes(seen, json.loads(json.dumps(now))):
            older = target.stat().st_mtime_ns - 10**9
            os.utime(folder / f"{name}.json", ns=(older, older))
    _write(folder / "inputs.json", {"listing": before, "folders": folders})


def date_back(folder: Path) -> None:
    """Where the clock was set back, files of the future would be fresh for Make whatever changes.

    All become as much older. The Makefile calls this before Make looks at any time.
    """
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.exists()}
    ahead = max(times.values(), default=0) - time.time_ns()
    for path, seen in times.items() if ahead > 0 else ():
        os.utime(path, ns=(seen - ahead, seen - ahead))


def result_of(name: str, profile: str) -> Path:
    """The file that Make compares with the stamp."""
    out = REPORTS / profile
    return out / "report.html" if name == "report" else out / "notebooks" / f"{name}.ipynb"


def _result_is_there(name: str, profile: str) -> bool:
    """False where a notebook ran and its result is gone or unreadable, or never ran."""
    return result_of(name, profile).exists() and read(REPORTS / profile / f"results/{name}.json") is not None


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":  # python -m lib.core.freshness world
    try:
        write_stamps(sys.argv[1])
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"\n{error}")
