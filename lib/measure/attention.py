"""What Grad-CAM maps (n, H, W) measure, and how training sets and image sets compare in it.

p = map / sum. A map that is zero everywhere has no p: its focus and spread are nan, and intervals
leave the image out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import cv2
import numpy as np
from pytorch_grad_cam.utils.image import scale_cam_image
from scipy.special import entr

from lib.data.imageset import ImageSet
from lib.measure import stats
from lib.measure.stats import Estimate

MEASURES = ("focus", "spread", "intensity")
Table = dict[str, np.ndarray]  # measure -> (seeds, images)


class AttentionError(ValueError):
    """Maps that cannot be measured."""


def mass(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Share (n,) of p on the object, from masks (n, h, w) at image resolution.

    Masks are averaged down to the map's cells; maps drawn up bilinearly would smear half of a
    cell's mass off its object.
    """
    p = _shares(maps)
    large = (np.array(masks.shape[1:]) >= maps.shape[1:]).all()
    if masks.ndim != 3 or len(masks) != len(maps) or not large:
        raise AttentionError(f"maps {maps.shape} need as many masks (n, h, w) of at least their "
                             f"size; got {masks.shape}")
    size = maps.shape[:0:-1]  # (width, height); area means are exact for any sides
    covered = [cv2.resize(np.asarray(mask, np.float32), size, interpolation=cv2.INTER_AREA)
               for mask in masks]
    return (p * np.reshape(covered, p.shape)).sum(1)


def gini(maps: np.ndarray) -> np.ndarray:
    """Gini coefficient (n,) of p: 0 where a map is even."""
    p = _shares(maps)
    ranks = 2 * np.arange(1, p.shape[1] + 1) - p.shape[1] - 1
    return np.sort(p, axis=1) @ ranks / p.shape[1]


def spread(maps: np.ndarray) -> np.ndarray:
    """Share of the image effectively attended (n,): exp(entropy of p) / (H W), 1 if even."""
    p = _shares(maps)
    return np.exp(entr(p).sum(1)) / p.shape[1]


def intensity(maps: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean of each map (n,) in standard deviations of its class's logit over `logits`."""
    unit = np.std(logits, axis=0, dtype=np.float64)[labels]
    if not (unit > 0).all():
        raise AttentionError("intensity is in units of the class logit's deviation, which is 0 "
                             "here; give logits of more images")
    return maps.mean((1, 2), dtype=np.float64) / unit


def poster(maps: np.ndarray, size: Sequence[int]) -> Table:
    """The poster's three (n,): each map scaled to 0..1 at (h, w), so that two are one number."""
    scaled = scale_cam_image(scale_cam_image(maps, size[::-1]))  # its library scales twice
    return {"focus": scaled.sum((1, 2)) / scaled[0].size, "intensity": scaled.mean((1, 2)),
            "spread": (scaled > 0.5).mean((1, 2))}


def measured(seeds: Sequence[Mapping[str, np.ndarray]], part: ImageSet,
             unit: np.ndarray) -> Table:
    """Each measure (seeds, images) of several classifiers' maps and logits on one set.

    `focus` is the mass on the object where its outline is known, else the Gini coefficient; `unit`
    are the logits (n, classes) whose deviation is the unit of intensity; `correct`: whether the
    image was recognised.
    """
    masks = part.masks() if "mask" in part.columns else None
    rows = [_row(seed["maps"], seed["logits"], part, masks, unit) for seed in seeds]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _row(maps, logits, part: ImageSet, masks, unit: np.ndarray) -> Table:
    focus = gini(maps) if masks is None else mass(maps, masks)
    scaled = poster(maps, part.images.shape[1:3])
    return {"focus": focus, "spread": spread(maps), "intensity": intensity(maps, unit, part.labels),
            "correct": logits.argmax(1) == part.labels,
            **{f"poster {name}": values for name, values in scaled.items()}}


def means(table: Table) -> dict[str, Estimate]:
    """Each measure over seeds and images."""
    return {name: stats.mean(table[name]) for name in MEASURES}


def differences(tables: Mapping[str, Table], base: str, paired: bool) -> list[dict]:
    """A row for each table but the base and each measure; one family of tests.

    Paired: the same images under other classifiers; else the same classifiers on other images.
    """
    compare = stats.difference if paired else stats.unpaired
    pairs = [(name, measure) for name in tables if name != base for measure in MEASURES]
    family = stats.family({pair: compare(tables[pair[0]][pair[1]], tables[base][pair[1]])
                           for pair in pairs})
    return [{"of": name, "measure": measure, "mean": float(np.nanmean(tables[name][measure])),
             "base": float(np.nanmean(tables[base][measure])), "difference": family[name, measure]}
            for name, measure in pairs]


def against_sources(part: ImageSet, own: Sequence[Mapping], real: ImageSet,
                    sources: Sequence[Mapping], unit: np.ndarray) -> list[dict]:
    """Each inverted image against the real one that it came from, both without outlines."""
    position = {name: i for i, name in enumerate(real.sources)}
    kept = [k for k, name in enumerate(part.sources) if name in position]
    own_positions = [position[part.sources[k]] for k in kept]
    tables = {"inverted": measured(own, replace(part, columns={}), unit),
              "source": measured(sources, replace(real, columns={}), unit)}
    columns = {"inverted": kept, "source": own_positions}
    matched = {name: {measure: values[:, columns[name]] for measure, values in table.items()}
               for name, table in tables.items()}
    return differences(matched, "source", paired=True)


def disagreements(ours: np.ndarray, base: np.ndarray, labels: np.ndarray,
                  count: int) -> np.ndarray:
    """Positions where only the base is right, its surest first, from logits (n, classes)."""
    own = np.eye(base.shape[1], dtype=bool)[labels]
    margin = base[own] - np.where(own, -np.inf, base).max(1)
    positions = np.flatnonzero((base.argmax(1) == labels) & (ours.argmax(1) != labels))
    return positions[np.argsort(-margin[positions])][:count]


def _shares(maps: np.ndarray) -> np.ndarray:
    """p = map / its sum, (n, H W) float64; nan where a map is zero everywhere."""
    if maps.ndim != 3 or not (maps >= 0).all():
        raise AttentionError(f"a measure needs maps (n, H, W), none below 0; got {maps.shape}")
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    total = flat.sum(1, keepdims=True)
    return np.divide(flat, total, out=np.full_like(flat, np.nan), where=total > 0)
