"""`make lock`: requirements*.txt and environment.yml from the one list in pyproject.toml.

Versions stay as they are where they fit; `python -m lib.tools.lock --upgrade` takes the newest.
"""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import yaml

from lib.core.paths import ROOT

HEADER = "# Exact versions with hashes for Python 3.11-3.13, from pyproject.toml by `make lock`.\n"
CONDA = """\
# From pyproject.toml by `make lock`. After `conda env create -f environment.yml` and
# `conda activate {name}`, run make with `PY=python`.
"""
COMPILE = [sys.executable, *"-m uv pip compile --universal --python-version 3.11".split()]
COMPILE += "--generate-hashes --no-header --no-annotate --quiet".split()


def project() -> dict:
    """The section `[project]`."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def environment(project: dict) -> str:
    """The text of environment.yml."""
    python = f"python {project['requires-python']}"
    tree = {"name": project["name"], "channels": ["conda-forge"]}
    tree["dependencies"] = [python, "pip", {"pip": project["dependencies"]}]
    return CONDA.format(**project) + yaml.safe_dump(tree, sort_keys=False)


def entries(path: Path) -> list[str]:
    """Each package of a lock, `name==version ; marker`, with the lines of its hashes."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    texts: list[str] = []
    for line in lines:
        if line.startswith(" "):
            texts[-1] += line
        elif line.strip() and not line.startswith("#"):
            texts.append(line)
    return texts


def pin(entry: str) -> str:
    """`name==version ; marker` of an entry."""
    return entry.partition("\\\n")[0].strip()


def name(entry: str) -> str:
    return entry.partition("==")[0]


def compile_lock(path: Path, requirements: list[str], pins: list[str]) -> None:
    """Write all packages that these need; versions named by `pins` are kept."""
    with tempfile.TemporaryDirectory() as folder:
        direct, kept = Path(folder, "direct.in"), Path(folder, "pins.txt")
        direct.write_text("\n".join(requirements), encoding="utf-8")
        kept.write_text("\n".join(pins), encoding="utf-8")
        command = [*COMPILE, "-c", str(kept), str(direct)]
        path.write_text(HEADER + subprocess.check_output(command, text=True), encoding="utf-8")


def main(upgrade: bool = False) -> None:
    tree, lock = project(), ROOT / "requirements.txt"
    (ROOT / "environment.yml").write_text(environment(tree), encoding="utf-8")
    compile_lock(lock, tree["dependencies"], [] if upgrade else [pin(e) for e in entries(lock)])
    names = {name(entry) for entry in entries(lock)}
    for extra, requirements in tree["optional-dependencies"].items():
        path = ROOT / f"requirements-{extra}.txt"
        old = [] if upgrade else [pin(entry) for entry in entries(path)]
        compile_lock(path, requirements, [*old, *(pin(entry) for entry in entries(lock))])
        added = [entry for entry in entries(path) if name(entry) not in names]
        path.write_text(HEADER + "".join(added), encoding="utf-8")


if __name__ == "__main__":
    main(upgrade="--upgrade" in sys.argv)
