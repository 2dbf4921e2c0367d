"""`run` keeps the order of stdout and stderr where its own two are one file, and the two apart elsewhere."""

import os
import pty
import subprocess
from pathlib import Path

import pytest

from client.blocking import Client
from tests.cli.program import PROGRAM, Program
from tests.harness import PATIENCE, Server
from wire.messages import STDERR, STDOUT, Output

#: Each line goes to the other stream than the one before.
LINES = 200
SWAPS = f"i=0; while [ $i -lt {LINES} ]; do echo $i; echo $((i + 1)) >&2; i=$((i + 2)); done"
IN_ORDER = "".join(f"{number}\n" for number in range(LINES)).encode()


@pytest.mark.parametrize(
    "script", ['"$@" 2>&1', '"$@" >both 2>&1; cat both', '"$@" >>both 2>>both; cat both']
)
def test_the_order_is_kept(cli: Program, tmp_path: Path, script: str) -> None:
    ran = cli.shell(f'cd "{tmp_path}"; {script}', "run", "--", "sh", "-c", SWAPS)
    assert (ran.code, ran.out, ran.err) == (0, IN_ORDER, b"")


def test_on_a_terminal(server: Server) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, "run", "--", "sh", "-c", SWAPS],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=server.environment(),
    ) as running:
        os.close(theirs)
        shown = b""
        while data := _read(ours):
            shown += data
        assert running.wait(PATIENCE) == 0
    os.close(ours)
    assert shown.replace(b"\r\n", b"\n") == IN_ORDER


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # EIO: nobody has it open any more
        return b""


def streams_of(client: Client, mark: bytes) -> set[int]:
    """Which of the two streams the newest job with a mark has printed to, as the server keeps it."""
    job = [job for job in client.list() if mark in job.argv][-1]
    with client.stream(job.id) as output:
        return {piece.stream for piece in output if isinstance(piece, Output)}


@pytest.mark.parametrize(
    ("script", "flags", "kept"),
    [
        ('"$@" 2>&1', [], {STDOUT}),
        ('"$@" 2>&1', ["--no-merge"], {STDOUT, STDERR}),
        ('"$@"', [], {STDOUT, STDERR}),
        ('"$@"', ["--merge"], {STDOUT}),
        ('"$@" >/dev/null 2>&1', [], {STDOUT, STDERR}),
    ],
)
def test_a_flag_wins_and_what_nobody_sees_stays_apart(
    cli: Program, admin: Client, script: str, flags: list[str], kept: set[int]
) -> None:
    mark = f"{script} {flags}".encode()
    ran = cli.shell(script, "run", *flags, "--", "sh", "-c", "echo out; echo err >&2", mark)
    assert ran.code == 0
    assert streams_of(admin, mark) == kept
