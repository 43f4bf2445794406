"""Prompts: recipes are templates in params/, facts of the classes are small YAML files in params/classes/."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from lib.compute import seed_of
from lib.data.captions import article

FIELDS = ("article", "class", "hypernym", "definition", "background")


class PromptError(ValueError):
    """A recipe or a file of facts that cannot be used."""


@dataclass(frozen=True)
class Facts:
    """What the recipes can say of the classes of one source."""

    hypernym: dict[str, str]
    definition: dict[str, str]
    backgrounds: tuple[str, ...]
    name: dict[str, str] = field(default_factory=dict)  # in words, of classes that are called by an id, as folders often are


def facts(path: Path, classes: Sequence[str]) -> Facts:
    """The facts of a file, complete for these classes or an error that names what is missing."""
    if not path.is_file():
        raise PromptError(f"no file of facts about these classes; write one like world.yaml beside it.\n{path}")
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    rows = {row[key]: row for key in ("id", "name") for row in tree["classes"] if key in row}
    missing = [name for name in classes if not {"hypernym", "definition"} <= rows.get(name, {}).keys()]
    if missing:
        raise PromptError(f"no hypernym and definition for {', '.join(map(repr, missing))}: add them.\n{path}")
    pick = lambda field: {name: rows[name][field] for name in classes}  # noqa: E731
    return Facts(pick("hypernym"), pick("definition"), tuple(tree["backgrounds"]), pick("name"))


def prompt(template: str, name: str, known: Facts, seed: int) -> str:
    """One prompt; its background, if it has one, is drawn from the image's seed."""
    used = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
    unknown = used - set(FIELDS)
    if unknown:
        raise PromptError(f"recipe {template!r} uses {{{min(unknown)}}}; it can use {', '.join(FIELDS)}")
    scene = known.backgrounds[seed_of(seed, "background") % len(known.backgrounds)] if "background" in used else ""
    said = known.name.get(name, name)
    values = {"article": article(said).split()[0], "class": said, "background": scene}
    return template.format_map(values | {"hypernym": known.hypernym.get(name, ""), "definition": known.definition.get(name, "")})


def prompts(template: str, names: Sequence[str], known: Facts, seeds: Sequence[int]) -> list[str]:
    """A prompt for each image: its class's name and its seed."""
    return [prompt(template, name, known, seed) for name, seed in zip(names, seeds, strict=True)]
