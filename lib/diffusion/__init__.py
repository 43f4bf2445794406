"""Generators of images: sampling, training, inversion, and the sets that they make."""
