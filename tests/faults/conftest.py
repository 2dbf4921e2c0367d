"""Owns the fixture that tests of faults share."""

from pathlib import Path

import pytest

from tests.faults.inject import Faults


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    """Faults for one server, none of them yet."""
    folder = tmp_path / "faults"
    folder.mkdir()
    return Faults(folder)
