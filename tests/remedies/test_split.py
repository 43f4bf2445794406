"""Remedies learn from one part of the real training images and are chosen on the other; test images have no part in either."""

import numpy as np
import pytest

from lib.core.store import ArtifactSpec
from lib.data import checks
from lib.data import imageset as images
from lib.remedies import combine, registry, split
from tests.remedies import toys


def opened(store, recipe):
    return images.load(store.make(recipe))


def test_the_parts_share_nothing_and_are_balanced(store):
    made = toys.world()
    fit, validation = (opened(store, one) for one in split.parts(made.train, 0.2, 0))
    whole = opened(store, made.train)
    assert (
        len(fit) + len(validation) == len(whole)
        and len(checks.overlap(fit.images, validation.images)) == 0
    )
    assert validation.counts().tolist() == [4, 4, 4]


def test_fewer_images_lie_within_more():
    whole = toys.blobs(60)
    few, more = (split.some(whole, count, seed=7).seeds for count in (12, 30))
    assert len(few) == 12 and len(more) == 30 and set(few) < set(more)
    assert set(split.some(whole, 12, seed=8).seeds) != set(few)
    with pytest.raises(registry.RepairError, match="90 real images wanted, 60 are there"):
        split.some(whole, 90, seed=7)


def test_only_training_images_can_be_split():
    with pytest.raises(registry.RepairError, match="not of 'test'"):
        split.parts(toys.world().test, 0.2, 0)


def upstream(recipe):
    return [one.settings.get("split") for one in registry.nodes(recipe)]


def everything(made):
    """Every remedy that is there, on the part of the real images that remedies get."""
    fit, validation = split.parts(made.train, 0.2, 0)
    models = made.models | {"reference": made.models["real"]}
    found, missing = registry.planned(
        registry.there(), models, made.sets | {"real": fit}, made.settings
    )
    return found, missing, models, fit, validation


def test_no_remedy_has_a_test_image_upstream_and_no_candidate_a_validation_image():
    made = toys.world()
    found, _, _, _, validation = everything(made)
    recipes = [one for remedy in found.values() for one in [*remedy.classifiers, *remedy.control]]
    assert len(found) > 8 and any("train" in upstream(one) for one in recipes)
    assert not any("test" in upstream(one) for one in recipes)
    assert not any(validation.key == node.key for one in recipes for node in registry.nodes(one))
    filters = [
        name
        for name, remedy in found.items()
        if remedy.key.kind == "filter" and remedy.part != "diversity"
    ]  # their reference classifier here saw all training images
    seen = {
        name
        for name, one in found.items()
        if one.candidate and not all(split.clean(c, validation) for c in one.classifiers)
    }
    assert seen == set(filters)


def test_a_choice_is_made_on_validation_images_alone(store):
    made = toys.world()
    _, validation = split.parts(made.train, 0.2, 0)
    with pytest.raises(registry.RepairError, match="validation split alone"):
        split.choose(store, {"sd": made.models["sd"]}, made.test, "cpu")
    with pytest.raises(registry.RepairError, match="validation split alone"):
        split.choose(store, {"sd": made.models["sd"]}, split.parts(made.train, 0.2, 0)[0], "cpu")
    with pytest.raises(registry.RepairError, match="real learnt from validation images"):
        split.choose(store, {"real": made.models["real"]}, validation, "cpu")


def test_a_base_whose_generator_saw_validation_images_is_repaired_and_it_is_said(store):
    made = toys.world()
    fit, validation = split.parts(made.train, 0.2, 0)
    taught = ArtifactSpec("class-conditional-model", {}, {"real": made.train})
    drawn = ArtifactSpec("class-conditional-images", {}, {"generator": taught})
    direct, indirect = (ArtifactSpec("classifier", {}, {"set": one}) for one in (made.train, drawn))
    assert not split.clean(indirect, validation) and split.clean(indirect, validation, through=True)
    assert not split.clean(direct, validation, through=True)
    wanted = made.settings | {
        "remedies": ["late_layers"],
        "unfreeze_last": [1],
        "num_real_curve": [],
    }
    for base, seen in (("sd", False), ("real", True)):
        own = wanted | {"base": base}
        found, _ = registry.planned(own["remedies"], made.models, made.sets | {"real": fit}, own)
        if seen:  # a base that learnt from them itself cannot be chosen among
            with pytest.raises(registry.RepairError, match="learnt from validation images"):
                combine.combination(store, found, made.models, made.sets, own, validation)
        else:
            assert not combine.combination(
                store, found, made.models, made.sets, own, validation
            ).through


def test_the_combination_is_the_best_on_validation_and_stacks_what_was_chosen(store):
    made = toys.world()
    fit, validation = split.parts(made.train, 0.2, 0)
    sets = made.sets | {"real": fit}
    wanted = made.settings | {
        "remedies": ["late_layers", "multicrop"],
        "unfreeze_last": [0],
        "num_real_curve": [],
    }
    found, _ = registry.planned(wanted["remedies"], made.models, sets, wanted)
    choice = combine.combination(store, found, made.models, sets, wanted, validation)
    assert {"sd", "multi-crop augmentation", "all layers, 24 real"} <= set(choice.shares)
    assert choice.shares[choice.name]["mean"] == max(
        share["mean"] for share in choice.shares.values()
    )
    start, then = found["multi-crop augmentation"], found["all layers, 24 real"]
    both = combine.stacked(start, then, made.models, sets, wanted)
    assert both.key.label == "multi-crop augmentation; then all layers, 24 real"
    starts = [one.inputs["classifier"].key for one in both.classifiers]
    assert starts == [one.key for one in found["multi-crop augmentation"].classifiers]
    assert np.all(
        [
            made.test.key not in {node.key for node in registry.nodes(one)}
            for one in choice.remedy.classifiers
        ]
    )
