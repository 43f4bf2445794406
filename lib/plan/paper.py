"""Studies that no single machine finishes: the same work on many, on paper."""

from __future__ import annotations

import torch

from lib.core.config import Settings
from lib.core.store import Store
from lib.plan import chapters, hours, rates, units
from lib.plan.hours import Prices

LONG = 24 * 3600  # s: above this a plan says what many GPUs would take
MANY = (8, 64)
TIMES = (1, 10)  # ImageNet-1K has ten times ImageNet-100's images, and as many a class
CARD = 4.0e13  # operations a second that a GPU is taken to reach in half precision where there is none to be measured
NETWORKS = ("predict noise", "decode", "encode", "validate", "update", "learn", "train", "train again", "classify", "look")


def larger(loaded: Settings, store: Store, prices: Prices) -> dict[str, dict]:
    """Hours by the clock of this profile, and of one with ten times the images, on so many GPUs."""
    found, faster = {}, 1.0 if torch.cuda.is_available() else CARD / rates.speed()
    there = {one: price / (faster if one.kind in NETWORKS else 1) for one, price in prices.items()}
    for times in TIMES:
        known, asked = chapters.study(scaled(loaded, times), store)
        seen: set[str] = set()
        made = {name: list(chapters.closure(recipes, seen)) for name, recipes in asked.items()}
        spent = {name: hours.spent(recipes, known.count, there, 1) for name, recipes in made.items()}
        walls = {f"on {many}": sum(hours.own(name, known, there) + hours.wall(recipes, spent[name], many)
                                   for name, recipes in made.items()) / 3600 for many in MANY}
        found[f"{times} x"] = {"images": units.count(known.real["train"]), "faster": faster, **walls,
                               "work": sum(sum(each.values()) for each in spent.values()) / 3600}
    return found


def scaled(loaded: Settings, times: int) -> Settings:
    """The same study of more images, real and synthetic."""
    def more(section, *names):
        return section.model_copy(update={name: times * getattr(section, name) for name in names})
    return loaded.model_copy(update={
        "data": more(loaded.data, "train", "test"), "inversion": more(loaded.inversion, "num_embedded", "num_images"),
        "generation": more(loaded.generation, "num_images", "generator_train_steps")})


def lines(found: dict[str, dict]) -> list[str]:
    """As text."""
    rows = [f"on paper, {row['images']:,} training images: {row['work']:,.0f} GPU-hours, by the clock "
            + ", ".join(f"{row[f'on {many}']:,.0f} h on {many} GPUs" for many in MANY) for row in found.values()]
    faster = next((row["faster"] for row in found.values()), 1.0)
    said = f"no GPU here: one is taken to reach {CARD / 1e12:.0f} TFLOP/s, {faster:,.0f} times one process of this machine"
    return rows + [said] * (faster > 1)
