"""Owns the programs that read a large output, discard it, and print how long that took.

`python -m tests.bench.readers KIND ARGUMENTS...` prints seconds and bytes as JSON. The time begins before a
connection is made and ends with the last byte; the interpreter's own start is in none of them.
"""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import trio

from client.blocking import Client, connect
from tests.bench import tls_limit
from wire.messages import Output

READ_BYTES = 256 * 1024


def live(address: str, certs: str, path: str) -> int:
    """Start `cat` of a file on our server, and follow it; its output is forgotten after the run."""
    with connect(address, certs=Path(certs), identity="admin") as client:
        return _count(_pieces(client, client.start(["cat", path]).id))


def replay(address: str, certs: str, job_id: str) -> int:
    """Read a job's output from its first byte."""
    with connect(address, certs=Path(certs), identity="admin") as client:
        return _count(_pieces(client, job_id))


def digest(address: str, certs: str, job_id: str) -> str:
    """The same, hashed."""
    found = hashlib.sha256()
    with connect(address, certs=Path(certs), identity="admin") as client:
        for data in _pieces(client, job_id):
            found.update(data)
    return found.hexdigest()


def piped(*command: str) -> int:
    """Read what a local command prints: `cat`, or `ssh host cat`."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        count = _count(iter(lambda: process.stdout.read(READ_BYTES), b""))  # type: ignore[union-attr]
    assert process.returncode == 0, command
    return count


def grpc(certs: str, port: str, path: str) -> int:
    """Ask the grpcio service for a file."""
    from tests.bench.grpc_peer import cat

    return _count(cat(Path(certs), int(port), path))


def tls(certs: str, port: str) -> int:
    """Read from the bare SSLStream."""
    return trio.run(tls_limit.read, Path(certs), int(port))


def _pieces(client: Client, job_id: str) -> Iterator[bytes]:
    with client.stream(job_id) as stream:
        for piece in stream:
            assert isinstance(piece, Output), piece
            yield piece.data


def _count(pieces: Iterable[bytes]) -> int:
    return sum(len(piece) for piece in pieces)


KINDS: dict[str, Callable[..., object]] = {
    kind.__name__: kind for kind in (live, replay, digest, piped, grpc, tls)
}


def main() -> None:
    """Read, and print what came and how long it took."""
    read = KINDS[sys.argv[1]]
    if read is grpc:
        import grpc as _  # noqa: F401  # its import is not to be timed
    began = time.perf_counter()
    came = read(*sys.argv[2:])
    seconds = time.perf_counter() - began
    sys.stdout.write(json.dumps({"seconds": seconds, "came": came}) + "\n")


if __name__ == "__main__":
    main()
