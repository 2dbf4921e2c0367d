"""Owns the fixtures of the certs tests."""

from pathlib import Path

import pytest

from tests.tlshelp import make_directory


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A directory as `certs init` makes it, for the test to spoil."""
    return make_directory(tmp_path / "certs")
