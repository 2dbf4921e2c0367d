"""The command line's stream through cuts and stops: the exact bytes, each of them once."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.harness import PATIENCE, Server, aborting, serve
from tests.proxy import proxy

SIZE = 200_000_000
CUTS = 50
STREAM = [sys.executable, "-m", "client.cli", "stream"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random bytes."""
    path = tmp_path_factory.mktemp("data") / "random"
    path.write_bytes(os.urandom(SIZE))
    return path


def hash_of(process: subprocess.Popen[bytes], first: bytes = b"") -> tuple[int, str]:
    """Read a process's stdout to its end; return how much it was, and its hash."""
    digest, size = hashlib.sha256(first), len(first)
    assert process.stdout is not None
    with aborting(process):
        while piece := process.stdout.read(2**20):
            digest.update(piece)
            size += len(piece)
    return size, digest.hexdigest()


def test_fifty_cuts_lose_nothing(server: Server, data: Path) -> None:
    expected = (SIZE, hashlib.sha256(data.read_bytes()).hexdigest())
    with server.connect() as client, proxy(server.port, seed=5) as between:
        job = client.start(["cat", str(data)])
        between.cut_later(CUTS, SIZE // CUTS * 3 // 2)
        environment = server.environment() | {"WORKER_SERVICE_SERVER": between.address}
        with subprocess.Popen(
            [*STREAM, job.id], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        ) as process:
            assert hash_of(process) == expected
            assert process.stderr is not None
            said = process.stderr.read().decode()
        assert process.returncode == 0
        assert between.accepted == CUTS + 1
        assert said.count("going on at byte") >= CUTS // 2
        client.remove(job.id)


def test_a_stopped_reader_is_given_up_and_comes_back(shared_certificates: Path, data: Path) -> None:
    """BEHAVIOURS 3: the job and the others go on at full speed; it continues where it was."""
    expected = (SIZE, hashlib.sha256(data.read_bytes()).hexdigest())
    with serve(shared_certificates, "--stall-timeout", "1") as server, server.connect() as client:
        job = client.start(["sh", "-c", f"head -c 1000000 {data}; sleep 1; tail -c +1000001 {data}"])
        with subprocess.Popen(
            [*STREAM, job.id],
            env=server.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        ) as process:
            assert process.stdout is not None
            with aborting(process):
                first = process.stdout.read(1000)
            process.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            assert client.wait(job.id).output == SIZE
            assert time.monotonic() - began < PATIENCE / 2
            time.sleep(3)  # the stall timeout, and what it may take besides
            process.send_signal(signal.SIGCONT)
            assert hash_of(process, first) == expected
            assert process.stderr is not None
            said = process.stderr.read().decode()
        assert process.returncode == 0
        assert "going on at byte" in said
