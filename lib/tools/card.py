"""The model card of the shipped model, filled from what was recorded in training and what was measured after it."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from lib.tools.pool import HARD

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

    import lib.diffusion.autoencoder                      # diffusers imports no class of ours by itself
    from diffusers import StableDiffusionPipeline
    pipeline = StableDiffusionPipeline.from_pretrained("lib/diffusion/pretrained/world")
    pipeline("a photo of a red cube on a tiled floor", guidance_scale=4.0, num_inference_steps=16).images[0]

## Data

{scenes:,} scenes of `lib.world` in style `web` (drawings, 3d renders, stock and vintage photographs), all classes alike,
and {hard:,} more of {hardest}; seeds from {first_seed:,} on.
Each comes with its mirror image and five sayings: its caption twice, a short caption, two prompt recipes. No `photo` scene, the
study's real domain, was seen.

## Training and cost

U-Net and text encoder together: AdamW, v-prediction, cosine schedule, {drop:.0%} of captions hidden, averaged weights.
{stages}
In all {images:,} images, {minutes:.0f} minutes. The decoder's refinement: {refine_steps:,} steps of {refine_batch}.
`make pretrained` does all of it again.

## Measured

{measured}

## Limits

Ten solids, one at a time, at 64 px; nothing else. Straight edges come out wavy, corners rounded. Prompts are cut after
{tokens} tokens. Words that no caption used mean little: `multiple`, or a background that was not among the world's floors and
walls, is mostly ignored.
"""


def card(folder: Path, figures: dict) -> str:
    """The text of README.md for a model folder with its `training.json`, and the figures of lib.tools.quality."""
    facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    components = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))[
        "latent_channels"
    ]
    tokens = json.loads((folder / "text_encoder" / "config.json").read_text(encoding="utf-8"))[
        "max_position_embeddings"
    ]
    refine, stages = facts["refine"], facts["stages"]
    return CARD.format(
        **{name: facts[name] for name in ("scenes", "hard", "first_seed")},
        hardest=hardest(),
        drop=stages[0]["config"]["condition_dropout"],
        stages="\n".join(f"- {stage(one)}" for one in stages),
        components=components,
        tokens=tokens,
        images=sum(one["steps"] * one["config"]["batch_size"] for one in stages),
        minutes=sum(one["seconds"] for one in stages) / 60,
        size=sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6,
        refine_steps=refine["max_train_steps"],
        refine_batch=refine["batch_size"],
        measured=measured(figures),
    )


def hardest() -> str:
    """The classes of the further scenes, each with its share."""
    return ", ".join(f"{name} ({HARD.count(name) / len(HARD):.0%})" for name in dict.fromkeys(HARD))


def stage(one: dict) -> str:
    """One part of the training."""
    config, legs = one["config"], ", ".join(f"{leg:,}" for leg in one["legs"])
    seen = (
        "all scenes, the object counting for more, its outline for most"
        if one["focus"]
        else "the first scenes"
    )
    said = (
        f"{one['steps']:,} steps of {config['batch_size']} images, {seen}: rate {config['lr']:g}, falling over the last "
        f"{config['lr_decay']:.0%} of the way to zero at each of the steps {legs}; average of weights {config['ema_decay']:g}; "
        f"noise levels u^(1/{config['timestep_shift']:g}) of even u; "
        f"{one['seconds'] / 60:.0f} minutes on {one['on']}, {shared(one)}"
    )
    return textwrap.fill(said, 125, subsequent_indent="  ")


def shared(one: dict) -> str:
    """How many processes shared the batches."""
    if one.get("processes", 1) == 1:
        return "in one process"
    shared_steps = one["config"]["meet"]
    return (f"in {one['processes']} processes that share each batch, their weights averaged "
            f"every {shared_steps} steps")


def measured(figures: dict) -> str:
    """The figures as tables."""
    classes = figures["classes"]
    rows = {"photo scenes (real)": figures["photo"], "web scenes (real)": figures["web"]}
    rows |= {f"prompted, guidance {guidance}": one for guidance, one in figures["prompted"].items()}
    lines = [
        f"What a classifier trained on {figures['judge_trained_on']:,} `photo` scenes recognises, in % "
        "(`a photo of a ...`, 16 steps of DPM-Solver++; all with Wilson's 95 % interval and n):",
        "",
        f"| | all | {' | '.join(classes)} |",
        "|---|" + "---|" * (len(classes) + 1),
    ]
    for name, row in rows.items():
        shares = " | ".join(f"{100 * one['mean']:.0f}" for one in row["classes"])
        lines.append(f"| {name} | {between(row['all'])} | {shares} |")
    lines += [
        "",
        f"Sampling on {figures['machine']}, batch 64, with guidance at all steps: {figures['images_per_second']} "
        "images/s, the best of three times.",
    ]
    lines.append(weakest(figures))
    for style in ("web", "photo"):
        one = figures[f"reconstruction_{style}"]
        lines.append(
            f"Autoencoder on 500 unseen {style} scenes: {one['psnr_db']} dB; steps across block borders are "
            f"{one['edges_after']} of those elsewhere ({one['edges_before']} before)."
        )
    return "\n".join(lines)


def weakest(figures: dict) -> str:
    """The classes that the judge recognises least at the strongest guidance."""
    guidance, one = list(figures["prompted"].items())[-1]
    worst = sorted(
        zip(one["classes"], figures["classes"], strict=True), key=lambda pair: pair[0]["mean"]
    )[:2]
    return (
        f"Weakest at guidance {guidance}: "
        + ", ".join(f"{name} {between(share)}" for share, name in worst)
        + "."
    )


def between(share: dict) -> str:
    """A share in % with its interval."""
    return f"{100 * share['mean']:.1f} ({100 * share['low']:.1f} to {100 * share['high']:.1f}, n = {share['n']:,})"
