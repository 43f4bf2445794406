"""Settings: params/<profile>.yaml over params/defaults.yaml, strictly typed; errors that teach."""

from __future__ import annotations

import difflib
import json
import re
import reprlib
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from lib.core.paths import NOTEBOOKS, PARAMS, ROOT
from lib.core.sections import (
    Generation,
    Inversion,
    Section,
    Settings,
    Study,
    keys_of,
    section_of,
    sections_of,
)

__all__ = ["Generation", "Inversion", "Section", "Settings", "Study", "section_of", "sections_of"]
RUN = "STUDY_RUN"  # environment of a kernel that Make started: its results are the study's
SHORT = reprlib.Repr()  # a few lines of YAML can stand for more text than there is memory
SHORT.maxstring, SHORT.maxother, SHORT.maxlevel = 300, 300, 2
MOST_FAULTS = 20  # listed in one error
# what PyYAML raises: over the 31st of February, 5,000 digits, `!!bool maybe`, what is not UTF-8 …
UNREADABLE = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError)


def _renamed() -> dict[str, str]:
    """`{"training.rate": "training.lr"}`: old keys, which are refused with their new names."""
    path = Path(__file__).with_name("renamed.yaml")
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {
        f"{section}.{old}": new if "." in new else f"{section}.{new}"
        for section, keys in tree.items()
        for old, new in keys.items()
    }


RENAMED = _renamed()


class SettingsError(ValueError):
    """A setting that cannot be used; the message names file, key, what was expected."""


@dataclass(frozen=True)
class Resolved:
    """A profile with what a parameter cell changes in it."""

    profile: str
    config: Settings
    changes: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # key -> (profile, used)

    def __str__(self) -> str:
        """One line for JupyterLab and the page; empty where nothing differs."""
        texts = [
            f"{key} = {json.dumps(used)} (profile: {json.dumps(own)})"
            for key, (own, used) in self.changes.items()
        ]
        return f"differs from profile {self.profile}: {'; '.join(texts)}" if texts else ""


def load(
    profile: str,
    overrides: Mapping[str, Mapping] | None = None,
    params: Path = PARAMS,
    where: str = "overrides",
) -> Settings:
    """`params/defaults.yaml` under `params/<profile>.yaml` under overrides by section."""
    default, own = params / "defaults.yaml", params / f"{profile}.yaml"
    named = re.fullmatch(r"[A-Za-z0-9][\w-]*", profile) and profile != "defaults"
    if not named or not own.is_file():
        raise SettingsError(
            f"no profile named {profile!r}{_nearest(profile, profiles(params))}.\n{own}"
        )
    layers = {default: _read(default), own: _sections(_read(own), own), where: overrides or {}}
    merged: dict[str, dict] = {}
    for layer in layers.values():
        for name, section in layer.items():
            merged[name] = merged.get(name, {}) | dict(section)

    def origin(keys: tuple) -> Any:
        """The uppermost layer that has the key."""
        section, key = (*keys, None)[:2]
        own = [f for f, tree in layers.items() if key in (tree.get(section) or {})]
        return own[-1] if own else default

    return _validate(Settings, merged, origin)


def resolve(chapter: str, variables: Mapping[str, Any], params: Path = PARAMS) -> Resolved:
    """A parameter cell over its profile: what is not None replaces the profile's value."""
    profile = variables["profile"]
    overrides = {
        name: {key: variables[key] for key in keys_of(name) if variables.get(key) is not None}
        for name in sections_of(chapter)
    }
    base = load(profile, params=params)
    cell = f"notebooks/{chapter}.ipynb, cell tagged `parameters`"
    config = load(profile, overrides, params, cell)
    changes = {
        f"{name}.{key}": (value, used)
        for name in overrides
        for key, value in getattr(base, name)
        if (used := getattr(getattr(config, name), key)) != value
    }
    return Resolved(profile, config, changes)


def local_paths(config: Settings) -> list[str]:
    """Files and folders outside params/ that settings name: images, published sets, models."""
    sections = config.data, config.inversion, config.generation
    texts = {value for section in sections for _, value in section if isinstance(value, str)}
    return sorted(text for text in texts - {"", ".", "/"} if (ROOT / text).exists())


def profiles(params: Path = PARAMS) -> list[str]:
    """Names of the profiles that exist."""
    names = [path.stem for path in params.glob("*.yaml") if path.is_file()]
    return sorted(name for name in names if name != "defaults")


# reading YAML


class _Loader(yaml.SafeLoader):
    """Plain YAML that refuses a key written twice, merge keys and octal or sexagesimal numbers."""

    def construct_mapping(self, node, deep=False):
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            self.refuse("merge keys (<<) are not supported, write the keys out", node)
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                self.refuse(f"key {key!r} stands twice", node)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node):
        """YAML 1.1 reads 0200 as 128 and 3:20 as 200; nobody who writes a setting means that."""
        if re.fullmatch(r"[+-]?0[0-9_]+|.*:.*", node.value):
            self.refuse(f"{node.value} is not a decimal number; put text in quotes", node)
        return super().construct_yaml_int(node)

    def refuse(self, text: str, node: yaml.Node) -> None:
        raise yaml.constructor.ConstructorError(None, None, text, node.start_mark)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _read(path: Path) -> dict[str, Any]:
    """One YAML file as a dict; every way it can be wrong names the file."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError as error:
        hint = "restore it with `git checkout params`"
        raise SettingsError(f"the file is missing; {hint}.\n{path}") from error
    except UNREADABLE as error:
        text = " ".join(str(error).split())
        raise SettingsError(f"not readable as YAML: {text}.\n{path}") from error
    if tree is not None and not isinstance(tree, dict):
        raise SettingsError(f"expected sections such as `data:`, got {SHORT.repr(tree)}.\n{path}")
    return tree or {}


def _sections(tree: dict[str, Any], file: Path) -> dict[str, dict]:
    """A profile's sections, each a mapping and each known."""
    for name, section in tree.items():
        text = ""
        if name not in Settings.model_fields:
            text = f"unknown section {name!r}{_nearest(name, Settings.model_fields)}"
        elif not isinstance(section, dict):
            text = f"section {name!r} must hold `key: value` lines, got {SHORT.repr(section)}"
        if text:
            raise SettingsError(f"{text}.\n{file}: {name}")
    return tree


# errors


def _validate(model: type[Section], tree: dict[str, Any], origin: Callable) -> Any:
    """The typed section, or one SettingsError that lists every fault."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        faults = error.errors()[:MOST_FAULTS]
        more = error.error_count() - len(faults)
        texts = [f"… and {more} more faults"] if more else []
        texts += [_explain(model, fault, origin(fault["loc"])) for fault in faults]
        raise SettingsError("\n".join(texts)) from error


def _explain(model: type[Section], fault: dict[str, Any], where: Any) -> str:
    """One fault: what was found and expected, the nearest name, and last the file and key."""
    keys = [str(key) for key in fault["loc"]]
    key, value = ".".join(keys), fault["input"]
    if fault["type"] == "extra_forbidden" and key in RENAMED:
        text = f"{key} is now called {RENAMED[key]}"
    elif fault["type"] == "extra_forbidden":
        text = f"unknown key {keys[-1]!r}{_nearest(keys[-1], _siblings(model, keys))}"
    elif fault["type"] == "missing":
        text = f"key {keys[-1]!r} is missing"
    else:
        prefix = r"^(Input|List|String|Value error,|Keys) (should )?(be )?(a valid )?"
        expected = re.sub(prefix, "", fault["msg"]) + _hint(value)
        text = f"{key} = {SHORT.repr(value)} ({type(value).__name__}): expected {expected}"
    return f"{text}.\n{where}: {key}"


def _hint(value: Any) -> str:
    """The two traps of YAML that were seen to bite."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+e[+-]?\d+", value.lower()):
        return "; YAML reads 1e-3 as text, write 1.0e-3"
    if isinstance(value, bool):
        return "; YAML reads yes, no, on, off as true or false, put text in quotes"
    return ""


def _siblings(model: type[Section], keys: list[str]) -> list[str]:
    """Names that would have been valid where an unknown key stood."""
    for key in keys[:-1]:
        model = model.model_fields[key].annotation
    return list(model.model_fields)


def _nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'x'?` or the list of what there is."""
    close = difflib.get_close_matches(str(name), list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(names))}"


# the parameter cells of the notebooks


def cell(chapter: str) -> str:
    """The text of a parameter cell: every parameter with its description and None."""
    lines = ['profile = "world"  # which params/<profile>.yaml; below, None: as in the profile']
    for section in reversed(sections_of(chapter)):
        lines.append(f"\n# {section}")
        for key, info in keys_of(section).items():
            lines += _lines(key, info)
    return "\n".join(lines)


def _lines(key: str, info: FieldInfo) -> list[str]:
    """`epochs = None  # passes over real`; a long description stands above."""
    line = f"{key} = None  # {info.description}"
    if len(line) <= 100:
        return [line]
    above = textwrap.wrap(info.description, 100, initial_indent="# ", subsequent_indent="# ")
    return [*above, f"{key} = None"]


def write_cells(folder: Path = NOTEBOOKS, write: bool = True) -> list[str]:
    """Generate the parameter cells; the names of notebooks whose cell was not up to date."""
    outdated = []
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = notebook["cells"]
        (tagged,) = (c for c in cells if "parameters" in c["metadata"].get("tags", []))
        source = cell(path.stem).splitlines(keepends=True)
        if tagged["source"] != source:
            outdated.append(path.stem)
            tagged["source"] = source
            if write:
                text = json.dumps(notebook, indent=1, ensure_ascii=False)
                path.write_text(f"{text}\n", encoding="utf-8")
    return outdated


if __name__ == "__main__":  # python -m lib.core.config cells
    if sys.argv[1:] != ["cells"]:
        sys.exit("python -m lib.core.config cells: generates the parameter cells of all notebooks")
    paths = [f"notebooks/{name}.ipynb" for name in write_cells()]
    print("\n".join(paths) or "all parameter cells are up to date")
