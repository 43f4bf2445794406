"""One page, made once for the tests of this folder."""

import pytest

from lib.report.publish import publish
from tests.report import notebooks


@pytest.fixture(scope="session")
def executed(tmp_path_factory):
    """Paths of the three executed notebooks."""
    return notebooks.execute(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="session")
def page(executed):
    """Path of the page made of them."""
    out = executed[0].parents[1] / "report.html"
    return publish(
        executed,
        out,
        "How far are diffusion-made training images from real ones?",
        notebooks.BANNER,
        notebooks.MANIFESTS,
    )
