"""What a recipe costs in units of work: images to read, noise predictions, updates, classifier steps …

A unit is a kind and the details on which its price depends; `rates.py` measures the price. A step that is not in COSTS stops the
plan, so that a new one is not forgotten.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

from lib.classifier import train as fit
from lib.classifier.model import build
from lib.core.store import ArtifactSpec, canonical
from lib.data import real
from lib.diffusion import conditional, embeddings, sets
from lib.diffusion.inversion import PROBES, Inversion
from lib.measure import accuracy, features, fidelity, geometry, probes, robustness
from lib.measure import geometry_steps as lines
from lib.measure import gradcam_steps as attended
from lib.remedies import filter as filters
from lib.remedies import late_layers, recalibrate, split

STORED = 2.0  # bytes a pixel of a losslessly kept picture: photographs take 2.2, generated images 1.6
ARM = ("arm", "base", "steps", "rate", "device", "memory", "buffer")  # of a classifier: a step's price does not hang on them
NETWORK = ("architecture", "stem", "width", "size", "precision")
HALF = 60_000  # images of one half of CIFAKE
PASSES = 3  # forward and backward, in forward passes


class Unit(NamedTuple):
    """One kind of work under these details, which are JSON."""

    kind: str
    details: str

    @property
    def about(self) -> dict:
        return json.loads(self.details)


Units = Counter[Unit]


def unit(kind: str, **details) -> Unit:
    """Equal where kind and details are equal."""
    return Unit(kind, canonical(details))


def cost(recipe: ArtifactSpec, classes: int) -> Units:
    """Units of one artifact."""
    return Counter({one: amount for one, amount in COSTS[recipe.kind](recipe, classes).items() if amount})


def count(recipe: ArtifactSpec) -> int:
    """Images that an artifact holds."""
    wanted = recipe.settings
    if recipe.kind == split.part.kind:
        share = wanted["share"] if wanted["part"] == "validation" else 1 - wanted["share"]
        return round(share * count(recipe.inputs["real"]))
    if recipe.kind == filters.kept.kind:
        return round(wanted["keep"] * count(recipe.inputs["images"]))
    return len(wanted["plan"]) if "plan" in wanted else wanted["count"]


def side(recipe: ArtifactSpec) -> int:
    """Pixels a side of an artifact's images."""
    size = recipe.settings.get("resolution") or recipe.settings.get("size")
    return size or side(next(recipe.inputs[name] for name in ("images", "real", "published") if name in recipe.inputs))


def reads(recipe: ArtifactSpec) -> list[ArtifactSpec]:
    """The image sets that an artifact is made from."""
    return [one for one in recipe.inputs.values() if one.kind in PICTURES]


def files(recipe: ArtifactSpec) -> int:
    """Files of an artifact, each of which is a task."""
    wanted = recipe.settings
    if "shard" in wanted:
        return -(-count(recipe) // wanted["shard"])
    return 1


def network(recipe: ArtifactSpec, classes: int) -> dict:
    """A classifier's architecture, of one that was trained or trained further."""
    if recipe.kind != fit.classifier.kind:
        return network(recipe.inputs.get("classifier") or recipe.inputs["judge"], classes)
    wanted = fit.DEFAULTS | recipe.settings
    known = wanted | {"size": side(next(iter(recipe.inputs.values())))}
    return {name: known[name] for name in NETWORK} | {"classes": classes}


def model(recipe: ArtifactSpec) -> dict:
    """The generator of a synthetic set, by what it is or what it was made from."""
    own = recipe.inputs.get("generator")
    wanted = own.settings if own else recipe.settings
    start = wanted.get("start", wanted.get("model"))
    if start == conditional.SCRATCH:
        return {"model": start, "space": wanted["space"], "channels": wanted["channels"], "size": side(own)}
    return {"model": start, "revision": wanted["revision"], "size": 0 if own else wanted.get("size", 0)}


# --- one function a kind of step: recipe, classes -> units ------------------------------------------------------------------

def searched(recipe: ArtifactSpec, classes: int) -> Units:
    return Counter({unit("read", source=recipe.settings["source"], path=recipe.settings["root"], size=32): HALF})


def kept(recipe: ArtifactSpec) -> Units:
    """Writing an artifact's images."""
    return Counter({unit("write", size=side(recipe)): count(recipe)})


def read(recipe: ArtifactSpec, classes: int) -> Units:
    wanted = recipe.settings
    details = {"source": wanted["source"], "path": wanted["root"], "size": side(recipe)}
    return Counter({unit("read", **details): count(recipe)}) + kept(recipe)


def drawn(recipe: ArtifactSpec, classes: int) -> Units:
    """Images from noise: predictions, twice as many where there is guidance, and the autoencoder's part."""
    how, of = recipe.settings["sampler"], model(recipe)
    first, last = (share * how["num_inference_steps"] for share in how["guidance_interval"])
    guided = sum(first <= step < last for step in range(how["num_inference_steps"])) if how["guidance_scale"] != 1 else 0
    return Counter({unit("predict noise", **of, batch=how["batch_size"]): count(recipe) * (how["num_inference_steps"] + guided),
                    unit("decode", **of): count(recipe)}) + kept(recipe)


def inverted(recipe: ArtifactSpec, classes: int) -> Units:
    of, how = model(recipe), Inversion(**recipe.settings["inversion"])
    looks = PROBES * (len(how.marks()) + (PASSES - 1) * (how.timestep_sampling == "sensitive"))
    return Counter({unit("update", **of, batch=min(how.batch, recipe.settings["shard"])): count(recipe) * how.steps,
                    unit("validate", **of): count(recipe) * looks, unit("encode", **of): count(recipe)})


def identified(recipe: ArtifactSpec, classes: int) -> Units:
    of, looks = model(recipe), PROBES * (1 + embeddings.OTHERS)
    return Counter({unit("validate", **of): count(recipe) * looks, unit("encode", **of): count(recipe)})


def learnt(recipe: ArtifactSpec, classes: int) -> Units:
    """The training of a generator, with its looks at a sheet of samples."""
    how, (real,) = recipe.settings["train"], recipe.inputs.values()
    of = model(ArtifactSpec("", {}, {"generator": recipe}))
    return Counter({
        unit("learn", **of, batch=how["batch_size"]): how["max_train_steps"] * how["batch_size"],
        unit("encode", **of): count(real) * (1 + recipe.settings["flip"]),
        unit("predict noise", **of, batch=64): 8 * 2 * classes * -(-how["max_train_steps"] // how["checkpointing_steps"])})


def fitted(recipe: ArtifactSpec, classes: int) -> Units:
    wanted = fit.DEFAULTS | recipe.settings
    details = {name: value for name, value in wanted.items() if name not in ARM}
    return Counter({unit("train", **network(recipe, classes) | details): wanted["steps"] * wanted["batch"]})


def refitted(recipe: ArtifactSpec, classes: int) -> Units:
    wanted = late_layers.DEFAULTS | recipe.settings
    details = network(recipe, classes) | {name: wanted[name] for name in ("blocks", "recipe", "batch", "flip", "smoothing")}
    return Counter({unit("train again", **details): wanted["steps"] * wanted["batch"]})


def seen(recipe: ArtifactSpec, classes: int, images: str = "images", most: int = 10**9, times: float = 1) -> Units:
    """Forward passes of a classifier over an image set."""
    return Counter({unit("classify", **network(recipe, classes)): times * min(count(recipe.inputs[images]), most)})


def featured(recipe: ArtifactSpec, classes: int) -> Units:
    if "classifier" in recipe.inputs:
        return seen(recipe, classes)
    return Counter({unit("look", network=recipe.settings["extractor"]): count(recipe.inputs["images"])})


def explained(recipe: ArtifactSpec, classes: int) -> Units:
    return seen(recipe, classes, most=recipe.settings["count"], times=2)


def trusted(recipe: ArtifactSpec, classes: int) -> Units:
    return Counter({unit("road", **network(recipe, classes)): recipe.settings["count"]})


def lined(recipe: ArtifactSpec, classes: int) -> Units:
    part = recipe.inputs["images"]
    return Counter({unit("lines", size=side(part)): min(recipe.settings["count"], count(part))})


def calibrated(recipe: ArtifactSpec, classes: int) -> Units:
    scenes = len(geometry.STYLES) * recipe.settings["scenes"]
    return Counter({unit("trial", size=size): scenes for size in recipe.settings["sizes"]})


def activated(recipe: ArtifactSpec, classes: int) -> Units:
    return Counter({unit("classify", **network(recipe, classes)): recipe.settings["count"]})


def probed(recipe: ArtifactSpec, classes: int) -> Units:
    both = seen(recipe, classes, "train") + seen(recipe, classes, "test")
    return both + Counter({unit("fit probes"): count(recipe.inputs["train"])})


def tried(recipe: ArtifactSpec, classes: int) -> Units:
    wanted = recipe.settings
    shown = wanted["corruption_images"] * len(wanted["corruptions"]) * len(wanted["severities"])
    climbs = PASSES * wanted["attack_images"] * len(wanted["eps_255"]) * (1 + wanted["pgd_steps"])
    return Counter({unit("classify", **network(recipe, classes)): shown + climbs,
                    unit("damage", size=side(recipe)): shown})


def compared(recipe: ArtifactSpec, classes: int) -> Units:
    return Counter({unit("compare"): recipe.settings["count"]})


def copied(recipe: ArtifactSpec, classes: int) -> Units:
    pairs = count(recipe.inputs["train"]) * (count(recipe.inputs["train"]) + 2 * recipe.settings["count"])
    return Counter({unit("pairs"): pairs})


def sieved(recipe: ArtifactSpec, classes: int) -> Units:
    by, part = recipe.settings["by"], recipe.inputs["images"]
    scores = {"random": Counter, "density": lambda: seen(recipe, classes) + seen(recipe, classes, "real"),
              "geometry": lambda: Counter({unit("lines", size=side(part)): count(part) / 4})}  # fewer measures, more images
    return kept(recipe) + scores.get(by, lambda: seen(recipe, classes))()


def recalibrated(recipe: ArtifactSpec, classes: int) -> Units:
    return seen(recipe, classes, "real", recipe.settings["real"], times=1.5)


def parted(recipe: ArtifactSpec, classes: int) -> Units:
    return kept(recipe)


COSTS: dict[str, Callable[[ArtifactSpec, int], Units]] = {builder.kind: function for builder, function in {
    real.real_images: read, real.copies: searched,
    real.inspection: lambda recipe, classes: Counter(), sets.prompted: drawn, sets.conditioned: drawn,
    embeddings.inverted: drawn, embeddings.planned: drawn, embeddings.embeddings: inverted, embeddings.identified: identified,
    conditional.trained: learnt,
    fit.classifier: fitted, accuracy.logits: seen, features.features: featured, attended.attended: explained,
    attended.trusted: trusted, lines.lines: lined, lines.calibration: calibrated, probes.layer_features: activated,
    probes.linear_probes: probed, robustness.robustness: tried,
    fidelity.comparison: compared, fidelity.copies: copied, filters.kept: sieved, late_layers.retrained: refitted,
    recalibrate.recalibrated: recalibrated, split.part: parted}.items()}


PICTURES = {builder.kind for builder in (real.real_images, sets.prompted, sets.conditioned, embeddings.inverted,
                                   embeddings.planned, filters.kept, split.part)}  # steps that make image sets


def total(recipes: Iterable[ArtifactSpec], classes: int) -> Units:
    """All units of several artifacts."""
    return sum((cost(one, classes) for one in recipes), Counter())


# --- disk -------------------------------------------------------------------------------------------------------------------

def size(recipe: ArtifactSpec, classes: int) -> float:
    """Bytes of an artifact: of images, and of weights; all else is small."""
    if recipe.kind in (fit.classifier.kind, late_layers.retrained.kind, recalibrate.recalibrated.kind):
        return 4 * weights(network(recipe, classes))
    return STORED * sum(amount * one.about["size"] ** 2 for one, amount in cost(recipe, classes).items() if one.kind == "write")


def weights(of: dict) -> int:
    """Parameters of a classifier."""
    with torch.device("meta"):
        made = build(of["classes"], of["size"], of["width"], of["architecture"], of["stem"])
    return sum(part.numel() for part in made.parameters())
