"""What a job's user gets of its outputs: the pipes, and nothing of what else may be in their place."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.host.common import NOT_EMULATED
from worker.privileges import open_to

pytestmark = [pytest.mark.host, NOT_EMULATED]
NOBODY = 65534
NODEV = 4  # statvfs(3), ST_NODEV


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR)
    try:
        yield fd
    finally:
        os.close(fd)


def owner_and_mode(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_uid, stat.S_IMODE(found.st_mode)


def test_pipes_change_hands(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path, 0o600)
    with opened(path) as fd:
        open_to(None, (fd,))
        assert owner_and_mode(path) == (os.geteuid(), 0o622)
        open_to(NOBODY, (fd,))
    assert owner_and_mode(path) == (NOBODY, 0o622)


@pytest.mark.parametrize("kind", [stat.S_IFREG, stat.S_IFCHR])
def test_what_is_no_pipe_stays_as_it_is(tmp_path: Path, kind: int) -> None:
    """A file, and a device of our own as /dev/null is one."""
    path = tmp_path / "device"
    os.mknod(path, kind | 0o600, os.makedev(1, 3))
    before = owner_and_mode(path)
    if kind == stat.S_IFCHR and os.statvfs(tmp_path).f_flag & NODEV:
        pytest.skip("NOT TESTED: devices in TMPDIR do not open; set it to a file system without nodev")
    with opened(path) as fd:
        open_to(NOBODY, (fd, fd))
    assert owner_and_mode(path) == before
