"""The model card of the shipped model, filled from what was recorded in training and what was measured after it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lib.generator.pool import HARD

CARD = """---
library_name: diffusers
pipeline_tag: text-to-image
license: mit
---
# A small text-to-image model of a rendered world

Stable Diffusion's architecture in miniature, 64 px: a patch autoencoder (8 x 8 pixels to {components} numbers, closed form,
with a convolutional refinement of the decoder), a UNet2DConditionModel with cross-attention, a CLIP text encoder and
tokenizer. {size:.1f} MB in half precision. It stands in for a web-trained generator in a study of synthetic training
data: it knows the classes, in somewhat the wrong domain.

    import lib.generator.autoencoder                      # diffusers imports no class of ours by itself
    from diffusers import StableDiffusionPipeline
    pipeline = StableDiffusionPipeline.from_pretrained("lib/generator/pretrained/world")
    pipeline("a photo of a red cube on a tiled floor", guidance_scale=4.0, num_inference_steps=16).images[0]

## Data

{scenes:,} scenes of `lib.data.world` in style `web` (drawings, 3d renders, stock and vintage photographs), all classes alike,
and {hard:,} more of {hardest}; seeds from {first_seed:,} on, each with its mirror image and five sayings: its caption twice, a
short caption, two prompt recipes. No `photo` scene, the study's real domain, was seen.

## Recipe and cost

U-Net and text encoder together: AdamW, v-prediction, cosine schedule, {drop:.0%} of captions hidden, averaged weights.
{stages}
In all {images:,} images, {minutes:.0f} minutes. The decoder's refinement: {refine_steps:,} steps of {refine_batch}.
`make pretrained` does all of it again.

## Measured

{measured}

## Limits

Ten solids, one at a time, at 64 px; nothing else. Prompts are cut after {tokens} tokens. Words that no caption used mean
little: `multiple`, or a background that was not among the world's floors and walls, is mostly ignored.
"""


def card(folder: Path, figures: dict) -> str:
    """The text of README.md for a model folder with its `training.json`, and the figures of tests.generator.quality."""
    facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    components = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))["latent_channels"]
    tokens = json.loads((folder / "text_encoder" / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    refine, stages = facts["refine"], facts["stages"]
    return CARD.format(
        **{name: facts[name] for name in ("scenes", "hard", "first_seed")}, hardest=hardest(),
        drop=stages[0]["recipe"]["drop"], stages="\n".join(f"- {stage(one)}" for one in stages), components=components,
        tokens=tokens, images=sum(one["steps"] * one["recipe"]["batch"] for one in stages),
        minutes=sum(one["seconds"] for one in stages) / 60,
        size=sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6,
        refine_steps=refine["steps"], refine_batch=refine["batch"], measured=measured(figures))


def hardest() -> str:
    """The classes of the further scenes, each with its share."""
    return ", ".join(f"{name} ({HARD.count(name) / len(HARD):.0%})" for name in dict.fromkeys(HARD))


def stage(one: dict) -> str:
    """One part of the training."""
    recipe, legs = one["recipe"], " and at step ".join(f"{leg:,}" for leg in one["legs"])
    seen = "all scenes, the object counting for more, its outline for most" if one["focus"] else "the first scenes"
    return (f"{one['steps']:,} steps of {recipe['batch']} images, {seen}: rate {recipe['rate']:g} falling to zero at step {legs} "
            f"over the last {recipe['decay']:.0%}\n  of the way, weights averaged over {recipe['ema']:g}; "
            f"{one['seconds'] / 60:.0f} minutes on {one['on']}")


def measured(figures: dict) -> str:
    """The figures as tables."""
    classes = figures["classes"]
    rows = {"photo scenes (real)": figures["judge_on_photo_scenes"], "web scenes (real)": figures["judge_on_web_scenes"]}
    rows |= {f"prompted, guidance {guidance}": one["recognised"] for guidance, one in figures["prompted"].items()}
    lines = [f"What a classifier trained on {figures['judge_trained_on']:,} `photo` scenes recognises, in % "
             f"({figures['images']} prompted images, `a photo of a ...`, 16 steps of DPM-Solver++; 1,000 scenes):", "",
             f"| | all | {' | '.join(classes)} |", "|---|" + "---|" * (len(classes) + 1)]
    lines += [f"| {name} | {100 * np.mean(row):.1f} | {' | '.join(f'{100 * share:.0f}' for share in row)} |"
              for name, row in rows.items()]
    lines += ["", f"Sampling on {figures['machine']}, batch 64: " + ", ".join(
        f"{one['images_per_second']} images/s at guidance {guidance}" for guidance, one in figures["prompted"].items()) + "."]
    lines.append(weakest(figures))
    for style in ("web", "photo"):
        one = figures[f"reconstruction_{style}"]
        lines.append(f"Autoencoder on 500 unseen {style} scenes: {one['psnr_db']} dB; steps across block borders are "
                     f"{one['edges_after']} of those elsewhere ({one['edges_before']} before).")
    return "\n".join(lines)


def weakest(figures: dict) -> str:
    """The classes that the judge recognises least at the strongest guidance."""
    guidance, one = list(figures["prompted"].items())[-1]
    worst = sorted(zip(one["recognised"], figures["classes"], strict=True))[:2]
    return f"Weakest at guidance {guidance}: " + ", ".join(f"{name} ({100 * share:.0f} %)" for share, name in worst) + "."
