"""Owns the fixtures of the command line's tests."""

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
