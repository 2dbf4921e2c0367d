"""Certificates change under a running server, with streams running through it (BEHAVIOURS 17, 20)."""

import datetime
import signal
import threading
from pathlib import Path

import pytest
from cryptography import x509

from certs.authority import issue
from certs.revoke import revoke
from certs.roles import Role
from client.blocking import Client
from client.cli.exits import Exit
from client.errors import TlsError
from tests.certs.test_standing import made
from tests.cli.program import Program, bare
from tests.e2e.test_server import frame, openssl, raw, read_frame
from tests.harness import PATIENCE, Server, join, next_line, serve
from tests.tlshelp import authority, key, make_directory, save
from wire.errors import ErrorCode, RequestError
from wire.messages import Gap

#: Prints a line each time that a file appears, and ends at the last.
SCRIPT = "for mark in one two three four; do while [ ! -e $mark ]; do sleep 0.01; done; echo $mark; done"
SCHEMES = ["", "wss://"]


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    """A server's and an authority's directory in one, for the test to change."""
    return make_directory(tmp_path / "certs")


class Follower:
    """A client that follows a job in a thread of its own: what it got, and what ended it."""

    def __init__(self, client: Client, job: str) -> None:
        self.lines: list[bytes] = []
        self.error: Exception | None = None
        self._got = threading.Condition()
        self._thread = threading.Thread(target=self._follow, args=(client, job))
        self._thread.start()

    def _follow(self, client: Client, job: str) -> None:
        try:
            with client.stream(job) as stream:
                for piece in stream:
                    assert not isinstance(piece, Gap)
                    with self._got:
                        self.lines += piece.data.splitlines()
                        self._got.notify()
        except Exception as error:  # noqa: BLE001  # it is the test's to judge
            self.error = error

    def wait(self, line: bytes) -> None:
        with self._got:
            assert self._got.wait_for(lambda: line in self.lines, 20), self.lines

    def join(self) -> None:
        join(self._thread)


def served_serial(server: Server) -> int:
    """The serial number of the certificate that a new connection sees."""
    with raw(server) as sock:
        der = sock.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def serial(path: Path) -> int:
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_rotation_and_a_revocation_with_streams_running(certs: Path, tmp_path: Path, scheme: str) -> None:
    """No signal is sent: the server sees that the files change."""
    command = Program(bare() | {"WORKER_SERVICE_CERTS": str(certs)})
    with serve(certs) as server, server.connect() as admin, server.connect("user", scheme) as user:
        job = admin.start(["sh", "-c", SCRIPT], cwd=tmp_path)
        kept, ended = Follower(admin, job.id), Follower(user, job.id)
        (tmp_path / "one").touch()
        kept.wait(b"one")
        ended.wait(b"one")

        before = served_serial(server)
        assert command("certs", "renew", "server").code == Exit.OK
        server.logged("certificates were reloaded")
        assert served_serial(server) == serial(certs / "server.crt") != before
        (tmp_path / "two").touch()
        kept.wait(b"two")
        ended.wait(b"two")

        assert command("certs", "revoke", "user").code == Exit.OK
        assert server.logged("certificates were reloaded", 2)["lists"] == [1]
        ended.join()
        assert isinstance(ended.error, RequestError)
        assert ended.error.code is ErrorCode.REVOKED
        assert "The certificate of user (serial " in str(ended.error)
        assert str(ended.error).endswith(") has been revoked: have a new one issued.")
        with pytest.raises(RequestError, match="has been revoked"):  # it does not come back by itself
            user.query(job.id)
        with pytest.raises(TlsError, match=r"user\.crt has been revoked: have a new one issued"):
            server.connect("user", scheme)
        said = openssl(server, "-cert", str(certs / "user.crt"), "-key", str(certs / "user.key"))
        assert "alert certificate revoked" in said

        for mark in ("three", "four"):
            (tmp_path / mark).touch()
        kept.join()
        assert (kept.error, kept.lines) == (None, [b"one", b"two", b"three", b"four"])
        assert admin.query(job.id).exit_code == 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_command_line_says_why_it_was_ended_and_does_not_come_back(certs: Path, scheme: str) -> None:
    with serve(certs) as server, server.connect() as admin:
        job = admin.start(["sh", "-c", "echo ready; sleep 600"])
        user = Program(server.environment("user", scheme))
        with user.begin("stream", job.id) as following:
            assert next_line(following) == b"ready\n"
            revoke(certs, ["user"])
            server.process.send_signal(signal.SIGHUP)
            out, err = following.communicate(timeout=PATIENCE)
        assert (following.returncode, out) == (Exit.TLS, b"")
        assert err.startswith(b"worker-service: The certificate of user (serial ")
        assert err.endswith(b") has been revoked: have a new one issued.\n")
        refused = user("list")
        assert refused.code == Exit.TLS
        assert (
            refused.sentence
            == f"{server.address} says that user.crt has been revoked: have a new one issued."
        )
        assert admin.query(job.id).exit_code is None  # jobs are not touched


@pytest.mark.parametrize("scheme", SCHEMES)
def test_where_one_of_two_authorities_has_no_list_the_server_looks_itself(certs: Path, scheme: str) -> None:
    """OpenSSL would want a list of each. The client is refused in place of the hello, in a sentence too."""
    revoke(certs, ["user"])
    both = authority().certificate_pem() + authority("next").certificate_pem()
    (certs / "ca.crt").write_bytes(both)
    with serve(certs) as server:
        refused = Program(server.environment("user", scheme))("list")
        assert refused.code == Exit.TLS
        assert refused.sentence.startswith("The certificate of user (serial ")
        assert refused.sentence.endswith(") has been revoked: have a new one issued.")
        assert Program(server.environment("admin", scheme))("list").code == Exit.OK


def test_an_authority_that_comes_back_has_not_forgotten(certs: Path, tmp_path: Path) -> None:
    """Its revoked client stays out while the server runs, whatever the directory lacks meanwhile."""
    own, following = authority(), authority("next")
    both = own.certificate_pem() + following.certificate_pem()
    bobs = issue(following, "bob", role=Role.USER, key=key("bob"))
    save(tmp_path / "next", ca=following, bob=bobs)
    save(certs, bob=bobs)
    revoke(tmp_path / "next", ["bob"])
    taken, kept = "certificates were reloaded", "certificates were not reloaded; the old ones stay"

    def change(authorities: bytes, *, listed: bool) -> None:
        (certs / "ca.crl").unlink(missing_ok=True)
        if listed:
            (certs / "ca.crl").write_bytes((tmp_path / "next" / "ca.crl").read_bytes())
        (certs / "ca.crt").write_bytes(authorities)
        server.process.send_signal(signal.SIGHUP)

    (certs / "ca.crt").write_bytes(both)
    (certs / "ca.crl").write_bytes((tmp_path / "next" / "ca.crl").read_bytes())
    with serve(certs) as server:
        bob = Program(server.environment("bob"))
        assert "has been revoked" in bob("list").sentence
        change(own.certificate_pem(), listed=False)
        server.logged(taken)
        change(both, listed=False)
        assert "no longer holds list 1 of next, an authority in ca.crt" in server.logged(kept)["reason"]
        assert "does not trust the authority that signed bob.crt" in bob("list").sentence
        change(both, listed=True)
        server.logged(taken, 2)
        assert "has been revoked" in bob("list").sentence


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_revoked_intermediate_ends_the_streams_of_its_clients(
    certs: Path, tmp_path: Path, scheme: str
) -> None:
    """OpenSSL would go on serving them: it looks for the numbers of clients alone."""
    root = made("root")
    middle = made("middle", root)
    save(certs, bob=issue(middle, "bob", role=Role.USER, key=key("bob")))
    save(tmp_path / "root", ca=root, middle=middle)
    everybody = (authority(), root, middle)
    (certs / "ca.crt").write_bytes(b"".join(it.certificate_pem() for it in everybody))
    with serve(certs) as server, server.connect() as admin, server.connect("bob", scheme) as bob:
        job = admin.start(["sh", "-c", SCRIPT], cwd=tmp_path)
        kept, ended = Follower(admin, job.id), Follower(bob, job.id)
        (tmp_path / "one").touch()
        ended.wait(b"one")
        revoke(tmp_path / "root", ["middle"])
        (tmp_path / "root" / "ca.crl").rename(certs / "ca.crl")
        server.process.send_signal(signal.SIGHUP)
        ended.join()
        assert isinstance(ended.error, RequestError)
        assert ended.error.code is ErrorCode.REVOKED
        assert "is signed by an authority that is not trusted any more" in str(ended.error)
        assert "that is not trusted any more" in Program(server.environment("bob", scheme))("list").sentence
        for mark in ("two", "three", "four"):
            (tmp_path / mark).touch()
        kept.join()
        assert (kept.error, kept.lines) == (None, [b"one", b"two", b"three", b"four"])


def test_a_client_that_talks_on_gets_its_reason_too(certs: Path) -> None:
    """A close with bytes unread would be a reset, and take the reason with it."""
    with serve(certs) as server, raw(server) as sock:
        assert read_frame(sock)["type"] == "hello"
        revoke(certs, ["admin"])
        server.process.send_signal(signal.SIGHUP)
        server.logged("a connection was ended")
        for _ in range(100):
            sock.sendall(frame({"type": "ping", "nonce": 1}) * 100)
        last = read_frame(sock)
        assert (last["type"], last["id"], last["code"]) == ("error", 0, "revoked")
        with pytest.raises(EOFError):
            read_frame(sock)


def test_a_stream_ends_when_its_certificate_does(certs: Path) -> None:
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    ends = now + datetime.timedelta(seconds=4)
    save(certs, user=issue(authority(), "user", role=Role.USER, key=key("user"), not_after=ends))
    with serve(certs) as server, server.connect() as admin, server.connect("user") as user:
        job = admin.start(["sleep", "600"])
        with pytest.raises(RequestError, match="has expired: have a new one issued") as caught:
            user.wait(job.id)
        assert caught.value.code is ErrorCode.EXPIRED
        late = datetime.datetime.now(datetime.UTC) - ends
        assert datetime.timedelta() <= late < datetime.timedelta(seconds=3)
        with pytest.raises(TlsError, match=r"user\.crt, or the authority that signed it, has expired"):
            server.connect("user")
        admin.stop(job.id)


def test_what_ended_keeps_a_server_from_starting(certs: Path) -> None:
    long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    server = issue(
        authority(), "server", purpose="server", san=["localhost"], key=key("server"), not_before=long_ago
    )
    save(certs, server=server)
    refused = Program(bare())("serve", "--listen", "127.0.0.1:0", "--certs", str(certs))
    assert refused.code == Exit.TLS
    assert f"{certs}/server.crt ended on 2020-12-31: renew it with" in refused.sentence
