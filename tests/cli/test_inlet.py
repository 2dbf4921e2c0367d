"""What stands on `run`'s stdin is refused, noted or nothing to speak of; never is it swallowed in silence."""

import os
import pty
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.program import PROGRAM, ROOT, Program, Result
from tests.harness import PATIENCE

REFUSED = (
    "run passes no stdin on to its job, and here {} still holds something: let the job read it from a file "
    "on the server, or add </dev/null if nothing is meant for the job."
)
NOTED = (
    "note: run passes no stdin on to its job; what comes from {} here is lost. Add </dev/null if nothing is "
    "meant for the job."
)


class Stdin:
    """What a test puts on stdin; all of it is closed at the test's end."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder

    def _keep(self, *descriptors: int) -> None:
        for descriptor in descriptors:
            self._stack.callback(os.close, descriptor)

    def file(self, data: bytes, offset: int = 0) -> int:
        path = self._folder / "file"
        path.write_bytes(data)
        number = self.opened(str(path))
        os.lseek(number, offset, os.SEEK_SET)
        return number

    def opened(self, path: str, mode: int = os.O_RDONLY) -> int:
        number = os.open(path, mode)
        self._keep(number)
        return number

    def pipe(self, data: bytes = b"", *, over: bool = False) -> int:
        reading, writing = os.pipe()
        os.write(writing, data)
        self._keep(reading)
        os.close(writing) if over else self._keep(writing)
        return reading

    def pair(self, data: bytes = b"", *, over: bool = False) -> int:
        ours, theirs = socket.socketpair()
        ours.sendall(data)
        self._stack.callback(theirs.close)
        ours.close() if over else self._stack.callback(ours.close)
        return theirs.fileno()

    def terminal(self) -> int:
        ours, theirs = pty.openpty()
        os.write(ours, b"typed ahead\n")
        self._keep(ours, theirs)
        return theirs


@pytest.fixture
def stdin(tmp_path: Path) -> Iterator[Stdin]:
    with ExitStack() as stack:
        yield Stdin(stack, tmp_path)


def run(cli: Program, stdin: int, *words: str) -> Result:
    done = subprocess.run(
        [*PROGRAM, *(words or ("run", "--", "echo", "done"))],
        stdin=stdin,
        capture_output=True,
        env=cli.environment | {"PYTHONPATH": str(ROOT)},
        timeout=PATIENCE,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda stdin: stdin.file(b"x"), "the file"),
        (lambda stdin: stdin.file(b"host1\nhost2\n", 6), "the file"),  # while read host; do ... done <hosts
        (lambda stdin: stdin.opened("/proc/self/status"), "the file"),
        (lambda stdin: stdin.pipe(b"x"), "the pipe"),
        (lambda stdin: stdin.pipe(b"x", over=True), "the pipe"),  # echo x | ...
        (lambda stdin: stdin.pair(b"x"), "the socket"),
    ],
)
def test_what_waits_is_refused_and_stays_where_it_is(
    cli: Program, stdin: Stdin, make: Callable[[Stdin], int], what: str
) -> None:
    number = make(stdin)
    ran = run(cli, number)
    assert (ran.code, ran.out, ran.sentence) == (2, b"", REFUSED.format(what))
    assert os.read(number, 1) in (b"x", b"h", b"N")
    assert run(cli, number, "start", "--", "true").err == b""  # which goes before its job does


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda stdin: stdin.pipe(), "the pipe"),  # ssh host worker-service run ...
        (lambda stdin: stdin.pair(), "the socket"),
        (lambda stdin: stdin.opened("/dev/zero"), "the device"),
    ],
)
def test_what_may_come_is_noted(cli: Program, stdin: Stdin, make: Callable[[Stdin], int], what: str) -> None:
    ran = run(cli, make(stdin))
    assert (ran.code, ran.out, ran.sentence) == (0, b"done\n", NOTED.format(what))


@pytest.mark.parametrize(
    "make",
    [
        lambda stdin: stdin.file(b""),
        lambda stdin: stdin.file(b"read already\n", 13),
        lambda stdin: stdin.opened("/dev/null"),
        lambda stdin: stdin.opened("/dev/null", os.O_RDWR),
        lambda stdin: stdin.terminal(),
        lambda stdin: stdin.pipe(over=True),  # cron, GitHub's runner
        lambda stdin: stdin.pair(over=True),
        lambda stdin: stdin.opened("/dev/full", os.O_WRONLY),
    ],
)
def test_where_nothing_can_be_meant_nothing_is_said(
    cli: Program, stdin: Stdin, make: Callable[[Stdin], int]
) -> None:
    ran = run(cli, make(stdin))
    assert (ran.code, ran.out, ran.err) == (0, b"done\n", b"")


def test_a_closed_stdin(cli: Program) -> None:
    ran = cli.shell('exec "$@" <&-', "run", "--", "echo", "done")
    assert (ran.code, ran.out, ran.err) == (0, b"done\n", b"")
