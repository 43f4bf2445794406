"""Remedies learn from one part of the real training images and are chosen on the other."""

import numpy as np
import pytest

from lib.core.store import ArtifactSpec
from lib.data import checks, imageset
from lib.remedies import combine, registry, split
from tests.remedies import toys


def test_the_parts_share_nothing_and_are_balanced(store):
    toy = toys.world()
    specs = (toy.sets["real"], toy.validation, toy.train)
    fit, validation, whole = (imageset.load(store.make(spec)) for spec in specs)
    assert len(fit) + len(validation) == len(whole)
    assert len(checks.overlap(fit.images, validation.images)) == 0
    assert validation.counts().tolist() == [4, 4, 4]


def test_fewer_images_lie_within_more():
    whole = toys.blobs(60)
    few, more = (split.some(whole, count, seed=7).seeds for count in (12, 30))
    assert len(few) == 12 and len(more) == 30 and set(few) < set(more)
    assert set(split.some(whole, 12, seed=8).seeds) != set(few)
    with pytest.raises(registry.RepairError, match="90 real images are more than the 60"):
        split.some(whole, 90, seed=7)


def test_only_training_images_can_be_split():
    with pytest.raises(registry.RepairError, match="not of 'test'"):
        split.parts(toys.world().test, 0.2, 0)


def test_no_remedy_has_a_test_image_upstream_and_no_candidate_a_validation_image():
    toy = toys.world()
    models = toy.models | {"reference": toy.models["real"]}
    names = registry.available()
    methods, _ = registry.planned(names, models, toy.sets, toy.settings)
    specs = [spec for method in methods.values() for spec in [*method.classifiers, *method.control]]
    upstream = [[node.settings.get("split") for node in registry.nodes(spec)] for spec in specs]
    assert len(methods) > 8 and any("train" in splits for splits in upstream)
    assert not any("test" in splits for splits in upstream)
    nodes = [node.key for spec in specs for node in registry.nodes(spec)]
    assert toy.validation.key not in nodes
    filters = {
        name
        for name, method in methods.items()
        if method.key.kind == "filter" and method.part != "diversity"
    }  # their reference classifier here saw all training images
    seen = {
        name
        for name, method in methods.items()
        if method.candidate and not all(split.clean(c, toy.validation) for c in method.classifiers)
    }
    assert seen == filters


def test_a_choice_is_made_on_validation_images_alone(store):
    toy = toys.world()
    base = {"sd": toy.models["sd"]}
    for images in (toy.test, toy.sets["real"]):
        with pytest.raises(registry.RepairError, match="validation split alone"):
            split.choose(store, base, images, "cpu")
    with pytest.raises(registry.RepairError, match="real learnt from validation images"):
        split.choose(store, {"real": toy.models["real"]}, toy.validation, "cpu")


def test_a_base_whose_generator_saw_validation_images_is_repaired_and_it_is_said(store):
    toy = toys.world(remedies=["late_layers"], unfreeze_last=[1], num_real_curve=[])
    model = ArtifactSpec("class-conditional-model", {}, {"real": toy.train})
    images = ArtifactSpec("class-conditional-images", {}, {"generator": model})
    direct = ArtifactSpec("classifier", {}, {"set": toy.train})
    indirect = ArtifactSpec("classifier", {}, {"set": images})
    assert not split.clean(indirect, toy.validation)
    assert split.clean(indirect, toy.validation, through=True)
    assert not split.clean(direct, toy.validation, through=True)

    def chosen(base):
        own = toy.settings | {"base": base}
        methods, _ = registry.planned(own["remedies"], toy.models, toy.sets, own)
        return combine.combination(store, methods, toy.models, toy.sets, own, toy.validation)

    assert not chosen("sd").through
    with pytest.raises(registry.RepairError, match="learnt from validation images"):
        chosen("real")  # a base that learnt from them itself cannot be chosen among


def test_the_combination_is_the_best_on_validation_and_stacks_what_was_chosen(store):
    names = ["late_layers", "multicrop"]
    toy = toys.world(remedies=names, unfreeze_last=[0], num_real_curve=[])
    common = (toy.models, toy.sets, toy.settings)
    methods, _ = registry.planned(names, *common)
    choice = combine.combination(store, methods, *common, toy.validation)
    assert {"sd", "multi-crop augmentation", "all layers, 24 real"} <= set(choice.shares)
    means = {name: share["mean"] for name, share in choice.shares.items()}
    assert means[choice.name] == max(means.values())
    start, then = methods["multi-crop augmentation"], methods["all layers, 24 real"]
    both = combine.stacked(start, then, *common)
    assert both.key.label == "multi-crop augmentation; then all layers, 24 real"
    starts = [spec.inputs["classifier"].key for spec in both.classifiers]
    assert starts == [spec.key for spec in start.classifiers]
    keys = [node.key for spec in choice.remedy.classifiers for node in registry.nodes(spec)]
    assert not np.isin(toy.test.key, keys)
