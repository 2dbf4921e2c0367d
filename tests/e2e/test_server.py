"""The server as operators see it: how it ends, reloads, and stands strangers (BEHAVIOURS 3, 4, 17-20)."""

import os
import signal
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from certs.authority import issue
from certs.contexts import ALPN_HTTP, ALPN_NATIVE, client_context
from client.blocking import Client
from tests.e2e.test_output import collect
from tests.harness import PATIENCE, Server, at_rest, children, eventually, join, serve
from tests.tlshelp import authority, doubled_role, key, make_directory, save
from wire.errors import RequestError
from wire.jobs import CauseKind
from wire.messages import STDOUT


def raw(server: Server, alpn: str = ALPN_NATIVE) -> ssl.SSLSocket:
    """A TLS connection as admin, with nothing above it."""
    tcp = socket.create_connection(("127.0.0.1", server.port), 10)
    return client_context(server.certs, "admin", alpn=alpn).wrap_socket(tcp, server_hostname="127.0.0.1")


def frame(value: object) -> bytes:
    payload: bytes = msgpack.packb(value)
    return struct.pack(">I", len(payload)) + payload


def read_frame(sock: ssl.SSLSocket) -> dict[str, object]:
    """The next frame's map; EOFError at the end."""

    def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = sock.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    value: dict[str, object] = msgpack.unpackb(exactly(int.from_bytes(exactly(4), "big")))
    return value


def _common_name(sock: ssl.SSLSocket) -> object:
    der = sock.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value


def descriptors(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))  # noqa: PTH208  # a count is all we want


def test_an_orderly_end_gives_every_byte_and_the_status(shared_certificates: Path) -> None:
    """SIGTERM: the job gets TERM, its last words reach the follower, the final status too; nothing left."""
    script = "trap 'echo last words; exit 5' TERM; echo ready; while :; do sleep 0.01; done"
    with serve(shared_certificates) as running, running.connect() as client:
        job = client.start(["sh", "-c", script])
        spawner = running.spawner_pid
        with client.stream(job.id) as stream:
            pieces = iter(stream)
            assert next(pieces).data == b"ready\n"
            running.process.send_signal(signal.SIGTERM)
            assert b"".join(piece.data for piece in pieces if piece.stream == STDOUT) == b"last words\n"
            assert stream.job.exit_code == 5
            assert stream.job.cause is not None
            assert (stream.job.cause.kind, stream.job.cause.by) == (CauseKind.STOPPED, "server")
        assert running.end() == 0
        assert not Path(f"/proc/{spawner}").exists()
        assert not running.cgroups()


def test_a_second_sigterm_cuts_the_grace_short(shared_certificates: Path) -> None:
    with serve(shared_certificates, "--grace", "600") as running, running.connect() as client:
        job = client.start(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done"])
        with client.stream(job.id) as stream:
            next(iter(stream))
            running.process.send_signal(signal.SIGTERM)
            running.logged("ending")
            with pytest.raises(RequestError, match="shutting down"):
                client.start(["true"])
            running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(PATIENCE) == 0


def test_hup_takes_new_certificates_and_keeps_streams(tmp_path: Path) -> None:
    certs = make_directory(tmp_path / "certs")
    with serve(certs) as running, running.connect() as client:
        job = client.start(
            ["sh", "-c", "echo one; while [ ! -e go ]; do sleep 0.01; done; echo two"], cwd=tmp_path
        )
        with client.stream(job.id) as stream:
            pieces = iter(stream)
            assert next(pieces).data == b"one\n"
            (certs / "server.crt").write_text("garbage")
            running.process.send_signal(signal.SIGHUP)
            running.logged("certificates were not reloaded; the old ones stay")
            old = raw(running)
            new_server = issue(authority(), "renewed", purpose="server", san=["127.0.0.1"], key=key("server"))
            save(certs, server=new_server)
            running.process.send_signal(signal.SIGHUP)
            running.logged("certificates were reloaded")
            new = raw(running)
            names = [_common_name(sock) for sock in (old, new)]
            assert names == ["server", "renewed"]
            old.close()
            new.close()
            (tmp_path / "go").touch()
            assert b"".join(piece.data for piece in pieces) == b"two\n"


HOSTILE = [
    struct.pack(">I", 2**32 - 1) + b"x" * 1000,
    struct.pack(">I", 0),
    frame([1, 2, 3]),
    frame({"type": "request", "id": 0, "method": "list"}),
    frame({"type": "request", "id": "one", "method": "list"}),
    2 * frame({"type": "hello"}),
    frame({"type": "nonsense"}),
    frame({1: 2}),
    b"\0\0\0\x64" + b"\x91" * 100,
    b"\0\0\0\x05\xc1\xc1\xc1\xc1\xc1",
    b"\0\0\0\x03\x81\xa4t",
]


@pytest.fixture(scope="module")
def hostiles(server: Server) -> Iterator[dict[bytes, ssl.SSLSocket]]:
    """Connections that have sent HOSTILE, all at once: the server gives each time to take its last word."""
    with ExitStack() as stack:
        socks = {hostile: stack.enter_context(raw(server)) for hostile in HOSTILE}
        for hostile, sock in socks.items():
            assert read_frame(sock)["type"] == "hello"
            sock.sendall(hostile)
        yield socks


@pytest.mark.parametrize("hostile", HOSTILE)
def test_garbage_ends_that_connection_and_no_other(
    hostiles: dict[bytes, ssl.SSLSocket], admin: Client, hostile: bytes
) -> None:
    last = read_frame(hostiles[hostile])
    assert (last["type"], last["id"], last["code"]) == ("error", 0, "protocol")
    with pytest.raises(EOFError):
        read_frame(hostiles[hostile])
    assert collect(admin, admin.start(["printf", "x"]).id)[STDOUT] == b"x"


def test_unknown_methods_and_fields(server: Server) -> None:
    with raw(server) as sock:
        read_frame(sock)
        sock.sendall(frame({"type": "request", "id": 7, "method": "reboot"}))
        assert read_frame(sock) | {"message": ""} == {
            "type": "error",
            "id": 7,
            "code": "unknown_method",
            "message": "",
        }
        for fields, name in (({"color": [[1]]}, "color"), ({"params": {"shape": {}}}, "shape")):
            sock.sendall(frame({"type": "request", "id": 7, "method": "list"} | fields))
            refused = read_frame(sock)
            assert (refused["id"], refused["code"], refused["field"]) == (7, "bad_request", name)
        sock.sendall(frame({"type": "request", "id": 7, "method": "list", "color": None}))
        assert read_frame(sock)["type"] == "reply"


def test_a_stalled_stream_holds_up_no_other_request(server: Server, admin: Client, tmp_path: Path) -> None:
    """A stream without credit on a connection, and one that is not read and goes on later."""
    data = os.urandom(30 * 2**20)
    (tmp_path / "data").write_bytes(data)
    job = admin.start(["cat", str(tmp_path / "data")])
    with raw(server) as stalled, server.connect() as unread, unread.stream(job.id) as slow:
        read_frame(stalled)
        stalled.sendall(frame({"type": "request", "id": 1, "method": "stream", "params": {"id": job.id}}))
        stalled.sendall(frame({"type": "request", "id": 2, "method": "query", "params": {"id": job.id}}))
        assert read_frame(stalled)["id"] == 2
        assert collect(admin, job.id)[STDOUT] == data
        stalled.sendall(frame({"type": "credit", "id": 1, "amount": 10}))
        first = read_frame(stalled)
        assert (first["id"], first["offset"], first["data"]) == (1, 0, data[:10])
        stalled.sendall(frame({"type": "cancel", "id": 1}))
        last = read_frame(stalled)
        assert (last["id"], last["code"]) == (1, "cancelled")
        assert b"".join(piece.data for piece in slow) == data


def test_clients_that_vanish_cost_nothing(server: Server, admin: Client) -> None:
    job = admin.start(["sleep", "600"])
    before = at_rest(lambda: descriptors(server))
    socks = [raw(server) for _ in range(20)]
    for sock in socks:
        read_frame(sock)
        sock.sendall(
            frame({"type": "request", "id": 1, "method": "stream", "credit": 9, "params": {"id": job.id}})
        )
    eventually(lambda: descriptors(server) == before + 20, "a descriptor for each")
    for sock in socks:  # a reset, as a crashed host's kernel sends it; and one that stays half open would not
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.socket(fileno=sock.detach()).close()
    eventually(lambda: descriptors(server) == before, "the server's descriptors back")
    admin.stop(job.id)


def test_dead_peers_are_probed_for(server: Server, admin: Client) -> None:
    """The kernel finds a host that is gone without a word: each accepted connection has its timer running."""

    def timers() -> list[str]:
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        # proc_net_tcp: local address, state 01 (established), and the kind of timer: 2 is keep-alive's.
        return [line[5][:2] for line in lines if line[1].endswith(f":{server.port:04X}") and line[3] == "01"]

    eventually(lambda: set(timers()) == {"02"}, "keep-alive on every connection")


def test_stalled_handshakes_hold_up_nobody(shared_certificates: Path) -> None:
    with serve(shared_certificates, "--handshake-timeout", "3") as server:
        before = at_rest(lambda: descriptors(server))
        with ExitStack() as stack:
            silent = [
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(100)
            ]
            eventually(lambda: descriptors(server) >= before + 100, "the stalled connections accepted")
            with server.connect() as client:
                assert client.hello.role == "Admin"
            silent[0].settimeout(15)
            assert silent[0].recv(100) == b""  # the server gives up on it
            eventually(lambda: descriptors(server) == before, "the server's descriptors back")


def openssl(server: Server, *flags: str) -> str:
    """What `openssl s_client` says of a handshake, until the server closes."""
    command = [
        "openssl",
        "s_client",
        "-connect",
        server.address,
        "-CAfile",
        str(server.certs / "ca.crt"),
        *flags,
    ]
    # Its input stays open and silent: at its end it would leave before the server has spoken.
    silence, end = os.pipe()
    try:
        done = subprocess.run(
            command, stdin=silence, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    finally:
        os.close(silence)
        os.close(end)
    return done.stdout + done.stderr


def test_strangers_get_a_tls_alert_that_says_why(shared_certificates: Path, tmp_path: Path) -> None:
    foreign = make_directory(tmp_path / "foreign")
    save(foreign, admin=issue(authority("another CA"), "admin", key=key("admin")))

    def as_(folder: Path) -> list[str]:
        return ["-cert", str(folder / "admin.crt"), "-key", str(folder / "admin.key")]

    with serve(shared_certificates) as server:  # one to which nobody else is a stranger
        assert "alert certificate required" in openssl(server)
        assert "alert protocol version" in openssl(server, "-tls1_2", *as_(server.certs))
        assert "alert unknown ca" in openssl(server, *as_(foreign))
        eventually(lambda: server.logged("a TLS handshake was refused", 3), "the refusals in the log")


@pytest.mark.parametrize("scheme", ["", "wss://"])
def test_a_certificate_without_exactly_one_role_is_denied(
    server: Server, tmp_path: Path, scheme: str
) -> None:
    certs = make_directory(tmp_path / "certs")
    for credential in (issue(authority(), "nobody", key=key("admin")), doubled_role()):
        save(certs, admin=credential)
        server_there = Server.__new__(Server)
        server_there.certs, server_there.address = certs, server.address
        with pytest.raises(RequestError, match=r"role|more than once"):
            server_there.connect(scheme=scheme)


def test_no_zombie_is_left_by_orphans(server: Server, admin: Client) -> None:
    for _ in range(20):
        admin.wait(admin.start(["sh", "-c", "(sh -c 'exit 3' &) ; (true &)"]).id)
    eventually(lambda: children(server.spawner_pid) == [], "every orphan reaped")


def http(server: Server, request: str) -> str:
    with raw(server, ALPN_HTTP) as sock:
        sock.sendall(request.replace("\n", "\r\n").encode())
        data = b""
        while more := sock.recv(65536):
            data += more
            if b"\r\n\r\n" in data and b"101" not in data[:20]:
                break
        return data.decode("latin-1")


UPGRADE = """GET / HTTP/1.1
Host: 127.0.0.1
Upgrade: websocket
Connection: Upgrade
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==
Sec-WebSocket-Version: 13
"""


def test_http_that_is_not_our_websocket_is_refused(server: Server, admin: Client) -> None:
    assert http(server, UPGRADE + "\n").startswith("HTTP/1.1 400")
    ours = UPGRADE + "Sec-WebSocket-Protocol: worker.v1.msgpack\n"
    assert http(server, ours + "Origin: https://evil.example\n\n").startswith("HTTP/1.1 403")
    assert " 4" in http(server, "GET / HTTP/1.1\nHost: 127.0.0.1\n\n")[:14]
    assert admin.wait(admin.start(["true"]).id).exit_code == 0


def test_many_requests_at_once_on_one_connection(server: Server, admin: Client) -> None:
    """More than the bound: the surplus is told so, the others are served, and the connection goes on."""
    job = admin.start(["sleep", "600"])
    with raw(server) as sock:
        most = int(str(read_frame(sock)["max_requests"]))
        wait = {"type": "request", "method": "wait", "params": {"id": job.id}}
        for number in range(1, most + 2):
            sock.sendall(frame(wait | {"id": number}))
        busy = read_frame(sock)
        assert (busy["id"], busy["code"]) == (most + 1, "busy")
        stopper = threading.Thread(target=admin.stop, args=(job.id,))
        stopper.start()
        assert sorted(int(str(read_frame(sock)["id"])) for _ in range(most)) == list(range(1, most + 1))
        join(stopper)
