"""Owns the fixtures that all tests share: certificates, a real server that no test ends, faults, a Python."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.blocking import Client
from tests.faults.inject import Faults
from tests.harness import Server, serve
from tests.tlshelp import make_directory

# What the tests start inherits what we ignore or block, and would not hear a test's signal: a shell's
# background job ignores SIGINT, one of nohup(1) SIGHUP.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD, signal.SIGALRM):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())


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


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    """Faults for one server, none of them yet."""
    folder = tmp_path / "faults"
    folder.mkdir()
    return Faults(folder)


@pytest.fixture(scope="session")
def python() -> str:
    """A Python that every user may execute."""
    for path in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            if subprocess.run([path, "-c", ""], check=False, user="nobody").returncode == 0:
                return path
    pytest.skip("NOT TESTED: no Python here that the user nobody may execute; install Debian's python3")
