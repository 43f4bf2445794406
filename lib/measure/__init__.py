"""Measures, each with interval and n; every interval is computed in `stats.py`.

Intervals can be computed again without this package. Per-image predictions lie in the store, a
folder a classifier and image set, in the order of that set:

- `predictions/<key>/logits.safetensors`: logits (n, classes); `results/04_training.json` lists the
  folders under `predictions`, by training set, one a seed, for the real test images
- `real-images/<key>/*.parquet`: column `label`, of the test images (`specs` of `01_data.json`)
- `linear-probes/<key>/correct.safetensors` and `robustness/<key>/correct.safetensors`: correct or
  not (n,), by layer and by damage
- `gradcam-maps/<key>/maps.safetensors`: maps (n, H, W) and logits

A difference in accuracy is that of matrices (seeds, images) of correct or not, paired by both.
"""
