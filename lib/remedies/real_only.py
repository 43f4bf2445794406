"""The baseline: the same real images without a synthetic one, from the base's first weights."""

from lib.remedies.fine_tuning import trained
from lib.remedies.registry import Remedy


def remedy(models, sets, settings) -> dict[str, Remedy]:
    """At every m of the remedies: no repair, but what a repair must beat.

    The control has seen the base's synthetic images before: all layers of late_layers.
    """
    return {
        f"no synthetic image, {m:,} real": Remedy(
            trained(models, sets, settings, num_real=m, from_scratch=True),
            real=m,
            changes="images",
            candidate=False,
            role="real only",
            control=trained(models, sets, settings, num_real=m),
        )
        for m in sorted({settings["num_real"], *settings["num_real_curve"]})
    }
