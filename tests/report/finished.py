"""A finished study without a kernel: notebooks, results and figures as a run leaves them."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lib.core import freshness
from lib.core.config import load
from lib.report import figures, summary, text

RESULTS = {path.stem: json.loads(path.read_text(encoding="utf-8"))
           for path in sorted(Path(__file__).with_name("results").glob("*.json"))}
EVIL = "<script>alert(1)</script>"
TABLES = {"07_representation": ["gap"], "01_data": ["classes"]}
FIGURES = {"01_data": ["nearest"], "03_generation": ["counterparts"],
           "04_training": ["classes", "calibration", "curves"], "05_gradcam": ["same-image"],
           "08_repair": ["real-images"]}


def finish(reports: Path, profile: str = "smoke", **settings) -> Path:
    """reports/<profile> as `make notebooks` leaves it; returns that folder."""
    out, config = reports / profile, load("smoke")
    for folder in ("notebooks", "results"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for name in freshness.names():
        chosen = config.parameters(name) | {"store": str(out / "store")} | settings
        content = {
            "notebook": name,
            "profile": profile,
            "seconds": 61.5,
            "device": "cpu, 2 threads",
            "settings": chosen,
            "results": RESULTS[name],
            "specs": {},
        }
        (out / f"results/{name}.json").write_text(json.dumps(content), encoding="utf-8")
        nbformat.write(chapter(out, name), out / f"notebooks/{name}.ipynb")
    return out


def chapter(out: Path, name: str) -> nbformat.NotebookNode:
    """One executed notebook with the figures and tables of its name."""
    figures.begin(out, name)
    cells = [new_markdown_cell(f"# Chapter {name[:2]}\n\n**Which question is asked?**"),
             new_markdown_cell(f"## Numbers\n\nThe loss is $L$; raw {EVIL}; [a paper]"
                               "(https://example.org/paper); [data](01_data.ipynb)."),
             shown(lambda: draw(name)), new_markdown_cell("## Empty\n\nNothing follows."),
             new_code_cell("x = 1")]
    return new_notebook(cells=cells)


def draw(name: str) -> None:
    frame = pd.DataFrame({"class": ["cube", EVIL, '$x$ & "y"'], "images": [100, 12345, 98],
                          "gap": [{"mean": -0.2, "low": -0.3, "high": -0.1, "n": 3}] * 3})
    for key in TABLES.get(name, []):
        figures.table(frame, key, f"Classes like {EVIL}. Read by row.", note="In points.")
    for key in FIGURES.get(name, []):
        fig, axes = figures.figure(width="narrow", height=200)
        axes.barh(["real", "sd"], [2, 1], color=[figures.color("real"), figures.color("sd")])
        figures.show(fig, key, f"Bars of {key}. Longer is more.", f"Two bars, {EVIL}.", frame)
    if name == "00_summary":
        first_screen()


def first_screen() -> None:
    """As in the summary's notebook, with plain pictures."""
    training, repair = RESULTS["04_training"], RESULTS["08_repair"]
    sets = summary.columns(training, ["real", "sd", "cd", "di"])
    pictures = [np.full((8, 8, 3), 40 * k, np.uint8) for k in (2, 4)]
    rows = [{"label": name, "pictures": dict.fromkeys(sets, pictures)}
            for name in summary.classes(training["per_class"], training["baseline"])]
    figures.overview(
        rows,
        sets,
        "overview",
        axis=summary.axis(sets),
        caption="What the classifiers were trained on, and their accuracy. Two images.",
    )
    sizes = dict.fromkeys(("real", "sd", "cd", "di"), 6000)
    figures.table(summary.key(training, sizes), "key", "Accuracy on real test images (%).")
    figures.table(summary.best(repair), "best", "Remedies with the largest gains.")
    text.show("00_summary", RESULTS["00_summary"])


def shown(draw) -> nbformat.NotebookNode:
    """A code cell with what `draw` displays as its outputs."""
    InteractiveShell.instance()
    with capture_output() as captured:
        draw()
    outputs = [new_output("display_data", output.data, metadata=output.metadata)
               for output in captured.outputs]
    return new_code_cell("# draw\nshow()", outputs=outputs)
