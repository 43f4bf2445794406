"""`make bench [NAME=render]`: speed comparisons, each a ratio, printed as one JSON line."""

import importlib
import json
import pkgutil
import sys

import lib.tools.bench


def main(wanted: list[str]) -> int:
    """Run the named benches, or all; the JSON lines come last on standard output."""
    names = [info.name for info in pkgutil.iter_modules(lib.tools.bench.__path__)
             if info.name != "__main__"]
    for name in wanted:
        if name not in names:
            print(f"no bench named {name!r}; there are {', '.join(names)}\nlib/tools/bench/",
                  file=sys.stderr)
            return 1
    lines = [{"bench": name, **importlib.import_module(f"lib.tools.bench.{name}").run()}
             for name in wanted or names]
    print("\n".join(json.dumps(line) for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
