"""Owns the fixtures that several of these tests share."""

import contextlib
import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def python() -> str:
    """A Python that every user may execute."""
    for path in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            if subprocess.run([path, "-c", ""], check=False, user="nobody").returncode == 0:
                return path
    pytest.skip("NOT TESTED: no Python here that the user nobody may execute; install Debian's python3")
