"""What a profile needs from elsewhere, brought before anything runs: `python -m lib.fetch --profile cifar10`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lib import progress, settings
from lib.generator import hub
from lib.generator.hub import GeneratorError
from lib.paths import ROOT
from lib.settings import Generation, Settings, SettingsError

HERE = ("", "shipped", "scratch")  # models that nobody has to bring
OWN = ("world", "digits", "cifar10")  # sources that the project makes or brings itself


class FetchError(RuntimeError):
    """Something that cannot be had; the message says the way out."""


def fetch(loaded: Settings) -> list[str]:
    """Bring what a profile needs; one line for each thing that is now here."""
    revision = loaded.generation.revision or None
    lines = [f"{name}: commit {Path(hub.fetch(name, revision)).name}" for name in models(loaded.generation)]
    path = ROOT / loaded.data.path
    if loaded.data.source == "cifar10":
        lines.append(f"CIFAR-10: {cifar10(path)}")
    elif loaded.data.source not in OWN and not path.exists():
        raise FetchError(f"data.path = {loaded.data.path!r}: source {loaded.data.source!r} is read from a download of your own, "
                         f"which is not there; set it to where yours lies.\n{path}")
    return lines


def models(generation: Generation) -> list[str]:
    """Hub ids among what generates and what training starts from."""
    named = dict.fromkeys((generation.model, generation.start))
    return [name for name in named if name not in HERE and not (ROOT / name).is_dir()]


def cifar10(path: Path) -> Path:
    """torchvision's CIFAR-10, md5 checked; downloaded again where it is damaged."""
    from torchvision.datasets import CIFAR10  # slow to import, and most profiles do without

    try:
        CIFAR10(str(path), download=True)
    except (OSError, RuntimeError) as error:
        raise FetchError(f"CIFAR-10 cannot be had ({' '.join(str(error).split())}). With a network say `make fetch PROFILE=…` "
                         f"again, or put cifar-10-python.tar.gz where data.path points.\n{path}") from error
    return path


def main(arguments: list[str] | None = None) -> int:
    """`python -m lib.fetch --profile world`."""
    parser = argparse.ArgumentParser(prog="python -m lib.fetch", description=__doc__)
    parser.add_argument("--profile", default="world")
    profile = parser.parse_args(arguments).profile
    try:
        lines = fetch(settings.load(profile))
    except (SettingsError, GeneratorError, FetchError, OSError) as error:
        print(f"\n{str(error).replace('PROFILE=…', f'PROFILE={profile}')}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        progress.say(f"stopped; `make fetch PROFILE={profile}` goes on where it ended")
        return 130
    print("\n".join(lines) or f"profile {profile} needs nothing from elsewhere")
    return 0


if __name__ == "__main__":
    sys.exit(main())
