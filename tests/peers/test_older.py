"""The first version of this protocol, from its commit: its clients against our server, and the reverse."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness import PATIENCE, ROOT, Server, next_line, serve

#: The commit whose peers know no features.
FIRST: Final = "a67f28e685e20589765d3da8e11dfd995236b635"
HERE: Final = Path(__file__).parent
SMALL: Final = ("--output-memory", "4M", "--overflow", "drop", "--stall-timeout", "1", "--spill-limit")
#: A server's room for output on the disk. The first one may not move a byte there: once three of its tasks
#: want to move the output of one job, as they do when two jobs print much, they hand a lock round for ever.
OUR_DISK: Final = "4M"
FIRST_DISK: Final = "1"
#: So that what is aborted says where it stood.
TELLING: Final = dict(os.environ) | {"PYTHONFAULTHANDLER": "1"}


def job(
    output: int, cause: str = "exited", code: int = 0, signal: int | None = None, by: str | None = None
) -> Any:
    """What is told of a job that ended so."""
    return {
        "status": "exited" if signal is None else "signaled",
        "exit_code": code if signal is None else None,
        "signal": signal,
        "cause": cause,
        "by": by,
        "ended": True,
        "output": output,
    }


#: What comes of the conversation, whichever versions talk.
EXPECTED: Final[dict[str, Any]] = {
    "ready": None,
    "methods": {
        "identity": "admin",
        "role": "Admin",
        "started": "running",
        "waited": job(18, code=3),
        "queried": True,
        "streamed": [{"1": "out\nerr\nword\n/tmp\n"}, [], job(18, code=3)],
        "from an offset": {"1": "word\n/tmp\n"},
        "the last bytes": {"1": "ord\n/tmp\n"},
        "the last line": {"1": "/tmp\n"},
        "since then": {},
        "both streams": {"1": "out\n", "2": "err\n"},
        "stderr": {"2": "err\n"},
        "signaled": job(0, "signaled", signal=9),
        "timeout": job(0, "timeout", signal=15),
        "stopped": job(0, "stopped", signal=15, by="admin"),
        "listed": True,
        "much": [12_000_000, ["dropped"]],
        "removed": [True, 0],
    },
    "refusals": {
        code: code
        for code in (
            *("not_found", "running", "no_such_program", "not_executable", "bad_directory", "bad_user"),
            *("bad_request", "denied"),
        )
    },
    "stalled": 5_000_000,
    "cancelled": [True, "hello\n", job(6, "stopped", signal=15, by="admin"), True, True],
    "end": [job(6, "stopped", signal=15, by="server"), "shutting_down"],
}


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of the first version."""
    folder = tmp_path_factory.mktemp("first")
    archive = folder / "source.tar"
    made = subprocess.run(
        ["git", "-C", str(ROOT), "archive", "-o", str(archive), FIRST],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(
            f"NOT TESTED: this clone has no commit {FIRST[:7]}, an older peer; run `git fetch --unshallow`"
        )
    subprocess.run(["tar", "-xf", str(archive), "-C", str(folder)], check=True, timeout=PATIENCE)
    return folder


@contextmanager
def clients(server: Server, root: Path, scheme: str) -> Iterator[subprocess.Popen[str]]:
    """The conversation of a version's clients with a server."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "conversation.py"), scheme + server.address, str(server.certs)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env=TELLING | {"PYTHONPATH": str(root)},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def converse(server: Server, root: Path) -> list[dict[str, Any]]:
    """What came of all that clients of a version did, on both transports; the server ends meanwhile."""
    told: list[dict[str, Any]] = [{}, {}]
    with clients(server, root, "") as native, clients(server, root, "wss://") as websocket:
        pairs = list(zip((native, websocket), told, strict=True))
        try:
            for process, found in pairs:
                while "ready" not in found:
                    found.update([json.loads(next_line(process))])
            server.process.send_signal(signal.SIGTERM)
            for process, found in pairs:
                while line := next_line(process):
                    found.update([json.loads(line)])
        except ValueError:  # one ended too soon, or was aborted as it said nothing: its stderr tells
            pytest.fail(f"They had told {told}; the server stood here:\n{server.abort()}")
    return told


def test_the_first_clients_with_our_server(first: Path, shared_certificates: Path) -> None:
    with serve(shared_certificates, *SMALL, OUR_DISK, env=TELLING) as server:
        assert converse(server, first) == [EXPECTED, EXPECTED]


def test_our_clients_with_the_first_server(first: Path, shared_certificates: Path) -> None:
    with serve(shared_certificates, *SMALL, FIRST_DISK, env=TELLING, root=first) as server:
        assert converse(server, ROOT) == [EXPECTED, EXPECTED]
