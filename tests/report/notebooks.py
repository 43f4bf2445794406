"""Three small notebooks, really executed, with everything in them that a page must survive."""

from __future__ import annotations

from pathlib import Path

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).parents[2]
EVIL = "<script>alert(1)</script>"

SUMMARY = [
    ("markdown", "# Summary"),
    ("code", """
figures.abstract('Diffusion-made images train classifiers that fall short of real ones. On the rendered world, a small '
                 'residual network reaches 93.1 % on real test images when it is trained on real ones and 71.6 % when '
                 'it is trained on as many prompted ones; images from inverted embeddings stand between. ' * 2)
"""),
    ("code", """
interval = [dict(mean=mean, low=mean - 1.2, high=mean + 1.2, n=3) for mean in (93.1, 71.6, 80.2, 88.4, 94.6)]
results = pd.DataFrame({'arm': ['real', 'sd', 'cd', 'di', 'real+di', 'published'],
                        'accuracy, %': interval + ['not run: needs a download'],
                        'difference': [0.0, -21.5, -12.9, -4.7, 1.5, 'not run: needs a download']})
figures.table(results, 'arms', 'Inverted images come closest to real ones (world, 32 px, n = 3 seeds).',
              formats={'difference': '+.1f'})
done = pd.DataFrame({'arm': results.arm[:5], 'accuracy': [cell['mean'] for cell in interval]})
fig, axes = figures.figure(width='narrow', height=300)
axes.barh(done.arm, done.accuracy, xerr=1.2, color=[figures.color(arm) for arm in done.arm])
axes.invert_yaxis()
axes.grid(axis='y', visible=False)
axes.set_xlabel('accuracy on real test images, %')
figures.show(fig, 'accuracy', 'Real images win; adding inverted ones gains 1.5 points (n = 3 seeds, 95 % interval).',
             'Bars of accuracy for five training sets, real+di the longest.', done)
"""),
    ("markdown", "## Limits\n\nOne world, one architecture, three seeds. Samples are in [](#01_data-fig-samples), "
     "the loss in [the next part](#02_training-loss), methods in [a paper](https://example.org/paper)."),
    ("code", "figures.finding('Adding inverted images to real ones gains 1.5 points.')"),
]
DATA = [
    ("markdown", "# The data\n\n*Which images does the study use?*\n\n- ten classes\n- balance\n- truth"),
    ("parameters", """
epochs = 3  # passes over the data
rate: float = 1.0e-3  # learning rate
source = 'world'  # where images come from
"""),
    ("injected-parameters", "epochs = 7"),
    ("markdown", "## Samples\n\nPixels are shown as they are; the loss is $L = \\sum_i x_i^2$; a class is `$x$`."),
    ("code", f"""
# Twenty pictures of two classes
y, x = np.mgrid[:32, :32]
images = np.stack([np.stack([x * 8, y * 8, np.full_like(x, 9 * i)], -1) for i in range(20)]).astype('uint8')
mask = (x - 16) ** 2 + (y - 16) ** 2 < 80
images[:, mask] = [230, 120, 60]
truth = {{'mask': mask, 'segments': {{'to the left': [[2, 31, 9, 4]]}}, 'points': {{'light': [[6, 6]]}}}}
figures.contact_sheet(images, 'samples', 'Classes like {EVIL} look alike (n = 20).', 'Two rows of ten discs, {EVIL}.',
                      columns=10, rows=['cube', '{EVIL}'], titles=['hexagonal prism', '{EVIL}'] * 10,
                      overlays=[truth] + [None] * 19)
"""),
    ("code", f"""
classes = pd.DataFrame({{'class': ['cube', '{EVIL}', '$x$ & "y"'], 'images': [100, 12345, 98],
                        'share': [0.1, 0.0002, 1.5]}})
figures.table(classes, 'classes', 'Balanced but for {EVIL}.', note='Counted before the split.')
figures.finding('The class {EVIL} is the largest.')
"""),
    ("markdown", f"""## Notes

| a | b |
|---|---|
| 1 | a very long cell that says much about a column of no importance and makes the table wide |

Raw {EVIL} in prose, `code`, and https://example.org/a/very/long/address/that/does/not/break/anywhere/at/all.
"""),
    ("code", """
import sys, warnings
print('\\n'.join(f'line {i}' for i in range(20)))
print('50%\\r100%', file=sys.stderr)
warnings.warn('few images', UserWarning)
"""),
    ("code", "print('done ' * 40)"),
    ("code", "x = 1"),
]
TRAINING = [
    ("markdown", "# Training\n\n*What does a classifier learn from each set?*"),
    ("markdown", "## Loss\n\nBack to [the summary](00_summary.ipynb)."),
    ("code", """
steps = np.arange(1, 200)
fig, axes = figures.figure(1, 2, width='wide')
curves = {arm: steps ** -(0.3 + i / 10) for i, arm in enumerate(['real', 'sd', 'cd', 'di', 'published'])}
for arm, curve in curves.items():
    axes[0].plot(steps, curve, color=figures.color(arm), label=arm)
axes[0].set(xscale='log', xlabel='step', ylabel='loss', title='Loss')
axes[0].legend()
axes[1].imshow(np.outer(steps[:10], steps[:10]) % 7)
axes[1].grid(False)
axes[1].set(title='Confusion', xlabel='predicted', ylabel='true')
figures.show(fig, 'loss', 'Loss falls for every arm (n = 1 seed).', 'Five falling curves and a table of confusions.',
             pd.DataFrame(curves))
"""),
    ("code", "figures.say('First paragraph.\\n\\nSecond one.')"),
]
ALL = {"00_summary": SUMMARY, "01_data": DATA, "02_training": TRAINING}


def execute(folder: Path, cells: dict[str, list] | None = None) -> list[Path]:
    """Run notebooks in one real kernel and save them executed, like papermill does."""
    kernel = KernelManager(kernel_name="python3")
    kernel.start_kernel(cwd=str(ROOT))
    try:
        return [_execute(kernel, folder, name, source) for name, source in (cells or ALL).items()]
    finally:
        kernel.shutdown_kernel(now=True)


def _execute(kernel: KernelManager, folder: Path, name: str, cells: list[tuple[str, str]]) -> Path:
    begin = (
        "code",
        f"import numpy as np, pandas as pd\nfrom lib.report import figures\nfigures.begin({str(folder)!r}, {name!r})",
    )
    notebook = assemble([cells[0], begin, *cells[1:]])
    NotebookClient(notebook, km=kernel, timeout=120).execute()
    return save(notebook, folder, name)


def assemble(cells: list[tuple[str, str]]) -> nbformat.NotebookNode:
    """A notebook of (kind, source); a kind that is neither markdown nor code is the tag of a code cell."""
    made = [
        new_markdown_cell(text)
        if kind == "markdown"
        else new_code_cell(text.strip(), metadata={} if kind == "code" else {"tags": [kind]})
        for kind, text in cells
    ]
    return new_notebook(cells=made, metadata={"papermill": {"duration": 1.25}})


def save(notebook: nbformat.NotebookNode, folder: Path, name: str) -> Path:
    path = folder / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


BANNER = {
    "profile": "smoke",
    "device": "cpu (x86_64), float32, 2 threads",
    "seeds": [0, 1, 2],
    "resolution": "32 px",
    "revision": "0123456789ab with local changes",
    "class": EVIL,
    "small": True,
}
MANIFESTS = [
    {
        "kind": "real-images",
        "key": "0a1b2c3d4e5f60718293",
        "version": 1,
        "settings": {"count": 500, "style": "photo", "name": EVIL},
        "seed": 0,
        "input_keys": {},
        "files": {"a.parquet": {}},
        "made": {
            "seconds": 12.5,
            "peak_memory_mb": 812,
            "device": "cpu, float32",
            "python": "3.12.1",
            "versions": {"torch": "2.11.0", "numpy": "2.4.6"},
            "git": "0123456789abcdef",
            "dirty": True,
            "started": "2026-01-01T00:00:00+00:00",
        },
    },
    {
        "kind": "classifier",
        "key": "ffffffffff0718293aaa",
        "version": 2,
        "settings": {"optimiser": {"rate": 0.1, "steps": [1, 2]}},
        "seed": 1,
        "input_keys": {"images": "0a1b2c3d4e5f60718293", "weights": "99999999999999999999"},
        "files": {},
        "made": {"seconds": 100.0},
    },
]
