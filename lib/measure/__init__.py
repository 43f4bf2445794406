"""Measures, each with interval and n."""
