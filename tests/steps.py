"""Small real steps for the store's tests."""

import time
from pathlib import Path

from lib.store import step


def _note(recipe, i):
    if "log" in recipe.settings:
        with Path(recipe.settings["log"]).open("a") as file:
            file.write(f"{i}\n")


@step(version=1)
def numbers(store, recipe):
    """`i.txt` holds i squared."""
    def write(i, path):
        _note(recipe, i)
        time.sleep(recipe.settings.get("pause", 0))
        path.write_text(str(i * i))
    return {f"{i}.txt": lambda path, i=i: write(i, path) for i in range(recipe.settings["count"])}


@step(version=1)
def total(store, recipe):
    """The sum of upstream `source`, scaled."""
    def write(path):
        files = store.make(recipe.upstream["source"]).files
        path.write_text(str(recipe.settings["scale"] * sum(int(f.read_text()) for f in files)))
    return {"total.txt": write}


@step(version=1)
def broken(store, recipe):
    """One good file, then one that fails half-way."""
    def bad(path):
        path.write_text("half")
        path.write_text(str(1 / 0))
    return {"good.txt": lambda path: path.write_text("good"), "zz.txt": bad}
