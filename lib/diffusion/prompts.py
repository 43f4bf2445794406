"""Prompts: recipes are templates in params/, facts of the classes are small YAML files in params/classes/."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field

from lib.core.compute import seed_of
from lib.core.config import UNREADABLE, Section
from lib.world.captions import article

FIELDS = ("article", "class", "hypernym", "definition", "background")


class PromptError(ValueError):
    """A recipe or a file of facts that cannot be used."""


class Fact(Section, extra="ignore"):
    """Of one class; a source may keep more in it."""

    name: str
    id: str | None = None  # what its folder is called
    hypernym: str | None = None
    definition: str | None = None


class FactsFile(Section):
    """A file of params/classes/."""

    classes: list[Fact]
    backgrounds: Annotated[list[str], Field(min_length=1)]


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
    try:
        known = FactsFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except UNREADABLE as error:
        why = " ".join(str(error).split())[:300]
        raise PromptError(f"not a file of facts: {why}. Write it like world.yaml.\n{path}") from error
    rows = {getattr(row, key): row for key in ("id", "name") for row in known.classes}
    missing = [name for name in classes if name not in rows or None in (rows[name].hypernym, rows[name].definition)]
    if missing:
        raise PromptError(f"no hypernym and definition for {', '.join(map(repr, missing))}: add them.\n{path}")
    pick = lambda field: {name: getattr(rows[name], field) for name in classes}  # noqa: E731
    return Facts(pick("hypernym"), pick("definition"), tuple(known.backgrounds), pick("name"))


def prompt(template: str, name: str, known: Facts, seed: int) -> str:
    """One prompt; its background, if it has one, is drawn from the image's seed."""
    try:
        parts = [part[1:] for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise PromptError(f"recipe {template!r} cannot be read: {error}; for a brace write two") from error
    used = {field for field, _, _ in parts}
    unknown = used - set(FIELDS)
    if unknown or any(spec or conversion for _, spec, conversion in parts):
        wrong = f"uses {{{min(unknown)}}}" if unknown else "formats a field"  # which could ask for a terabyte of blanks
        raise PromptError(f"recipe {template!r} {wrong}; it can use {', '.join(FIELDS)}, each as it is")
    scene = known.backgrounds[seed_of(seed, "background") % len(known.backgrounds)] if "background" in used else ""
    said = known.name.get(name, name)
    values = {"article": article(said).split()[0], "class": said, "background": scene}
    return template.format_map(values | {"hypernym": known.hypernym.get(name, ""), "definition": known.definition.get(name, "")})


def prompts(template: str, names: Sequence[str], known: Facts, seeds: Sequence[int]) -> list[str]:
    """A prompt for each image: its class's name and its seed."""
    return [prompt(template, name, known, seed) for name, seed in zip(names, seeds, strict=True)]
