"""One file per source: `<name>.py` holds `open_source(options) -> Source`; `data.source` names it."""
