"""One code path: the shipped kind, Stable Diffusion's kind, and one trained here; errors that teach."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file, save_file

from lib.diffusion.hub import fetch
from lib.diffusion.model import Design, Generator, GeneratorError, pixels, to_uint8
from tests.diffusion import tiny


def test_saved_and_loaded_again(tmp_path):
    for name, made in {"text": tiny.of_text(), "classes": tiny.of_classes(), "latent": tiny.of_classes(
            tiny.autoencoder(), resolution=16)}.items():
        again = Generator.load(made.save(tmp_path / name))
        for part, network in made.parts().items():
            for key, value in network.state_dict().items():
                assert torch.equal(value, again.parts()[part].state_dict()[key])
        assert again.shape == made.shape and again.resolution == made.resolution and again.tokens == made.tokens


def test_half_on_disk_single_in_memory(tmp_path):
    again = Generator.load(tiny.of_text().save(tmp_path, half=True))
    assert load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")["conv_in.weight"].dtype == torch.float16
    assert {p.dtype for part in again.parts().values() for p in part.parameters()} == {torch.float32}


def test_stable_diffusion_takes_the_same_path(tmp_path):
    pipeline = tiny.stable_diffusion(tmp_path)
    loaded = Generator.load(tmp_path)
    assert (loaded.shape, loaded.resolution, loaded.tokens, loaded.width) == ((4, 8, 8), 16, 12, 16)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    with torch.no_grad():
        mean = pipeline.vae.encode(pixels(images)).latent_dist.mean * pipeline.vae.config.scaling_factor
        assert torch.allclose(loaded.encode(images), mean, atol=1e-5)
        expected = pipeline.vae.decode(mean / pipeline.vae.config.scaling_factor).sample
        assert torch.allclose(loaded.decode(mean), expected, atol=1e-5)
        expected = pipeline.encode_prompt(["a red cube"], "cpu", 1, False)[0]
        assert torch.allclose(loaded.text(["a red cube"]), expected, atol=1e-6)


def test_noise_levels_are_the_schedulers():
    made = tiny.of_classes()
    clean, noise, t = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8), torch.tensor([0, 300, 600, 999])
    reference = DDPMScheduler.from_config(made.scheduler.config)
    assert torch.allclose(made.add_noise(clean, noise, t), reference.add_noise(clean, noise, t), atol=1e-6)
    assert torch.allclose(made.target(clean, noise, t), reference.get_velocity(clean, noise, t), atol=1e-6)


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
    made, long = tiny.of_text(), "cube " * 500
    assert made.text([long, "a cube", long]).shape == (3, 12, 16)
    assert made.cut == {long}
    assert torch.isfinite(made.text(['a "quoted" \N{SLIGHTLY SMILING FACE} cube'])).all()


@pytest.mark.parametrize("file", ["model_index.json", "unet/diffusion_pytorch_model.safetensors", "unet/config.json",
                                  "text_encoder/model.safetensors", "scheduler/scheduler_config.json"])
def test_missing_file_is_named(tmp_path, file):
    folder = tiny.of_text().save(tmp_path / "model")
    (folder / file).unlink()
    with pytest.raises(GeneratorError) as raised:
        Generator.load(folder)
    assert file.split("/")[0] in str(raised.value).splitlines()[-1]


def test_missing_weight_is_an_error(tmp_path):
    file = tiny.of_text().save(tmp_path) / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_in.weight"]
    save_file(weights, file)
    with pytest.raises(GeneratorError, match="conv_in.weight"):
        Generator.load(tmp_path)


def test_wrong_architecture_is_named(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline", "unet": [None, None]}))
    with pytest.raises(GeneratorError, match="FluxPipeline is another architecture.*\n.*model_index.json"):
        Generator.load(tmp_path)


def test_an_index_without_a_scheduler_is_named(tmp_path):
    file = tiny.of_text().save(tmp_path) / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"scheduler": [None, None]}))
    with pytest.raises(GeneratorError, match="names no scheduler.*\n.*model_index.json"):
        Generator.load(tmp_path)


def test_wrong_shape_is_named(tmp_path):
    folder = tiny.of_text().save(tmp_path)
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 9}))
    with pytest.raises(GeneratorError, match="unet"):
        Generator.load(folder)


def test_no_network_no_weights(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(GeneratorError, match=r"generation.model: some/model.*make fetch PROFILE"):
        Generator.load("some/model", revision="0123abc")
    with pytest.raises(GeneratorError, match="some/model"):
        fetch("some/model", None)


def test_a_saved_folder_does_not_say_where_its_parts_came_from(tmp_path):
    tiny.of_text().save(tmp_path / "first")
    Generator.load(tmp_path / "first").save(tmp_path / "second")
    assert not any("first" in path.read_text(encoding="utf-8") for path in (tmp_path / "second").rglob("*.json")
                   if path.name != "tokenizer.json")
