"""Chapter 07's artifacts and tables: sets compared, what classifiers make of images, damages and attacks, each kept."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

from lib.classifier import train as fit
from lib.core import compute
from lib.core.store import Artifact, ArtifactSpec, FileWriters, Store, artifact, write_json
from lib.data import imageset as images
from lib.data import real
from lib.data.imageset import ImageSet
from lib.data.source import SourceError
from lib.measure import accuracy, features, fidelity, representation, robustness
from lib.measure.features import FeatureError
from lib.measure.fidelity import FidelityError
from lib.measure.stats import over_seeds

REAL = "other real images"  # the row that says what is to be had at best
CLEAN = "clean-0"  # the file of undamaged images
GROUPS = {"corruptions": tuple(robustness.STRENGTHS), "attacks": ("fgsm", "pgd")}  # all other kinds are shifts
FIDELITY = {  # which way each measure of a set is better, and how many digits it is worth
    "FD": ("less", 2), "FD∞": ("less", 2), "KID × 1000": ("less", 1), "IS": ("more", 2), "precision": ("more", 2),
    "density": ("more", 2), "recall": ("more", 2), "coverage": ("more", 2)}


@artifact("fidelity")
def compared(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """Fidelity and diversity of `count` images of a set against as many real test images, on one network's features."""
    def write(path: Path) -> None:
        wanted, count, skip = recipe.settings, recipe.settings["count"], recipe.settings["skip"]
        name, classifier = wanted["network"], recipe.inputs.get("classifier")
        base, ours = (features.of(store, recipe.inputs[which], wanted["device"], name, classifier)
                      for which in ("test", "images"))
        found = fidelity.measures(base[0][:count], ours[0][skip:skip + count], recipe.seed, name, wanted["neighbours"])
        if classifier:
            said = torch.from_numpy(accuracy.load_logits(store, classifier, recipe.inputs["images"], wanted["device"]))
            shares = said[skip:skip + count].double().softmax(1).numpy()
            found[f"IS-{name}"] = fidelity.inception_score(shares, recipe.seed, name)
        write_json(path, {"measures": found, **ours[1]})
    return {"measures.json": write}


@artifact("memorisation")
def copied(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """How much of `count` images of a set is copied from the training images, against as many real test images."""
    def write(path: Path) -> None:
        count, skip = recipe.settings["count"], recipe.settings["skip"]
        ours, train, test = (leading(store.make(recipe.inputs[name])).images for name in ("images", "train", "test"))
        write_json(path, fidelity.memorisation(ours[skip:skip + count], train, test[:count]))
    return {"memory.json": write}


@artifact("layer-activations")
def activations(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """Features (n, channels) after each layer of a classifier, and labels (n,): a file for each of the other upstream sets."""
    def write(name: str, path: Path) -> None:
        part = leading(store.make(recipe.inputs[name]), recipe.settings["counts"][name])
        found = representation.activations(opened(store, recipe), part.images)
        save_file({layer: torch.from_numpy(values) for layer, values in found.items()}
                  | {"labels": torch.from_numpy(part.labels)}, path)
    return {f"{name}.safetensors": functools.partial(write, name) for name in recipe.settings["counts"]}


@artifact("layer-probes")
def probed(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """Accuracy of linear probes on upstream `seen`: of real images after every layer, of other sources after the last."""
    def write(path: Path) -> None:
        made, found = store.make(recipe.inputs["seen"]), {}
        for name, (learn, ask) in recipe.settings["pairs"].items():
            (known, labels), (asked, answers) = (read(made, part) for part in (learn, ask))
            chosen = known if name == "real" else dict(list(known.items())[-1:])
            found[name] = representation.probes(chosen, labels, asked, answers, recipe.seed)
        write_json(path, found)
    return {"probes.json": write}


@artifact("corrupted-images")
def damaged(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """The first `count` images of a set (n, h, w, 3) and labels, as they are and under each corruption and severity."""
    wanted = recipe.settings
    part = functools.cache(lambda: leading(store.make(recipe.inputs["images"]), wanted["count"]))

    def write(kind: str, severity: int, path: Path) -> None:
        pixels = robustness.corrupt(part().images, kind, severity, recipe.seed) if severity else part().images
        save_file({"images": torch.from_numpy(pixels), "labels": torch.from_numpy(part().labels)}, path)
    every = [("clean", 0), *((kind, severity) for kind in wanted["kinds"] for severity in wanted["severities"])]
    return {f"{kind}-{severity}.safetensors": functools.partial(write, kind, severity) for kind, severity in every}


@artifact("robustness")
def tried(store: Store, recipe: ArtifactSpec) -> FileWriters:
    """What a classifier still recognises of upstream `damaged`, and of its first clean images under attack: a row each."""
    def damages(path: Path) -> None:
        model, made = opened(store, recipe), store.make(recipe.inputs["damaged"])
        shares = {file.stem: robustness.accuracy(model, *pixels(made, file.stem)) for file in made.files}
        clean, rows = shares.pop(CLEAN), []
        for name, share in shares.items():
            kind, _, severity = name.rpartition("-")
            rows.append({"kind": kind, "severity": float(severity), "accuracy": share, "clean": clean})
        pd.DataFrame(rows).to_parquet(path)

    def attacks(path: Path) -> None:
        shown, labels = (values[:recipe.settings["attacked"]] for values in pixels(store.make(recipe.inputs["damaged"]), CLEAN))
        rows = robustness.attacked(opened(store, recipe), shown, labels, recipe.settings["eps"], recipe.settings["climbs"],
                                   recipe.seed)
        pd.DataFrame(rows).to_parquet(path)
    return {"damages.parquet": damages, "attacks.parquet": attacks}


def opened(store: Store, recipe: ArtifactSpec) -> torch.nn.Module:
    """The classifier that a recipe names, on the study's device."""
    model, _ = fit.opened(store.make(recipe.inputs["classifier"]))
    return model.to(compute.device(recipe.settings["device"]))


def leading(made: Artifact, count: int = 10**9) -> ImageSet:
    """The first images of a set, from no more of its shards than hold them."""
    held = np.cumsum([pq.read_metadata(path).num_rows for path in made.files])
    return _leading(tuple(made.files[:int(np.searchsorted(held, count)) + 1]), count)


@functools.lru_cache(maxsize=8)
def _leading(shards: tuple[Path, ...], count: int) -> ImageSet:
    """Kept, since every classifier of the study is shown the same images."""
    return images.load(Artifact(shards[0].parent, {"files": [path.name for path in shards]})).take(slice(count))


def read(made: Artifact, name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Features by layer, first to last, and labels of one set of `activations`."""
    found = {key: value.numpy() for key, value in load_file(made.path(f"{name}.safetensors")).items()}
    labels = found.pop("labels")
    return {layer: found[layer] for layer in (*representation.LAYERS, representation.HEAD) if layer in found}, labels


def pixels(made: Artifact, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one file of `damaged`."""
    found = load_file(made.path(f"{name}.safetensors"))
    return found["images"].numpy(), found["labels"].numpy()


class Plan:
    """The recipes of the chapter: what is measured of which set and classifier."""

    def __init__(self, settings, study, data: Mapping, real: Mapping[str, ArtifactSpec], arms: Mapping[str, list[ArtifactSpec]]):
        self.settings, self.study, self.data, self.real, self.arms = settings, study, data, real, arms
        self.base = "real" if "real" in arms else next(iter(arms))
        self.own = arms[self.base][0]
        self.count = min(settings.images, data["test"] // 2)  # the other half of the test images is a set like any other
        self.others, self.absent = foreign(settings, study, data)

    def sets(self, made: Mapping[str, ArtifactSpec]) -> dict[str, ArtifactSpec]:
        """What is compared with the first half of the test images: the other half, and each synthetic set."""
        return {REAL: self.real["test"], **made}

    def comparison(self, pictures: ArtifactSpec, network: str) -> ArtifactSpec:
        """`compared`; network `own` is the base arm's first classifier."""
        settings = {"network": network, "neighbours": self.settings.neighbours, "device": self.study.device}
        upstream = {"classifier": self.own} if network == "own" else {}
        return compared(settings | self._part(pictures), self.study.seed, test=self.real["test"], images=pictures, **upstream)

    def memory(self, pictures: ArtifactSpec) -> ArtifactSpec:
        return copied(self._part(pictures), images=pictures, train=self.real["train"], test=self.real["test"])

    def seen(self, classifier: ArtifactSpec) -> ArtifactSpec:
        """`activations` on real images to learn from and to ask, and on the other sources'."""
        upstream = {"learn": self.real["train"], "ask": self.real["test"], **self.others}
        counts = {name: self.settings.seen if name.endswith("ask") else self.settings.probe for name in upstream}
        return activations({"counts": counts, "device": self.study.device}, classifier=classifier, **upstream)

    def probes(self, classifier: ArtifactSpec) -> ArtifactSpec:
        pairs = {"real": ["learn", "ask"]} | {name.removesuffix("-ask"): [name.replace("-ask", "-learn"), name]
                                              for name in self.others if name.endswith("-ask")}
        return probed({"pairs": pairs}, self.study.seed, seen=self.seen(classifier))

    def trial(self, classifier: ArtifactSpec) -> ArtifactSpec:
        wanted = self.settings
        worse = damaged({"count": wanted.damaged, "kinds": wanted.corruptions, "severities": wanted.severities}, self.study.seed,
                        images=self.real["test"])
        return tried({"attacked": wanted.attacked, "eps": wanted.eps, "climbs": wanted.climbs, "device": self.study.device},
                     self.study.seed, classifier=classifier, damaged=worse)

    def every(self) -> list[ArtifactSpec]:
        """All that is measured of classifiers."""
        return [kind(one) for kind in (self.probes, self.trial) for seeds in self.arms.values() for one in seeds]

    def _part(self, pictures: ArtifactSpec) -> dict[str, int]:
        """Real test images are compared with those after them."""
        return {"count": self.count, "skip": self.count if pictures == self.real["test"] else 0}


def foreign(settings, study, data: Mapping) -> tuple[dict[str, ArtifactSpec], dict[str, str]]:
    """Images of the other sources to learn from and to ask, and why a source is not there."""
    found, absent = {}, {}
    for name in settings.transfer:
        wanted = SimpleNamespace(source=name, root=settings.path, resolution=data["resolution"], train=settings.probe,
                                 test=settings.seen, shift_images=0, shard=500, max_corrupt_files=0)
        try:
            parts = real.specs(wanted, study.seed)
            found |= {f"{name}-learn": parts["train"], f"{name}-ask": parts["test"]}
        except SourceError as error:
            absent[name] = f"not run: {error}"
    return found, absent


def comparisons(store: Store, plan: Plan, made: Mapping[str, ArtifactSpec]) -> dict[str, dict[str, dict | str]]:
    """`comparisons[network][set]`: the measures by their bare names, or why there are none."""
    found = {}
    for network in plan.settings.networks:
        found[network] = {}
        for name, pictures in plan.sets(made).items():
            try:
                said = said_in(store.make(plan.comparison(pictures, network)).path("measures.json"))["measures"]
                found[network][name] = {key.removesuffix(f"-{network}"): value for key, value in said.items()}
            except (FidelityError, FeatureError) as error:
                found[network][name] = reason(error)
    return found


def reason(error: Exception) -> str:
    """Why something was not run, as short as a table's cell wants it."""
    return f"not run: {str(error).removeprefix('not run: ').splitlines()[0].split(':')[0]}"


def said_in(path: Path) -> dict:
    """What a step wrote as JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


def memories(store: Store, plan: Plan, made: Mapping[str, ArtifactSpec]) -> dict[str, dict | str]:
    """`memories[set]`: what `memorisation` says, or why it says nothing."""
    found = {}
    for name, pictures in plan.sets(made).items():
        try:
            found[name] = said_in(store.make(plan.memory(pictures)).path("memory.json"))
        except FidelityError as error:
            found[name] = reason(error)
    return found


def protocol(store: Store, plan: Plan, network: str) -> str:
    """How sets were compared on one network's features: what a reader needs beside the numbers."""
    known = said_in(store.make(plan.comparison(plan.real["test"], network)).path("measures.json"))
    return (f"Network {known['network']}, images {known['resize']}; {plan.count:,} images a side, against the first "
            f"{plan.count:,} of the test images; k = {plan.settings.neighbours}. 95 % intervals: FD bootstrap, KID and IS from "
            "disjoint parts, shares over images of one side; FD∞ is an extrapolation without one. With fewer than "
            f"{fidelity.FLOOR} images a distance would say more of their number than of the images.")


def sheet(found: Mapping[str, dict | str]) -> pd.DataFrame:
    """A row a measure, which way is better, and a column a set with its result (and its `digits`) or why there is none."""
    there = next((one for one in found.values() if isinstance(one, dict)), {})
    rows = []
    for measure, (better, digits) in FIDELITY.items():
        name, scale = (measure.split(" ")[0], 1000) if "×" in measure else (measure, 1)
        if name in there:
            cells = {label: one if isinstance(one, str) else scaled(one[name], scale) | {"digits": digits}
                     for label, one in found.items()}
            rows.append({"measure": measure, "better": better, **cells})
    return pd.DataFrame(rows)


def scaled(result: Mapping, scale: float) -> dict:
    """A result in other units."""
    return dict(result) | {end: result[end] * scale for end in ("mean", "low", "high") if end in result}


def measures(store: Store, plan: Plan) -> dict[str, list[dict[str, float]]]:
    """`measures[arm][seed]`: the five numbers of the penultimate features of real test images, and the transfer of them."""
    found = {}
    for arm, seeds in plan.arms.items():
        found[arm] = []
        for one in seeds:
            layers, labels = read(store.make(plan.seen(one)), "ask")
            other = {f"transfer to {name}": list(shares.values())[-1] for name, shares in probes_of(store, plan, one).items()
                     if name != "real"}
            found[arm].append(representation.measures(list(layers.values())[-1], labels) | other)
    return found


def probes_of(store: Store, plan: Plan, classifier: ArtifactSpec) -> dict[str, dict[str, float]]:
    """`probes_of[source][layer]` of one classifier."""
    return said_in(store.make(plan.probes(classifier)).path("probes.json"))


def by_layer(store: Store, plan: Plan) -> dict[str, list[dict[str, float]]]:
    """`by_layer[arm][seed]`: accuracy of real probes after each layer, and on the same images that of the arm's own head."""
    found = {}
    for arm, seeds in plan.arms.items():
        found[arm] = []
        for one in seeds:
            labels = read(store.make(plan.seen(one)), "ask")[1]
            said = accuracy.load_logits(store, one, plan.real["test"], plan.study.device)[:len(labels)].argmax(1)
            found[arm].append(probes_of(store, plan, one)["real"] | {"own head": float((said == labels).mean())})
    return found


def likeness(store: Store, plan: Plan) -> dict[str, list[dict[str, float]]]:
    """`likeness[arm][seed]`: CKA after each layer with the base arm's classifier of the same seed, for the base of the next."""
    seen = {arm: [read(store.make(plan.seen(one)), "ask")[0] for one in seeds] for arm, seeds in plan.arms.items()}
    base = seen[plan.base]
    return {arm: [{layer: representation.cka(values, base[(k + (arm == plan.base)) % len(base)][layer], debiased=True)
                   for layer, values in one.items()} for k, one in enumerate(seeds)] for arm, seeds in seen.items()}


def trials(store: Store, plan: Plan) -> pd.DataFrame:
    """A row an arm, seed, kind and severity: accuracy and that on the clean images; shift sets have severity 1."""
    rows = []
    for arm, seeds in plan.arms.items():
        for k, one in enumerate(seeds):
            made = store.make(plan.trial(one))
            damages, attacks = (pd.read_parquet(made.path(f"{name}.parquet")) for name in ("damages", "attacks"))
            rows += [frame.assign(arm=arm, seed=k) for frame in (damages, shifted(store, plan, one), attacks)]
    return pd.concat(rows, ignore_index=True)


def shifted(store: Store, plan: Plan, classifier: ArtifactSpec) -> pd.DataFrame:
    """A row a shift set of one classifier."""
    shares = {}
    for name, pictures in plan.real.items():
        if name == "test" or name.startswith("shift-"):
            labels = pq_labels(store.make(pictures))
            shares[name] = float((accuracy.load_logits(store, classifier, pictures, plan.study.device).argmax(1) == labels).mean())
    clean = shares.pop("test")
    return pd.DataFrame([{"kind": name, "severity": 1.0, "accuracy": share, "clean": clean} for name, share in shares.items()])


def pq_labels(made: Artifact) -> np.ndarray:
    """Labels (n,) of a set, without its images."""
    return np.concatenate([pq.read_table(path, columns=["label"])["label"].to_numpy() for path in made.files])


def group(kind: str) -> str:
    """`corruptions`, `attacks` or `shifts`."""
    return next((name for name, kinds in GROUPS.items() if kind in kinds), "shifts")


def kept(found: pd.DataFrame) -> dict[str, list[dict[str, float]]]:
    """`kept[arm][seed]`: share of the clean accuracy that each group leaves, mean over kinds and severities."""
    whole = robustness.retained(found)
    whole = whole.assign(group=whole["kind"].map(group))
    shares = whole.groupby(["arm", "seed", "group"], sort=False)["retained"].mean().unstack("group")
    return {arm: shares.loc[arm, list(whole["group"].unique())].to_dict("records") for arm in whole["arm"].unique()}


def differences(found: Mapping[str, list[Mapping[str, float]]], base: str) -> dict[str, dict[str, dict[str, float]]]:
    """`differences[arm][measure]` of every other arm to the base, paired by seed; none where the base was not measured."""
    own = found.get(base)
    return {arm: {name: over_seeds(lacks(seeds, own, name)) for name in own[0]} for arm, seeds in found.items()
            if arm != base} if own else {}


def lacks(ours: list[Mapping[str, float]], base: list[Mapping[str, float]], name: str) -> np.ndarray:
    """One measure's difference to the base (seeds,)."""
    return np.array([one[name] - other[name] for one, other in zip(ours, base, strict=True)])


def over(found: Mapping[str, Iterable[Mapping[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """`over[arm][name]`: mean with interval over the seeds."""
    return {arm: representation.over(seeds) for arm, seeds in found.items()}


def split(layers: Mapping[str, list[Mapping[str, float]]], base: str) -> dict[str, dict[str, dict[str, float]]]:
    """Of each arm's gap to the base: what is left under a new linear head (`features`), and the rest (`head`)."""
    last = [name for name in layers[base][0] if name != "own head"][-1]
    found = {}
    for arm in (arm for arm in layers if arm != base):
        gap, left = (lacks(layers[arm], layers[base], name) for name in ("own head", last))
        found[arm] = {"gap": over_seeds(gap), "features": over_seeds(left), "head": over_seeds(gap - left)}
    return found


def spokes(means: Mapping[str, Mapping], layers: Mapping[str, Mapping], left: Mapping[str, Mapping], base: str) -> pd.DataFrame:
    """Every arm on every axis that all arms have: its features, their transfer, accuracy, what damage leaves of it."""
    whole = {arm: {**{name: one for name, one in rows.items() if name != "coding length within classes"},
                   "accuracy": layers[arm]["own head"], **left.get(arm, {})} for arm, rows in means.items()}
    shared = [axis for axis, own in whole[base].items() if own["mean"] > 0 and all(axis in rows for rows in whole.values())]
    return representation.spokes({arm: {axis: rows[axis] for axis in shared} for arm, rows in whole.items()}, base,
                                 {axis: representation.BETTER.get(axis, "higher") for axis in shared})
