"""Inversion in the store: shards resume, sets depend on seeds, the specs follow the settings."""

import itertools
import resource
import zipfile
from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest
import torch

from lib.core import config
from lib.core.store import Store, artifact
from lib.data import imageset, real
from lib.diffusion import embeddings
from lib.diffusion.embeddings import Place, interpolate, load, sample_places, save
from lib.diffusion.inversion import Embeddings, Inversion, InversionError
from lib.diffusion.model import to_uint8
from lib.diffusion.sample import Sampler, denoise
from tests.diffusion.test_inversion import small

FAST = Sampler(guidance_scale=2.0, num_inference_steps=3, batch_size=8)
LABELS = np.array([0, 1, 2, 0, 1, 2, 0])
SMOKE = config.load("smoke")
DIGITS = {"source": "digits", "root": "", "resolution": 12, "shard": 4, "fingerprint": ""}


def digits(count, split="train"):
    return real.real_images(DIGITS | {"split": split, "count": count})


def learned_of(labels):
    n, rng = len(labels), torch.Generator().manual_seed(0)
    return Embeddings(torch.randn(n, 3, 16, generator=rng), torch.zeros(n, 1), torch.zeros(n),
                      torch.zeros(n).bool(), np.array(labels), tuple(f"s/{i}" for i in range(n)),
                      ("cube", "sphere", "cross"))


def test_between_two_images():
    """alpha lies on the line, noise has its size, the partner is another image of the class."""
    learned = learned_of([0, 0, 0, 1, 2, 2])
    values, labels = learned.values, learned.labels
    assert {embeddings.partner(labels, 0, seed) for seed in range(20)} == {1, 2}
    assert embeddings.partner(labels, 3, 0) == 3
    between = interpolate(learned, Place(0, 2, 0.4, 0.0, 7))
    assert torch.allclose(between, 0.6 * values[0] + 0.4 * values[2])
    near, far, other = (interpolate(learned, Place(0, 1, 0.0, noise, seed)) - values[0]
                        for noise, seed in ((0.3, 7), (0.6, 7), (0.3, 8)))
    assert torch.allclose(2 * near, far, atol=1e-5) and not torch.equal(near, other)
    noises = torch.stack([interpolate(learned, Place(3, 3, 0.4, 0.3, s)) for s in range(200)])
    assert (noises - values[3]).std().item() == pytest.approx(0.3, rel=0.03)


def test_classes_take_turns():
    labels = np.array([0, 0, 0, 1, 2, 2])
    order = embeddings.source_order(labels, range(9))
    assert labels[order].tolist() == [0, 1, 2] * 3 and order == [0, 3, 4, 1, 3, 5, 2, 3, 4]
    assert embeddings.source_order(labels, [7]) == [3]


def test_guidance_pushes_away_from_the_mean_and_both_sources_are_kept():
    generator, learned = small(), learned_of([0, 0, 1, 2])
    places = [Place(0, 0, 0.0, 0.0, 5), Place(0, 1, 0.1, 0.1, 6), Place(2, 2, 0.1, 0.1, 7)]
    images = sample_places(generator, learned, places, FAST, 16)
    expected = denoise(generator, learned.values[:1], [5], FAST, learned.values.mean(0))
    assert np.abs(images.images[:1].astype(int) - to_uint8(expected)).max() <= 1
    assert images.columns["first"] == list(images.sources) == ["s/0", "s/0", "s/2"]
    assert images.columns["second"] == ["s/0", "s/1", "s/2"] and list(images.labels) == [0, 0, 1]
    assert images.columns["alone"] == [True, False, True]
    assert images.columns["alpha"] == images.columns["noise"] == [0.0, 0.1, 0.1]


def test_measures_of_quality():
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (6, 16, 16, 3), np.uint8)
    assert embeddings.nearest_rank(train[[2, 5]], train, [2, 5]).tolist() == [1, 1]
    assert embeddings.nearest_rank(train[[2]], train, [3])[0] > 1
    grey = np.full((1, 4, 4, 3), 100, np.uint8)
    assert embeddings.psnr(grey, grey + 5)[0] == pytest.approx(20 * np.log10(255 / 5))
    assert embeddings.psnr(grey, grey)[0] > 58
    flat = np.stack([np.full((2, 2, 3), level, np.uint8) for level in (0, 10, 40, 7)])
    assert embeddings.diversity(flat, ["a", "a", "a", "b"]) == pytest.approx([(10 + 40 + 30) / 3])


def test_the_loss_curve_leaves_out_what_was_given_up():
    learned = replace(learned_of([0, 0, 0]), given_up=torch.tensor([False, False, True]),
                      curves=torch.tensor([[1.0, 0.9, 0.8], [2.0, 1.0, 1.0], [np.nan] * 3]))
    spec = embeddings.embeddings({"inversion": asdict(Inversion(2, 10, num_validations=2))})
    curve = embeddings.loss_curve(learned, spec)
    assert curve["updates"].tolist() == [0, 5, 10] and set(curve["images"]) == {2}
    assert curve["mean"].tolist() == pytest.approx([100, 70, 65])


def test_early_stopping_is_read_from_the_curves():
    stopped, losses = embeddings.stop_early(np.array([[3.0, 2, 1], [3, 2, 4], [3, 5, 1]]))
    assert stopped.tolist() == [2, 2, 1] and losses.tolist() == [1, 2, 3]


# in the store

@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A store, settings of embeddings under a tiny model in a folder, and of that model."""
    folder = tmp_path_factory.mktemp("inversion")
    small().save(folder / "model")
    model = {"model": str(folder / "model"), "revision": "", "device": "cpu", "print": "",
             "precision": "float32"}
    inversion = asdict(Inversion(2, 2, num_validations=1))
    return Store(folder / "store"), model | {"count": 5, "shard": 2, "inversion": inversion}, model


def test_shards_resume_and_the_test_set_is_left_alone(study):
    store, settings, model = study
    spec = embeddings.embeddings(settings, 3, real=digits(5))
    first = store.make(spec)
    before = first.files[1].read_bytes()
    first.files[1].unlink()
    assert len(first.files) == 3 and store.make(spec).files[1].read_bytes() == before
    learned, train = load(first), imageset.load(store.make(digits(5)))
    whole = load(store.make(embeddings.embeddings(settings | {"shard": 5}, 3, real=digits(5))))
    assert learned.ids == train.sources and list(learned.labels) == list(train.labels)
    assert torch.allclose(learned.losses, whole.losses, rtol=1e-3)
    with pytest.raises(InversionError, match="test set is sacred"):
        store.make(embeddings.embeddings(settings, 3, real=digits(5, "test")))
    with pytest.raises(InversionError, match="embeddings of 6 images are asked for, of 5"):
        store.make(embeddings.embeddings(settings | {"count": 6}, 3, real=digits(5)))


def test_sets_and_identification_in_parts_are_the_whole(study):
    store, settings, model = study
    learned = embeddings.embeddings(settings, 3, real=digits(5))
    shared = model | {"resolution": 12, "sampler": asdict(FAST)}
    around = {"interpolation": 0.1, "embedding_noise": 0.1, "count": 7}
    sets = [imageset.load(store.make(embeddings.inverted_images(
        shared | around | {"shard": size}, 3, embeddings=learned))) for size in (4, 7)]
    assert np.abs(sets[0].images.astype(int) - sets[1].images).max() <= 1
    assert sets[0].images.shape == (7, 12, 12, 3) and list(sets[0].seeds) == list(sets[1].seeds)
    plan = [Place(2, 4, 0.5, 0.0, 9), Place(0, 0, 0.0, 0.2, 9), Place(2, 4, 0.5, 0.0, 9)]
    planned = imageset.load(store.make(embeddings.inverted_images(
        shared | {"plan": plan, "shard": 2}, 3, embeddings=learned)))
    assert np.abs(planned.images[0].astype(int) - planned.images[2]).max() <= 1
    assert planned.columns["alpha"] == [0.5, 0.0, 0.5]
    parts, whole = (embeddings.load_identification(store.make(embeddings.identification(
        model | {"count": 3, "shard": size}, 3, embeddings=learned, real=digits(5))))
        for size in (2, 3))
    assert parts.tolist() == whole.tolist() and len(whole) == 3


@artifact("no-room")
def no_room(store, spec):
    """Two shards of embeddings, the second on a disk that is full until `room` is in the store."""

    def second(path):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = soft if (store.root / "room").exists() else 100
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            save(learned_of([1, 1]), path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return {"embeddings-0": lambda path: save(learned_of([0, 0, 0]), path), "embeddings-1": second}


def test_a_full_disk_loses_nothing(tmp_path):
    """The system refuses the second shard; the first stays, and the same command finishes."""
    store, spec = Store(tmp_path), no_room({})
    with pytest.raises(InversionError, match="(?s)cannot be written: .*not made again.*gs-1"):
        store.make(spec)
    assert store.state(spec) == "unfinished: 1 files made"
    assert not list(store.folder(spec).glob("*1*"))
    before = (store.folder(spec) / "embeddings-0").stat().st_mtime_ns
    (tmp_path / "room").touch()
    made = store.make(spec)
    assert load(made).labels.tolist() == [0, 0, 0, 1, 1]
    assert made.path("embeddings-0").stat().st_mtime_ns == before


# the specs of a study

def test_the_places_that_are_shown():
    again = embeddings.reconstructions(2, 5)
    assert [place[:2] for place in again] == [(0, 0)] * 2 + [(1, 1)] * 2
    assert len({place.seed for place in again}) == 4
    around = embeddings.variations(LABELS, SMOKE.inversion, 5)
    assert [place[2:4] for place in around[:3]] == [(0.0, 0.0), (0.4, 0.0), (0.0, 0.4)]
    assert len({place.seed for place in around[:3]}) == 1 and around[3].seed != around[0].seed
    assert [place.first for place in around[::3]] == [0, 1]
    assert all(LABELS[place.first] == LABELS[place.second] for place in around)
    path = embeddings.interpolations(LABELS, SMOKE.inversion, 5)[:embeddings.STEPS]
    assert [place.alpha for place in path] == pytest.approx(np.linspace(0, 1, embeddings.STEPS))
    assert {(place[:2], place.seed) for place in path} == {(around[0][:2], around[0].seed)}


def specs_of(train, **changes):
    section = SMOKE.inversion.model_copy(update=changes)
    data = {"resolution": train.settings["resolution"], "flip": True, "max_corrupt_files": 0}
    return embeddings.specs(section, SMOKE.study, data, train, np.arange(12) % 3)


def test_specs_follow_the_settings():
    section, specs = SMOKE.inversion, specs_of(digits(12))
    learned = specs["embeddings"]
    assert specs["di"].settings["count"] == section.num_images
    assert specs["di"].inputs["embeddings"] == learned and learned.inputs["real"] == digits(12)
    assert learned.settings["inversion"]["max_train_steps"] == section.max_train_steps
    assert len(specs["reconstructions"].settings["plan"]) == 2 * section.eval_images
    other = specs_of(digits(12), interpolation=0.17)
    assert other["di"].key != specs["di"].key and other["embeddings"].key == learned.key
    assert specs_of(digits(12), num_embedded=0) == {}
    variants = embeddings.variants(learned, 4)
    assert variants["half the steps"].settings["inversion"]["max_train_steps"] == 1
    assert variants["one vector"].settings["count"] == 4
    assert embeddings.variants(learned, 0) == {}


def test_a_prior_from_scratch_learns_from_real_training_images_or_from_published_ones(tmp_path):
    root = cifake(tmp_path)
    section = SMOKE.data.model_copy(update={
        "source": "cifake", "root": str(root), "resolution": 16, "train": 20, "test": 10,
        "shift_images": 0})
    train = real.specs(section, 0)["train"]
    small = {"model": "scratch", "published_path": str(root), "generator_num_images": 20,
             "block_out_channels": [16, 32], "generator_train_steps": 2,
             "generator_batch_size": 4, "num_vectors": 4, "num_embedded": 10, "num_images": 4,
             "eval_images": 2}
    specs = specs_of(train, generator_data="published", **small)
    generator = specs["di"].inputs["generator"]
    (published,) = generator.inputs.values()
    assert real.is_published(published)
    assert all(spec.inputs["generator"] == generator for spec in specs.values())
    store = Store(tmp_path / "store")
    sources = set(imageset.load(store.make(specs["di"])).sources)
    assert sources <= set(imageset.load(store.make(train)).sources)
    own = specs_of(train, generator_data="real", **small)
    assert own["di"].inputs["generator"].inputs == {"real": train}


def cifake(folder):
    """Three pictures of each class, half and split, in a zip."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        for split, half, label, i in itertools.product(
                ("train", "test"), ("REAL", "FAKE"), range(1, 11), range(3)):
            image = rng.integers(0, 255, (32, 32, 3), np.uint8)
            name = f"{i} ({label}).jpg" if label > 1 else f"{i}.jpg"
            archive.writestr(f"{split}/{half}/{name}", cv2.imencode(".jpg", image)[1].tobytes())
    return folder / "set.zip"
