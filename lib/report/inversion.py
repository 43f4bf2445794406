"""Words, numbers and plots of the chapter on inversion, and of how near each set comes to real images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib.core.store import ArtifactSpec
from lib.diffusion import sets
from lib.diffusion.embeddings import Learned
from lib.diffusion.inversion import Inverted
from lib.diffusion.model import SHIPPED
from lib.measure.stats import over_images
from lib.remedies.registry import nodes
from lib.report.figures import color, value
from lib.report.words import listed

Result = Mapping[str, float]
AIM = 0.95  # share of identified images from which on embeddings count as those of their images


def frozen(embeddings: ArtifactSpec) -> str:
    """Which model is inverted, and what it has seen."""
    own = embeddings.inputs.get("generator")
    if own is None:
        return f"The frozen text-to-image generator is {sets.model(embeddings)}; it saw no real image of this study."
    if "published" in own.inputs:
        return (f"The frozen generator knows only the synthetic domain: a class-conditional model trained {sets.taught(own)} "
                "(Stable Diffusion 1.4's, as CIFAKE has them) and on no real image. To invert it is not the same as to invert "
                "Stable Diffusion itself, which has seen far more than these pictures.")
    return (f"The frozen generator is a class-conditional model trained here {sets.taught(own)}: the same images that are then "
            "inverted, so the set knows nothing that these do not tell.")


def prior(made: Mapping[str, ArtifactSpec]) -> str:
    """What the shipped model itself took to train, if these sets begin with it."""
    begun = [name for name, recipe in made.items()
             if any("shipped" in (one.settings.get("model"), one.settings.get("start")) for one in nodes(recipe))]
    stages = json.loads((SHIPPED / "training.json").read_text(encoding="utf-8"))["stages"]
    spent = sum(one["seconds"] for one in stages) / 60
    return (f" Not counted, since it ships with the project: {spent:.0f} minutes that the model took to train with which "
            f"{listed(begun)} begin{'s' * (len(begun) == 1)}.") if begun else ""


def curves(inverted: Inverted, marks: Sequence[int]) -> pd.DataFrame:
    """Validation loss over updates, in % of each image's first: mean, and the range of the middle 90 % of images."""
    losses = inverted.curves[~inverted.given_up].double()
    share = pd.DataFrame((100 * losses / losses[:, :1]).numpy(), columns=list(marks)).ffill(axis=1)  # a stopped row stays
    low, high = share.quantile(0.05), share.quantile(0.95)
    return pd.DataFrame({"updates": list(marks), "mean": share.mean(), "low": low, "high": high, "images": len(share)})


def falling(axes, frame: pd.DataFrame) -> None:
    """The curve of `curves` with its band."""
    axes.fill_between(frame["updates"], frame["low"], frame["high"], alpha=0.25, linewidth=0, color=color("di"),
                      label="middle 90 % of images")
    axes.plot(frame["updates"], frame["mean"], "o-", color=color("di"), label="mean")
    axes.axhline(100, linewidth=1, color=color("other"))
    axes.set(xlabel="updates of each embedding", ylabel="loss (% of the first)")
    axes.legend()


def fell(frame: pd.DataFrame) -> str:
    """How far the losses fell, and whether they still do."""
    first, last = frame.iloc[0], frame.iloc[-1]
    if last["mean"] >= first["mean"]:
        return f"The loss does not fall over {last['updates']:.0f} updates: a lower rate or more updates are needed."
    flat = len(frame) > 2 and frame["mean"].iloc[-2] - last["mean"] < 0.1 * (first["mean"] - last["mean"])
    end = "where it has come to rest" if flat else "and is still falling"
    return (f"After {last['updates']:.0f} updates the loss is {100 - last['mean']:.1f} % below that of the class alone "
            f"on average (middle 90 % of {last['images']:.0f} images: {100 - last['high']:.1f} to {100 - last['low']:.1f} %), "
            f"{end}.")


def failures(learned: Learned, drawn_alone: Sequence[bool]) -> str:
    """What did not work: rows started again or given up, and images of classes that offered no partner."""
    inverted = learned.inverted
    again, lost = int((inverted.restarts > 0).sum()), int(inverted.given_up.sum())
    parts = [f"{again} of {len(learned.ids)} embeddings had to start again at a lower rate" if again else
             f"none of {len(learned.ids)} embeddings had to start again",
             f"{lost} were given up and keep what the model has for their class" if lost else "none was given up"]
    alone = int(np.sum(drawn_alone))
    parts.append(f"{alone} images of the set come from a source without a partner in its class, so from itself and noise alone"
                 if alone else "every source had a partner of its class")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def identified(result: Result) -> str:
    """Whether embeddings are those of their images."""
    verdict = "an embedding is that of its image" if result["low"] >= AIM else \
        "most embeddings are those of their images" if result["mean"] >= AIM else "too few to call an embedding that of its image"
    return (f"Among ten embeddings, half of them of its class, an image's own gives it the lowest loss in "
            f"{_percent(result)}; chance is 10 %: {verdict}.")


def rebuilt(found: Mapping[str, Any]) -> str:
    """How much of a source its reconstruction brings back."""
    closer = found["psnr"]["low"] > found["psnr of another"]["high"]
    than = "closer to its source than" if closer else "no closer to its source, beyond chance, than"
    return (f"A reconstruction is {than} another real image of the class is: {value(found['psnr'], unit=' dB')} against "
            f"{value(found['psnr of another'], unit=' dB')}. Of {found['rank']['of']:,} real images its source is the nearest in "
            f"{_percent(found['first'])} and among the nearest ten in {_percent(found['tenth'])} (median rank "
            f"{found['rank']['median']:.0f}).")


def varied(found: Mapping[str, Result]) -> str:
    """How much an embedding leaves open."""
    one, some, all_ = (found[name]["mean"] for name in ("seeds", "set", "class"))
    judged = ("the noise still decides much: an embedding holds what a picture is like, not the picture" if one > 0.5 * all_ else
              "the embedding decides most of the picture")
    return (f"Two images from one embedding lie {value(found['seeds'])} grey levels apart, two of the set from one source "
            f"{value(found['set'])}, two real images of a class {value(found['class'])}: {judged}"
            f"{', and steps between and around embeddings add to it' if some > found['seeds']['high'] else ''}.")


def quality(hits: Result, found: Mapping[str, Any]) -> pd.DataFrame:
    """A row a measure, with what to hold it against."""
    rows = [("identified among ten (%)", _hundred(hits), "chance: 10"),
            ("reconstruction, PSNR (dB)", found["psnr"], f"another image of the class: {value(found['psnr of another'])}"),
            ("source is the nearest real image (%)", _hundred(found["first"]), f"chance: {100 / found['rank']['of']:.1g}"),
            ("source among the nearest ten (%)", _hundred(found["tenth"]), f"chance: {1000 / found['rank']['of']:.1g}"),
            ("two images from one embedding (grey levels)", found["seeds"], f"two real of a class: {value(found['class'])}"),
            ("two of the set from one source (grey levels)", found["set"], f"two real of a class: {value(found['class'])}")]
    return pd.DataFrame(rows, columns=["measure", "value", "beside"])


def own(nearest: Sequence[str], sources: Sequence[str], partners: Sequence[str]) -> str:
    """How often the training image that an image is nearest to is one of the two that it was drawn from."""
    hit = np.mean([name in pair for name, pair in zip(nearest, zip(sources, partners, strict=True), strict=True)])
    return (f"Of {len(nearest):,} images, {100 * hit:.1f} % have one of their own two sources as their nearest training image "
            "(thumbnails).")


def cost(ours: float, drawn: float, published: Mapping[str, Any], device: str) -> tuple[pd.DataFrame, str]:
    """Seconds an image, ours and published, and the sentence; the machines differ, which it says."""
    low, high = (published["seconds_per_image"][end] for end in ("low", "high"))
    rows = [("here", f"{ours:.2f}", f"{drawn:.2f}", device),
            (published["title"], f"{low:g}–{high:g}", "not run: not published", published["seconds_per_image"]["device"])]
    said = (f"An embedding costs {ours:.1f} s of one core here; published are {low:g} to {high:g} s on an "
            f"{published['seconds_per_image']['device']}, with another model at another resolution, so the two "
            "are no race.")
    return pd.DataFrame(rows, columns=["where", "embedding", "drawing", "device"]), said


def speeds(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """A row a setting with the paired difference in loss (thousandths) and the updates it saves; which saves without harm."""
    made = pd.DataFrame([{"setting": row["setting"], "loss": over_images(1000 * row["loss"][np.isfinite(row["loss"])]),
                          "updates": row["updates"], "saved": 100 * (1 - row["updates"] / row["base"])}
                         for _, row in frame.iterrows()])
    effects = ["ends at a higher loss" if loss["low"] > 0 else "ends at a lower loss" if loss["high"] < 0 else
               "ends at a loss that is not told apart" for loss in made["loss"]]
    said = [f"“{name}” saves {saved:.0f} % of the updates and {effect}" for name, saved, effect in
            zip(made["setting"], made["saved"], effects, strict=True)]
    return made, f"Against the settings of this study: {'; '.join(said)} (n = {int(made['loss'][0]['n'])} images)."


def _hundred(result: Result) -> dict[str, float]:
    """A share as per cent."""
    return {key: result[key] * (1 if key == "n" else 100) for key in ("mean", "low", "high", "n")}


def _percent(result: Result) -> str:
    return value(result, scale=100, unit=" %")
