"""The way a study computes: decided once, kept, followed by all, and part of every key."""

import typing
from types import SimpleNamespace

import pytest
import torch

from lib.core import config, precision
from lib.core.store import Store
from lib.diffusion import sets

AUTO = SimpleNamespace(precision="auto", device="cpu")
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", list(precision.WAYS))
def test_a_way_that_is_named_is_taken_as_it_is(tmp_path, name):
    study = SimpleNamespace(precision=name, device="cpu")
    assert precision.decide(Store(tmp_path), study) == name and not list(tmp_path.iterdir())


def test_the_settings_name_every_way():
    names = typing.get_args(config.Study.model_fields["precision"].annotation)
    assert list(names) == ["auto", *precision.WAYS]


def test_without_hardware_for_bfloat16_nothing_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    monkeypatch.setattr(precision, "measure", None)
    assert precision.decide(Store(tmp_path), AUTO) == "float32"


def test_what_was_measured_once_is_kept(tmp_path, monkeypatch):
    decisions = iter(["bfloat16-plain", "float32"])
    monkeypatch.setattr(precision, "supported", lambda device: True)
    monkeypatch.setattr(precision, "measure", lambda *_: {"precision": next(decisions)})
    assert [precision.decide(Store(tmp_path), AUTO) for _ in range(3)] == ["bfloat16-plain"] * 3
    (path,) = (tmp_path / "precision").glob("*.json")
    path.write_text("{")  # a damaged file is decided anew
    assert precision.decide(Store(tmp_path), AUTO) == "float32"


@pytest.mark.parametrize("name", list(precision.WAYS))
def test_the_fastest_way_that_agrees_is_chosen(name):
    same = dict.fromkeys(precision.WAYS, 0.001)
    seconds = dict.fromkeys(precision.WAYS, 3.0) | {name: 1.0}
    assert precision.choose(seconds, same) == name
    assert precision.choose(seconds, same | {name: 0.03}) == "float32"
    assert precision.choose(seconds | {name: 2.9}, same) == "float32"  # no clear gain


def test_a_way_that_fails_is_left_out(monkeypatch):
    def broken(network, images, name):
        if "first" in name:
            raise RuntimeError("could not create a primitive")
        return torch.ones(3) * (float("nan") if name == "bfloat16" else 1)

    monkeypatch.setattr(precision, "_pass", broken)
    decision = precision.measure(CPU, 2, rounds=1)
    assert len(decision["failed"]) == 4 and "primitive" in decision["failed"]["float32-first"]
    assert decision["difference"]["bfloat16"] == float("inf")


def test_all_ways_agree_on_this_machine():
    decision = precision.measure(CPU, 2, rounds=1)
    assert not decision["failed"] and set(decision["seconds"]) == set(precision.WAYS)
    assert max(decision["difference"].values()) < precision.TOLERANCE
    assert decision["difference"]["float32-first-plain"] < 1e-5


def test_an_undecided_way_computes_nothing():
    with pytest.raises(precision.PrecisionError, match="'auto' is not decided"):
        precision.autocast("cpu", "auto")


def test_the_way_is_part_of_a_sets_key():
    """Two runs of the same settings once computed in two precisions under one key."""
    smoke, data = config.load("smoke"), {"classes": ["cube"], "resolution": 32, "flip": True}
    studies = [smoke.study.model_copy(update={"precision": name}) for name in precision.WAYS]
    keys = {sets.prompted_spec(smoke.generation, study, data).key for study in studies}
    assert len(keys) == len(precision.WAYS)
