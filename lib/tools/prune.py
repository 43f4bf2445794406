"""What no profile uses any more in the store: says how much, and removes it with `--remove`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from lib import preflight
from lib.core import config as settings
from lib.core.paths import REPORTS
from lib.core.plan import PlannedStudy, closure
from lib.core.store import Store, StoreError


class PruneError(ValueError):
    """Nothing can be removed; the message says why."""


def keys_in_use(stores: dict[Store, set[str]]) -> dict[Store, set[str]]:
    """Of every store that a profile names, the keys of all artifacts of its profiles."""
    for profile in settings.profiles():
        config = settings.load(profile)
        has_report = (REPORTS / profile / "results").is_dir()
        problems = list(preflight.problems(config))
        if problems and has_report:
            raise PruneError(
                f"profile {profile} has a report, and what it uses cannot be listed: "
                f"{problems[0]}. Mend that, or `make clean PROFILE={profile}`"
            )
        if problems and not all(problem.download for problem in problems):
            continue  # it can use nothing
        study = PlannedStudy(config, profile)
        specs = (spec for chapter in study.chapters.values() for spec in chapter)
        root = next((store for store in stores if store.root == study.store.root), study.store)
        stores.setdefault(root, set()).update(spec.key for spec in closure(specs))
    return stores


def prune(remove: bool) -> list[str]:
    """The lines that `make prune` prints."""
    lines, total = [], 0
    for store, keys in keys_in_use({}).items():
        unused = store.prune(keys, remove)
        kinds = Counter()
        for folder, size in unused.items():
            kinds[folder.parent.name] += size
        total += sum(kinds.values())
        lines += [f"  {size / 1e6:10,.1f} MB  {kind}" for kind, size in kinds.most_common()]
        lines.append(f"{len(unused):,} artifacts that no profile uses in {store.root}")
    verb = "removed" if remove else "can be removed with `make prune REMOVE=yes`"
    return [*lines, f"{total / 1e6:,.1f} MB {verb}" if total else "nothing to remove"]


def main() -> int:
    """`python -m lib.tools.prune [--remove]`."""
    parser = argparse.ArgumentParser(prog="python -m lib.tools.prune", description=__doc__)
    parser.add_argument("--remove", action="store_true")
    try:
        print("\n".join(prune(parser.parse_args().remove)))
    except (ValueError, StoreError, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
