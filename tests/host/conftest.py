"""Owns the fixtures of the tests on a real kernel."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def disk_path(tmp_path: Path) -> Path:
    """A folder on a real disk, the only kind that has disk limits; without one, the test is skipped."""
    number = tmp_path.stat().st_dev
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if device.exists():
        device = device.resolve()
        disk = device.parent if (device / "partition").exists() else device
        if (disk / "device").exists():
            return tmp_path
    pytest.skip(f"NOT TESTED: {tmp_path} is on no real disk; set TMPDIR to a folder on one")
