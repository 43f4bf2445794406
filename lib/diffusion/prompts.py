"""Prompts: templates of the settings, filled with facts of the classes from params/classes/."""

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
    """A prompt template or a file of class facts that cannot be used."""


class ClassFacts(Section, extra="ignore"):
    """Of one class; a source may keep more in the file."""

    name: str
    id: str | None = None  # the name of its folder
    hypernym: str | None = None
    definition: str | None = None


class FactsFile(Section):
    """A file of params/classes/."""

    classes: list[ClassFacts]
    backgrounds: Annotated[list[str], Field(min_length=1)]


@dataclass(frozen=True)
class Facts:
    """What templates can say of the classes of one source."""

    hypernym: dict[str, str]
    definition: dict[str, str]
    backgrounds: tuple[str, ...]
    name: dict[str, str] = field(default_factory=dict)  # in words, where a class is named by an id


def load_facts(path: Path, classes: Sequence[str]) -> Facts:
    """The facts of a file, complete for these classes, or an error that names what is missing."""
    if not path.is_file():
        raise PromptError(
            f"no file of facts about these classes; write one like world.yaml beside it.\n{path}")
    try:
        content = FactsFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:300]
        raise PromptError(
            f"not a file of facts: {reason}. Write it like world.yaml.\n{path}") from error
    rows = {getattr(row, key): row for key in ("id", "name") for row in content.classes}
    missing = [name for name in classes
               if name not in rows or None in (rows[name].hypernym, rows[name].definition)]
    if missing:
        names = ", ".join(map(repr, missing))
        raise PromptError(f"no hypernym and definition for {names}: add them.\n{path}")
    columns = [{name: getattr(rows[name], key) for name in classes}
               for key in ("hypernym", "definition", "name")]
    return Facts(*columns[:2], tuple(content.backgrounds), columns[2])


def build_prompt(template: str, name: str, facts: Facts, seed: int) -> str:
    """The prompt of one image; its background, if the template has one, comes from the seed."""
    used = check_template(template)
    background = ""
    if "background" in used:
        background = facts.backgrounds[seed_of(seed, "background") % len(facts.backgrounds)]
    words = facts.name.get(name, name)
    return template.format_map({
        "article": article(words).split()[0], "class": words, "background": background,
        "hypernym": facts.hypernym.get(name, ""), "definition": facts.definition.get(name, "")})


def build_prompts(template: str, names: Sequence[str], facts: Facts,
                  seeds: Sequence[int]) -> list[str]:
    """A prompt for each image: of its class's name and its seed."""
    return [build_prompt(template, name, facts, seed)
            for name, seed in zip(names, seeds, strict=True)]


def check_template(template: str) -> set[str]:
    """The fields that a template uses; unknown ones and formats are refused."""
    try:
        parts = [part[1:] for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise PromptError(f"prompt template {template!r} cannot be read: {error}; for a brace "
                          "write two") from error
    used = {name for name, _, _ in parts}
    unknown = sorted(used - set(FIELDS))
    if unknown or any(spec or conversion for _, spec, conversion in parts):  # could fill memory
        problem = f"uses {{{unknown[0]}}}" if unknown else "formats a field"
        raise PromptError(f"prompt template {template!r} {problem}; it can use "
                          f"{', '.join(FIELDS)}, each as it is")
    return used
