"""An image set as PNG class folders and `metadata.csv`: `make export SET=di OUT=folder`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lib.core import config as settings
from lib.core.paths import ROOT
from lib.core.plan import PlannedStudy
from lib.core.store import StoreError
from lib.data import imageset


class ExportError(ValueError):
    """A set that cannot be exported; the message says why."""


def export(profile: str, name: str, folder: Path) -> str:
    """Write a set of a study that has been made."""
    study = PlannedStudy(settings.load(profile), profile)
    sets = {**study.real, **study.sets, **study.synthetic}
    del sets["real"]  # which is `train`
    if name not in sets:
        raise ExportError(f"SET={name!r}: profile {profile} has {', '.join(sets)}")
    if folder.exists() and any(folder.iterdir()):
        raise ExportError(f"not empty; name a new folder with OUT=…\n{folder}")
    artifact = study.store.found(sets[name])
    if artifact is None:
        raise ExportError(f"{name} has not been made yet: `make report PROFILE={profile}` first")
    images = imageset.load(artifact)
    images.to_folder(folder)
    return f"{len(images):,} images of {name} in class folders, and metadata.csv, in {folder}"


def main() -> int:
    """`python -m lib.tools.export --profile world --set di --out folder`."""
    parser = argparse.ArgumentParser(prog="python -m lib.tools.export", description=__doc__)
    parser.add_argument("--profile", default="world")
    parser.add_argument("--set", required=True)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    if not (options.set and options.out):
        print("\nmake export SET=di OUT=folder: which set, and where to?", file=sys.stderr)
        return 1
    try:
        print(export(options.profile, options.set, (ROOT / Path(options.out).expanduser())))
    except (ValueError, StoreError, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
