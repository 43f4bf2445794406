"""Another generator at equal count: class-conditional or Diffusion Inversion, not prompts."""

from lib.diffusion.sets import num_real_images
from lib.remedies.registry import Remedy, RepairError

NAMES = {
    "di": "inversion",
    "cd": "class-conditional",
    "sd": "prompts",
    "published": "published images",
}


def remedy(models, sets, settings) -> dict[str, Remedy]:
    """Chapter 04's classifiers of the other synthetic sets; not to be chosen on validation images,
    from which their generators may have learnt."""
    others = [name for name in sets if name in models and name not in ("real", settings["base"])]
    if not others:
        raise RepairError(
            f"no other synthetic set than {settings['base']} is a training set of this profile"
        )
    return {
        f"{NAMES.get(name, name)} ({name}) instead": Remedy(
            models[name], real=num_real_images(sets[name]), changes="images", candidate=False
        )
        for name in others
    }
