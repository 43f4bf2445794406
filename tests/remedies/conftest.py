"""One store for all tests of this room, so that no toy classifier is trained twice."""

import pytest

from lib.core.store import Store


@pytest.fixture(scope="package")
def store(tmp_path_factory):
    """A store that lives as long as these tests."""
    return Store(tmp_path_factory.mktemp("repair"))
