"""The command line of the first version with our server, and the reverse: every command, every exit code."""

import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from certs.authority import issue
from certs.revoke import revoke
from certs.roles import Role
from client.cli import commands as ours
from tests.cli.program import Program, Result, finish, read_until
from tests.harness import PATIENCE, Server
from tests.host.common import NOT_EMULATED
from tests.peers.forked import commands
from tests.peers.older import OURS, Version
from tests.tlshelp import authority, key, make_directory, save

SCHEMES: Final = ("", "wss://")
#: A note of our command line, as the first server does not say what time it is.
CLOCK: Final = "note: this server does not tell its clock; ages are reckoned by ours."
#: The commands that speak to no server, or are one.
LOCAL: Final = {"serve", "doctor", "certs", "--help", "-h", "--version"}


Followers = tuple["subprocess.Popen[bytes]", "subprocess.Popen[bytes]"]


@dataclass(frozen=True)
class Step:
    """One command line, and what comes of it.

    Args:
        line: its words, as a shell reads them, with <NAME> for the id of a job.
        out: a pattern of what it prints.
        code: its exit code.
        said: a pattern of its complaint.
        noted: a pattern of what our command line, and not the first one, says on stderr.
        keep: the NAME of the job whose id it prints.
        printed: what the job printed to stderr.
    """

    line: str
    out: str = ""
    code: int = 0
    said: str = ""
    noted: str = ""
    keep: str = ""
    printed: str = ""


STARTED: Final = r"job with id (\S+) started\.\n"
GONE: Final = r"There is no job with id '<words>'; `worker-service list` shows those there are\."
#: What happens with one server after another, in this order.
STEPS: Final = [
    Step(
        "start --merge --env WORD=word --cwd /tmp -- sh -c 'echo out; echo err >&2; echo $WORD; pwd; exit 3'",
        STARTED,
        keep="words",
    ),
    Step("start -command sleep 600", STARTED, keep="asleep"),
    Step("wait <words>", r"job with id <words> has stopped\.\n(?s:.*) exited with code 3\n(?s:.*)", 3),
    Step("query <asleep>", r"job with id <asleep> is running\.\n(?s:.*)  status:    running\n(?s:.*)"),
    Step("query --json <words>", r'{"id": "<words>", "status": "exited", .*}\n'),
    Step("stream <words>", "out\nerr\nword\n/tmp\n"),
    Step("stream --offset 8 <words>", "word\n/tmp\n"),
    Step("stream --tail 1 <words>", "/tmp\n"),
    Step("stream --tail-bytes 9 <words>", "ord\n/tmp\n"),
    Step("stream --since 1h --stdout <words>", "out\nerr\nword\n/tmp\n", noted=CLOCK),
    Step("stream --no-follow <asleep>"),
    Step(
        "list",
        r"ID +STATUS +PID +STARTED +OUTPUT +COMMAND\n(?s:.*)<words>  exited with code 3 .*\n"
        r"(?s:.*)<asleep>  running .* sleep 600\n(?s:.*)",
    ),
    Step("list --json", r'(?s:.*){"id": "<asleep>", "status": "running", .*}\n(?s:.*)'),
    Step("stats --once <asleep>", r" +TIME +CPU%.*\n\d:\d\d:\d\d .*\n", noted=CLOCK),
    Step("stats --once --json <words>", r'{"id": "<words>", "status": "exited", .*}\n', noted=CLOCK),
    Step("stop <asleep>", r"Success! job with id <asleep> stopped\.\n"),
    Step(
        "stop <words>",
        r"Success! job with id <words> stopped\.\n",
        noted=r"note: the job had ended before: exited with code 3\.",
    ),
    Step(
        "query <asleep>",
        r"job with id <asleep> has stopped\.\n(?s:.*) signaled by SIGTERM \(stopped by admin\)\n(?s:.*)",
    ),
    Step("remove <asleep> <words>", r"job with id <asleep> removed\.\njob with id <words> removed\.\n"),
    Step("stream <words>", code=3, said=GONE),
    Step("run -- sh -c 'echo out; echo err >&2; exit 5'", "out\n", 5, printed="err\n"),
    Step("run -- sh -c 'kill -9 $$'", code=137, noted=r"job \S+ was signaled by SIGKILL \(Killed\)\."),
    Step("run --timeout 0.2 -- sleep 600", code=143, noted=r"job \S+ was stopped at its timeout: .*\."),
    Step("run -- no-such-program", code=127, said=r"There is no program 'no-such-program' on the server: .*"),
    Step("run -- /etc/passwd", code=126, said=r"The server may not execute '/etc/passwd': .*"),
    Step("run --cwd /nope -- true", code=125, said=r"The job cannot work in '/nope' on the server: .*"),
    Step("start --user no-such-user -- true", code=1, said=r".*no-such-user.*"),
    Step("stop --identity user <asleep>", code=4, said=r"The role User may not stop jobs: .*"),
]
LOST: Final = r"\d+ bytes of output, from byte {} on, were dropped by the server\."
#: What happens with a server that keeps little output.
LITTLE: Final = [
    Step("start -- head -c 12000000 /dev/zero", STARTED, keep="much"),
    Step("wait --json <much>", r'{"id": "<much>", "status": "exited", .*}\n'),
    Step(
        "stream <much>",
        r"\0*",
        1,
        said=rf"{LOST.format(0)}(\nworker-service: {LOST.format('[0-9]+')})*",  # another job pushes more out
    ),
]
#: What happens on a host that can enforce limits.
LIMITED: Final = [
    Step(
        "start --cpu-limit 512 --memory-limit 100M --pids-limit 20 -- true",
        r"job with id (\S+) started with resource limits\.\n",
        keep="true",
    ),
    Step("query --json <true>", r'.*"limits": {"cpu": 500, "memory": 104857600, "pids": 20}.*\n'),
    Step(
        "run --memory-limit 32M -- tail /dev/zero",
        code=137,
        noted=r"job \S+ ran out of memory: .* \(signaled by SIGKILL\)\.",
    ),
]


def play(program: Program, steps: list[Step]) -> None:
    """Take steps one after the other, and check what each comes to."""
    ids: dict[str, str] = {}

    def filled(text: str) -> str:
        for name, id_ in ids.items():
            text = text.replace(f"<{name}>", id_)
        return text

    with commands(program) as run:
        for step in steps:
            result = run(*shlex.split(filled(step.line)))
            said = [step.said, step.noted if program.root == OURS.root else ""]
            told = step.printed + "".join(f"worker-service: {text}\n" for text in said if text)
            found = re.fullmatch(filled(step.out), result.text)
            assert found, (step, result)
            assert re.fullmatch(filled(told), result.err.decode()), (step, result)
            assert result.code == step.code, (step, result)
            if step.keep:
                ids[step.keep] = found[1]


@contextmanager
def following(program: Program, server: Server) -> Iterator[tuple[Followers, str]]:
    """A `run`, and a `stream` of its job; both have its first line."""
    with program.begin("run", "--", "sh", "-c", "echo up; exec sleep 600") as running:
        read_until(running, b"up\n")
        with server.connect() as client:
            *_, job = [found.id for found in client.list()]
        with program.begin("stream", job) as streaming:
            read_until(streaming, b"up\n")
            yield (running, streaming), job


def check_end(program: Program, job: str, followers: Followers) -> None:
    """A server's orderly end: the job is stopped, and all is told."""
    running, streaming = map(finish, followers)
    assert (running.code, running.out) == (143, b"")
    told = f"worker-service: job {job} was stopped: the server was shut down (signaled by SIGTERM).\n"
    assert running.err.decode() == (told if program.root == OURS.root else "")
    assert streaming == Result(0, b"", b"")


def check_cut(followers: Followers) -> None:
    """A server's death: neither command comes back."""
    running, streaming = map(finish, followers)
    assert (running.code, streaming.code) == (125, 5)
    for cut in (running, streaming):
        assert cut.out == b""
        assert "was cut" in cut.sentence


def check_revocation(clients: Version, server: Server, certs: Path) -> None:
    """The certificate of those that follow a job is revoked: they are told, and do not come back."""
    with server.connect() as client, ExitStack() as stack:
        job = client.start(["sh", "-c", "echo up; exec sleep 600"]).id
        programs = [clients.program(server, scheme, "leaving") for scheme in SCHEMES]
        followers = [stack.enter_context(program.begin("stream", job)) for program in programs]
        for follower in followers:
            read_until(follower, b"up\n")
        revoke(certs, ["leaving"])
        server.process.send_signal(signal.SIGHUP)
        for follower in followers:
            ended = finish(follower)
            assert (ended.code, ended.out) == (6, b"")
            assert re.fullmatch(
                r"The certificate of leaving \(serial .*\) has been revoked: .*\.", ended.sentence
            )


def check(clients: Version, servers: Version, certs: Path) -> None:
    """A command line with servers of another version, on both transports at once."""
    save(certs, leaving=issue(authority(), "leaving", role=Role.USER, key=key("leaving")))
    with servers.serve(certs) as server, servers.serve_small(certs) as small, ThreadPoolExecutor() as pool:
        both = [clients.program(server, scheme) for scheme in SCHEMES]
        little = [clients.program(small, scheme).having(WORKER_SERVICE_PATIENCE="0") for scheme in SCHEMES]
        for played in [
            *(pool.submit(play, program, STEPS) for program in both),
            *(pool.submit(play, program, LITTLE) for program in little),
        ]:
            played.result(PATIENCE * len(STEPS))
        check_revocation(clients, server, certs)
        with following(both[0], server) as native, following(both[1], server) as websocket:
            server.process.send_signal(signal.SIGTERM)
            for program, (followers, job) in zip(both, (native, websocket), strict=True):
                check_end(program, job, followers)
        with following(little[0], small) as native, following(little[1], small) as websocket:
            small.process.kill()
            for followers, _ in (native, websocket):
                check_cut(followers)


def test_every_command_is_here() -> None:
    assert {step.line.split()[0] for step in STEPS} == set(ours.app.resolved_commands()) - LOCAL


def test_the_first_commands_with_our_server(first: Version, tmp_path: Path) -> None:
    check(first, OURS, make_directory(tmp_path))


def test_our_commands_with_the_first_server(first: Version, tmp_path: Path) -> None:
    check(OURS, first, make_directory(tmp_path))


@pytest.mark.host
@NOT_EMULATED
@pytest.mark.parametrize("direction", ["the first commands", "our commands"])
def test_limits(first: Version, shared_certificates: Path, direction: str) -> None:
    clients, servers = (first, OURS) if direction == "the first commands" else (OURS, first)
    with servers.serve(shared_certificates) as server:
        for scheme in SCHEMES:
            play(clients.program(server, scheme), LIMITED)
