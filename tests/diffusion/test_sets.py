"""Synthetic sets: an image is its seed whatever the shard, words and guidance leave its noise alone, nothing is lost."""

import json

import numpy as np
import pytest

from lib.core.config import load
from lib.core.store import ArtifactSpec, Store
from lib.data import imageset as images
from lib.diffusion import conditional, sets
from lib.diffusion.model import GeneratorError
from lib.diffusion.models import fingerprint
from lib.diffusion.packed import pack, unpack
from lib.diffusion.prompts import PromptError
from lib.diffusion.sample import Drawn
from tests.diffusion import tiny

NAMES = ["sphere", 'a "quoted" 🙂', "cube"]
FACTS = {"hypernym": "solid", "definition": " ".join(["word"] * 500)}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Settings, data and store of a study with a tiny text-to-image model of 16 px."""
    folder = tmp_path_factory.mktemp("sets")
    tiny.of_text().save(folder / "model")
    smoke = load("smoke")
    own = smoke.generation.model_copy(
        update={
            "model": str(folder / "model"),
            "init_from": str(folder / "model"),
            "num_images": 7,
            "batch_size": 4,
            "prompt_template": "{class}",
            "sets": ["sd", "cd"],
            "sweep_num_images": 3,
        }
    )
    study = smoke.study.model_copy(update={"store": str(folder / "store"), "device": "cpu"})
    data = {"classes": ["cube", "sphere", "torus"], "resolution": 12, "flip": True}
    return own, study, data, Store(folder / "store")


def test_shards_and_batches_change_nothing(world):
    own, study, data, store = world
    small = sets.prompt_recipe(own.model_copy(update={"batch_size": 1}), study, data)
    one, other = (
        images.load(store.make(recipe)) for recipe in (sets.prompt_recipe(own, study, data), small)
    )
    assert one.images.shape == (7, 12, 12, 3) and list(one.labels) == [0, 1, 2, 0, 1, 2, 0]
    assert len(store.make(small).files) == 2 and list(one.seeds) == list(other.seeds)
    assert np.abs(one.images.astype(int) - other.images).max() <= 1


def test_a_lost_shard_is_made_again_and_no_other(world):
    own, study, data, store = world
    recipe = sets.prompt_recipe(own.model_copy(update={"batch_size": 1}), study, data)
    first, second = store.make(recipe).files
    before, stays = first.read_bytes(), second.stat().st_mtime_ns
    first.unlink()
    (store.folder(recipe) / "manifest.json").unlink()
    (store.folder(recipe) / "journal.json").write_text(
        json.dumps({})
    )  # killed before it could say what was done
    assert store.make(recipe).files[0].read_bytes() == before and second.stat().st_mtime_ns != stays
    first.unlink()
    kept = second.stat().st_mtime_ns
    assert store.make(recipe).files[0].read_bytes() == before and second.stat().st_mtime_ns == kept


def test_words_and_guidance_keep_the_seeds(world):
    own, study, data, store = world
    points = sets.sweeps(
        own.model_copy(
            update={
                "sweep_prompts": ["{class}", "multiple {class}"],
                "sweep_guidance_scales": [1.0],
            }
        ),
        study,
        data,
    )
    assert list(points) == [
        ("{class}", 4.0),
        ("multiple {class}", 4.0),
        ("{class}", 1.0),
    ]  # the first is as `sd` itself
    made = [images.load(store.make(recipe)) for recipe in points.values()]
    assert all(list(part.seeds) == list(made[0].seeds) and len(part) == 3 for part in made)
    assert made[1].prompts[0] == "multiple cube" and not np.array_equal(
        made[0].images, made[2].images
    )


def test_other_weights_make_another_set(world, tmp_path):
    own, study, data, _ = world
    tiny.of_text(seed=1).save(tmp_path / "other")
    other = own.model_copy(update={"model": str(tmp_path / "other")})
    before = sets.prompt_recipe(other, study, data).key
    tiny.of_text(seed=2).save(tmp_path / "other")
    assert sets.prompt_recipe(other, study, data).key != before


def test_what_a_model_says_of_itself_makes_no_other_set(tmp_path):
    folder = tiny.of_text().save(tmp_path / "model")
    before = fingerprint(str(folder))
    (folder / "training.json").write_text("{}")
    (folder / "README.md").write_text("card")
    assert fingerprint(str(folder)) == before
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    assert fingerprint(str(folder)) != before


def test_how_a_set_was_made_in_words(world):
    own, study, data, _ = world
    assert sets.described(
        sets.prompt_recipe(own.model_copy(update={"guidance_interval": [0.0, 1.0]}), study, data)
    ).endswith("guidance 4.")
    assert "guidance 4 in the first 60 % of them" in sets.described(
        sets.prompt_recipe(own.model_copy(update={"guidance_interval": [0.0, 0.6]}), study, data)
    )
    assert sets.guided(0.2, 0.7) == " from 20 % to 70 % of them"


def test_how_many_real_images_had_a_part(real):
    """None in prompts, all in a generator trained on them; of inversion those with an embedding, or all its generator saw."""
    trained, frozen = (
        ArtifactSpec("trained", inputs={name: real}) for name in ("real", "published")
    )
    embeddings = ArtifactSpec("embeddings", {"count": 5}, {"real": real})
    known = [
        ArtifactSpec("sd"),
        ArtifactSpec("cd", inputs={"generator": trained}),
        ArtifactSpec("di", inputs={"embeddings": embeddings}),
        ArtifactSpec("di", inputs={"embeddings": embeddings, "generator": frozen}),
        ArtifactSpec("di", inputs={"embeddings": embeddings, "generator": trained}),
    ]
    count = real.settings["count"]
    assert [sets.learnt_from(one) for one in known] == [0, count, 5, 5, count]


def test_strange_names_and_long_prompts_are_drawn(world, tmp_path, monkeypatch):
    """Quotes, emoji and 500 words: every image is drawn and the manifest keeps the words as they were said."""
    own, study, data, store = world
    rows = "\n".join(
        f"  - {json.dumps({'name': name, **FACTS}, ensure_ascii=False)}" for name in NAMES
    )
    (tmp_path / "classes").mkdir()
    (tmp_path / "classes" / "odd.yaml").write_text(
        f"classes:\n{rows}\nbackgrounds: [a wall]\n", encoding="utf-8"
    )
    monkeypatch.setattr(sets, "PARAMS", tmp_path)
    odd = own.model_copy(
        update={"class_info": "odd", "prompt_template": "{class}, {definition}", "num_images": 3}
    )
    part = images.load(store.make(sets.prompt_recipe(odd, study, {**data, "classes": NAMES})))
    assert part.prompts[1].startswith('a "quoted" 🙂, word word') and part.classes == tuple(NAMES)
    with pytest.raises(PromptError, match="no file of facts.*\n.*none.yaml"):
        store.make(sets.prompt_recipe(odd.model_copy(update={"class_info": "none"}), study, data))


def test_class_conditional_from_words(world, real):
    """The table starts as what the words say, training changes it, and the sets are of its classes."""
    own, study, data, store = world
    recipe = sets.class_recipe(own, study, data, real)
    generator, facts = conditional.opened(store.make(recipe.inputs["generator"]))
    begun = conditional.begin(recipe.inputs["generator"].settings, images.load(store.make(real)), 0)
    assert facts["classes"] == data["classes"] and generator.table.config.tokens == 12
    assert not np.allclose(begun.classes([0, 1]).detach(), generator.classes([0, 1]).detach())
    part = images.load(store.make(recipe))
    assert len(part) == 7 and part.prompts[:3] == ("cube", "sphere", "torus")
    wrong = sets.conditioned(
        {**recipe.settings, "classes": ["x", "y", "z"]}, 0, generator=recipe.inputs["generator"]
    )
    with pytest.raises(GeneratorError, match="trained on classes"):
        store.make(wrong)


def test_the_table_starts_as_the_words(world):
    own, *_ = world
    from lib.diffusion.models import loaded

    words = loaded(own.model, "", "cpu")
    with_table = conditional.with_classes(words, ("sphere", "octahedron"))
    said = words.text(["a photo of a sphere", "a photo of an octahedron"])
    assert np.allclose(with_table.classes([0, 1]).detach(), said.detach(), atol=1e-6)
    assert np.allclose(
        with_table.condition(with_table.unconditional()).detach(), words.text([""]).detach(), atol=1e-6
    )


@pytest.mark.parametrize("space", ["latent", "pixel"])
def test_class_conditional_from_nothing(world, real, space):
    own, study, data, store = world
    recipe = conditional.recipe(
        own.model_copy(update={"space": space, "block_out_channels": [16, 32]}),
        study,
        data,
        "scratch",
        real=real,
    )
    generator, facts = conditional.opened(store.make(recipe))
    assert (
        generator.resolution == 16
        and (generator.vae is None) == (space == "pixel")
        and len(facts["losses"]) == 1
    )


def test_pixels_need_scratch_and_only_training_images_teach(world, real):
    own, study, data, store = world
    with pytest.raises(GeneratorError, match="needs generation.init_from = 'scratch'"):
        store.make(
            conditional.recipe(
                own.model_copy(update={"space": "pixel"}), study, data, own.init_from, real=real
            )
        )
    test = type(real)(real.kind, {**real.settings, "split": "test", "count": 3}, {}, real.seed)
    for name in ("real", "published"):  # whatever it is called
        with pytest.raises(
            GeneratorError, match="may learn from real training images or .*, not 'test'"
        ):
            store.make(conditional.recipe(own, study, data, own.init_from, **{name: test}))


def test_a_model_from_elsewhere_works_at_a_size_of_choice(world):
    """The tiny model draws 16 px by itself and 24 px where it is asked to; only then does the recipe know of it."""
    own, study, data, store = world
    from lib.diffusion.models import loaded

    assert (
        loaded(own.model, "", "cpu").resolution,
        loaded(own.model, "", "cpu", 24).resolution,
    ) == (16, 24)
    larger = own.model_copy(update={"model_resolution": 24, "num_images": 2})
    recipe = sets.prompt_recipe(larger, study, data | {"resolution": 24})
    part = images.load(store.make(recipe))
    assert part.images.shape == (2, 24, 24, 3) and "native" not in part.columns
    assert (
        recipe.settings["size"] == 24
        and "size" not in sets.prompt_recipe(own, study, data).settings
    )


def test_patches_of_small_images_lose_nothing():
    """16 px in 2 x 2 patches keep all twelve numbers of a patch: the linear part is exact to a patch's mean."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (64, 16, 16, 3), np.uint8)
    vae = conditional.patches(pictures, 0, steps=2)
    x = conditional.pixels(pictures[:4])
    again = vae.synthesis(vae.encode(x).latent_dist.mode())
    assert (
        vae.config.latent_channels == 12 and float((again - x).abs().max().detach()) < 0.02
    )  # a patch has one mean colour


def test_packed_is_the_same_generator_and_names_no_code(tmp_path):
    made = tiny.of_classes(tiny.autoencoder(), resolution=16)
    pack(made, tmp_path / "g.safetensors", {"note": "é"})
    again, facts = unpack(tmp_path / "g.safetensors")
    assert facts == {"note": "é"} and again.resolution == made.resolution
    for name, part in made.parts().items():
        for key, value in part.state_dict().items():
            assert (getattr(again, name).state_dict()[key] == value).all()
    from lib.diffusion.packed import kind_of

    for name in ("os.system", "OnnxRuntimeModel.from_pretrained", "logging"):
        with pytest.raises(GeneratorError, match="no class of diffusers"):
            kind_of(name)


@pytest.fixture(scope="module")
def real(world):
    """Twelve rendered training images of three classes, 16 px, written as a source would."""
    from types import SimpleNamespace

    from lib.data import real as real_data

    section = SimpleNamespace(source="folder", root=str(folder_of_pictures(world)), resolution=16, shard=50, train=12, test=3,
                              shift_images=0, max_corrupt_files=0)
    return real_data.specs(section, 0)["train"]


def folder_of_pictures(world):
    """Class folders of random pictures."""
    from PIL import Image

    root, rng = world[3].root / "pictures", np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 1)):
        for name in world[2]["classes"]:
            (root / split / name).mkdir(parents=True)
            for k in range(count):
                Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(
                    root / split / name / f"{k}.png"
                )
    return root


def test_what_was_drawn_at_another_size_is_kept_at_that_size_too():
    rng = np.random.default_rng(0)
    drawn = [Drawn(rng.integers(0, 255, (16, 16, 3), np.uint8), seed, seed) for seed in range(2)]
    small, same = (
        sets.collected(drawn, np.array([0, 1]), ("a", "b"), ["", ""], size) for size in (8, 16)
    )
    assert small.images.shape == (2, 8, 8, 3) and np.array_equal(
        np.stack(small.native()), np.stack([d.image for d in drawn])
    )
    assert "native" not in same.columns and np.array_equal(np.stack(same.native()), same.images)
