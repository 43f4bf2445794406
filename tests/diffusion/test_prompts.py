"""Recipes and facts."""

import pytest
import yaml

from lib.core.paths import PARAMS
from lib.diffusion.prompts import Facts, PromptError, build_prompt, build_prompts, load_facts

KNOWN = Facts({"cube": "solid"}, {"cube": "six squares"}, ("a wall", "a floor"))


def test_recipes():
    assert build_prompt("{class}, {hypernym}", "cube", KNOWN, 0) == "cube, solid"
    prompt = build_prompt("multiple {class}, {definition}", "cube", KNOWN, 0)
    assert prompt == "multiple cube, six squares"


def test_backgrounds_come_from_the_seed():
    drawn = build_prompts("{class} inside {background}", ["cube"] * 40, KNOWN, range(40))
    assert set(drawn) == {"cube inside a wall", "cube inside a floor"}
    assert drawn[7] == build_prompt("{class} inside {background}", "cube", KNOWN, 7)


def test_names_are_data_not_templates():
    name = 'quo"te {class} \N{SLIGHTLY SMILING FACE}'
    assert build_prompt("a {class}", name, KNOWN, 0) == f"a {name}"


def test_unknown_field_is_named():
    with pytest.raises(PromptError, match="{colour}.*class, hypernym"):
        build_prompt("{colour} {class}", "cube", KNOWN, 0)


def test_missing_fact_is_named(tmp_path):
    path = tmp_path / "facts.yaml"
    path.write_text("backgrounds: [a]\nclasses:\n"
                    "- {name: cube, hypernym: solid, definition: d}\n- {name: cone}\n")
    assert load_facts(path, ["cube"]).definition["cube"] == "d"
    with pytest.raises(PromptError, match="'cone'.*\n.*facts.yaml"):
        load_facts(path, ["cube", "cone"])


@pytest.mark.parametrize("path", sorted((PARAMS / "classes").glob("*.yaml")),
                         ids=lambda path: path.stem)
def test_every_file_of_facts_is_complete(path):
    names = [row["name"] for row in yaml.safe_load(path.read_text(encoding="utf-8"))["classes"]]
    known = load_facts(path, names)
    assert len(names) == len(set(names)) >= 2 and known.backgrounds
    assert all(known.hypernym[name] and known.definition[name] for name in names)


def test_folders_named_by_id_are_called_by_their_names(tmp_path):
    path = tmp_path / "facts.yaml"
    path.write_text("backgrounds: [a]\nclasses:\n"
                    "- {id: n01, name: red fox, hypernym: canine, definition: d}\n")
    prompt = build_prompt("{article} {class}, {hypernym}", "n01", load_facts(path, ["n01"]), 0)
    assert prompt == "a red fox, canine"
    assert build_prompt("{class}", "red fox", load_facts(path, ["red fox"]), 0) == "red fox"
