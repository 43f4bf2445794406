"""The precision of a study: decided once, kept, followed by all; no stopwatch behind anybody's back."""

from types import SimpleNamespace

import pytest
import torch

from lib.core import precision
from lib.core.config import load
from lib.core.store import Store
from lib.diffusion import sets

AUTO = SimpleNamespace(precision="auto", device="cpu")


def test_a_named_precision_is_taken_as_it_is(tmp_path):
    study = SimpleNamespace(precision="bfloat16", device="cpu")
    assert precision.decide(Store(tmp_path), study) == "bfloat16" and not list(tmp_path.iterdir())


def test_without_hardware_for_bfloat16_nothing_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "supported", lambda device: False)
    monkeypatch.setattr(precision, "measure", None)
    assert precision.decide(Store(tmp_path), AUTO) == "float32"


def test_what_was_measured_once_is_kept(tmp_path, monkeypatch):
    decisions = iter(["bfloat16", "float32"])
    monkeypatch.setattr(precision, "supported", lambda device: True)
    monkeypatch.setattr(precision, "measure", lambda *_: {"precision": next(decisions)})
    assert [precision.decide(Store(tmp_path), AUTO) for _ in range(3)] == ["bfloat16"] * 3
    (path,) = (tmp_path / "precision").glob("*.json")
    path.write_text("{")  # a damaged file is decided anew
    assert precision.decide(Store(tmp_path), AUTO) == "float32"


def test_a_kernel_that_fails_leaves_float32(monkeypatch):
    def broken(network, images, name):
        if name == "bfloat16":
            raise RuntimeError("could not create a primitive")
        return torch.ones(3)

    monkeypatch.setattr(precision, "_pass", broken)
    found = precision.measure(torch.device("cpu"), 2, rounds=1)
    assert found["precision"] == "float32" and "primitive" in found["reason"]


def test_numbers_that_differ_leave_float32(monkeypatch):
    values = {"float32": torch.ones(3), "bfloat16": torch.tensor([1.0, 1.0, float("nan")])}
    monkeypatch.setattr(precision, "_pass", lambda network, images, name: values[name])
    assert precision.measure(torch.device("cpu"), 2, rounds=2)["precision"] == "float32"


def test_both_precisions_agree_on_this_machine():
    found = precision.measure(torch.device("cpu"), 2, rounds=1)
    assert found["difference"] < precision.TOLERANCE and min(found["seconds"].values()) > 0


def test_an_undecided_precision_computes_nothing():
    with pytest.raises(precision.PrecisionError, match="'auto' is not decided"):
        precision.autocast("cpu", "auto")


def test_the_precision_is_part_of_a_sets_key():
    """A1: two runs of the same settings drew in two precisions under one key."""
    smoke, data = load("smoke"), {"classes": ["cube"], "resolution": 32, "flip": True}
    keys = {
        name: sets.prompt_recipe(
            smoke.generation, smoke.study.model_copy(update={"precision": name}), data
        ).key
        for name in precision.DTYPES
    }
    assert keys["float32"] != keys["bfloat16"]
