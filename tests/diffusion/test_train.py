"""Training: learns, resumes as if nothing had been, leaves the autoencoder alone, weighs as published."""

import time
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from lib.diffusion.sample import Sampler, denoise
from lib.diffusion.tokenizer import tokenize
from lib.diffusion.train import STATE, Examples, TrainConfig, fit, rate_of, steps_of, weight_of
from tests.diffusion import tiny

SHORT = TrainConfig(steps=8, batch=8, rate=1e-3, warmup=2, keep=4, ema=0.9)


def two_colours(n=32):
    """Pixel images of two classes: all -0.8, all 0.8."""
    labels = torch.arange(n) % 2
    return Examples(
        torch.ones(1, n, 3, 8, 8) * (1.6 * labels - 0.8)[None, :, None, None, None], labels
    )


def test_learns_classes():
    made = tiny.of_classes()
    losses = fit(
        made, two_colours(), TrainConfig(steps=90, batch=16, rate=4e-3, warmup=10, keep=30, ema=0.9)
    )
    assert losses[-1] < 0.35 * losses[0]
    images = denoise(
        made, made.classes([0, 1]), [0, 1], Sampler(guidance_scale=1.0, num_inference_steps=8)
    )
    dark, light = images.mean((1, 2, 3)).tolist()
    assert dark < -0.5 and light > 0.5


def test_resumes_as_if_nothing_had_been(tmp_path):
    def weights(made):
        return torch.cat([p.flatten() for p in made.learned()])

    straight, stopped = tiny.of_classes(), tiny.of_classes()
    losses = fit(straight, two_colours(), SHORT)

    def kill(step, generator):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(stopped, two_colours(), SHORT, tmp_path, look=kill)
    assert (tmp_path / STATE).is_file()
    fresh = tiny.of_classes(seed=9)  # what it began with is forgotten
    assert fit(fresh, two_colours(), SHORT, tmp_path) == pytest.approx(losses, abs=1e-6)
    assert torch.allclose(weights(straight), weights(fresh), atol=1e-6)


def test_text_is_trained_and_the_autoencoder_is_not():
    made = tiny.of_text()
    before = {name: [p.clone() for p in part.parameters()] for name, part in made.parts().items()}
    raw = tokenize(made.tokenizer, ["a red cube", "a blue sphere"] * 4)[0].view(4, 2, 12)
    fit(made, Examples(torch.randn(2, 4, 4, 4, 4), raw), SHORT)
    changed = {
        name: any(
            not torch.equal(p, q) for p, q in zip(before[name], part.parameters(), strict=True)
        )
        for name, part in made.parts().items()
    }
    assert changed == {"unet": True, "text_encoder": True, "vae": False}
    assert not any(p.requires_grad for p in made.learned())


@torch.no_grad()
def guess(made):
    """What a generator predicts for some fixed noise."""
    noisy = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return made.predict(noisy, torch.tensor([50, 300, 600, 900]), made.classes([0, 1, 2, 3]))


def part_of_two(rank, folder):
    """One of two processes, each with half of every batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    made = tiny.of_classes()
    fit(made, two_colours(), SHORT)
    save_file({"guess": guess(made)}, folder / f"{rank}.safetensors")


def test_two_processes_equal_one(tmp_path):
    alone = tiny.of_classes()
    fit(alone, two_colours(), SHORT)
    torch.multiprocessing.start_processes(part_of_two, (tmp_path,), nprocs=2, start_method="fork")
    assert (guess(alone) - guess(tiny.of_classes())).abs().max() > 0.1
    for rank in (
        0,
        1,
    ):  # guesses and not weights: Adam blows the rounding of gradients that ought to be zero up to a step
        assert torch.allclose(
            load_file(tmp_path / f"{rank}.safetensors")["guess"], guess(alone), atol=1e-3
        )


def two_legs(rank, folder):
    """One of two processes; the one that keeps the state takes its time."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "lib.diffusion.train.save_file",
            lambda *what, **more: (time.sleep(0.5), save_file(*what, **more)),
        )
        losses = [
            fit(tiny.of_classes(), two_colours(), replace(SHORT, steps=steps), folder / "state")
            for steps in (8, 12)
        ]
    save_file(
        {"losses": torch.tensor([len(leg) for leg in losses])}, folder / f"{rank}.safetensors"
    )


def test_no_process_goes_on_from_a_state_that_another_is_still_writing(tmp_path):
    torch.multiprocessing.start_processes(two_legs, (tmp_path,), nprocs=2, start_method="fork")
    assert all(
        load_file(tmp_path / f"{rank}.safetensors")["losses"].tolist() == [2, 3] for rank in (0, 1)
    )


def test_rate_warms_up_stays_falls():
    recipe = TrainConfig(steps=100, rate=1.0, warmup=10, decay=0.5)
    assert (
        rate_of(0, recipe) == pytest.approx(0.1)
        and rate_of(10, recipe) == rate_of(50, recipe) == 1.0
    )
    assert rate_of(75, recipe) == pytest.approx(1 - 0.5**0.5) and rate_of(100, recipe) == 0


def test_steps_cover_the_range():
    t = steps_of(100, tiny.of_classes(), torch.Generator().manual_seed(0))
    assert sorted((t // 10).tolist()) == list(range(100))
    late = steps_of(1000, tiny.of_classes(), torch.Generator().manual_seed(0), late=2.0)
    assert abs((late < 500).float().mean() - 0.25) < 0.01  # of the density 2t


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_weights(prediction):
    """In terms of the clean image every prediction's weighted error is min(snr, gamma) times its squared error."""
    made, t = tiny.of_classes(prediction=prediction), torch.tensor([50, 400, 800])
    clean, noise, off = torch.randn(3, 3, 3, 8, 8).unbind(0)
    signal, spread = made.levels(t)
    noisy, guess = made.blend(clean, noise, t), clean + off
    implied = (
        noisy - signal * guess
    ) / spread  # the noise that goes with a guess of the clean image
    output = implied if prediction == "epsilon" else (signal * noisy - guess) / spread
    snr = (signal / spread).square().view(-1)
    weighted = weight_of(t, made, 5.0) * (output - made.target(clean, noise, t)).square().mean(
        (1, 2, 3)
    )
    assert torch.allclose(weighted, snr.clamp(max=5.0) * off.square().mean((1, 2, 3)), rtol=1e-3)
    assert torch.equal(weight_of(t, made, 0.0), torch.ones(3))


def test_a_place_counts_in_the_loss_as_much_as_it_is_given():
    one, plain = TrainConfig(1, batch=8, warmup=1), two_colours()
    weight = torch.cat(
        [torch.full((1, 32, 8, 4), 2.0), torch.zeros(1, 32, 8, 4)], 3
    )  # the left half alone, twice
    swapped = weight.flip(3)
    once, left, right = (
        fit(tiny.of_classes(), Examples(plain.latents, plain.raw, places=places), one)[0]
        for places in (None, weight, swapped)
    )
    assert left + right == pytest.approx(2 * once, rel=1e-5) and left != pytest.approx(
        right, rel=1e-5
    )
