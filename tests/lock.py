"""`make lock`: requirements.txt again from the one list in environment.yml, with uv (`pip install uv`)."""

import shutil
import subprocess
import sys
import tempfile

import yaml

from lib.paths import ROOT

HEADER = "# Exact lock for Python 3.11-3.13, made from environment.yml by `make lock`.\n"


def direct() -> list[str]:
    """The direct dependencies."""
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    return next(entry["pip"] for entry in entries if isinstance(entry, dict))


def main() -> int:
    if not shutil.which("uv"):
        print("uv is needed to make the lock: pip install uv", file=sys.stderr)
        return 1
    with tempfile.NamedTemporaryFile("w", suffix=".in") as file:
        file.write("\n".join(direct()))
        file.flush()
        command = "uv pip compile --universal --python-version 3.11 --no-header --no-annotate -q".split()
        made = subprocess.run([*command, file.name], capture_output=True, text=True, check=True).stdout
    (ROOT / "requirements.txt").write_text(HEADER + made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
