"""CIFAKE's other half: images that its authors sampled from Stable Diffusion 1.4."""

from __future__ import annotations

from lib.data.source import Source, SourceOptions
from lib.data.sources.cifake import open_half

COPIES_AT = 32


def open_source(options: SourceOptions) -> Source:
    return open_half(options, "FAKE")
