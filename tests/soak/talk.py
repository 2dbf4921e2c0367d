"""Owns what the soak's jobs print, and their program: ``python -I -S talk.py SPEC`` does what a `Spec` says.

Every byte follows from a seed and the byte's place, so a reader is checked wherever it begins, and nothing is
kept. This module imports the standard library alone.
"""

import json
import os
import random
import signal
import sys
import time
from dataclasses import asdict, dataclass
from functools import lru_cache

#: Content is made in stretches of so many bytes.
CHUNK = 65536
STDOUT, STDERR = 1, 2
#: What a job exits with that was told to end, and printed its last words.
LAST_WORDS = 5
#: What a job exits with that could fork no further.
NO_FORK = 9


def _text(newline_one_in: int) -> bytes:
    """A table from bytes to printable ones, some of them newlines; 0 for none."""
    return bytes(
        10 if newline_one_in and value % newline_one_in == 0 else 33 + value % 90 for value in range(256)
    )


#: How each style maps random bytes; None leaves them. ``zeros`` is what `head -c N /dev/zero` prints.
TABLES = {
    "binary": None,
    "lines": _text(32),
    "short": _text(3),
    "long": _text(0),
    "zeros": bytes(256),
}


@dataclass(frozen=True)
class Spec:
    """What a job prints, and how it ends.

    Args:
        seed: of every byte.
        out: bytes to stdout; with `merged`, to both descriptors in turn, as one stream.
        err: bytes to stderr.
        style: a key of TABLES.
        piece: bytes a write.
        pause: seconds between two writes.
        merged: whether both descriptors are one pipe.
        ending: exit, signal, stay, hold, fork or daemon.
        value: the exit code, the signal, or MiB to hold.
        last: bytes of stdout once it is told to end; only with `stay`.
    """

    seed: int
    out: int = 0
    err: int = 0
    style: str = "binary"
    piece: int = CHUNK
    pause: float = 0.0
    merged: bool = False
    ending: str = "exit"
    value: int = 0
    last: int = 0

    def size(self, stream: int) -> int:
        """The most bytes that a stream can have."""
        return self.out + self.last if stream == STDOUT else self.err

    @property
    def single(self) -> bool:
        """Whether all of it is stdout, so that a byte's offset in the log is its place in the stream."""
        return self.err == 0

    def content(self, stream: int, begin: int, end: int) -> bytes:
        """The bytes of a stream from place ``begin`` to ``end``."""
        first, last = begin // CHUNK, (end - 1) // CHUNK
        whole = b"".join(_chunk(self.seed, stream, index, self.style) for index in range(first, last + 1))
        return whole[begin - first * CHUNK : end - first * CHUNK]

    def encode(self) -> str:
        return json.dumps(asdict(self))


@lru_cache(maxsize=128)
def _chunk(seed: int, stream: int, index: int, style: str) -> bytes:
    table = TABLES[style]
    if style == "zeros":
        return bytes(CHUNK)
    data = random.Random(seed << 40 | stream << 32 | index).randbytes(CHUNK)  # noqa: S311  # not secret
    return data if table is None else data.translate(table)


def write(fd: int, data: bytes) -> None:
    """Write all of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def talk(spec: Spec) -> None:
    """Print everything: a piece of stdout, a piece of stderr, and so on."""
    places = {STDOUT: 0, STDERR: 0}
    sizes = {STDOUT: spec.out, STDERR: spec.err}
    turn = 0
    while places != sizes:
        stream = STDERR if turn % 2 and places[STDERR] < sizes[STDERR] else STDOUT
        if places[stream] == sizes[stream]:
            stream = STDERR
        begin = places[stream]
        end = places[stream] = min(begin + spec.piece, sizes[stream])
        fd = 1 + turn % 2 if spec.merged else stream
        turn += 1
        write(fd, spec.content(stream, begin, end))
        if spec.pause:
            time.sleep(spec.pause)


def stay(spec: Spec) -> None:
    """Stay until SIGTERM; then say the last words."""
    signal.sigtimedwait([signal.SIGTERM], 3600)
    write(1, spec.content(STDOUT, spec.out, spec.out + spec.last) if spec.last else b"")
    sys.exit(LAST_WORDS)


def fork_on() -> None:
    """Fork until the kernel refuses."""
    while True:
        try:
            if os.fork() == 0:
                time.sleep(600)
        except BlockingIOError:
            sys.exit(NO_FORK)


def main() -> None:
    """Do what the specification says."""
    spec = Spec(**json.loads(sys.argv[1]))
    if spec.ending == "stay":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    talk(spec)
    if spec.ending == "exit":
        sys.exit(spec.value)
    if spec.ending == "signal":
        os.kill(os.getpid(), spec.value)
    if spec.ending == "hold":
        held = b"x" * (spec.value * 2**20)
        time.sleep(600 + held[0])
    if spec.ending == "fork":
        fork_on()
    if spec.ending == "daemon" and os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)  # it holds both pipes
    if spec.ending == "stay":
        stay(spec)


if __name__ == "__main__":
    main()
