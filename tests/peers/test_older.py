"""The first version of this protocol, from its commit: its clients against our server, and the reverse."""

import datetime
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from certs.authority import issue
from certs.revoke import revoke
from certs.roles import Role
from tests.e2e.test_hosts import NO_CGROUP, changed
from tests.harness import PATIENCE, SLOW, Server, next_line
from tests.host.common import NOT_EMULATED
from tests.peers.older import OURS, Version
from tests.tlshelp import authority, key, make_directory, save
from wire.errors import ErrorCode
from wire.jobs import CauseKind
from wire.messages import GapReason
from worker.methods import METHODS

HERE: Final = Path(__file__).parent
#: Each kind of client over each transport.
TALKERS: Final = [(kind, scheme) for kind in ("blocking", "trio") for scheme in ("", "wss://")]
#: Seconds for which certificates are good of which one ends while its client waits, by their names.
SHORT: Final = {f"short-{seconds}": seconds for seconds in (4, 12, 36, 108)}
#: The codes that no conversation hears, and why.
UNHEARD: Final = {
    ErrorCode.LIMIT_REFUSED: "it takes a host without cgroups: test_limits, below",
    ErrorCode.INTERNAL: "it is a defect of the server, and none is known that a client can meet",
}
#: The reasons for a gap that no conversation hears, and why.
UNTOLD: Final = {
    GapReason.UNREADABLE: "it takes a disk that fails",
    GapReason.REMOVED: "a stream has what is there before it is removed, or comes too late: a race",
}
#: With what a server starts nothing, and lets few in.
STRICT: Final = ("--audit", "/dev/full", "--audit-required", "--max-connections-per-identity", "4")


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
    "begun": None,
    "ready": None,
    "followed": None,
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
        "removed": True,
        "and then": "not_found",
    },
    "refusals": {
        code: code
        for code in (
            *("not_found", "running", "no_such_program", "not_executable", "bad_directory", "bad_user"),
            *("bad_request", "start_failed", "denied", "unknown_method", "protocol", "ambiguous"),
        )
    },
    "strict": {"audit_unavailable": "audit_unavailable", "busy": "busy"},
    "much": [12_000_000, ["dropped"], 0],
    "stalled": 5_000_000,
    "cancelled": ["hello\n", job(6, "stopped", signal=15, by="admin"), True, True],
    "short": "expired",
    "leaving": "revoked",
    "lost": job(0, "lost", signal=9),
    "cut": "CutError",
    "end": [job(6, "stopped", signal=15, by="server"), "shutting_down"],
    "called": sorted(METHODS),
}
#: The codes that a conversation hears. A blocking client that is given up may be cut instead of being told.
HEARD: Final = set(ErrorCode) - set(UNHEARD)


class Talker:
    """A conversation of a version's clients with servers, in its own process.

    Args:
        version: of the clients.
        script: what they say, a file beside this one.
        setting: as it takes it.
    """

    def __init__(self, version: Version, script: str, setting: dict[str, Any]) -> None:
        self.told: dict[str, Any] = {}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / script), json.dumps(setting)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=version.root,
            env=version.environment,
        )

    def __enter__(self) -> "Talker":
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:
            self.process.kill()

    def tells(self, name: str) -> None:
        """Read until it has told something; a ValueError at its end."""
        while name not in self.told:
            self.told.update([json.loads(next_line(self.process))])

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


def talk(
    stack: ExitStack, script: str, clients: Version, certs: Path, usual: Server, small: Server, strict: Server
) -> list[Talker]:
    """Begin conversations of all kinds, which end with the stack."""
    return [
        stack.enter_context(
            Talker(
                clients,
                script,
                {
                    "kind": kind,
                    "certs": str(certs),
                    "usual": scheme + usual.address,
                    "small": scheme + small.address,
                    "strict": scheme + strict.address,
                    "short": list(SHORT),
                    "slow": SLOW,
                },
            )
        )
        for kind, scheme in TALKERS
    ]


def converse(clients: Version, servers: Version, certs: Path) -> list[dict[str, Any]]:
    """What came of all that clients of a version did with servers of another."""
    save(certs, leaving=issue(authority(), "leaving", role=Role.USER, key=key("leaving")))
    with ExitStack() as stack:
        usual = stack.enter_context(servers.serve(certs, "--stall-timeout", str(SLOW)))
        small = stack.enter_context(servers.serve_small(certs))
        strict = stack.enter_context(servers.serve(certs, *STRICT))
        talkers = talk(stack, "conversation.py", clients, certs, usual, small, strict)

        def all_tell(name: str) -> None:
            for talker in talkers:
                talker.tells(name)

        try:
            all_tell("begun")
            now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
            for name, seconds in SHORT.items():
                ends = now + datetime.timedelta(seconds=seconds)
                issued = issue(authority(), name, role=Role.USER, key=key("leaving"), not_after=ends)
                save(certs, **{name: issued})
            for talker in talkers:
                talker.go_on()
            all_tell("ready")
            revoke(certs, ["leaving"])
            usual.process.send_signal(signal.SIGHUP)
            os.kill(small.spawner_pid, signal.SIGKILL)
            all_tell("followed")
            small.process.kill()
            all_tell("leaving")
            usual.process.send_signal(signal.SIGTERM)
            all_tell("called")
            strict.process.kill()  # it would wait for its audit log to take its lines
        except (
            ValueError
        ):  # one ended too soon, or was aborted as it said nothing; stderr tells how all stood
            for talker in talkers:
                talker.process.send_signal(signal.SIGABRT)
                talker.process.wait(PATIENCE)
            stood = [server.abort() for server in (usual, small, strict)]
            pytest.fail(f"They told {[talker.told for talker in talkers]}; the servers stood here:\n{stood}")
    return [talker.told for talker in talkers]


def check(talks: list[dict[str, Any]]) -> None:
    for (kind, _), told in zip(TALKERS, talks, strict=True):
        heard = set(told.pop("heard")) | ({ErrorCode.STALLED} if kind == "blocking" else set())
        assert heard == HEARD
        assert told == EXPECTED


def test_the_first_clients_with_our_server(first: Version, tmp_path: Path) -> None:
    check(converse(first, OURS, make_directory(tmp_path)))


def test_our_clients_with_the_first_server(first: Version, tmp_path: Path) -> None:
    check(converse(OURS, first, make_directory(tmp_path)))


def test_no_kind_of_end_is_left_out() -> None:
    assert set(CauseKind) == {*re.findall(r"'cause': '(\w+)'", str(EXPECTED)), CauseKind.OOM}
    assert set(GapReason) == {*EXPECTED["much"][1], *UNTOLD}


@pytest.mark.host
@NOT_EMULATED
@pytest.mark.parametrize("direction", ["the first clients", "our clients"])
def test_limits(first: Version, shared_certificates: Path, direction: str) -> None:
    clients, servers = (first, OURS) if direction == "the first clients" else (OURS, first)
    with ExitStack() as stack:
        usual = stack.enter_context(servers.serve(shared_certificates))
        bare = stack.enter_context(servers.serve(shared_certificates, prefix=changed(NO_CGROUP)))
        for talker in talk(stack, "limits.py", clients, shared_certificates, usual, usual, bare):
            talker.tells("refused")
            assert talker.told == {
                "oom": job(0, "oom", signal=9),
                "limits": True,
                "refused": ErrorCode.LIMIT_REFUSED,
            }
