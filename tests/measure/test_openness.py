"""What a generator has seen follows from how its set was made; held-out images come from other
seeds.
"""

from lib.core.config import load
from lib.measure import openness
from lib.measure.openness import CLOSED, NO_GENERATOR, OPEN, TARGETS, TUNED
from lib.study import Study


def test_the_sets_of_two_profiles():
    world, digits = (Study(load(name), name) for name in ("smoke", "digits"))
    settings = {name: openness.of_set(spec) for name, spec in world.synthetic.items()}
    assert settings == {"sd": OPEN, "cd": TUNED, "di": TARGETS}
    assert openness.of_set(digits.synthetic["cd"]) == CLOSED
    sets = {"real": world.real["train"], **world.synthetic}
    assert openness.of_arm("real", sets) == NO_GENERATOR
    assert openness.of_arm("real+sd", sets) == OPEN
    assert openness.of_arm("0.5*sd+di", sets) == f"{OPEN}; {TARGETS}"


def test_held_out_images_have_the_same_generator_and_other_seeds():
    study = Study(load("smoke"), "smoke")
    for name, spec in study.held_out.items():
        own = study.synthetic[name]
        assert (spec.kind, spec.inputs) == (own.kind, own.inputs) and spec.seed != own.seed
        assert spec.settings == own.settings | {"count": study.config.generation.held_out_images}
        assert spec.key != own.key
    assert list(study.held_out) == ["sd", "cd", "di"]
