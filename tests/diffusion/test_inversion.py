"""Inversion: what is frozen stays, rows are on their own, the published loop is met, bad rows and test images are stopped."""

import resource

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch.nn import functional as F

from lib.core.store import Store, artifact
from lib.data import imageset as images
from lib.data import real as real_data
from lib.diffusion import inversion
from lib.diffusion.embeddings import (
    Learned,
    Place,
    between,
    diversity,
    draw,
    embeddings,
    follow,
    hits,
    identification,
    identified,
    inverted,
    keep,
    opened,
    order,
    partner,
    planned,
    psnr,
    ranks,
)
from lib.diffusion.inversion import (
    Inversion,
    InversionError,
    Inverted,
    Pictures,
    class_conditioning,
    encoded,
    invert,
    losses,
    middle,
    timesteps,
    validation,
)
from lib.diffusion.model import Design, Generator
from lib.diffusion.sample import Sampler, denoise
from tests.diffusion import tiny

NAMES, LABELS, IDS = (
    ["cube", "sphere", "cross"],
    [0, 1, 0, 1, 2],
    ["a/1", "a/2", "a/3", "a/4", "a/5"],
)
FAST = Sampler(guidance_scale=2.0, num_inference_steps=3, batch_size=8)


def small():
    """One level with attention in it, and more channels than norm groups, or no conditioning could shift a channel's mean."""
    design = Design(resolution=16, channels=(20,), attention=(True,), width=16)
    return Generator.build(design, tiny.autoencoder(), tiny.tokenizer(), text_layers=1)


@pytest.fixture(scope="module")
def made():
    """A tiny text-to-image model in double precision, in which a batch and a loop agree to the last digits."""
    generator = small()
    for part in generator.parts().values():
        part.double()
    return generator


@pytest.fixture(scope="module")
def latents(made):
    pictures = (
        np.random.default_rng(0)
        .integers(0, 256, (5, 1, 1, 3), np.uint8)
        .repeat(16, 1)
        .repeat(16, 2)
    )
    return encoded(made, pictures)[0]


def inverted_of(generator, latents, index=range(5), seed=0, **changes):
    settings = Inversion(
        **{
            "num_vectors": 3,
            "max_train_steps": 3,
            "batch_size": 5,
            "num_validations": 0,
            "init": "class",
        }
        | changes
    )
    index = list(index)
    return invert(
        generator,
        latents[index],
        [LABELS[i] for i in index],
        [IDS[i] for i in index],
        settings,
        seed,
        class_conditioning(generator, NAMES),
    )


def learned_of(labels, values=None):
    n = len(labels)
    values = (
        torch.randn(n, 3, 16, generator=torch.Generator().manual_seed(0))
        if values is None
        else values
    )
    losses, curves, updates, restarts = (
        torch.zeros(n),
        torch.zeros(n, 1),
        torch.zeros(n),
        torch.zeros(n),
    )
    return Learned(
        Inverted(values, losses, curves, updates, restarts, torch.zeros(n).bool()),
        np.array(labels),
        tuple(f"s/{i}" for i in range(n)),
        tuple(NAMES),
    )


def test_weights_stay_and_each_embedding_fits_its_own_image_best(made):
    before = {
        (name, key): w.clone()
        for name, part in made.parts().items()
        for key, w in part.state_dict().items()
    }
    axes = torch.cat([torch.eye(4), -torch.eye(4)])[[0, 4, 1, 5, 2]]
    latents = 3 * axes[:, :, None, None].expand(
        -1, -1, 4, 4
    )  # images of one colour each, louder than the noise
    found = inverted_of(made, latents, max_train_steps=8, lr=0.1, init="mean", num_validations=1)
    assert all(
        torch.equal(w, before[name, key])
        for name, part in made.parts().items()
        for key, w in part.state_dict().items()
    )
    assert all(
        w.grad is None and not w.requires_grad
        for part in made.parts().values()
        for w in part.parameters()
    )
    assert (found.curves[:, -1] < found.curves[:, 0]).all() and torch.equal(
        found.losses, found.curves[:, -1]
    )
    pictures = Pictures(latents, IDS, 0)
    for shift in range(1, 5):
        other = found.embeddings.roll(shift, 0)
        assert (found.losses < validation(made, pictures, list(range(5)), other)).all()
    assert identification(made, pictures, learned_of(LABELS, found.embeddings), range(5)).all()
    assert not identification(
        made, pictures, learned_of(LABELS, found.embeddings.roll(1, 0)), [1, 4]
    ).any()


EVERYTHING = {
    "lr_scheduler": "cosine",
    "timestep_sampling": "sensitive",
    "init": "random",
    "stop": 1,
    "num_validations": 1,
    "max_train_steps": 2,
}


@pytest.mark.parametrize("changes", [{}, EVERYTHING])
def test_batch_order_and_shard_change_nothing(made, latents, changes):
    whole = inverted_of(made, latents, **changes)
    for index, batch in (([3], 1), ([4, 2, 0, 3, 1], 3)):
        part = inverted_of(made, latents, index, batch_size=batch, **changes)
        assert torch.allclose(part.embeddings, whole.embeddings[list(index)], atol=1e-5)
        assert torch.allclose(part.curves, whole.curves[list(index)], atol=1e-5, equal_nan=True)


def test_single_precision_agrees_too(latents):
    generator = small()
    whole = inverted_of(generator, latents)
    alone = inverted_of(generator, latents, [2])
    assert torch.allclose(alone.losses, whole.losses[2:3], atol=1e-5)
    assert torch.allclose(alone.embeddings, whole.embeddings[2:3], atol=1e-5)
    assert not torch.allclose(
        inverted_of(generator, latents, [2], seed=1).embeddings, alone.embeddings, atol=1e-3
    )


def test_equals_the_published_loop(made):
    """A linear layer of one-hot rows, images encoded again at each step, torch's AdamW, mean loss; 8 steps, within 1e-4."""
    pictures = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), np.uint8)
    latents, known, pixels = (
        encoded(made, pictures)[0],
        class_conditioning(made, NAMES),
        torch.as_tensor(pictures),
    )
    ours = invert(
        made,
        latents,
        [0, 1, 2],
        IDS[:3],
        Inversion(5, 8, init="class", num_validations=0),
        7,
        known,
    )
    table = torch.nn.Linear(3, 5 * 16, bias=False)
    table.weight.data = known[:, :5].flatten(1).T.float().contiguous()
    optimiser = torch.optim.AdamW(table.parameters(), 3e-2, betas=(0.9, 0.999), weight_decay=1e-2)
    scheduler = DDPMScheduler.from_config(made.scheduler.config)
    for count in range(8):
        with torch.no_grad():
            z = made.encode(pixels)
        _, share, noise = Pictures(latents, IDS, 7).draw([0, 1, 2], [count] * 3)
        t, noise = (share * 1000).long(), noise.double()
        conditioning = table(torch.eye(3)).view(3, 5, 16).double()
        output = made.unet(scheduler.add_noise(z, noise, t), t, conditioning).sample
        loss = F.mse_loss(output, scheduler.get_velocity(z, noise, t))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    theirs = table.weight.detach().T.reshape(3, 5, 16)
    found = validation(made, Pictures(latents, IDS, 7), [0, 1, 2], theirs)
    assert torch.allclose(found, ours.losses, atol=1e-4) and torch.allclose(
        theirs, ours.embeddings, atol=1e-2
    )
    assert (ours.embeddings - known[:, :5]).abs().mean() > 0.05


@pytest.mark.parametrize("tokens", [1, 5, 12])
def test_any_number_of_tokens(made, latents, tokens):
    assert inverted_of(made, latents, num_vectors=tokens, max_train_steps=1).embeddings.shape == (
        5,
        tokens,
        16,
    )
    with pytest.raises(
        InversionError, match="inversion.num_vectors is 13: this generator's conditioning has 12"
    ):
        inverted_of(made, latents, num_vectors=13)


def test_classes_in_pixels_and_checkpointing():
    generator = tiny.of_classes(channels=(16,), attention=(True,))
    pictures = np.random.default_rng(0).integers(
        0, 256, (5, 30, 20, 3), np.uint8
    )  # of another size
    latents, spread = encoded(generator, pictures)
    assert latents.shape == (5, 3, 8, 8) and spread is None
    few = {"num_vectors": 2, "max_train_steps": 1, "num_validations": 0}
    plain = inverted_of(generator, latents, **few)
    assert torch.allclose(
        inverted_of(generator, latents, checkpointing=True, **few).embeddings,
        plain.embeddings,
        atol=1e-5,
    )
    assert not generator.unet.is_gradient_checkpointing
    known = class_conditioning(generator, NAMES)
    zero = {
        name: inverted_of(generator, latents, lr=1e-12, init=name, **few).embeddings
        for name in ("class", "mean")
    }
    assert torch.allclose(zero["class"], known[LABELS]) and torch.allclose(
        zero["mean"], known.mean(0).expand(5, -1, -1)
    )


def test_a_posterior_with_a_width_is_sampled_again_each_step(tmp_path):
    tiny.stable_diffusion(tmp_path)
    generator = Generator.load(tmp_path)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    latents, spread = encoded(generator, pictures)
    assert torch.allclose(latents, generator.encode(pictures), atol=1e-6) and (spread > 0).all()
    both = Pictures(latents, IDS, 0, spread)
    drawn = torch.stack([both.draw([0], [count])[0][0] for count in range(300)])
    assert torch.allclose(drawn.mean(0), latents[0], atol=float(spread.max()) / 4)
    assert torch.allclose(drawn.std(0) / spread[0], torch.ones(()), atol=0.2)
    known = class_conditioning(generator, NAMES)
    with_it, without = (
        invert(
            generator, latents, [0, 1], IDS[:2], Inversion(3, 1, num_validations=0), 0, known, width
        ).embeddings
        for width in (spread, None)
    )
    assert not torch.equal(with_it, without)


def test_sensitive_steps_are_fair():
    """Any density: the drawn steps follow it, and the weights make the mean of a function what uniform steps make it."""
    density = torch.tensor([[0.5, 0.5, 0.5, 3.0, 2.0, 0.5, 0.5, 0.5]])
    share = (torch.arange(80000) + 0.5) / 80000
    t, weight = timesteps(share, density.expand(80000, -1), 1000)
    assert (
        torch.allclose(torch.bincount(t // 125) / 10000, density[0], atol=1e-3) and t.max() == 999
    )
    assert (weight * t).mean().item() == pytest.approx(499.5, abs=0.1)
    even, ones = timesteps(share, torch.ones(80000, 8), 1000)
    assert (ones == 1).all() and (even - (share * 1000).long()).abs().max() <= 1


def test_rows_stop_by_themselves_with_their_best(made, latents):
    early = inverted_of(
        made, latents, max_train_steps=5, num_validations=5, lr=20.0, stop=1
    )  # a rate at which the loss soon rises
    reached = early.curves.nan_to_num(torch.inf)
    assert torch.equal(early.losses, reached.min(1).values) and torch.equal(
        early.updates, reached.argmin(1)
    )
    taken = (~early.curves.isnan()).sum(1)
    assert (
        torch.equal(taken, (early.updates + 2).clamp(max=6)) and (taken < 6).any()
    )  # one check more than its best
    again = validation(made, Pictures(latents, IDS, 0), list(range(5)), early.embeddings)
    assert torch.allclose(again, early.losses, atol=1e-6)


def test_a_row_that_is_not_a_number_is_given_up_and_the_rest_goes_on(made, latents, capsys):
    spoilt = latents.clone()
    spoilt[1, 0, 0, 0] = torch.nan
    found, whole = inverted_of(made, spoilt, batch_size=3), inverted_of(made, latents)
    rest = [0, 2, 3, 4]
    assert torch.allclose(found.embeddings[rest], whole.embeddings[rest], atol=1e-5)
    assert found.given_up.tolist() == [
        False,
        True,
        False,
        False,
        False,
    ] and found.restarts.tolist() == [0, 3, 0, 0, 0]
    assert (
        torch.allclose(found.embeddings[1], class_conditioning(made, NAMES)[1, :3].float())
        and found.losses[1].isnan()
    )
    assert (
        "given up, the loss is not a number: 1 of 5 images, the first a/2"
        in capsys.readouterr().err
    )


def test_a_row_that_recovers_at_a_lower_rate(made, latents, monkeypatch):
    """Its first gradient is broken once; it starts again at 0.3 of the rate and ends where that rate leads."""
    true, broken = inversion.gradients, [True]

    def once(generator, pictures, table, rows):
        loss, gradient = true(generator, pictures, table, rows)
        if 1 in rows and table.updates[1] == 1 and broken:
            loss[rows.index(1)] = broken.pop() * torch.inf
        return loss, gradient

    monkeypatch.setattr(inversion, "gradients", once)
    found = inverted_of(made, latents)
    slower = inverted_of(made, latents, [1], lr=3e-2 * inversion.SLOWER)
    assert found.restarts.tolist() == [0, 1, 0, 0, 0] and found.updates.tolist() == [3] * 5
    assert torch.allclose(found.embeddings[1:2], slower.embeddings, atol=1e-5)


def test_out_of_memory_first_saves_activations_then_narrows(made, latents, monkeypatch, capsys):
    true = inversion.gradients

    def narrow(generator, pictures, table, rows):
        if len(rows) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return true(generator, pictures, table, rows)

    whole = inverted_of(made, latents, max_train_steps=2, num_validations=0)
    monkeypatch.setattr(inversion, "gradients", narrow)
    assert torch.allclose(
        inverted_of(made, latents, max_train_steps=2, num_validations=0).embeddings,
        whole.embeddings,
        atol=1e-5,
    )
    assert (
        "activations checkpointed" in (said := capsys.readouterr().err)
        and "going on with 2" in said
    )
    monkeypatch.setattr(inversion, "gradients", lambda *_: narrow(None, None, None, [0, 1, 2]))
    with pytest.raises(InversionError, match="out of memory with a single row"):
        inverted_of(made, latents)


def test_errors_teach(made, latents):
    with pytest.raises(
        InversionError, match="inversion.lr_scheduler is 'linear': use one of constant, cosine"
    ):
        Inversion(lr_scheduler="linear")
    with pytest.raises(InversionError, match="above 0"):
        Inversion(max_train_steps=0)
    with pytest.raises(InversionError, match="set inversion.num_validations above 0"):
        Inversion(stop=1, num_validations=0)
    with pytest.raises(InversionError, match="make them with `encoded"):
        inverted_of(made, latents[:, :, :2])
    with pytest.raises(InversionError, match="1 latents, 2 labels and 1 ids"):
        invert(made, latents[:1], [0, 1], IDS[:1], Inversion(), 0, class_conditioning(made, NAMES))


def test_between_two_images():
    """alpha alone lies on the line, noise alone has its size, the partner is of the class and not the image itself."""
    learned = learned_of([0, 0, 0, 1, 2, 2])
    values = learned.inverted.embeddings
    assert {partner(learned.labels, 0, seed) for seed in range(20)} == {1, 2} and partner(
        learned.labels, 3, 0
    ) == 3
    assert torch.allclose(
        between(learned, Place(0, 2, 0.4, 0.0, 7)), 0.6 * values[0] + 0.4 * values[2]
    )
    aside = between(learned, Place(0, 1, 0.0, 0.3, 7))
    assert torch.allclose(
        2 * (aside - values[0]), between(learned, Place(0, 1, 0.0, 0.6, 7)) - values[0], atol=1e-5
    )
    assert not torch.equal(aside, between(learned, Place(0, 1, 0.0, 0.3, 8)))
    noises = (
        torch.stack([between(learned, Place(3, 3, 0.4, 0.3, seed)) for seed in range(200)])
        - values[3]
    )
    assert noises.std().item() == pytest.approx(0.3, rel=0.03)


def test_labels_go_round():
    labels = np.array([0, 0, 0, 1, 2, 2])
    first = order(labels, range(9))
    assert labels[first].tolist() == [0, 1, 2] * 3 and first == [0, 3, 4, 1, 3, 5, 2, 3, 4]
    assert order(labels, [7]) == [3]


def test_a_set_is_its_seeds_and_guidance_pushes_away_from_the_mean():
    generator, learned = small(), learned_of([0, 0, 1, 2])
    wanted = {"interpolation": 0.1, "embedding_noise": 0.1, "resolution": 12, "sampler": vars(FAST)}
    whole, part = (
        draw(generator, learned, wanted, 5, range(6)),
        draw(generator, learned, wanted, 5, range(3, 5)),
    )
    assert np.abs(
        whole.images[3:5].astype(int) - part.images
    ).max() <= 1 and whole.images.shape == (6, 12, 12, 3)
    assert (
        part.columns["second"] == whole.columns["second"][3:5]
        and list(whole.labels) == [0, 1, 2] * 2
    )
    assert whole.columns["alone"] == [False, True, True] * 2 and set(whole.columns["alpha"]) == {
        0.1
    }
    assert (
        whole.columns["first"] == list(whole.sources) == ["s/0", "s/2", "s/3", "s/1", "s/2", "s/3"]
    )
    assert whole.columns["second"] == ["s/1", "s/2", "s/3", "s/0", "s/2", "s/3"]
    exact = draw(
        generator,
        learned,
        wanted | {"interpolation": 0.0, "embedding_noise": 0.0, "resolution": 16},
        5,
        [0],
    )
    again = follow(
        generator,
        learned,
        [Place(0, 0, 0.0, 0.0, int(exact.seeds[0]))],
        wanted | {"resolution": 16},
    )
    assert np.array_equal(again.images, exact.images)
    mean = learned.inverted.embeddings.mean(0)
    expected = denoise(
        generator, learned.inverted.embeddings[:1], [int(exact.seeds[0])], FAST, mean
    )
    assert np.array_equal(exact.images, inversion_uint8(expected))


def inversion_uint8(x):
    return (((x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)).numpy() * 255).round().astype(np.uint8)


def test_measures_of_quality():
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (6, 16, 16, 3), np.uint8)
    assert ranks(real[[2, 5]], real, [2, 5]).tolist() == [1, 1]
    assert (
        ranks(real[[2]], real, [3])[0] > 1 and ranks(np.stack([real[0]] * 2), real, [0, 1])[0] == 1
    )
    grey = np.full((1, 4, 4, 3), 100, np.uint8)
    assert (
        psnr(grey, grey + 5)[0] == pytest.approx(20 * np.log10(255 / 5))
        and psnr(grey, grey)[0] > 58
    )
    flat = np.stack([np.full((2, 2, 3), level, np.uint8) for level in (0, 10, 40, 7)])
    assert diversity(flat, ["a", "a", "a", "b"]) == pytest.approx([(10 + 40 + 30) / 3])


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A store, and the recipes of real images, of their embeddings and of a set from a tiny model that lies in a folder."""
    folder = tmp_path_factory.mktemp("inversion")
    small().save(folder / "model")
    real = {
        split: real_data.real_images(
            {
                "source": "digits",
                "root": "",
                "resolution": 12,
                "shard": 4,
                "fingerprint": "",
                "split": split,
                "count": 5,
            }
        )
        for split in ("train", "test")
    }
    shared = {"model": str(folder / "model"), "revision": "", "device": "cpu", "print": "", "precision": "float32"}
    about = shared | {"count": 5, "shard": 2, "inversion": vars(Inversion(2, 2, num_validations=1))}
    return Store(folder / "store"), real, about, shared


def test_steps_resume_and_leave_the_test_set_alone(study):
    store, real, about, shared = study
    recipe = embeddings(about, 3, real=real["train"])
    first = store.make(recipe)
    assert len(first.files) == 3
    before = first.files[1].read_bytes()
    first.files[1].unlink()
    assert store.make(recipe).files[1].read_bytes() == before
    learned, whole = (
        opened(first),
        opened(store.make(embeddings(about | {"shard": 5}, 3, real=real["train"]))),
    )
    train = images.load(store.make(real["train"]))
    assert learned.ids == train.sources and list(learned.labels) == list(train.labels)
    assert torch.allclose(
        learned.inverted.losses, whole.inverted.losses, rtol=0.02
    )  # half precision where that is faster
    drawn = images.load(
        store.make(
            inverted(
                shared
                | {
                    "interpolation": 0.1,
                    "embedding_noise": 0.1,
                    "count": 7,
                    "shard": 4,
                    "resolution": 12,
                    "sampler": vars(FAST),
                },
                3,
                embeddings=recipe,
            )
        )
    )
    assert (
        len(drawn) == 7
        and drawn.images.shape[1:] == (12, 12, 3)
        and set(drawn.sources) <= set(train.sources)
    )
    with pytest.raises(InversionError, match="test set is sacred"):
        store.make(embeddings(about, 3, real=real["test"]))
    with pytest.raises(InversionError, match="embeddings of 6 images are wanted, of 5"):
        store.make(embeddings(about | {"count": 6}, 3, real=real["train"]))


def test_plans_are_followed_and_identification_in_parts_is_the_whole(study):
    store, real, about, shared = study
    learned = embeddings(about, 3, real=real["train"])
    plan = [Place(2, 4, 0.5, 0.0, 9), Place(0, 0, 0.0, 0.2, 9), Place(2, 4, 0.5, 0.0, 9)]
    wanted = shared | {"plan": plan, "shard": 2, "resolution": 12, "sampler": vars(FAST)}
    drawn, train = (
        images.load(store.make(planned(wanted, 3, embeddings=learned))),
        images.load(store.make(real["train"])),
    )
    assert (
        np.array_equal(drawn.images[0], drawn.images[2])
        and drawn.columns["second"][0] == train.sources[4]
    )
    assert drawn.columns["alpha"] == [0.5, 0.0, 0.5] and drawn.columns["noise"] == [0.0, 0.2, 0.0]
    parts, whole = (
        store.make(
            identified(
                shared | {"count": 3, "shard": size}, 3, embeddings=learned, real=real["train"]
            )
        )
        for size in (2, 3)
    )
    assert (
        len(parts.files) == 2
        and hits(parts).tolist() == hits(whole).tolist()
        and len(hits(whole)) == 3
    )


@artifact("no-room")
def no_room(store, recipe):
    """Two shards of embeddings, the second on a disk that is full until `room` lies in the store."""

    def second(path):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (soft if (store.root / "room").exists() else 100, hard)
        )
        try:
            keep(path, learned_of([1, 1]))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return {"embeddings-0": lambda path: keep(path, learned_of([0, 0, 0])), "embeddings-1": second}


def test_a_full_disk_loses_nothing(tmp_path):
    """The system itself refuses the second shard; the first stays, and the same command finishes."""
    store, recipe = Store(tmp_path), no_room({})
    with pytest.raises(
        InversionError,
        match="(?s)cannot be written: .*os error.*done stays and is not made again.*embeddings-1",
    ):
        store.make(recipe)
    assert store.state(recipe) == "unfinished: 1 files made" and not list(
        store.folder(recipe).glob("*1*")
    )
    before = (store.folder(recipe) / "embeddings-0").stat().st_mtime_ns
    (tmp_path / "room").touch()
    made = store.make(recipe)
    assert (
        opened(made).labels.tolist() == [0, 0, 0, 1, 1]
        and made.path("embeddings-0").stat().st_mtime_ns == before
    )


def test_the_loss_is_the_trainings_own(made, latents):
    """At the target it is zero, whichever of noise and v the network predicts: here by the definition of both."""
    t, noise = (
        middle(made, [3] * 5),
        torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).double(),
    )
    conditioning = class_conditioning(made, NAMES)[LABELS]
    kept = made.scheduler.alphas_cumprod[437].double()
    with torch.no_grad():
        output = made.predict(made.add_noise(latents.double(), noise, t), t, conditioning.double())
        expected = (
            (output - kept.sqrt() * noise + (1 - kept).sqrt() * latents)
            .square()
            .mean((1, 2, 3))
            .float()
        )
        assert torch.allclose(losses(made, latents, conditioning, t, noise), expected, atol=1e-5)
