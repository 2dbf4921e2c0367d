"""Whoever cannot be served reads why, in a sentence, with either client (BEHAVIOURS 17, 19)."""

import datetime
import socket
from pathlib import Path

import pytest

from certs.authority import issue
from certs.contexts import ALPN_HTTP, ALPN_NATIVE
from certs.errors import ContextError
from certs.roles import Role
from client import blocking_exchange, transport, trio_exchange, trio_transport
from client.errors import (
    AddressError,
    CertificatesError,
    ConnectError,
    CutError,
    TlsError,
    WorkerServiceError,
)
from tests.client.either import KINDS, SCHEMES, connected
from tests.client.fake import HELLO
from tests.client.tls_peer import old_client_context, old_peer_context, peer
from tests.harness import Server
from tests.tlshelp import authority, doubled_role, key, make_directory, save
from wire.connection import Connection
from wire.connection import Role as End
from wire.errors import ErrorCode, RemoteProtocolError, RequestError
from wire.frames import HEADER_BYTES
from wire.messages import Pong

pytestmark = pytest.mark.parametrize("kind", KINDS)
every_scheme = pytest.mark.parametrize("scheme", SCHEMES)
HELLO_BYTES = Connection(End.SERVER).send(HELLO)


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    """Certificates of the same authority as the server's, for the test to spoil."""
    return make_directory(tmp_path / "certs")


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that give up soon."""
    for module in (transport, trio_transport, trio_exchange):
        monkeypatch.setattr(module, "CONNECT_SECONDS", 0.2)
    for module in (blocking_exchange, trio_exchange):
        monkeypatch.setattr(module, "PING_SECONDS", 0.1)


async def fail(kind: str, address: str, certs: Path) -> Exception:
    """Connect, which must fail; return how."""
    with pytest.raises(WorkerServiceError) as caught:
        async with connected(kind, address, certs):
            pytest.fail("it connected")
    return caught.value


async def refused(kind: str, address: str, certs: Path, kind_of_error: type[Exception]) -> str:
    error = await fail(kind, address, certs)
    assert type(error) is kind_of_error, repr(error)
    sentence = str(error)
    assert sentence.endswith(".")
    assert sentence[0].isupper() or sentence[0].isdigit()
    assert "\n" not in sentence
    return sentence


@every_scheme
async def test_nobody_listens(kind: str, scheme: str, certs: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    sentence = await refused(kind, scheme + address, certs, ConnectError)
    assert sentence == (
        f"Cannot reach the server at {address} (Connection refused): check --server, and that it runs."
    )


@every_scheme
@pytest.mark.parametrize("host", ["a..b", "x" * 70])
async def test_a_host_that_no_name_can_be(kind: str, scheme: str, host: str, certs: Path) -> None:
    assert host in await refused(kind, f"{scheme}{host}:8443", certs, ConnectError)


async def test_an_address_that_is_none(kind: str, certs: Path) -> None:
    assert "nowhere:8443" in str(await fail(kind, "nowhere", certs))
    assert type(await fail(kind, "nowhere", certs)) is AddressError


async def test_an_identity_without_files(kind: str, tmp_path: Path) -> None:
    error = await fail(kind, "127.0.0.1:1", tmp_path)
    assert type(error) is CertificatesError
    assert isinstance(error, ContextError)


@every_scheme
async def test_a_certificate_of_a_foreign_authority(
    kind: str, scheme: str, server: Server, certs: Path
) -> None:
    save(certs, admin=issue(authority("foreign"), "admin", role=Role.ADMIN, key=key("admin")))
    sentence = await refused(kind, scheme + server.address, certs, TlsError)
    assert "does not trust the authority that signed admin.crt" in sentence


@every_scheme
async def test_an_expired_certificate(kind: str, scheme: str, server: Server, certs: Path) -> None:
    long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    save(certs, admin=issue(authority(), "admin", role=Role.ADMIN, key=key("admin"), not_before=long_ago))
    assert "has expired" in await refused(kind, scheme + server.address, certs, TlsError)


@every_scheme
async def test_a_server_of_a_foreign_authority(kind: str, scheme: str, server: Server, certs: Path) -> None:
    save(certs, ca=authority("foreign"))
    assert "is not trusted" in await refused(kind, scheme + server.address, certs, TlsError)


@every_scheme
@pytest.mark.parametrize("which", ["none", "both"])
async def test_a_certificate_without_one_role(
    kind: str, scheme: str, which: str, server: Server, certs: Path
) -> None:
    save(certs, admin=issue(authority(), "admin", key=key("admin")) if which == "none" else doubled_role())
    error = await fail(kind, scheme + server.address, certs)
    assert isinstance(error, RequestError)
    assert error.code is ErrorCode.DENIED
    assert error.message.endswith(".")


@every_scheme
async def test_a_client_of_tls_1_2(
    kind: str, scheme: str, server: Server, certs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        transport, "client_context", lambda certs, identity, **named: old_client_context(certs, identity)
    )
    assert "TLS 1.3" in await refused(kind, scheme + server.address, certs, TlsError)


@every_scheme
async def test_a_server_of_tls_1_2(kind: str, scheme: str, certs: Path) -> None:
    def shake_hands(tcp: socket.socket) -> None:
        old_peer_context(certs).wrap_socket(tcp, server_side=True)

    with peer(shake_hands) as address:
        assert "TLS 1.3" in await refused(kind, scheme + address, certs, TlsError)


@every_scheme
async def test_a_server_without_tls(kind: str, scheme: str, certs: Path) -> None:
    with peer(lambda tcp: tcp.sendall(b"220 mail.example ESMTP\r\n")) as address:
        assert "does not answer in TLS" in await refused(kind, scheme + address, certs, TlsError)


@every_scheme
async def test_a_server_that_hangs_up(kind: str, scheme: str, certs: Path) -> None:
    with peer(lambda tcp: None) as address:
        assert "cut the connection" in await refused(kind, scheme + address, certs, TlsError)


@every_scheme
async def test_a_server_that_hangs_up_after_the_handshake(kind: str, scheme: str, certs: Path) -> None:
    alpn = ALPN_HTTP if scheme else ALPN_NATIVE
    with peer(lambda tls: None, certs, alpn=alpn) as address:
        assert "cut the connection" in await refused(kind, scheme + address, certs, TlsError)


@every_scheme
@pytest.mark.usefixtures("impatience")
async def test_a_server_that_does_not_shake_hands(kind: str, scheme: str, certs: Path) -> None:
    with peer(lambda tcp: drain(tcp)) as address:
        assert "timed out" in await refused(kind, scheme + address, certs, TlsError)


@pytest.mark.usefixtures("impatience")
async def test_a_server_without_a_hello(kind: str, certs: Path) -> None:
    with peer(lambda tls: drain(tls), certs) as address:
        assert "answer" in await refused(kind, address, certs, CutError)


@pytest.mark.usefixtures("impatience")
async def test_a_server_that_does_not_answer_http(kind: str, certs: Path) -> None:
    with peer(lambda tls: drain(tls), certs, alpn=ALPN_HTTP) as address:
        assert "timed out" in await refused(kind, f"wss://{address}", certs, TlsError)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "HTTP status 404"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n", "HTTP status 403"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "HTTP status 200"),
        (b"\0\1\2 what is this\r\n\r\n", "does not answer as a WebSocket"),
        (
            b"HTTP/1.1 101 Hm\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            "not answer as a WebSocket",
        ),
    ],
)
async def test_a_web_server_of_another_kind(kind: str, said: bytes, reason: str, certs: Path) -> None:
    def answer(tls: socket.socket) -> None:
        tls.recv(65536)
        tls.sendall(said)
        drain(tls)

    with peer(answer, certs, alpn=ALPN_HTTP) as address:
        sentence = await refused(kind, f"wss://{address}", certs, ConnectError)
        assert reason in sentence
        assert address in sentence


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\x01\xc1", bytes(4)])
async def test_a_server_of_another_protocol(kind: str, said: bytes, certs: Path) -> None:
    def answer(tls: socket.socket) -> None:
        tls.sendall(said)
        drain(tls)

    with peer(answer, certs) as address:
        assert type(await fail(kind, address, certs)) is RemoteProtocolError


async def test_a_cut_in_the_middle_of_a_frame(kind: str, certs: Path) -> None:
    """Nobody broke the protocol there: the connection was cut, as it is when a server is killed."""

    def cut(tls: socket.socket) -> None:
        tls.sendall(HELLO_BYTES)
        tls.recv(65536)
        tls.sendall(Connection(End.SERVER).send(HELLO)[: HEADER_BYTES + 1])

    with peer(cut, certs) as address:
        async with connected(kind, address, certs, patience=0) as client:
            with pytest.raises(CutError):
                await client.query("x")


async def test_what_may_not_follow_the_hello(kind: str, certs: Path) -> None:
    def answer(tls: socket.socket) -> None:
        end = Connection(End.SERVER)
        tls.sendall(end.send(HELLO) + end.send(Pong(7)))
        tls.recv(65536)
        tls.sendall(HELLO_BYTES)
        drain(tls)

    with peer(answer, certs) as address:
        async with connected(kind, address, certs) as client:
            with pytest.raises(RemoteProtocolError):
                await client.query("x")
            with pytest.raises((CutError, RemoteProtocolError)):
                await client.query("x")


def drain(connection: socket.socket) -> None:
    """Read until the client has gone."""
    while connection.recv(65536):
        pass
