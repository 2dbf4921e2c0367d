"""The soak notices what it is there for: a server that hangs."""

import os
import signal
import time
from pathlib import Path

import trio

from tests.harness import PATIENCE, SLOW, children, eventually
from tests.soak.phase import Phase, PhaseFailedError
from tests.soak.settings import SETTINGS
from tests.tlshelp import make_directory

SMALL = next(setting for setting in SETTINGS if setting.name == "1M")


def phase(folder: Path, patience: float) -> Phase:
    certs = make_directory(folder / "certs")
    return Phase("1", 0, SMALL, PATIENCE, patience * SLOW, certs, folder / "phase", time.monotonic())


async def test_a_server_that_hangs_is_told_with_its_state(tmp_path: Path) -> None:
    """A stopped process stands for one that serves nobody."""
    await trio.lowlevel.checkpoint()
    caught: list[PhaseFailedError] = []
    others = children(os.getpid())  # such as the server that all tests share

    async def run() -> None:
        await trio.lowlevel.checkpoint()
        try:
            await phase(tmp_path, 3).run()
        except PhaseFailedError as error:
            caught.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.to_thread.run_sync(eventually, lambda: _some(tmp_path / "phase"), "the first operations")
        new = set(children(os.getpid())).difference(others)
        (server,) = (pid for pid in new if b"\0serve\0" in _words(pid))
        os.kill(server, signal.SIGSTOP)
    (error,) = caught
    text = "\n".join(error.lines)
    assert "have not got on for" in error.lines[0]
    assert "under way:" in text
    assert "state T" in text
    assert "Current thread" in text  # its Python stack


def _some(folder: Path) -> bool:
    """Whether a mixture is well under way."""
    audit = folder / "audit.log"
    return audit.exists() and audit.read_bytes().count(b"job_started") > 10


def _words(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
