"""Synthetic images: one Generator over diffusers' own classes, prompts, training, sampling that is its seed."""
