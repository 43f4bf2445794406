"""The report: figures and tables for the notebooks, and the one page they are stitched into."""


class ReportError(ValueError):
    """A figure, table or page that a reader could not use; the message says what to change."""
