"""One code path: shipped, Stable Diffusion's kind, and trained here; errors that teach."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file, save_file

from lib.diffusion.hub import fetch
from lib.diffusion.model import Design, Generator, GeneratorError, pixels, to_uint8
from tests.diffusion import tiny

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("build", [
    tiny.of_text, tiny.of_classes, lambda: tiny.of_classes(tiny.autoencoder(), resolution=16)])
def test_saved_and_loaded_again(tmp_path, build):
    generator = build()
    loaded = Generator.load(generator.save(tmp_path))
    for part, network in generator.parts().items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, loaded.parts()[part].state_dict()[key])
    for name in ("shape", "resolution", "tokens", "width"):
        assert getattr(loaded, name) == getattr(generator, name)


def test_half_on_disk_single_in_memory(tmp_path):
    loaded = Generator.load(tiny.of_text().save(tmp_path, half=True))
    assert load_file(tmp_path / WEIGHTS)["conv_in.weight"].dtype == torch.float16
    dtypes = {weight.dtype for part in loaded.parts().values() for weight in part.parameters()}
    assert dtypes == {torch.float32}


def test_stable_diffusion_takes_the_same_path(tmp_path):
    pipeline = tiny.stable_diffusion(tmp_path)
    loaded, vae = Generator.load(tmp_path), pipeline.vae
    assert (loaded.shape, loaded.resolution) == ((4, 8, 8), 16)
    assert (loaded.tokens, loaded.width) == (12, 16)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    with torch.no_grad():
        mean = vae.encode(pixels(images)).latent_dist.mean * vae.config.scaling_factor
        assert torch.allclose(loaded.encode(images), mean, atol=1e-5)
        expected = vae.decode(mean / vae.config.scaling_factor).sample
        assert torch.allclose(loaded.decode(mean), expected, atol=1e-5)
        expected = pipeline.encode_prompt(["a red cube"], "cpu", 1, False)[0]
        assert torch.allclose(loaded.text(["a red cube"]), expected, atol=1e-6)


def test_noise_levels_are_the_schedulers():
    generator, t = tiny.of_classes(), torch.tensor([0, 300, 600, 999])
    clean, noise = torch.randn(2, 4, 3, 8, 8)
    scheduler = DDPMScheduler.from_config(generator.scheduler.config)
    noisy, velocity = scheduler.add_noise(clean, noise, t), scheduler.get_velocity(clean, noise, t)
    assert torch.allclose(generator.add_noise(clean, noise, t), noisy, atol=1e-6)
    assert torch.allclose(generator.target(clean, noise, t), velocity, atol=1e-6)


def test_pixels_round_trip():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    assert np.array_equal(to_uint8(pixels(images)), images)


def test_words_and_classes_are_not_confused():
    with pytest.raises(GeneratorError, match="knows words, not classes"):
        tiny.of_text().classes([0])
    with pytest.raises(GeneratorError, match="knows classes, not words"):
        tiny.of_classes().text(["a cube"])
    with pytest.raises(GeneratorError, match="give `Design.classes` or a tokenizer"):
        Generator.build(Design(resolution=8))


def test_long_prompts_are_recorded():
    generator, long = tiny.of_text(), "cube " * 500
    assert generator.text([long, "a cube", long]).shape == (3, 12, 16)
    assert generator.cut == {long}
    assert generator.text(['a "quoted" \N{SLIGHTLY SMILING FACE} cube']).isfinite().all()


@pytest.mark.parametrize("file", [
    "model_index.json", WEIGHTS, "unet/config.json", "text_encoder/model.safetensors",
    "scheduler/scheduler_config.json"])
def test_a_missing_file_is_named(tmp_path, file):
    folder = tiny.of_text().save(tmp_path / "model")
    (folder / file).unlink()
    with pytest.raises(GeneratorError) as raised:
        Generator.load(folder)
    assert file.split("/")[0] in str(raised.value).splitlines()[-1]


def test_a_missing_weight_is_an_error(tmp_path):
    file = tiny.of_text().save(tmp_path) / WEIGHTS
    weights = load_file(file)
    del weights["conv_in.weight"]
    save_file(weights, file)
    with pytest.raises(GeneratorError, match="conv_in.weight"):
        Generator.load(tmp_path)


@pytest.mark.parametrize(("changes", "message"), [
    ({"_class_name": "FluxPipeline", "unet": [None, None]}, "FluxPipeline is another architecture"),
    ({"scheduler": [None, None]}, "names no scheduler")])
def test_an_index_of_another_kind_is_named(tmp_path, changes, message):
    file = tiny.of_text().save(tmp_path) / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(GeneratorError, match=f"{message}.*\n.*model_index.json"):
        Generator.load(tmp_path)


def test_a_wrong_shape_is_named(tmp_path):
    config = tiny.of_text().save(tmp_path) / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 9}))
    with pytest.raises(GeneratorError, match="unet"):
        Generator.load(tmp_path)


def test_no_network_no_weights(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(GeneratorError, match=r"generation.model: some/model.*make fetch PROFILE"):
        Generator.load("some/model", revision="0123abc")
    with pytest.raises(GeneratorError, match="some/model"):
        fetch("some/model", None)


def test_a_saved_folder_does_not_say_where_its_parts_came_from(tmp_path):
    tiny.of_text().save(tmp_path / "first")
    Generator.load(tmp_path / "first").save(tmp_path / "second")
    files = [path for path in (tmp_path / "second").rglob("*.json")
             if path.name != "tokenizer.json"]
    assert files and not any("first" in path.read_text(encoding="utf-8") for path in files)
