"""Real and synthetic images together: in which ratio, and which of them last."""

from lib.remedies.fine_tuning import trained
from lib.remedies.registry import Remedy


def remedy(models, sets, settings) -> dict[str, Remedy]:
    """Synthetic images first, then all layers on batches with a share of real ones.

    Mixed from the start is the training set `real+<base>` of chapter 04, where it is trained.
    """
    base, m = settings["base"], settings["num_real"]
    control = trained(models, sets, settings)
    remedies = {
        f"all layers, {100 * fraction:.0f} % of batches real, {m:,} real": Remedy(
            trained(models, sets, settings, num_real=m, fraction=fraction),
            real=m,
            changes="weights",
            control=control,
        )
        for fraction in settings["real_batch_fractions"]
    }
    if f"real+{base}" in models:
        both = Remedy(models[f"real+{base}"], real=settings["train"], changes="images")
        remedies["mixed from the start, all real"] = both
    return remedies
