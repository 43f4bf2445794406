"""The model card of the shipped model, from what training recorded and quality measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2

from lib.tools.pool import HARD

TEMPLATE = Path(__file__).with_name("card.md.j2")


def card(folder: Path, figures: dict[str, Any]) -> str:
    """The text of README.md for a model folder with its `training.json`, and measured figures."""
    facts, vae, text = (json.loads((folder / name).read_text(encoding="utf-8")) for name in
                        ("training.json", "vae/config.json", "text_encoder/config.json"))
    stages = facts["stages"]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"interval": interval, "count": "{:,}".format}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        facts=facts, stages=stages, figures=figures, components=vae["latent_channels"],
        tokens=text["max_position_embeddings"],
        hardest={name: HARD.count(name) / len(HARD) for name in dict.fromkeys(HARD)},
        megabytes=sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6,
        images=sum(stage["steps"] * stage["config"]["batch_size"] for stage in stages),
        minutes=sum(stage["seconds"] for stage in stages) / 60)


def interval(share: dict[str, float]) -> str:
    """A share in % with its interval."""
    low, high = 100 * share["low"], 100 * share["high"]
    return f"{100 * share['mean']:.1f} ({low:.1f} to {high:.1f}, n = {share['n']:,})"
