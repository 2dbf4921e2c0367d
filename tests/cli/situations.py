"""Owns the situations in which the command line has something to complain of, each provoked for real.

Each is a function of one `Place`; what it returns, the table of `tests.cli.test_sentences` shows.
"""

import datetime
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from certs.authority import issue
from certs.roles import Role
from client.blocking import Client
from tests.cli.program import PROGRAM, ROOT, Program, Result, finish, read_until
from tests.client.tls_peer import old_peer_context, peer
from tests.harness import PATIENCE, Server
from tests.tlshelp import authority, key, make_directory, save
from wire.connection import Connection
from wire.connection import Role as End
from wire.messages import Hello

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
WAITS = ("sh", "-c", "echo ready; exec sleep 600")
HELLO = Connection(End.SERVER).send(Hello(1, "other", "admin", "Admin", max_frame=2**22, max_requests=4))


@dataclass
class Place:
    """One server, of three jobs at most; a folder; a job that ended, one that was stopped, one that runs."""

    server: Server
    client: Client
    folder: Path
    ended: str
    stopped: str
    running: str

    @property
    def cli(self) -> Program:
        return Program(self.server.environment()).having(
            WORKER_SERVICE_SERVER=None, WORKER_SERVICE_CERTS=None, WORKER_SERVICE_IDENTITY=None, TZ="UTC0"
        )

    def ask(self, *words: str, identity: str = "admin", certs: Path | None = None) -> Result:
        """Run a command against the server."""
        flags = ["--server", self.server.address, "--certs", str(certs or self.server.certs)]
        return self.cli(*flags, "--identity", identity, *words)

    def elsewhere(self, address: str, *words: str, certs: Path | None = None) -> Result:
        """Run a command against an address."""
        flags = ["--server", address, "--patience", "0", "--certs", str(certs or self.server.certs)]
        return self.cli(*flags, *(words or ("list",)))

    def directory(self, name: str) -> Path:
        """Certificates of the server's authority, to spoil."""
        return make_directory(self.folder / name)

    def piped(self, stdin: int, *words: str) -> Result:
        """Run a command with something on its stdin."""
        flags = ["--server", self.server.address, "--certs", str(self.server.certs)]
        done = subprocess.run(
            [*PROGRAM, *flags, *words],
            stdin=stdin,
            capture_output=True,
            env=self.cli.environment | {"PYTHONPATH": str(ROOT)},
            timeout=PATIENCE,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)


Situation = Callable[[Place], Result]
SITUATIONS: dict[str, Situation] = {}


def situation(name: str) -> Callable[[Situation], Situation]:
    """Give a situation its name in the table."""

    def keep(function: Situation) -> Situation:
        assert name not in SITUATIONS
        SITUATIONS[name] = function
        return function

    return keep


def asked(**lines: str) -> None:
    """Situations that are one command line each; JOBS stand for ids."""
    for name, line in lines.items():

        def ask(place: Place, line: str = line) -> Result:
            names = {"ENDED": place.ended, "STOPPED": place.stopped, "RUNNING": place.running}
            return place.ask(*(names.get(word, word) for word in line.split()))

        situation(name.replace("_", " "))(ask)


asked(
    no_such_job="query nope",
    no_such_job_to_wait_for="wait nope",
    no_such_program="run -- no-such-program",
    a_program_that_may_not_be_executed="start -- /etc/passwd",
    no_such_directory="start --cwd /no/such/folder -- true",
    no_such_user="run --user no-such-user -- true",
    an_offset_beyond_the_end="stream --offset 1G ENDED",
    a_job_that_runs_cannot_be_removed="remove RUNNING",
    a_stop_of_a_job_that_had_ended="stop ENDED",
    a_second_stop="stop STOPPED",
    local_time="stream --since 2026-01-01 ENDED",
    a_time_in_the_future="stream --since 2099-01-01T00:00:00Z ENDED",
    a_job_that_a_signal_ended="run -- sh -c kill${IFS}-9${IFS}$$",
    a_job_at_its_timeout="run --timeout 0.05s -- sleep 600",
    little_CPU="start --cpu-limit 16 --cwd /no/such/folder -- true",
)


@situation("an id that several jobs have")
def _(place: Place) -> Result:
    first = ""
    while sum(job.id.startswith(first) for job in place.client.list()) < 2 or not first:
        first = place.client.start(["true"]).id[0]
    found = place.ask("query", first)
    count = found.err.split()[1]  # two, or more by chance
    said = found.err.replace(b" %b jobs" % count, b" 2 jobs").replace(f"'{first}'".encode(), b"'0'")
    return Result(found.code, found.out, said)


@situation("a User starts")
def _(place: Place) -> Result:
    return place.ask("start", "--", "true", identity="user")


@situation("a User stops")
def _(place: Place) -> Result:
    return place.ask("stop", place.running, identity="user")


@situation("the most jobs run")
def _(place: Place) -> Result:
    more = [place.client.start(["sleep", "600"]).id for _ in range(2)]
    refused = place.ask("run", "--", "true")
    for job in more:
        place.client.stop(job, grace=0)
    return refused


@situation("a job that somebody stopped")
def _(place: Place) -> Result:
    with _beginning(place, "run", "--", *WAITS) as running:
        read_until(running, b"ready\n")
        place.client.stop(_newest(place))
        return finish(running)


@situation("a second Ctrl-C")
def _(place: Place) -> Result:
    deaf = "trap 'echo heard' TERM; echo ready; while :; do sleep 600 & wait; done"
    with _beginning(place, "run", "--", "sh", "-c", deaf) as running:
        read_until(running, b"ready\n")
        running.send_signal(signal.SIGINT)
        read_until(running, b"heard\n")
        running.send_signal(signal.SIGINT)
        left = finish(running)
    place.client.stop(_newest(place), grace=0)
    return left


def _beginning(place: Place, *words: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return place.cli.begin("--server", place.server.address, "--certs", str(place.server.certs), *words)


def _newest(place: Place) -> str:
    return list(place.client.list())[-1].id


@situation("stdin that holds something")
def _(place: Place) -> Result:
    with (place.folder / "input").open("w+") as file:
        file.write("x")
        file.seek(0)
        return place.piped(file.fileno(), "run", "--", "cat")


@situation("a pipe on stdin that is empty")
def _(place: Place) -> Result:
    reading, writing = os.pipe()
    try:
        return place.piped(reading, "run", "--", "true")
    finally:
        os.close(reading)
        os.close(writing)


@situation("a full disk below stdout")
def _(place: Place) -> Result:
    return place.cli.shell('exec "$@" >/dev/full', "--help")


@situation("nobody listens")
def _(place: Place) -> Result:
    return place.elsewhere("127.0.0.1:1")


@situation("nobody listens, to run something")
def _(place: Place) -> Result:
    return place.elsewhere("127.0.0.1:1", "run", "--", "true")


@situation("no such host")
def _(place: Place) -> Result:
    return place.elsewhere("..a:8443")


@situation("no port")
def _(place: Place) -> Result:
    return place.elsewhere("localhost")


@situation("no host")
def _(place: Place) -> Result:
    return place.elsewhere(":8443")


@situation("half a bracket")
def _(place: Place) -> Result:
    return place.elsewhere("[::1")


@situation("no certificates, and the server is here")
def _(place: Place) -> Result:
    return place.ask("list", certs=Path("/nonexistent"))


@situation("no certificates, and the server is far")
def _(place: Place) -> Result:
    return place.elsewhere("192.0.2.7:8443", certs=Path("/nonexistent"))


@situation("no certificate of that identity")
def _(place: Place) -> Result:
    return place.ask("list", identity="ada")


@situation("a bad address in a variable")
def _(place: Place) -> Result:
    return place.cli.having(WORKER_SERVICE_SERVER="build7")("list")


@situation("a bad time in a variable")
def _(place: Place) -> Result:
    return place.cli.having(WORKER_SERVICE_PATIENCE="long")("list")


@situation("a directory without certificates in a variable")
def _(place: Place) -> Result:
    return place.cli.having(WORKER_SERVICE_CERTS="/nonexistent")("list")


@situation("a key that others can read")
def _(place: Place) -> Result:
    certs = place.directory("exposed")
    (certs / "admin.key").chmod(0o644)
    return place.ask("list", certs=certs)


@situation("a key of another certificate")
def _(place: Place) -> Result:
    certs = place.directory("mixed")
    (certs / "admin.key").write_bytes((certs / "user.key").read_bytes())
    return place.ask("list", certs=certs)


@situation("a certificate that is none")
def _(place: Place) -> Result:
    certs = place.directory("garbled")
    (certs / "admin.crt").write_text("nothing")
    return place.ask("list", certs=certs)


@situation("a certificate of a foreign authority")
def _(place: Place) -> Result:
    certs = place.directory("foreign")
    save(certs, admin=issue(authority("another CA"), "admin", role=Role.ADMIN, key=key("admin")))
    return place.ask("list", certs=certs)


@situation("a certificate that has expired")
def _(place: Place) -> Result:
    certs = place.directory("expired")
    save(certs, admin=issue(authority(), "admin", role=Role.ADMIN, key=key("admin"), not_before=LONG_AGO))
    return place.ask("list", certs=certs)


@situation("a certificate without a role")
def _(place: Place) -> Result:
    certs = place.directory("roleless")
    save(certs, admin=issue(authority(), "admin", key=key("admin")))
    return place.ask("list", certs=certs)


@situation("a server's certificate as a client's")
def _(place: Place) -> Result:
    return place.ask("list", identity="server")


@situation("a server of a foreign authority")
def _(place: Place) -> Result:
    certs = place.directory("distrust")
    save(certs, ca=authority("another CA"))
    return place.ask("list", certs=certs)


@situation("a server whose certificate lacks the name")
def _(place: Place) -> Result:
    certs = place.directory("misnamed")
    names = ["build7", "::1"]
    save(certs, server=issue(authority(), "server", purpose="server", san=names, key=key("server")))
    with peer(lambda tls: None, certs) as first:
        return place.elsewhere(first)  # it answers once, so the names are not learnt


@situation("a server whose certificate has expired")
def _(place: Place) -> Result:
    certs = place.directory("late")
    names = ["127.0.0.1"]
    late = issue(authority(), "server", purpose="server", san=names, key=key("server"), not_before=LONG_AGO)
    save(certs, server=late)
    with peer(lambda tls: None, certs) as address:
        return place.elsewhere(address)


@situation("what answers does not speak TLS")
def _(place: Place) -> Result:
    with peer(lambda tcp: tcp.sendall(b"220 mail.example.org ESMTP\r\n")) as address:
        return place.elsewhere(address)


@situation("what answers speaks TLS 1.2")
def _(place: Place) -> Result:
    def script(tcp: socket.socket) -> None:
        old_peer_context(place.server.certs).wrap_socket(tcp, server_side=True).close()

    with peer(script) as address:
        return place.elsewhere(address)


@situation("what answers hangs up")
def _(place: Place) -> Result:
    def script(tcp: socket.socket) -> None:
        tcp.recv(1000)

    with peer(script) as address:
        return place.elsewhere(address)


@situation("what answers speaks another protocol")
def _(place: Place) -> Result:
    with peer(lambda tls: tls.sendall(b"\0\0\0\x04nope"), place.server.certs) as address:
        return place.elsewhere(address)


@situation("what answers speaks HTTP")
def _(place: Place) -> Result:
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    with peer(lambda tls: tls.sendall(answer), place.server.certs, alpn="http/1.1") as address:
        return place.elsewhere(f"wss://{address}")


@situation("a connection that is cut")
def _(place: Place) -> Result:
    def script(tls: socket.socket) -> None:
        tls.sendall(HELLO)
        tls.recv(1000)

    with peer(script, place.server.certs) as address:
        return place.elsewhere(address)


@situation("a connection that is cut, of run")
def _(place: Place) -> Result:
    def script(tls: socket.socket) -> None:
        tls.sendall(HELLO)
        tls.recv(1000)

    with peer(script, place.server.certs) as address:
        return place.elsewhere(address, "run", "--", "true")


@situation("a name for a certificate that is none")
def _(place: Place) -> Result:
    return place.cli("certs", "issue", "a/b", "--role", "user", "--dir", str(place.server.certs))


@situation("a host name that is none")
def _(place: Place) -> Result:
    return place.cli("certs", "init", "--san", "host:1", "--dir", str(place.folder / "new"))


@situation("an authority in the place of another")
def _(place: Place) -> Result:
    return place.cli("certs", "init", "--dir", str(place.server.certs))


@situation("a certificate in the place of another")
def _(place: Place) -> Result:
    return place.cli("certs", "issue", "user", "--role", "user", "--dir", str(place.server.certs))


@situation("no authority to issue")
def _(place: Place) -> Result:
    return place.cli("certs", "issue", "ada", "--role", "user", "--dir", str(place.folder))


@situation("no request to sign")
def _(place: Place) -> Result:
    return place.cli("certs", "sign", "/nonexistent", "--role", "user", "--dir", str(place.server.certs))


@situation("no certificate to renew")
def _(place: Place) -> Result:
    return place.cli("certs", "renew", "ada", "--dir", str(place.server.certs))


@situation("no certificate to show")
def _(place: Place) -> Result:
    return place.cli("certs", "show", "/nonexistent")


@situation("a server whose port is taken")
def _(place: Place) -> Result:
    return place.cli("serve", "--listen", place.server.address, "--certs", str(place.server.certs))


@situation("a server without certificates")
def _(place: Place) -> Result:
    return place.cli("serve", "--listen", "127.0.0.1:0", "--certs", "/nonexistent")


@situation("a server whose folder for output is none")
def _(place: Place) -> Result:
    return place.cli("serve", "--certs", str(place.server.certs), "--spill-dir", "/nonexistent")


@situation("a server whose user for jobs is none")
def _(place: Place) -> Result:
    return place.cli("serve", "--certs", str(place.server.certs), "--job-user", "no-such-user")


@situation("a server that ends")
def _(place: Place) -> Result:
    """The last of all."""
    with _beginning(place, "run", "--", *WAITS) as running:
        read_until(running, b"ready\n")
        place.server.process.send_signal(signal.SIGTERM)
        return finish(running)


@situation("a server that has ended")
def _(place: Place) -> Result:
    place.server.end()
    return place.elsewhere(place.server.address)
