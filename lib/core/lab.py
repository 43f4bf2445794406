"""`make lab`: JupyterLab at the root of the checkout; tracked notebooks stay clean."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from lib.core.paths import NOTEBOOKS, ROOT

METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def command(arguments: list[str]) -> list[str]:
    """JupyterLab on this machine only; without a notebook to open it shows notebooks/."""
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.root_dir": ROOT,
        "ContentsManager.pre_save_hook": "lib.core.lab.clean",
    }
    if all(argument.startswith("-") for argument in arguments):
        options["LabApp.default_url"] = f"/lab/tree/{NOTEBOOKS.name}"
    words = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "jupyterlab", *words, *arguments]


def environment() -> dict[str, str]:
    """As kernels of `make report` have it: `lib` imports, no settings of the user's IPython."""
    inherited = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(paths), "IPYTHONDIR": str(Path(sys.prefix, "ipython"))}
    return inherited | own


def clean(model: dict[str, Any], path: str, **_: Any) -> None:
    """Jupyter's pre-save hook: of a notebook in notebooks/ only the source is saved.

    Outputs stay in the browser; what Lab notes about the kernel and the screen is left out.
    """
    if model["type"] != "notebook" or not path.lstrip("/").startswith(f"{NOTEBOOKS.name}/"):
        return
    content = model["content"]
    content["metadata"] = METADATA
    for cell in content["cells"]:
        cell["metadata"] = {key: value for key, value in cell["metadata"].items() if key == "tags"}
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}


if __name__ == "__main__":
    os.execve(sys.executable, command(sys.argv[1:]), environment())
