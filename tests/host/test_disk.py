"""Disk limits on a real disk: how long direct reads and writes take under them."""

import os
from pathlib import Path

import pytest

from client.blocking import Client
from tests.host.common import MIB, check_stretched, numbers, program
from wire.limits import Limits, parse_limits

pytestmark = pytest.mark.host
TOLERANCE = 0.25


@pytest.fixture
def data(disk_path: Path) -> Path:
    """A file whose blocks are all on the disk, so that no journal is written while they are overwritten."""
    path = disk_path / "data"
    with path.open("wb", buffering=0) as file:
        for _ in range(16):
            file.write(b"x" * MIB)
        os.fsync(file.fileno())  # what is dirty yet would be written first, under the job's limit
    return path


@pytest.mark.parametrize("way", ["read", "write"])
@pytest.mark.parametrize(
    ("limits", "block", "count"),
    [
        pytest.param(parse_limits(disk="8M"), MIB, 16, id="bytes"),
        pytest.param(parse_limits(disk="200"), 4096, 400, id="operations"),
    ],
)
def test_two_seconds_of_work_take_two_seconds(
    admin: Client, data: Path, way: str, limits: Limits, block: int, count: int
) -> None:
    work = program("direct", way, data, block, count)
    what = f"{count} direct {way}s of {block} bytes"
    check_stretched(what, lambda: numbers(admin, work, limits)[0], 2.0, TOLERANCE)
