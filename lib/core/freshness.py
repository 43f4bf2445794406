"""What a notebook depends on, and whether its last run saw just that.

A stamp holds the chapter's settings, the keys of its artifacts (settings and code), its cells, the
code that its cells reach, its text template and the class facts. Make compares only the times of
stamps and results; nothing slow is imported until a file has changed.
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
from lib.core.store import read_json, write_json

ELSEWHERE = {"title", "small", "engine", "workers", "store"}  # settings that change no number


def names() -> list[str]:
    """The notebooks, in order."""
    return sorted(p.stem for p in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def result_of(name: str, profile: str) -> Path:
    """The file that Make compares with the stamp."""
    out = REPORTS / profile
    return out / "report.html" if name == "report" else out / "notebooks" / f"{name}.ipynb"


def listing(folders: Iterable[str]) -> str:
    """A hash over name, size and time of all that a stamp could depend on; nothing is opened."""
    roots = [ROOT / "lib", NOTEBOOKS, PARAMS, *(ROOT / folder for folder in folders)]
    files = [p for root in roots for p in ([root] if root.is_file() else sorted(root.rglob("*")))]
    files = [p for p in files if p.is_file() and p.suffix != ".pyc"]
    return short_hash([(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files])


def artifact_keys(specs: Iterable) -> dict[str, str]:
    """A hash over the keys of a chapter's artifacts, by kind."""
    kinds: dict[str, list[str]] = {}
    for spec in specs:
        kinds.setdefault(spec.kind, []).append(spec.key)
    return {kind: short_hash(sorted(keys)) for kind, keys in kinds.items()}


def stamp(name: str, study) -> dict[str, Any]:
    """All that one notebook reads; `study` is a lib.study.Study."""
    from lib.core.fingerprint import reached

    path = NOTEBOOKS / f"{name}.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    code = [text for text, cell in zip(sources, cells, strict=True) if cell["cell_type"] == "code"]
    data = [ROOT / f"lib/report/text/{name}.md.j2", *sorted((PARAMS / "classes").glob("*.yaml"))]
    files = {relative(p): short_hash(p.read_bytes()) for p in data if p.is_file()}
    files |= {relative(p): value for p, value in reached(code).items()}
    settings = study.config.parameters(name)
    return {
        "settings": {key: value for key, value in settings.items() if key not in ELSEWHERE},
        "artifacts": artifact_keys(study.chapters.get(name, [])),
        "files": files | {relative(path): short_hash(sources)},
    }


def page_stamp(study) -> dict[str, Any]:
    """What the page reads besides the notebooks."""
    from lib.core.fingerprint import plain_code

    files = sorted(p for p in (ROOT / "lib/report").rglob("*") if p.is_file())
    texts = {p: plain_code(p) if p.suffix == ".py" else p.read_bytes() for p in files}
    return {
        "settings": {"title": study.config.study.title, "small": study.config.study.small},
        "artifacts": {},
        "files": {relative(p): short_hash(t) for p, t in texts.items() if p.suffix != ".pyc"},
    }


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two stamps, in words."""
    old = before["settings"]
    texts = [
        f"{key}: {old.get(key)!r} is now {value!r}"
        for key, value in now["settings"].items()
        if old.get(key) != value
    ]
    phrases = {"artifacts": "settings, inputs or code of {} changed", "files": "{} changed"}
    for part, phrase in phrases.items():
        keys = dict.fromkeys([*before.get(part, {}), *now[part]])
        differing = [k for k in keys if before.get(part, {}).get(k) != now[part].get(k)]
        texts += [phrase.format(key) for key in differing]
    return texts


def stamps(study) -> dict[str, dict[str, Any]]:
    """Of every notebook and of the page, as JSON gives them back."""
    now = {name: stamp(name, study) for name in names()} | {"report": page_stamp(study)}
    return json.loads(json.dumps(now))


def write_stamps(profile: str) -> None:
    """Bring the stamps up to date; one that a run saw is dated before that run's result."""
    folder = REPORTS / profile / "stamps"
    inputs = read_json(folder / "inputs.json") or {}
    lost = [name for name in names() if not _has_result(name, profile)]
    if not lost and inputs.get("listing") == listing(inputs.get("folders", [])):
        return
    from lib import preflight
    from lib.core import config as settings
    from lib.core.plan import PlannedStudy

    config = settings.load(profile)
    preflight.check(config, profile)
    study = PlannedStudy(config, profile)
    folders = settings.local_paths(study.config)
    before = listing(folders)
    folder.mkdir(parents=True, exist_ok=True)
    for name, now in stamps(study).items():
        path, result = folder / f"{name}.json", result_of(name, profile)
        if read_json(path) != now:
            write_json(path, now)
        done = read_json(folder / f"{name}.done.json")
        if name in lost:
            path.touch()
        elif done and result.exists() and not changes(done, now):
            older = result.stat().st_mtime_ns - 10**9
            os.utime(path, ns=(older, older))
    write_json(folder / "inputs.json", {"listing": before, "folders": folders})


def why_stale(name: str, profile: str, now: dict[str, Any]) -> str:
    """Empty where the last run saw just what is there now."""
    out = REPORTS / profile
    done = read_json(out / "stamps" / f"{name}.done.json")
    ran = done and result_of(name, profile).exists()
    differing = changes(done, now) if ran else []
    if (out / "notebooks" / f"{name}.failed.ipynb").exists() and (differing or not ran):
        return f"failed: {name}.failed.ipynb"
    if not ran:
        return "not run yet" if name != "report" else "not written yet"
    if name != "report" and not _has_result(name, profile):
        return f"its result is lost: results/{name}.json"
    return f"stale: {'; '.join(differing)}" if differing else ""


def date_back(folder: Path) -> None:
    """Where the clock was set back, files of the future would be fresh whatever changes.

    All become as much older. The Makefile calls this before Make looks at any time.
    """
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.exists()}
    ahead = max(times.values(), default=0) - time.time_ns()
    for path, changed in times.items() if ahead > 0 else ():
        os.utime(path, ns=(changed - ahead, changed - ahead))


def _has_result(name: str, profile: str) -> bool:
    """False where a notebook never ran, or its result is gone or unreadable."""
    result = read_json(REPORTS / profile / "results" / f"{name}.json")
    return result is not None and result_of(name, profile).exists()


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def short_hash(content: Any) -> str:
    data = content if isinstance(content, bytes) else repr(content).encode()
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":  # python -m lib.core.freshness world
    try:
        write_stamps(sys.argv[1])
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"\n{error}")
