"""Synthetic sets: an image depends on its seed alone, prompts and guidance keep its noise."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lib.core.config import load
from lib.core.store import ArtifactSpec, Store
from lib.data import imageset
from lib.data import real as real_data
from lib.diffusion import conditional, sets
from lib.diffusion.model import Generator, GeneratorError, load_named, pixels, weights_hash
from lib.diffusion.prompts import PromptError
from lib.diffusion.sample import Sample
from tests.diffusion import tiny

NAMES = ["sphere", 'a "quoted" 🙂', "cube"]
CLASSES = ["cube", "sphere", "torus"]
DATA = {"classes": CLASSES, "resolution": 12, "flip": True}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Settings and store of a study with a tiny text-to-image model of 16 px."""
    folder = tmp_path_factory.mktemp("sets")
    model = str(tiny.of_text().save(folder / "model"))
    smoke = load("smoke")
    section = smoke.generation.model_copy(update={
        "model": model, "init_from": model, "num_images": 7, "batch_size": 4,
        "prompt_template": "{class}", "sets": ["sd", "cd"], "sweep_num_images": 3})
    study = smoke.study.model_copy(update={"store": str(folder / "store"), "device": "cpu"})
    return section, study, Store(folder / "store")


@pytest.fixture(scope="module")
def real(world):
    """Twelve random training images of three classes, 16 px, from class folders."""
    root, rng = world[2].root / "pictures", np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 1)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for k in range(count):
                image = Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8))
                image.save(root / split / name / f"{k}.png")
    section = SimpleNamespace(source="folder", root=str(root), resolution=16, shard=50, train=12,
                              test=3, shift_images=0, max_corrupt_files=0)
    return real_data.specs(section, 0)["train"]


def changed(section, **changes):
    return section.model_copy(update=changes)


def test_shards_and_batches_change_nothing_and_a_lost_shard_is_made_again(world):
    section, study, store = world
    small = sets.prompted_spec(section, study, DATA, batch_size=1)
    images, others = (imageset.load(store.make(spec)) for spec in
                      (sets.prompted_spec(section, study, DATA), small))
    assert images.images.shape == (7, 12, 12, 3) and list(images.labels) == [0, 1, 2, 0, 1, 2, 0]
    assert np.abs(images.images.astype(int) - others.images).max() <= 1
    assert list(images.seeds) == list(others.seeds)
    first, second = store.make(small).files
    before, kept = first.read_bytes(), second.stat().st_mtime_ns
    first.unlink()
    assert store.make(small).files[0].read_bytes() == before
    assert second.stat().st_mtime_ns == kept


def test_prompts_and_guidance_keep_the_seeds(world):
    section, study, store = world
    specs = sets.sweep_specs(changed(section, sweep_prompts=["{class}", "multiple {class}"],
                                     sweep_guidance_scales=[1.0]), study, DATA)
    assert list(specs) == [("{class}", 4.0), ("multiple {class}", 4.0), ("{class}", 1.0)]
    images = [imageset.load(store.make(spec)) for spec in specs.values()]
    assert all(list(part.seeds) == list(images[0].seeds) and len(part) == 3 for part in images)
    assert images[1].prompts[0] == "multiple cube"
    assert not np.array_equal(images[0].images, images[2].images)


def test_other_weights_make_another_set_and_a_card_does_not(world, tmp_path):
    section, study, _ = world
    keys = []
    for seed in (1, 2):
        folder = tiny.of_text(seed=seed).save(tmp_path / "model")
        keys.append(sets.prompted_spec(changed(section, model=str(folder)), study, DATA).key)
    assert keys[0] != keys[1]
    before = weights_hash(str(folder))
    (folder / "training.json").write_text("{}")
    (folder / "README.md").write_text("card")
    assert weights_hash(str(folder)) == before
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    assert weights_hash(str(folder)) != before


def test_real_images_that_had_a_part_are_counted(real):
    """None in prompts, all in a generator trained on them; in inversion those embedded."""
    trained, frozen = (ArtifactSpec("trained", inputs={name: real})
                       for name in ("real", "published"))
    learned = ArtifactSpec("embeddings", {"count": 5}, {"real": real})
    specs = [ArtifactSpec("sd"), ArtifactSpec("cd", inputs={"generator": trained}),
             *(ArtifactSpec("di", inputs={"embeddings": learned} | more)
               for more in ({}, {"generator": frozen}, {"generator": trained}))]
    assert [sets.num_real_images(spec) for spec in specs] == [0, 12, 5, 5, 12]


def test_strange_names_and_long_prompts(world, tmp_path, monkeypatch):
    """Quotes, emoji and 500 words: every image is sampled and the set keeps its prompts."""
    section, study, store = world
    facts = {"hypernym": "solid", "definition": " ".join(["word"] * 500)}
    rows = "\n".join(f"  - {json.dumps({'name': name, **facts}, ensure_ascii=False)}"
                     for name in NAMES)
    (tmp_path / "classes").mkdir()
    (tmp_path / "classes" / "odd.yaml").write_text(f"classes:\n{rows}\nbackgrounds: [a wall]\n")
    monkeypatch.setattr(sets, "PARAMS", tmp_path)
    odd = changed(section, class_info="odd", prompt_template="{class}, {definition}", num_images=3)
    data = DATA | {"classes": NAMES}
    images = imageset.load(store.make(sets.prompted_spec(odd, study, data)))
    assert images.prompts[1].startswith('a "quoted" 🙂, word') and images.classes == tuple(NAMES)
    with pytest.raises(PromptError, match="no file of facts.*\n.*none.yaml"):
        store.make(sets.prompted_spec(odd, study, data, class_info="none"))


def test_class_conditional_from_words(world, real):
    """The table starts as the text of each class, training changes it, the set has its classes."""
    section, study, store = world
    spec = sets.class_conditional_spec(section, study, DATA, real)
    training = spec.inputs["generator"]
    generator, facts = conditional.load(store.make(training))
    images = imageset.load(store.make(real))
    start = conditional.initialise(training.settings, images, 0)
    words = load_named(section.model, "", "cpu")
    texts = words.text([f"a photo of a {name}" for name in CLASSES])
    assert np.allclose(start.classes(range(3)).detach(), texts.detach(), atol=1e-6)
    none = start.condition(start.unconditional()).detach()
    assert np.allclose(none, words.text([""]).detach(), atol=1e-6)
    assert not np.allclose(start.classes([0, 1]).detach(), generator.classes([0, 1]).detach())
    assert facts["classes"] == CLASSES and len(facts["losses"]) == 1
    images = imageset.load(store.make(spec))
    assert len(images) == 7 and images.prompts[:3] == tuple(CLASSES)
    overview = sets.overview({"cd": spec, "sd": sets.prompted_spec(section, study, DATA)})
    assert overview["trained_on"].tolist() == ["12 real images", "–"]
    wrong = sets.class_conditional_images({**spec.settings, "classes": ["x", "y", "z"]}, 0,
                                          generator=training)
    with pytest.raises(GeneratorError, match="trained on classes"):
        store.make(wrong)


def test_a_pretrained_table_is_matched_by_name(tmp_path):
    prior = tiny.of_classes(classes=3, class_names=("cube", "sphere", "torus"))
    own = conditional.with_rows_of(prior, ["Torus", "cube"])
    assert np.allclose(own.classes([0, 1]).detach(), prior.classes([2, 0]).detach())
    assert np.allclose(own.condition(own.unconditional()).detach(),
                       prior.condition(prior.unconditional()).detach())
    with pytest.raises(GeneratorError, match="not trained on cone; it knows cube, sphere, torus"):
        conditional.with_rows_of(prior, ["cone", "cube"])
    with pytest.raises(GeneratorError, match="3 classes without names, the images have 2"):
        conditional.with_rows_of(tiny.of_classes(classes=3), ["a", "b"])


@pytest.mark.parametrize("space", ["latent", "pixel"])
def test_class_conditional_from_scratch(world, real, space):
    section, study, store = world
    section = changed(section, space=space, block_out_channels=[16, 32])
    spec = conditional.training_spec(section, study, DATA, "scratch", real=real)
    generator, _ = conditional.load(store.make(spec))
    assert generator.resolution == 16 and (generator.vae is None) == (space == "pixel")


def test_pixels_need_scratch_and_only_training_images_are_learned_from(world, real):
    section, study, store = world
    pixel = changed(section, space="pixel")
    with pytest.raises(GeneratorError, match="needs generation.init_from = 'scratch'"):
        store.make(conditional.training_spec(pixel, study, DATA, section.init_from, real=real))
    test = ArtifactSpec(real.kind, {**real.settings, "split": "test", "count": 3}, {}, real.seed)
    for name in ("real", "published"):  # whatever it is called
        spec = conditional.training_spec(section, study, DATA, section.init_from, **{name: test})
        with pytest.raises(GeneratorError, match="from real training images .*, not 'test'"):
            store.make(spec)


def test_a_model_works_at_a_size_of_choice(world):
    """The tiny model samples 16 px by itself and 24 px where it is asked to."""
    section, study, store = world
    assert load_named(section.model, "", "cpu").resolution == 16
    spec = sets.prompted_spec(section, study, DATA | {"resolution": 24}, model_resolution=24,
                              num_images=2)
    images = imageset.load(store.make(spec))
    assert images.images.shape == (2, 24, 24, 3) and "native" not in images.columns
    assert spec.settings["size"] == 24
    assert "size" not in sets.prompted_spec(section, study, DATA).settings


def test_patches_of_small_images_lose_nothing():
    """16 px in 2 x 2 patches keep all twelve numbers of a patch but its mean colour's contrast."""
    images = np.random.default_rng(0).integers(0, 255, (64, 16, 16, 3), np.uint8)
    vae = conditional.fit_autoencoder(images, 0, 2)
    x = pixels(images[:4])
    decoded = vae.synthesis(vae.encode(x).latent_dist.mode())
    assert vae.config.latent_channels == 12 and (decoded - x).abs().max() < 0.02


def test_packed_is_the_same_generator_and_names_no_code(tmp_path, monkeypatch):
    generator, path = tiny.of_classes(tiny.autoencoder(), resolution=16), tmp_path / "g.safetensors"
    generator.pack(path, {"note": "é"})
    loaded, facts = Generator.unpack(path)
    assert facts == {"note": "é"} and loaded.resolution == generator.resolution
    for name, part in generator.parts().items():
        for key, value in part.state_dict().items():
            assert (loaded.parts()[name].state_dict()[key] == value).all()
    monkeypatch.setattr("lib.diffusion.parts._home", lambda part: ["os", "system"])
    generator.pack(path, {})
    with pytest.raises(GeneratorError, match="names os.system, which is no part of diffusers"):
        Generator.unpack(path)


def test_samples_of_another_size_are_kept_at_that_size_too():
    rng = np.random.default_rng(0)
    samples = [Sample(rng.integers(0, 255, (16, 16, 3), np.uint8), seed, seed) for seed in range(2)]
    small, same = (sets.to_image_set(samples, np.array([0, 1]), ("a", "b"), ["", ""], size)
                   for size in (8, 16))
    assert small.images.shape == (2, 8, 8, 3)
    assert np.array_equal(np.stack(small.native()), np.stack([s.image for s in samples]))
    assert "native" not in same.columns and np.array_equal(np.stack(same.native()), same.images)
