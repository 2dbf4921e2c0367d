"""Owns the fixture that both tests of an older peer share."""

import pytest

from .older import Version, install


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """The first version, installed from its commit."""
    return install(tmp_path_factory.mktemp("first"))
