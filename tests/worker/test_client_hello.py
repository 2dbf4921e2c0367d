"""What a ClientHello asks for, whatever it holds; and who speaks none of our protocols is told so."""

import socket
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.contexts import ALPN_HTTP, ALPN_NATIVE, client_context
from tests.harness import PATIENCE, Server
from worker.client_hello import protocols


def hello(*asked: str) -> bytes:
    """What OpenSSL says first that asks for these protocols."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if asked:
        context.set_alpn_protocols(list(asked))
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="builder.example")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def in_records(message: bytes, size: int) -> bytes:
    """A handshake message in records of so many bytes, with one of another type between them."""
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return bytes((20, 3, 3, 0, 1, 1)).join(
        bytes((22, 3, 1)) + len(piece).to_bytes(2, "big") + piece for piece in pieces
    )


@pytest.mark.parametrize("asked", [(), ("h2",), (ALPN_NATIVE,), ("h2", ALPN_HTTP), ("x" * 255,) * 20])
def test_what_a_client_asks_for_is_found(asked: tuple[str, ...]) -> None:
    told = hello(*asked)
    names = tuple(name.encode() for name in asked)
    assert protocols(told) == names
    assert protocols(in_records(told[5:], 100)) == names
    assert protocols(told + b"more, that is no record") == ()


def test_what_is_not_whole_asks_for_nothing() -> None:
    told = hello("h2")
    assert {protocols(told[:size]) for size in range(len(told))} == {()}


@given(st.binary(max_size=300))
def test_bytes_that_make_no_sense_ask_for_nothing(data: bytes) -> None:
    protocols(data)
    assert isinstance(protocols(in_records(b"\x01\x00\x00" + data[:1] + data, 50)), tuple)


@given(st.integers(0), st.binary(min_size=1, max_size=3))
def test_a_hello_with_bytes_altered_raises_nothing(position: int, patch: bytes) -> None:
    told = bytearray(hello("h2"))
    at = position % len(told)
    told[at : at + len(patch)] = patch
    assert isinstance(protocols(bytes(told)), tuple)


def connected(server: Server, *asked: str) -> ssl.SSLSocket:
    context = client_context(server.certs, "admin")
    context.set_alpn_protocols(list(asked))
    tcp = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    return context.wrap_socket(tcp, server_hostname="127.0.0.1")


@pytest.mark.parametrize("asked", [("h2",), ("worker.v2", "http/1.0")])
def test_who_speaks_none_of_our_protocols_is_told_so(server: Server, asked: tuple[str, ...]) -> None:
    with pytest.raises(ssl.SSLError, match="alert no application protocol"):
        connected(server, *asked)


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [((), None), (("h2", ALPN_HTTP), ALPN_HTTP), (("worker.v2", ALPN_NATIVE), ALPN_NATIVE)],
)
def test_who_speaks_one_of_them_or_says_nothing_comes_in(
    server: Server, asked: tuple[str, ...], chosen: str | None
) -> None:
    with connected(server, *asked) as tls:
        assert tls.selected_alpn_protocol() == chosen
