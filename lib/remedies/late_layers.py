"""Train on synthetic images, then fine-tune the last k blocks on m real ones."""

from lib.remedies.fine_tuning import trained
from lib.remedies.registry import Remedy


def remedy(models, sets, settings) -> dict[str, Remedy]:
    """A curve in k at m = `num_real`, and for some k one in m.

    All layers are synthetic images first and real ones last; their control is trained further
    without a real image.
    """
    points = [(k, settings["num_real"]) for k in settings["unfreeze_last"]]
    curve = settings["num_real_curve"]
    points += [(k, m) for m in curve for k in settings["unfreeze_last_curve"]]
    longer = trained(models, sets, settings)
    return {
        f"{layers(k)}, {m:,} real": Remedy(
            trained(models, sets, settings, k, m),
            real=m,
            changes="weights",
            control=[] if k else longer,
            k=k,
        )
        for k, m in dict.fromkeys(points)
    }


def layers(unfreeze: int) -> str:
    """What is fine-tuned."""
    return {0: "all layers", 1: "head alone"}.get(unfreeze, f"last {unfreeze} blocks")
