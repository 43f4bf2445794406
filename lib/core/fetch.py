"""`make fetch`: bring what a profile needs from elsewhere, before anything runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lib.core import config as settings
from lib.core import progress
from lib.core.config import Generation, Inversion, Settings, SettingsError
from lib.core.paths import PARAMS, ROOT
from lib.data.archives import located
from lib.data.source import SourceError
from lib.diffusion import hub
from lib.diffusion.hub import GeneratorError
from lib.measure import features
from lib.measure.features import FeatureError

HERE = ("", "shipped", "scratch", "published")  # models that nobody has to bring
OWN = ("world", "digits", "cifar10")  # sources that the project makes or brings itself


class FetchError(RuntimeError):
    """Something that cannot be had; the message says the way out."""


FAILURES = (SettingsError, GeneratorError, FeatureError, FetchError, SourceError, OSError)


def fetch(loaded: Settings) -> list[str]:
    """Bring what a profile needs; one line for each thing that is now here."""
    lines, path = [], ROOT / loaded.data.root
    for name, revision in hub_models(loaded).items():
        lines.append(f"{name}: commit {Path(hub.fetch(name, revision or None)).name}")
    for name in loaded.representation.feature_extractors:
        if name != features.REFERENCE:
            features.open_extractor(name, download=True)
            lines.append(f"{name}: weights of a feature extractor")
    if loaded.data.source == "cifar10":
        lines.append(f"CIFAR-10: {cifar10(path)}")
    elif loaded.data.source not in OWN:
        where = located(path, f"the files of source {loaded.data.source!r}")
        lines.append(f"{loaded.data.source}: {where}, a download of your own")
    return lines


def hub_models(loaded: Settings) -> dict[str, str]:
    """Hub ids of a profile with their revisions."""
    sections = [loaded.generation] + [loaded.inversion] * (loaded.inversion.num_embedded > 0)
    return {name: section.revision for section in reversed(sections) for name in models(section)}


def models(section: Generation | Inversion) -> list[str]:
    """Hub ids among what generates and what training starts from."""
    named = [section.model, *([section.init_from] if isinstance(section, Generation) else [])]
    return [
        name
        for name in dict.fromkeys(named)
        if name not in HERE and not name.startswith((".", "/", "~")) and not (ROOT / name).is_dir()
    ]


def missing(loaded: Settings) -> list[tuple[str, str, str]]:
    """What is not here yet of all that a profile needs: setting, its value, what brings it."""
    source, root, generation = loaded.data.source, loaded.data.root, loaded.generation
    lacking = [
        ("model", name, f"{name}: `make fetch` brings it")
        for name, revision in hub_models(loaded).items()
        if not here(name, revision)
    ]
    if source == "cifar10" and not (ROOT / root / "cifar-10-batches-py").is_dir():
        lacking.append(("data.root", root, f"CIFAR-10 in {root}: `make fetch` brings it"))
    if source not in OWN and not downloaded(ROOT / root):
        what = f"the images of source {source}, a download of your own"
        lacking.append(("data.root", root, f"{root}: {what}"))
    for name in ("generation", "inversion"):
        path = getattr(loaded, name).published_path
        if path and not downloaded(ROOT / path):
            what = "images that others published, a download of your own"
            lacking.append((f"{name}.published_path", path, f"{path}: {what}"))
    facts = PARAMS / "classes" / f"{generation.class_info}.yaml"
    if "sd" in generation.sets and generation.model != "published" and not facts.is_file():
        what = f"{facts.name} in params/classes: what prompts can say of the classes"
        lacking.append(("generation.class_info", generation.class_info, what))
    return lacking


def downloaded(path: Path) -> bool:
    """Whether a download lies where a setting says."""
    try:
        return located(path, "a download").exists()
    except SourceError:
        return False


def here(model: str, revision: str) -> bool:
    """Whether nothing has to be brought for a model of the settings."""
    return model in HERE or (ROOT / model).is_dir() or hub.cached(model, revision or None)


def cifar10(path: Path) -> Path:
    """torchvision's CIFAR-10, md5 checked; downloaded again where it is damaged."""
    from torchvision.datasets import CIFAR10  # slow to import, and most profiles do without

    try:
        CIFAR10(str(path), download=True)
    except (OSError, RuntimeError) as error:
        raise FetchError(
            f"CIFAR-10 cannot be had ({' '.join(str(error).split())}). With a network say "
            "`make fetch PROFILE=…` again, or put cifar-10-python.tar.gz where data.root points."
            f"\n{path}"
        ) from error
    return path


def main(arguments: list[str] | None = None) -> int:
    """`python -m lib.core.fetch --profile world`."""
    parser = argparse.ArgumentParser(prog="python -m lib.core.fetch", description=__doc__)
    parser.add_argument("--profile", default="world")
    profile = parser.parse_args(arguments).profile
    try:
        lines = fetch(settings.load(profile))
    except FAILURES as error:
        print(f"\n{str(error).replace('PROFILE=…', f'PROFILE={profile}')}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        progress.say(f"stopped; `make fetch PROFILE={profile}` goes on where it ended")
        return 130
    print("\n".join(lines) or f"profile {profile} needs nothing from elsewhere")
    return 0


if __name__ == "__main__":
    sys.exit(main())
