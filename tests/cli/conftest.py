"""Owns the fixtures of the command line's tests."""

import signal
from collections.abc import Iterator

import pytest

from tests.cli.program import Program
from tests.harness import Server


@pytest.fixture
def cli(server: Server) -> Program:
    """The command line of an Admin."""
    return Program(server.environment())


@pytest.fixture
def user(server: Server) -> Program:
    """The command line of a User."""
    return Program(server.environment("user"))


@pytest.fixture
def signals() -> Iterator[None]:
    """Commands take signals over; they are given back."""
    taken = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in taken.items():
        signal.signal(number, handler)
