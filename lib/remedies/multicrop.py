"""The synthetic-trained network with multi-crop augmentation of its images; no real image."""

from lib.remedies.fine_tuning import trained
from lib.remedies.registry import Remedy


def remedy(models, sets, settings) -> dict[str, Remedy]:
    """The base classifiers trained further on multi-crop views; the control on plain views."""
    views = trained(models, sets, settings, augmentation="multicrop")
    control = trained(models, sets, settings)
    return {"multi-crop augmentation": Remedy(views, real=0, changes="images", control=control)}
