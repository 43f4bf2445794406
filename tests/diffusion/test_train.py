"""Training: learns, resumes exactly, leaves the autoencoder alone, weighs as published."""

import resource
from dataclasses import replace

import pytest
import torch

from lib.diffusion.hub import GeneratorError
from lib.diffusion.sample import Sampler, denoise
from lib.diffusion.tokenizer import tokenize
from lib.diffusion.train import (
    Examples,
    TrainConfig,
    TrainingDiverged,
    checkpoints,
    learning_rate,
    loss_weights,
    sample_timesteps,
    train,
)
from tests.diffusion import tiny

SHORT = TrainConfig(
    max_train_steps=8,
    batch_size=8,
    lr=1e-3,
    lr_warmup_steps=2,
    checkpointing_steps=4,
    ema_decay=0.9,
)


def two_colours(n=32):
    """Pixel images of two classes: all -0.8, all 0.8."""
    labels = torch.arange(n) % 2
    return Examples(
        torch.ones(1, n, 3, 8, 8) * (1.6 * labels - 0.8)[None, :, None, None, None], labels
    )


def test_learns_classes():
    generator = tiny.of_classes()
    losses = train(
        generator,
        two_colours(),
        TrainConfig(
            max_train_steps=90,
            batch_size=16,
            lr=4e-3,
            lr_warmup_steps=10,
            checkpointing_steps=30,
            ema_decay=0.9,
        ),
    )
    assert losses[-1] < 0.35 * losses[0]
    images = denoise(
        generator, generator.classes([0, 1]), [0, 1],
        Sampler(guidance_scale=1.0, num_inference_steps=8)
    )
    dark, light = images.mean((1, 2, 3)).tolist()
    assert dark < -0.5 and light > 0.5


def test_resumes_as_if_nothing_had_been(tmp_path):
    def weights(generator):
        return torch.cat([p.flatten() for p in generator.learned()])

    straight, stopped = tiny.of_classes(), tiny.of_classes()
    losses = train(straight, two_colours(), SHORT)

    def kill(step, generator):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stopped, two_colours(), SHORT, tmp_path, callback=kill)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-00000004.safetensors"]
    fresh = tiny.of_classes(seed=9)  # what it began with is forgotten
    assert train(fresh, two_colours(), SHORT, tmp_path) == pytest.approx(losses, abs=1e-6)
    assert torch.allclose(weights(straight), weights(fresh), atol=1e-6)


def test_text_is_trained_and_the_autoencoder_is_not():
    generator = tiny.of_text()
    before = {name: [p.clone() for p in part.parameters()]
              for name, part in generator.parts().items()}
    raw = tokenize(generator.tokenizer, ["a red cube", "a blue sphere"] * 4)[0].view(4, 2, 12)
    train(generator, Examples(torch.randn(2, 4, 4, 4, 4), raw), SHORT)
    changed = {
        name: any(
            not torch.equal(p, q) for p, q in zip(before[name], part.parameters(), strict=True)
        )
        for name, part in generator.parts().items()
    }
    assert changed == {"unet": True, "text_encoder": True, "vae": False}
    assert not any(p.requires_grad for p in generator.learned())


def test_bfloat16_trains_float32_weights_alike():
    plain, lower = tiny.of_classes(), tiny.of_classes()
    expected = train(plain, two_colours(), SHORT)
    losses = train(lower, two_colours(), SHORT, compute_in="bfloat16")
    assert losses == pytest.approx(expected, rel=0.03) and losses != pytest.approx(
        expected, rel=1e-6
    )
    assert {weight.dtype for weight in lower.learned()} == {torch.float32}


def test_a_diverging_run_stops_at_its_last_good_checkpoint(tmp_path):
    """B3: it was stored as whole, and drew black images."""
    train(tiny.of_classes(), two_colours(), replace(SHORT, max_train_steps=4), tmp_path)
    wild = replace(SHORT, max_train_steps=200, lr=1e30, lr_warmup_steps=0)
    with pytest.raises(TrainingDiverged, match="not a number at step .*\n.*checkpoint-0000"):
        train(tiny.of_classes(), two_colours(), wild, tmp_path)
    assert checkpoints(tmp_path)[0].name == "checkpoint-00000004.safetensors"


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "no hash"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, damage, capsys):
    """B4: 40 flipped bits were resumed in silence, a cut file stopped every later run."""
    straight = train(tiny.of_classes(), two_colours(), SHORT, tmp_path)
    newest = checkpoints(tmp_path)[-1]
    data = bytearray(newest.read_bytes())
    if damage == "flip":
        data[-40] ^= 8
    newest.write_bytes({"cut": data[:1000], "empty": b""}.get(damage, data))
    if damage == "no hash":
        newest.with_suffix(".sha256").unlink()
    assert train(tiny.of_classes(), two_colours(), SHORT, tmp_path) == pytest.approx(
        straight, abs=1e-6
    )
    assert "checkpoint-00000008.safetensors is damaged" in capsys.readouterr().err


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path):
    """The system refuses the second checkpoint; the same command continues once there is room."""
    straight = train(tiny.of_classes(), two_colours(), SHORT)
    first = replace(SHORT, max_train_steps=4, lr_decay=0.0)
    train(tiny.of_classes(), two_colours(), first, tmp_path)
    before = checkpoints(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(GeneratorError, match="cannot be written: .*Make room"):
            train(tiny.of_classes(), two_colours(), SHORT, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoints(tmp_path) == before and not list(tmp_path.glob("*.partial"))
    losses = train(tiny.of_classes(), two_colours(), SHORT, tmp_path)
    assert losses[0] == pytest.approx(straight[0], rel=0.2) and len(losses) == 2


def test_rate_warms_up_stays_falls():
    config = TrainConfig(max_train_steps=100, lr=1.0, lr_warmup_steps=10, lr_decay=0.5)
    assert (
        learning_rate(0, config) == pytest.approx(0.1)
        and learning_rate(10, config) == learning_rate(50, config) == 1.0
    )
    assert (
        learning_rate(75, config) == pytest.approx(1 - 0.5**0.5) and learning_rate(100, config) == 0
    )


def test_steps_cover_the_range():
    t = sample_timesteps(100, tiny.of_classes(), torch.Generator().manual_seed(0))
    assert sorted((t // 10).tolist()) == list(range(100))
    late = sample_timesteps(1000, tiny.of_classes(), torch.Generator().manual_seed(0), shift=2.0)
    assert abs((late < 500).float().mean() - 0.25) < 0.01  # of the density 2t


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_weights(prediction):
    """In terms of the clean image, the weighted error is min(snr, gamma) times its square."""
    generator, t = tiny.of_classes(prediction=prediction), torch.tensor([50, 400, 800])
    clean, noise, off = torch.randn(3, 3, 3, 8, 8).unbind(0)
    kept = generator.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    signal, spread = kept.sqrt(), (1 - kept).sqrt()
    noisy, guess = generator.add_noise(clean, noise, t), clean + off
    implied = (
        noisy - signal * guess
    ) / spread  # the noise that goes with a guess of the clean image
    output = implied if prediction == "epsilon" else (signal * noisy - guess) / spread
    snr = (signal / spread).square().view(-1)
    error = (output - generator.target(clean, noise, t)).square().mean((1, 2, 3))
    weighted = loss_weights(t, generator, 5.0) * error
    assert torch.allclose(weighted, snr.clamp(max=5.0) * off.square().mean((1, 2, 3)), rtol=1e-3)
    assert torch.equal(loss_weights(t, generator, 0.0), torch.ones(3))


def test_a_place_counts_in_the_loss_as_much_as_it_is_given():
    one, plain = TrainConfig(1, batch_size=8, lr_warmup_steps=1), two_colours()
    weight = torch.cat(
        [torch.full((1, 32, 8, 4), 2.0), torch.zeros(1, 32, 8, 4)], 3
    )  # the left half alone, twice
    swapped = weight.flip(3)
    once, left, right = (
        train(tiny.of_classes(), Examples(plain.latents, plain.conditions, places=places), one)[0]
        for places in (None, weight, swapped)
    )
    assert left + right == pytest.approx(2 * once, rel=1e-5) and left != pytest.approx(
        right, rel=1e-5
    )
