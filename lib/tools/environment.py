"""`make env`: the environment in .venv, from the locked hashes; needs only Python 3.11-3.13.

uv, one of the locked packages, installs the others; where it cannot be had, pip does.
"""

import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = (3, 11), (3, 13)
PIP = "pip install --quiet --disable-pip-version-check".split()


def create(checkout: Path, with_pip: bool = True) -> Path:
    """An empty environment in which `lib` imports; its Python.

    The path to the checkout is relative, so a checkout that is moved or copied still works.
    """
    folder = checkout / ".venv"
    venv.create(folder, symlinks=os.name != "nt", with_pip=with_pip)
    for packages in folder.glob("lib/python*/site-packages"):
        (packages / "study.pth").write_text(os.path.relpath(checkout, packages) + "\n")
    return folder / "bin" / "python"


def install(python: Path, locks: list[Path]) -> str:
    """Install exactly what the locks say; returns the name of the installer."""
    options = [word for lock in locks for word in ("-r", str(lock))]
    if install_uv(python, locks[0]):
        uv = [python, "-m", "uv", "pip", "install", "--quiet", "--require-hashes"]
        if subprocess.run([*uv, "--python", python, *options]).returncode == 0:
            return "uv"
    subprocess.run([python, "-m", *PIP, *options], check=True)
    return "pip"


def install_uv(python: Path, lock: Path) -> bool:
    """uv as a wheel of the locked hash; False where there is none for this machine."""
    text = lock.read_text(encoding="utf-8")
    start = text.find("\nuv==") + 1
    entry = text[start:].replace("\\\n", "").partition("\n")[0] if start else ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "uv.txt")
        path.write_text(entry, encoding="utf-8")
        command = [python, "-m", *PIP, "--only-binary=:all:", "-r", str(path)]
        return bool(entry) and subprocess.run(command, capture_output=True).returncode == 0


def size(folder: Path) -> float:
    """GB on disk; a file with two names counts once."""
    states = [path.lstat() for path in folder.rglob("*")]
    return sum({(state.st_dev, state.st_ino): state.st_size for state in states}.values()) / 1e9


def main(extras: list[str]) -> None:
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        version = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"Python 3.11-3.13 is needed, not {version}: `make PYTHON=python3.12 env`")
    began = time.monotonic()
    locks = [ROOT / "requirements.txt", *(ROOT / f"requirements-{name}.txt" for name in extras)]
    print("building the environment in .venv (once, a few minutes)", flush=True)
    installer = install(create(ROOT), locks)
    seconds = time.monotonic() - began
    print(f"environment in .venv: {seconds:.0f} s with {installer}, {size(ROOT / '.venv'):.1f} GB")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except subprocess.CalledProcessError as error:
        sys.exit(f"the environment is not complete: {error}; the same command goes on from here")
