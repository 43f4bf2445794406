"""What a notebook depends on: its settings, its cells, the files of lib/ that it imports. Make compares the stamps' times.

Make calls this at every turn, so it imports next to nothing until something has changed.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.core.paths import NOTEBOOKS, PARAMS, REPORTS, ROOT

if TYPE_CHECKING:
    from lib.core.config import Settings

WATCHED = (".py", ".j2", ".css", ".json", ".yaml")  # code, and data that it reads; not weights, which recipes know by their hash


def names() -> list[str]:
    """The notebooks, in order."""
    return sorted(p.stem for p in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def stamps(profile: str) -> None:
    """Write each notebook's stamp where it changed."""
    out = REPORTS / profile / "stamps"
    for name in lost(profile):
        (out / f"{name}.json").touch()  # Make takes it as changed and runs the notebook again
    if read(out / "inputs.json") == fingerprint(profile):
        return
    from lib.core import config as settings

    loaded = settings.load(profile)
    out.mkdir(parents=True, exist_ok=True)
    page = {"code": {str(p.relative_to(ROOT)): _sha(p.read_bytes())
                     for p in sorted((ROOT / "lib" / "report").rglob("*")) if p.suffix in WATCHED}}
    for name, content in {**{n: stamp(n, loaded) for n in names()}, "report": page}.items():
        if read(out / f"{name}.json") != content:
            _write(out / f"{name}.json", content)
    _write(out / "inputs.json", fingerprint(profile))


def date_back(folder: Path) -> None:
    """Where the clock was set back, files of the future would be fresh for Make whatever changes: all become as much older.

    The Makefile calls this before Make looks at any time.
    """
    times = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # another run has moved it on
            times[path] = path.stat().st_mtime_ns
    ahead = max(times.values(), default=0) - time.time_ns()
    for path, seen in times.items() if ahead > 0 else ():
        with contextlib.suppress(FileNotFoundError):
            os.utime(path, ns=(seen - ahead, seen - ahead))


def lost(profile: str) -> list[str]:
    """Notebooks that ran and whose result is gone or unreadable."""
    out = REPORTS / profile
    return [name for name in names() if (out / "notebooks" / f"{name}.ipynb").exists()
            and (out / "stamps" / f"{name}.json").exists() and read(out / "results" / f"{name}.json") is None]


def fingerprint(profile: str) -> dict[str, str]:
    """One hash over every file that a stamp could depend on, and the stamps themselves."""
    files = [PARAMS / "defaults.yaml", PARAMS / f"{profile}.yaml", *sorted(NOTEBOOKS.glob("*.ipynb")),
             *sorted(p for p in (ROOT / "lib").rglob("*") if p.suffix in WATCHED)]
    here = [(str(p), _sha(p.read_bytes()) if p.is_file() else "") for p in files]
    have = [n for n in [*names(), "report"] if (REPORTS / profile / "stamps" / f"{n}.json").is_file()]
    return {"all": _sha(repr((here, have)).encode())}


def stamp(name: str, profile: Settings) -> dict[str, Any]:
    """All that one notebook reads besides its upstream."""
    source = _code(NOTEBOOKS / f"{name}.ipynb")
    return {"settings": profile.parameters(name), "notebook": _sha(source.encode()),
            "code": {str(p.relative_to(ROOT)): _sha(p.read_bytes()) for p in imported(source)}}


def imported(source: str) -> list[Path]:
    """Files of lib/ that a program imports, directly or through others, and the data files that these name."""
    found, todo = set(), imports(source)
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            todo |= imports(path.read_text(encoding="utf-8")) - found
    return sorted(found.union(*map(data, found)))


def data(path: Path) -> set[Path]:
    """Data files beside a module that it names in a text of its own, as in `Path(__file__).with_name("published.yaml")`."""
    beside = {p.name: p for p in path.parent.iterdir() if p.suffix in WATCHED and p.suffix != ".py"}
    if not beside:
        return set()
    return {beside[node.value] for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and node.value in beside}


def imports(source: str) -> set[Path]:
    """Files of lib/ that a program's own import statements name."""
    dotted = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            dotted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            dotted |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    stems = [ROOT.joinpath(*name.split(".")) for name in dotted if name.split(".")[0] == "lib"]
    return {path for stem in stems for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()}


def read(path: Path) -> dict[str, Any] | None:
    """A JSON object that this project wrote, or None where there is none or it is damaged (then it proves nothing)."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


def _code(notebook: Path) -> str:
    """The code of a notebook as one program."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    temporary.replace(path)


def main(profile: str) -> int:
    """`python -m lib.core.freshness world`."""
    try:
        stamps(profile)
    except ValueError as error:  # a SettingsError, whose class would be slow to import
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
