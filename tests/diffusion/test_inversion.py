"""Inversion: what is frozen stays, embeddings are independent, the published loop is met."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch.nn import functional as F

from lib.data.imageset import ImageSet
from lib.diffusion import inversion
from lib.diffusion.inversion import (
    Embeddings,
    EncodedImages,
    Inversion,
    InversionError,
    denoising_loss,
    identify,
    invert,
    probe_timesteps,
    timesteps,
    validation_loss,
)
from lib.diffusion.model import Design, Generator, class_conditioning
from tests.diffusion import tiny

NAMES, LABELS = ("cube", "sphere", "cross"), np.array([0, 1, 0, 1, 2])
IDS = ("a/1", "a/2", "a/3", "a/4", "a/5")
FEW = Inversion(num_vectors=3, max_train_steps=3, batch_size=5, num_validations=0, init="class")


def small():
    """One level with attention, and more channels than norm groups, so that a conditioning can
    shift a channel's mean."""
    design = Design(resolution=16, channels=(20,), attention=(True,), width=16)
    return Generator.build(design, tiny.autoencoder(), tiny.tokenizer(), text_layers=1)


@pytest.fixture(scope="module")
def generator():
    """A tiny text-to-image model in double precision, in which batches agree to the last digits."""
    generator = small()
    for part in generator.parts().values():
        part.double()
    return generator


def image_set(images, labels=LABELS):
    n = len(images)
    return ImageSet(images, np.asarray(labels[:n]), NAMES, np.arange(n), IDS[:n], ("",) * n)


@pytest.fixture(scope="module")
def images(generator):
    """Five images of one colour each, encoded."""
    colours = np.random.default_rng(0).integers(0, 256, (5, 1, 1, 3), np.uint8)
    return EncodedImages.encode(generator, image_set(colours.repeat(16, 1).repeat(16, 2)), 0)


def take(images, index):
    return replace(images, latents=images.latents[index], labels=images.labels[index],
                   ids=[images.ids[i] for i in index])


def embeddings_of(values, labels=LABELS):
    n = len(values)
    return Embeddings(values, torch.zeros(n, 1), torch.zeros(n), torch.zeros(n).bool(),
                      np.array(labels), IDS[:n], NAMES)


def weights(generator):
    return {f"{name}.{key}": weight.clone() for name, part in generator.parts().items()
            for key, weight in part.state_dict().items()}


def test_weights_stay_and_each_embedding_fits_its_own_image_best(generator, images):
    before = weights(generator)
    axes = torch.cat([torch.eye(4), -torch.eye(4)])[[0, 4, 1, 5, 2]]
    images = replace(images, latents=3 * axes[:, :, None, None].expand(-1, -1, 4, 4))
    config = replace(FEW, max_train_steps=8, lr=0.1, init="mean", num_validations=1)
    learned = invert(generator, images, config)
    assert all(torch.equal(weight, before[key]) for key, weight in weights(generator).items())
    assert not any(weight.requires_grad for part in generator.parts().values()
                   for weight in part.parameters())
    assert (learned.losses < learned.curves[:, 0]).all()
    for shift in range(1, 5):
        others = learned.values.roll(shift, 0)
        assert (learned.losses < validation_loss(generator, images, range(5), others)).all()
    assert identify(generator, images, learned, range(5)).all()
    rolled = embeddings_of(learned.values.roll(1, 0))
    assert not identify(generator, images, rolled, [1, 4]).any()


@pytest.mark.parametrize("changes", [{}, {
    "lr_scheduler": "cosine", "timestep_sampling": "sensitive", "init": "random",
    "num_validations": 1, "max_train_steps": 2}])
def test_batch_order_and_shard_change_nothing(generator, images, changes):
    config = replace(FEW, **changes)
    learned = invert(generator, images, config)
    for index, batch in (([3], 1), ([4, 2, 0, 3, 1], 3)):
        part = invert(generator, take(images, index), replace(config, batch_size=batch))
        assert torch.allclose(part.values, learned.values[index], atol=1e-5)
        assert torch.allclose(part.curves, learned.curves[index], atol=1e-5)


def test_single_precision_agrees_and_another_seed_does_not(images):
    generator = small()
    learned, alone = (invert(generator, part, FEW) for part in (images, take(images, [2])))
    assert torch.allclose(alone.values, learned.values[2:3], atol=1e-5)
    other = invert(generator, replace(take(images, [2]), seed=1), FEW)
    assert not torch.allclose(other.values, alone.values, atol=1e-3)


def test_equals_the_published_loop(generator):
    """A linear layer of one-hot rows, images encoded at each step, mean loss; 8 steps."""
    pictures = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), np.uint8)
    images = EncodedImages.encode(generator, image_set(pictures, [0, 1, 2]), 7)
    known = class_conditioning(generator, NAMES)
    learned = invert(generator, images, Inversion(5, 8, init="class", num_validations=0))
    table = torch.nn.Linear(3, 5 * 16, bias=False)
    table.weight.data = known[:, :5].flatten(1).T.float().contiguous()
    optimizer = torch.optim.AdamW(table.parameters(), 3e-2, betas=(0.9, 0.999), weight_decay=1e-2)
    scheduler = DDPMScheduler.from_config(generator.scheduler.config)
    for step in range(8):
        with torch.no_grad():
            z = generator.encode(pictures)
        _, uniform, noise = images.draw([0, 1, 2], step)
        t, noise = (uniform * 1000).long(), noise.double()
        conditioning = table(torch.eye(3)).view(3, 5, 16).double()
        output = generator.unet(scheduler.add_noise(z, noise, t), t, conditioning).sample
        optimizer.zero_grad()
        F.mse_loss(output, scheduler.get_velocity(z, noise, t)).backward()
        optimizer.step()
    theirs = table.weight.detach().T.reshape(3, 5, 16)
    losses = validation_loss(generator, images, [0, 1, 2], theirs)
    assert torch.allclose(losses, learned.losses, atol=1e-4)
    assert torch.allclose(theirs, learned.values, atol=1e-2)
    assert (learned.values - known[:, :5]).abs().mean() > 0.05


def test_any_number_of_vectors(generator, images):
    for count in (1, 12):
        config = replace(FEW, num_vectors=count, max_train_steps=1)
        assert invert(generator, images, config).values.shape == (5, count, 16)
    with pytest.raises(InversionError, match="num_vectors is 13: .* conditioning has 12"):
        invert(generator, images, replace(FEW, num_vectors=13))


def test_classes_in_pixels_and_checkpointing():
    generator = tiny.of_classes(channels=(16,), attention=(True,))
    pictures = np.random.default_rng(0).integers(0, 256, (5, 30, 20, 3), np.uint8)
    images = EncodedImages.encode(generator, image_set(pictures), 0)  # of another size
    assert images.latents.shape == (5, 3, 8, 8) and images.std is None
    config = replace(FEW, num_vectors=2, max_train_steps=1)
    plain, checkpointed = (
        invert(generator, images, replace(config, gradient_checkpointing=on)).values
        for on in (False, True))
    assert torch.allclose(checkpointed, plain, atol=1e-5)
    assert not generator.unet.is_gradient_checkpointing
    known = class_conditioning(generator, NAMES)
    start = {name: invert(generator, images, replace(config, lr=1e-12, init=name)).values
             for name in ("class", "mean")}
    assert torch.allclose(start["class"], known[LABELS])
    assert torch.allclose(start["mean"], known.mean(0).expand(5, -1, -1))


def test_a_posterior_with_width_is_sampled(tmp_path):
    """Stable Diffusion's autoencoder: the mean is `encode`, draws have the posterior's spread."""
    tiny.stable_diffusion(tmp_path)
    generator = Generator.load(tmp_path)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    images = EncodedImages.encode(generator, image_set(pictures), 0)
    assert torch.allclose(images.latents, generator.encode(pictures), atol=1e-6)
    draws = torch.stack([images.draw([0], step)[0][0] for step in range(300)])
    assert torch.allclose(draws.mean(0), images.latents[0], atol=float(images.std.max()) / 4)
    assert torch.allclose(draws.std(0) / images.std[0], torch.ones(()), atol=0.2)


def test_sensitive_timesteps_are_fair():
    """They follow the density, and the weights keep the mean that uniform timesteps have."""
    density = torch.tensor([[0.5, 0.5, 0.5, 3.0, 2.0, 0.5, 0.5, 0.5]])
    uniform = (torch.arange(80000) + 0.5) / 80000
    t, weights = timesteps(uniform, density.expand(80000, -1), 1000)
    counts = torch.bincount(t // 125) / 10000
    assert torch.allclose(counts, density[0], atol=1e-3) and t.max() == 999
    assert (weights * t).mean().item() == pytest.approx(499.5, abs=0.1)
    even, ones = timesteps(uniform, torch.ones(80000, 8), 1000)
    assert (ones == 1).all() and (even - (uniform * 1000).long()).abs().max() <= 1


def test_what_is_not_a_number_is_given_up_and_the_rest_goes_on(generator, images, capsys):
    latents = images.latents.clone()
    latents[1, 0, 0, 0] = torch.nan
    learned = invert(generator, replace(images, latents=latents), replace(FEW, batch_size=3))
    whole, rest = invert(generator, images, FEW), [0, 2, 3, 4]
    assert torch.allclose(learned.values[rest], whole.values[rest], atol=1e-5)
    assert learned.given_up.tolist() == [False, True, False, False, False]
    assert learned.restarts.tolist() == [0, 3, 0, 0, 0]
    known = class_conditioning(generator, NAMES)[1, :3]
    assert torch.allclose(learned.values[1], known) and learned.losses[1].isnan()
    assert "not a number: 1 of 5 images, the first a/2" in capsys.readouterr().err


def test_an_embedding_recovers_at_a_lower_learning_rate(generator, images, monkeypatch):
    """Its loss breaks once; it starts again at 0.3 of the rate and ends where that rate leads."""
    original, broken = inversion.denoising_loss, [True]

    def break_once(generator, latents, conditioning, t, noise):
        loss = original(generator, latents, conditioning, t, noise)
        if conditioning.requires_grad and broken:
            loss = loss * torch.tensor([1, broken.pop() * torch.nan, 1, 1, 1])
        return loss

    monkeypatch.setattr(inversion, "denoising_loss", break_once)
    learned = invert(generator, images, FEW)
    slower = invert(generator, take(images, [1]),
                    replace(FEW, lr=FEW.lr * inversion.RESTART_FACTOR))
    assert learned.restarts.tolist() == [0, 1, 0, 0, 0] and not learned.given_up.any()
    assert torch.allclose(learned.values[1:2], slower.values, atol=1e-5)


def test_out_of_memory_first_saves_activations_then_halves(generator, images, monkeypatch, capsys):
    original, config = inversion._train_group, replace(FEW, max_train_steps=2)
    whole = invert(generator, images, config)

    def limited(generator, images, rows, *others):
        if len(rows) > limit:
            raise torch.OutOfMemoryError("out of memory")
        return original(generator, images, rows, *others)

    monkeypatch.setattr(inversion, "_train_group", limited)
    limit = 2
    assert torch.allclose(invert(generator, images, config).values, whole.values, atol=1e-5)
    messages = capsys.readouterr().err
    assert "activations checkpointed" in messages and "continuing with 2" in messages
    limit = 0
    with pytest.raises(InversionError, match="out of memory with a single image"):
        invert(generator, images, FEW)


def test_errors_teach(generator, images):
    with pytest.raises(InversionError, match="lr_scheduler is 'linear': use one of constant, co"):
        Inversion(lr_scheduler="linear")
    with pytest.raises(InversionError, match="above 0"):
        Inversion(max_train_steps=0)
    with pytest.raises(InversionError, match="make them with `EncodedImages.encode"):
        invert(generator, replace(images, latents=images.latents[:, :, :2]), FEW)
    with pytest.raises(InversionError, match="1 latents, 5 labels and 5 ids"):
        invert(generator, replace(images, latents=images.latents[:1]), FEW)


def test_the_loss_is_that_of_training(generator, images):
    """By the definition of v: alpha noise - sigma latents at the probe's timestep."""
    t, latents = probe_timesteps(generator, [3] * 5), images.latents.double()
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).double()
    conditioning = class_conditioning(generator, NAMES)[LABELS]
    kept = generator.scheduler.alphas_cumprod[437].double()
    with torch.no_grad():
        noisy = generator.add_noise(latents, noise, t)
        output = generator.predict(noisy, t, conditioning.double())
        v = kept.sqrt() * noise - (1 - kept).sqrt() * latents
        expected = (output - v).square().mean((1, 2, 3)).float()
        losses = denoising_loss(generator, latents, conditioning, t, noise)
    assert torch.allclose(losses, expected, atol=1e-5)
