"""One file per source: `<name>.py` with `open_source(options) -> Source`; `data.source: <name>`."""
