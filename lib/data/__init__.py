"""Image sets: real sources and the rendered world."""
