"""A profile that fits your own pictures: `python -m lib.tools.new --profile mine --data path`.

Looks at the data, says what is there, and writes `params/<profile>.yaml` and a stub of class facts.
Nothing is written where the data cannot make a study, and nothing that is there is overwritten.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from lib import preflight
from lib.core import config as settings
from lib.core.paths import PARAMS, ROOT
from lib.data import files, inspection
from lib.data.source import Source, SourceError, SourceOptions, open_source

TEMPLATE = Path(__file__).with_name("new_profile.yaml.j2")
STUB = Path(__file__).with_name("new_classes.yaml.j2")
LEAST = {"train": 40, "test": 20}  # images below which no measure says anything
ALL = 10**9  # unreadable files that may be left out while looking
LISTED = 10  # names in one line


class NewError(ValueError):
    """A profile that cannot be written; the message says why."""


@dataclass(frozen=True)
class Summary:
    """What is in the data."""

    source: Source
    counts: Mapping[str, np.ndarray]  # split -> images per class
    facts: Mapping[str, Any]  # of `inspection.inspect`
    repeated: list[list[str]]  # groups of files with the same bytes
    leaks: list[tuple[str, str]]  # test files that equal a training file

    @property
    def side(self) -> int:
        """Shorter side of the median picture, pixels."""
        return min(self.facts["median"])


def summarise(path: Path) -> Summary:
    """Open the data as source `folder` and read every file once."""
    source = open_source("folder", SourceOptions(path, 64, max_corrupt_files=ALL))
    counts = {
        split: np.bincount(source.labels(split, count), minlength=len(source.classes))
        for split, count in source.splits.items()
    }
    readable = {name: file for name, file in source.files.items() if name not in source.skipped}
    return Summary(
        source,
        counts,
        inspection.inspect(source),
        files.equal_files(readable),
        files.leaks(source, source.splits),
    )


def describe(data: Summary) -> list[str]:
    """The lines that are printed of it."""
    source, facts = data.source, data.facts
    width = max(map(len, source.classes))
    lines = [f"{len(source.classes)} classes, {facts['files']:,} readable pictures"]
    lines += [f"  {'':{width}}   train    test"]
    for k, name in list(enumerate(source.classes))[:30]:
        lines.append(f"  {name:{width}} {data.counts['train'][k]:7,} {data.counts['test'][k]:7,}")
    lines += [f"  and {len(source.classes) - 30} more classes"] if len(source.classes) > 30 else []
    sizes = [" x ".join(map(str, facts[name])) for name in ("smallest", "median", "largest")]
    lines.append(f"sizes: {sizes[0]} to {sizes[2]}, median {sizes[1]} pixels")
    lines.append("formats: " + _listed(facts["formats"]))
    lines += [f"on reading: {_listed(facts['converted'])}"] if facts["converted"] else []
    lines += [f"left out: {_listed(facts['left_out'])}"] if facts["left_out"] else []
    lines += [f"  unreadable: {name}" for name in source.skipped[:LISTED]]
    copies = sum(len(group) - 1 for group in data.repeated)
    lines.append(f"duplicates: {copies:,} files have the bytes of another one")
    lines += [f"  {' = '.join(group[:3])}" for group in data.repeated[:3]]
    return lines


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def refusals(data: Summary) -> list[str]:
    """Why these pictures cannot make a study; empty where they can."""
    lines = [
        f"{data.source.splits[split]:,} {split} images; a study needs at least {least}"
        for split, least in LEAST.items()
        if data.source.splits[split] < least
    ]
    names = data.source.classes
    for split, least in (("train", 2), ("test", 1)):
        rare = [repr(name) for name, n in zip(names, data.counts[split], strict=True) if n < least]
        if rare:
            listed = ", ".join(rare[:LISTED])
            lines.append(f"fewer than {least} {split} images of {listed}: add some, or remove it")
    if data.leaks:
        lines.append(f"{len(data.leaks):,} test images are training images too; remove them:")
        lines += [f"  {test} = {train}" for test, train in data.leaks[:LISTED]]
    return lines


def fitted(data: Summary, profile: str, path: Path) -> dict[str, Any]:
    """The numbers of a profile that suit these pictures and two CPU cores."""
    train, test = (data.source.splits[split] for split in ("train", "test"))
    classes, counts = len(data.source.classes), data.counts["train"]
    resolution = 64 if data.side >= 64 else 32 if data.side >= 24 else 16
    fit = int(0.8 * train) - classes  # beside the validation split, whatever its rounding
    num_real = max(classes, fit // 10)
    curve = {max(classes, num_real // 4), max(classes, 3 * fit // 5)} - {num_real}
    return {
        "profile": profile,
        "root": str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path),
        "classes": data.source.classes,
        "train": train,
        "test": test,
        "corrupt": len(data.source.skipped),
        "resolution": resolution,
        "side": data.side,
        "uneven": bool(counts.max() > 1.25 * counts.min()),
        "synthetic": max(classes, min(train, 2000)),
        "embedded": min(train, max(120, 4 * classes)),
        "measured": min(40, train),
        "epochs": int(np.clip(round(600 * 64 / train), 10, 60)),
        "compared": min(1000, max(50, test // 2)),
        "test_images": lambda limit: min(limit, test),
        "num_real": num_real,
        "curve": sorted(curve),
    }


def write(profile: str, path: Path, params: Path = PARAMS) -> list[str]:
    """Summary, write, check; the lines that `make new` prints."""
    targets = [params / f"{profile}.yaml", params / "classes" / f"{profile}.yaml"]
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", profile) or profile == "defaults":
        raise NewError(f"PROFILE={profile!r}: letters, digits, - and _, e.g. PROFILE=mine")
    for target in targets:
        if target.exists():
            reason = "this is there already and is not overwritten; take another name, or remove it"
            raise NewError(f"{reason}.\n{target}")
    data = summarise(path)
    lines = describe(data)
    reasons = refusals(data)
    if reasons:
        raise NewError("\n".join([*lines, "", "no profile was written:", *reasons, str(path)]))
    values = fitted(data, profile, path)
    texts = [_render(TEMPLATE, values), _render(STUB, values)]
    _check(profile, texts[0], params)
    for target, text in zip(targets, texts, strict=True):
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")
    shown = [str(t.relative_to(ROOT)) if t.is_relative_to(ROOT) else str(t) for t in targets]
    return [
        *lines,
        "",
        f"wrote {shown[0]}: read it, its comments say what was chosen and why",
        f"wrote {shown[1]}: what prompts can say of the classes; needed only for `sd`",
        f"next: make plan PROFILE={profile}, then make report PROFILE={profile}",
    ]


def _render(template: Path, values: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = lambda text: json.dumps(text, ensure_ascii=False)
    return environment.from_string(template.read_text(encoding="utf-8")).render(values)


def _check(profile: str, text: str, params: Path) -> None:
    """Stop where the written profile would not pass `make plan`."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(params / "defaults.yaml", folder)
        (Path(folder) / f"{profile}.yaml").write_text(text, encoding="utf-8")
        config = settings.load(profile, params=Path(folder))
    problems = [str(problem) for problem in preflight.problems(config)]
    if problems:
        head = "no profile was written; these pictures cannot make a study:"
        raise NewError("\n".join([head, *problems]))


def main() -> int:
    """`python -m lib.tools.new --profile mine --data path`."""
    parser = argparse.ArgumentParser(prog="python -m lib.tools.new", description=__doc__)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--data", required=True)
    options = parser.parse_args()
    if not options.data:
        print("\nmake new PROFILE=mine DATA=path: where are the pictures?", file=sys.stderr)
        return 1
    try:
        print("\n".join(write(options.profile, (ROOT / Path(options.data).expanduser()).resolve())))
    except (NewError, SourceError, settings.SettingsError, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
