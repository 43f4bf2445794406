"""Training images a second of a generator: ours against a plain loop over the same networks and picture files.

The plain loop is what a first version looks like: a DataLoader of PNG files, the autoencoder and the text encoder in the
loop, float32, one process. Ours encodes once, shares the cores between two processes of one thread each, and computes in
what the probe finds fastest: `way`. `most` is the ratio that multiplications alone would reach, each as fast as in a large
matrix product of float32: more is not to be had in float32.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from lib import world
from lib.core.paths import ROOT
from lib.diffusion.model import Generator, pixels
from lib.diffusion.tokenizer import tokenize
from lib.tools.bench import multiplied

PICTURES, BATCH, STEPS = 256, 64, 6
OURS = """
import sys, time, torch, torch.distributed as dist
from lib.diffusion import train as fit, precision as probe
from lib.diffusion.model import Generator
from lib.core.store import Store
import numpy as np
dist.init_process_group("gloo")
torch.set_num_threads(1)
made = Generator.load()
pictures = torch.from_numpy(np.load(sys.argv[1]))
from lib.diffusion.tokenizer import tokenize
raw = tokenize(made.tokenizer, ["a photo of a cube"] * len(pictures))[0]
examples = fit.Examples(made.encode(pictures)[None].half(), raw[:, None].to(torch.int16))
how, batch = dict(batch=int(sys.argv[2]), warmup=1, keep=10**6, meet=8), int(sys.argv[2])
fit.fit(made, examples, fit.TrainConfig(1, **how), way=probe.learning(Store(sys.argv[4]), made, batch))
made = Generator.load()
way = probe.learning(Store(sys.argv[4]), made, batch)
dist.barrier(); began = time.perf_counter()
losses = fit.fit(made, examples, fit.TrainConfig(int(sys.argv[3]), **how), way=way)
dist.barrier()
if dist.get_rank() == 0: print("seconds", time.perf_counter() - began, losses[-1], f"{way.dtype}, {way.layout}, {way.attention}")
"""


def run() -> dict:
    """Two rounds taken in turn, the best of each."""
    images, _ = world.render_many(range(PICTURES), "web", workers=os.cpu_count() or 1)
    with TemporaryDirectory() as folder:
        np.save(f"{folder}/pictures.npy", images)
        for i, image in enumerate(images):
            cv2.imwrite(f"{folder}/{i}.png", image[..., ::-1])
        rounds = [(ours(Path(folder)), plain(Path(folder))) for _ in range(2)]
    best = [min(pair[k] for pair in rounds) for k in (0, 1)]
    rates = [BATCH * STEPS / seconds for seconds, *_ in best]
    return {"unit": "images/s", "ours": round(rates[0], 1), "reference": round(rates[1], 1),
            "ratio": round(rates[0] / rates[1], 2), "equal": bool(abs(best[0][1] - best[1][1]) < 0.1 * best[1][1]),
            "most": round(most(os.cpu_count() or 1) / rates[1], 2), "losses": [round(loss, 3) for _, loss, *_ in best],
            "way": best[0][2]}


def most(cores: int) -> float:
    """Images a second if all cores did nothing but multiply for the U-Net and the text encoder, forward and back."""
    made = Generator.load()
    for part in (made.unet, made.text_encoder):
        part.train().requires_grad_(True)
    with FlopCounterMode(display=False) as counter:
        condition = made.condition(made.nothing().expand(BATCH, -1))
        made.predict(torch.zeros(BATCH, *made.shape), torch.zeros(BATCH, dtype=torch.long), condition).sum().backward()
    return multiplied(cores) / (counter.get_total_flops() / BATCH)


def ours(folder: Path) -> tuple[float, float, str]:
    """Seconds and mean loss of STEPS steps of the project's own loop, two processes, and how they computed."""
    (folder / "ours.py").write_text(OURS)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(folder / "ours.py"),
             str(folder / "pictures.npy"), str(BATCH), str(STEPS), str(folder / "probed")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    told = subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout
    line = next(line for line in told.splitlines() if line.startswith("seconds"))
    _, seconds, loss, way = line.split(maxsplit=3)
    return float(seconds), float(loss), way


class Files(torch.utils.data.Dataset):
    """Picture files and what is said of them."""

    def __init__(self, folder: Path):
        self.files = sorted(folder.glob("*.png"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int):
        return cv2.imread(str(self.files[index]), cv2.IMREAD_COLOR_RGB), "a photo of a cube"


def plain(folder: Path) -> tuple[float, float]:
    """Seconds and mean loss of STEPS steps of the plain loop."""
    made, losses = Generator.load(), []
    for part in (made.unet, made.text_encoder):
        part.train().requires_grad_(True)
    optimiser = torch.optim.AdamW([*made.unet.parameters(), *made.text_encoder.parameters()], lr=1e-5)
    loader = torch.utils.data.DataLoader(Files(folder), BATCH, shuffle=True, num_workers=2, drop_last=True)
    batches = (batch for _ in range(STEPS + 1) for batch in loader)
    for step, (pictures, said) in zip(range(STEPS + 1), batches, strict=False):
        if step == 1:
            began = time.perf_counter()  # the first step warms up
        latents = made.encode(pixels(pictures))
        noise, t = torch.randn_like(latents), torch.randint(1000, (len(latents),))
        condition = made.condition(tokenize(made.tokenizer, list(said))[0])
        output = made.predict(made.blend(latents, noise, t), t, condition)
        loss = (output - made.target(latents, noise, t)).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return time.perf_counter() - began, sum(losses[1:]) / STEPS
