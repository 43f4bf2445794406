"""An image is its seed; the loop is diffusers' own; faults are seen, drawn again, counted."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from lib.diffusion import sample as sampling
from lib.diffusion.model import Generator, GeneratorError
from lib.diffusion.sample import (
    Sampler,
    build_scheduler,
    count_faults,
    denoise,
    find_fault,
    initial_noise,
    sample,
)
from tests.diffusion import tiny

FAST = Sampler(guidance_scale=2.0, num_inference_steps=4, batch_size=4)
PROMPTS = [
    "a red cube",
    "a blue sphere",
    "a drawing",
    "",
    "a round solid",
    "a red sphere",
    "a floor",
]


@pytest.fixture(scope="module")
def generator():
    return tiny.of_text()


KINDS = ["DPMSolver++", "DDIM", "DDPM", "PNDM", "UniPC", "EulerAncestralDiscreteScheduler"]


@pytest.mark.parametrize("scheduler", KINDS)
def test_batch_shard_and_order_change_nothing(generator, scheduler):
    seeds = [3, 14, 15, 92, 65, 35, 89]
    images = {}
    for batch, order in ((7, range(7)), (1, range(7)), (3, [4, 2, 6, 0, 1, 5, 3])):
        own = Sampler(
            guidance_scale=2.0, num_inference_steps=4, scheduler=scheduler, batch_size=batch
        )
        drawn = list(sample(generator, [PROMPTS[i] for i in order], [seeds[i] for i in order], own))
        for drawing in drawn:
            same = images.setdefault(drawing.asked, drawing.image)
            assert np.abs(drawing.image.astype(int) - same).max() <= 1
    both = denoise(generator, generator.text(PROMPTS[:2]), seeds[:2], FAST)
    alone = denoise(generator, generator.text(PROMPTS[1:2]), seeds[1:2], FAST)
    assert torch.allclose(both[1:], alone, atol=1e-4)


@pytest.mark.parametrize("guidance, rescale", [(1.0, 0.0), (3.0, 0.0), (7.5, 0.7)])
@pytest.mark.parametrize("kind", ["shipped", "stable diffusion"])
def test_equals_the_diffusers_pipeline(tmp_path, kind, guidance, rescale):
    """float32, same seeds: within 1e-4 in [0, 1], a twentieth of half a step of uint8."""
    if kind == "shipped":
        tiny.of_text().save(tmp_path)
    else:
        tiny.stable_diffusion(tmp_path)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    generator = Generator.load(tmp_path)
    pipeline.scheduler = build_scheduler(generator, "DPMSolver++")
    pipeline.set_progress_bar_config(disable=True)
    own = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    expected = pipeline(
        PROMPTS[:2],
        guidance_scale=guidance,
        guidance_rescale=rescale,
        num_inference_steps=6,
        generator=own,
        output_type="np",
    ).images
    images = denoise(
        generator, generator.text(PROMPTS[:2]), [5, 6],
        Sampler(guidance, 6, guidance_rescale=rescale)
    )
    ours = (images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert np.abs(ours - expected).max() < 1e-4 and expected.std() > 0.01


def test_noise_is_the_seeds():
    together, _ = initial_noise([1, 2**40], (4, 2, 2))
    alone, _ = initial_noise([2**40], (4, 2, 2))
    assert torch.equal(together[1:], alone)


def test_guidance_can_push_away_from_any_embedding(generator):
    prompt, other = generator.text(["a red cube"]), generator.text(["a blue sphere"])
    usual = denoise(generator, prompt, [0], FAST)
    none = generator.condition(generator.unconditional())[0]
    assert torch.equal(usual, denoise(generator, prompt, [0], FAST, none))
    assert not torch.allclose(usual, denoise(generator, prompt, [0], FAST, other[0]), atol=1e-3)


def test_guidance_for_a_part_of_the_steps(generator):
    """None is as guidance 1, all is the default, a part is neither."""

    def drawn(*guided, guidance=3.0):
        return denoise(
            generator,
            generator.text(["a red cube"]),
            [0],
            Sampler(guidance_scale=guidance, num_inference_steps=4, guidance_interval=guided),
        )

    assert torch.equal(drawn(0.0, 0.0), drawn(0.0, 1.0, guidance=1.0))
    part = drawn(0.25, 0.75)
    assert min((part - drawn(0.0, 1.0)).abs().max(), (part - drawn(0.0, 0.0)).abs().max()) > 1e-4


def test_faults():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    assert find_fault(image) == "" and find_fault(image, finite=False) == "not a number"
    assert (
        find_fault(image * 0) == "black"
        and find_fault(image * 0 + np.array([9, 8, 7], np.uint8)) == "constant"
    )


def test_faulty_images_are_drawn_again(generator, monkeypatch):
    true, bad = denoise, [11]

    def spoilt(generator, conditioning, seeds, sampler, against):
        images = true(generator, conditioning, seeds, sampler, against)
        images[[i for i, seed in enumerate(seeds) if seed in bad]] = -1.0
        return images

    monkeypatch.setattr(sampling, "denoise", spoilt)
    drawn = list(sample(generator, PROMPTS[:3], [10, 11, 12], FAST))
    assert [drawing.asked for drawing in drawn] == [10, 11, 12]
    assert drawn[1].seed not in (10, 11, 12)
    assert drawn[1].faults == ("black",) and drawn[1].fault == ""
    assert count_faults(drawn) == {"black": 1}
    again = next(sample(generator, PROMPTS[1:2], [drawn[1].seed], FAST))
    assert np.abs(again.image.astype(int) - drawn[1].image).max() <= 1
    monkeypatch.setattr(sampling, "denoise", lambda *_: torch.full((1, 3, 16, 16), float("nan")))
    stands = next(sample(generator, PROMPTS[:1], [1], FAST))
    assert stands.fault == "not a number"
    assert count_faults([stands]) == {"not a number": sampling.TRIES}


def test_out_of_memory_halves_the_batch(generator, monkeypatch, capsys):
    true, sizes = denoise, []

    def narrow(generator, conditioning, seeds, sampler, against):
        sizes.append(len(seeds))
        if len(seeds) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return true(generator, conditioning, seeds, sampler, against)

    monkeypatch.setattr(sampling, "denoise", narrow)
    sampler = Sampler(num_inference_steps=2, batch_size=5)
    assert len(list(sample(generator, PROMPTS[:5], range(5), sampler))) == 5
    assert sizes == [5, 2, 2, 1] and "out of memory at" in capsys.readouterr().err


def test_errors_teach(generator):
    with pytest.raises(GeneratorError, match="no scheduler named 'DPM'.*DPMSolver"):
        build_scheduler(generator, "DPM")
    with pytest.raises(GeneratorError, match="2 prompts or conditionings for 1 seeds"):
        list(sample(generator, PROMPTS[:2], [1]))
