"""Another generator at equal count: class-conditional images or Diffusion Inversion instead of prompted ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib.core.store import ArtifactSpec
from lib.diffusion.sets import learnt_from
from lib.remedies.registry import Models, Remedy, RepairError

SAID = {
    "di": "inversion",
    "cd": "class-conditional",
    "sd": "prompts",
    "published": "published images",
}


def remedy(
    models: Models, sets: Mapping[str, ArtifactSpec], settings: Mapping[str, Any]
) -> dict[str, Remedy]:
    """Chapter 04's classifiers of the other synthetic sets; generators that learnt from real images cannot be chosen here."""
    others = [name for name in sets if name in models and name not in ("real", settings["base"])]
    if not others:
        raise RepairError(
            f"no other synthetic set than {settings['base']} is an arm of this profile"
        )
    return {
        f"{SAID.get(name, name)} ({name}) instead": Remedy(
            models[name], real=learnt_from(sets[name]), changes="images", candidate=False
        )
        for name in others
    }
