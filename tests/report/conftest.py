"""One finished study and its page, made once for the tests of this folder."""

import pytest

from lib.report.page import publish
from tests.report.finished import finish


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """The folder of a finished study."""
    return finish(tmp_path_factory.mktemp("reports"))


@pytest.fixture(scope="session")
def page(study):
    """Path of its page."""
    return publish(study.name, study.parent)
