"""Classifiers on real, synthetic and mixed sets."""
