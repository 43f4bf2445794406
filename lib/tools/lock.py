"""`make lock`: requirements.txt again from the one list in environment.yml, and one beside it for each extra; with uv."""

import shutil
import subprocess
import sys
import tempfile
import tomllib

import yaml

from lib.core.paths import ROOT

HEADER = "# Exact lock for Python 3.11-3.13, made from {} by `make lock`.\n"
COMPILE = "uv pip compile --universal --python-version 3.11 --no-header --no-annotate -q".split()


def direct() -> list[str]:
    """The direct dependencies."""
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    return next(entry["pip"] for entry in entries if isinstance(entry, dict))


def extras() -> dict[str, list[str]]:
    """What each extra adds to them."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]


def compiled(wanted: list[str], *options: str) -> str:
    """One line for each package, exact."""
    with tempfile.NamedTemporaryFile("w", suffix=".in") as file:
        file.write("\n".join(wanted))
        file.flush()
        return subprocess.run([*COMPILE, *options, file.name], capture_output=True, text=True, check=True).stdout


def main() -> int:
    if not shutil.which("uv"):
        print("uv is needed to make the lock: pip install uv", file=sys.stderr)
        return 1
    lock = ROOT / "requirements.txt"
    lock.write_text(HEADER.format("environment.yml") + compiled(direct()))
    known = {line.partition("==")[0] for line in lock.read_text().splitlines()}
    for name, wanted in extras().items():
        lines = compiled(wanted, "-c", str(lock)).splitlines()
        new = [line for line in lines if line.partition("==")[0] not in known]
        (ROOT / f"requirements-{name}.txt").write_text("\n".join([HEADER.format("pyproject.toml").strip(), *new, ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
