"""The probe takes the fastest way, and every way predicts, and learns, the same."""

import json
from dataclasses import asdict

import pytest
import torch

from lib.core.store import Store
from lib.diffusion import precision as probe
from lib.diffusion.precision import CLEARLY, Way, chosen, fastest, use, ways
from lib.diffusion.train import fit
from tests.diffusion import tiny
from tests.diffusion.test_train import SHORT, guess, two_colours


@pytest.mark.parametrize("way", ways("float32", "bfloat16"), ids=str)
def test_every_way_predicts_the_same(way):
    """float32 to 1e-5; bfloat16 has three digits."""
    made = tiny.of_classes()
    latents, t, conditioning = torch.randn(2, 3, 8, 8), torch.tensor([10, 900]), made.classes([0, 1])
    with torch.no_grad():
        expected = made.predict(latents, t, conditioning)
        use(made, way)
        again = made.predict(latents.to(made.dtype), t, conditioning.to(made.dtype)).float()
    assert (again - expected).abs().max() < (1e-5 if way.dtype == "float32" else 0.1)


@pytest.mark.parametrize("way", ways("float32", "bfloat16"), ids=str)
def test_every_way_learns_the_same(way):
    """The weights stay float32 in all; what they predict after eight steps differs by bfloat16's three digits."""
    made, expected = (tiny.of_classes() for _ in range(2))
    losses = fit(use(made, way, learning=True), two_colours(), SHORT, way=way)
    plain = fit(expected, two_colours(), SHORT)
    assert losses == pytest.approx(plain, rel=1e-4 if way.dtype == "float32" else 0.03)
    if way in (Way(), Way(dtype="bfloat16")):
        assert (losses == pytest.approx(plain, rel=1e-6)) == (way == Way())  # or the way was not taken
    assert {p.dtype for p in made.learned()} == {torch.float32}
    assert (guess(made) - guess(expected)).abs().max() < (1e-2 if way.dtype == "float32" else 0.1)


def test_learning_is_timed_once_and_apart_from_running(tmp_path, monkeypatch):
    made, store = tiny.of_classes(), Store(tmp_path)
    way = probe.learning(store, made, 4)
    probe.tuned(store, made)
    told = [json.loads(path.read_text()) for path in (tmp_path / "probe").glob("*.json")]
    assert len(told) == 2 and asdict(way) in [one["way"] for one in told]
    assert all(len(one["images a second"]) == 8 for one in told)
    assert not any(p.requires_grad or p.grad is not None for p in made.unet.parameters())
    monkeypatch.setattr(probe, "fastest", None)  # a second look times nothing
    assert probe.learning(store, made, 4) == way


def test_near_ties_are_decided_alike():
    first, other, half = Way(), Way(layout="channels last"), Way(dtype="bfloat16")
    assert chosen({first: 100.0, other: 99 * CLEARLY, half: 50.0}) == first
    assert chosen({first: 100.0, other: 100.0, half: 101 * CLEARLY}) == half
    assert ways("float32", "bfloat16")[0] == Way()  # what nothing clearly beats is the plain default


def test_fastest_is_clearly_the_fastest():
    made = tiny.of_classes()
    best, speeds = fastest(made, [Way(), Way(attention="plain")])
    assert CLEARLY * speeds[f"{best.dtype}, {best.layout}, {best.attention}"] >= max(speeds.values())
    assert type(next(iter(made.unet.attn_processors.values()))).__name__.endswith("2_0") == (best.attention == "fused")


def test_timing_leaves_the_weights_as_they_were():
    """The process that timed once drew other images than all that read what it had found."""
    timed, fresh = tiny.of_classes(), tiny.of_classes()
    best, _ = fastest(timed, [*ways("bfloat16"), *ways("float32")])
    use(fresh, best)
    assert all(torch.equal(value, timed.unet.state_dict()[name]) for name, value in fresh.unet.state_dict().items())
    assert timed.unet.conv_in.weight.dtype == getattr(torch, best.dtype)


def test_a_unet_in_bfloat16_still_takes_images():
    made = use(tiny.of_classes(tiny.autoencoder(), resolution=16), Way(dtype="bfloat16"))
    assert made.encode(torch.zeros(1, 16, 16, 3, dtype=torch.uint8)).dtype == torch.bfloat16
