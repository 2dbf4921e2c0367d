"""Owns the fixtures that all tests share: certificates, and a real server for those that do not end it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from client.blocking import Client
from tests.harness import Server, serve
from tests.tlshelp import make_directory


@pytest.fixture(scope="session")
def shared_certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as `certs init` makes it; for reading only."""
    return make_directory(tmp_path_factory.mktemp("certs"))


@pytest.fixture(scope="session")
def server(shared_certificates: Path) -> Iterator[Server]:
    """One server for every test that leaves it running and looks only at jobs of its own."""
    with serve(shared_certificates) as running:
        yield running


@pytest.fixture
def admin(server: Server) -> Iterator[Client]:
    """A blocking client of `server` with the role Admin."""
    with server.connect() as client:
        yield client
