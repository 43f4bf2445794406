"""Small real steps for the store's tests."""

import os
import time
from pathlib import Path

from lib.core.store import artifact


def _note(recipe, i):
    if "log" in recipe.settings:
        with Path(recipe.settings["log"]).open("a") as file:
            file.write(f"{i}\n")


@artifact("numbers")
def numbers(store, recipe):
    """`i.txt` holds i squared."""
    def write(i, path):
        _note(recipe, i)
        if "pids" in recipe.settings:
            Path(recipe.settings["pids"]).write_text(str(os.getpid()))
        time.sleep(recipe.settings.get("pause", 0))
        path.write_text(str(i * i))
    return {f"{i}.txt": lambda path, i=i: write(i, path) for i in range(recipe.settings["count"])}


@artifact("blocks")
def blocks(store, recipe):
    """`i.bin` holds so many bytes of value i."""
    return {f"{i}.bin": lambda path, i=i: path.write_bytes(bytes([i]) * recipe.settings["size"])
            for i in range(recipe.settings["count"])}


def sees(name, pause):
    """What a process has in its environment; the pause keeps it from taking two of these."""
    time.sleep(pause)
    return os.environ.get(name)


@artifact("spoils")
def spoils(store, recipe):
    """Made for the first time, it harms a file of another artifact."""
    def write(path):
        if not Path(recipe.settings["path"] + ".spoilt").exists():
            Path(recipe.settings["path"] + ".spoilt").touch()
            Path(recipe.settings["path"]).write_text("harmed")
        path.write_text("done")
    return {"done.txt": write}


@artifact("total")
def total(store, recipe):
    """The sum of upstream `source`, scaled."""
    def write(path):
        files = store.make(recipe.inputs["source"]).files
        path.write_text(str(recipe.settings["scale"] * sum(int(f.read_text()) for f in files)))
    return {"total.txt": write}


@artifact("broken")
def broken(store, recipe):
    """One good file, then one that fails half-way."""
    def bad(path):
        path.write_text("half")
        path.write_text(str(1 / 0))
    return {"good.txt": lambda path: path.write_text("good"), "zz.txt": bad}


@artifact("together")
def together(store, recipe):
    """Files that are done only when all of them are begun; each says which process made it."""
    def write(i, path):
        folder = Path(recipe.settings["folder"])
        (folder / f"begun-{i}").touch()
        deadline = time.monotonic() + 60
        while (
            len(list(folder.glob("begun-*"))) < recipe.settings["others"]
            and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        path.write_text(str(os.getpid()))
    return {f"{i}.txt": lambda path, i=i: write(i, path) for i in range(recipe.settings["others"])}


@artifact("early")
def early(store, recipe):
    """Every file fails, and says first that it was begun."""
    def write(i, path):
        _note(recipe, i)
        raise ArithmeticError(f"file {i} fails")
    return {f"{i}.txt": lambda path, i=i: write(i, path) for i in range(recipe.settings["count"])}
