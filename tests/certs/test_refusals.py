"""Owns the proof that what really goes wrong between two ends becomes a sentence that says what to do."""

import datetime
import errno
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from certs.authority import issue, make_ca
from certs.contexts import client_context, server_context
from certs.refusals import plain, refusal
from certs.roles import Role
from tests.tlshelp import authority, handshake, key, make_directory, save

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
FAR_AHEAD = datetime.datetime(2200, 1, 1, tzinfo=datetime.UTC)


def sentence(error: BaseException | None, server: str = "build7:8443") -> str:
    assert error is not None
    text = refusal(error, identity="admin", server=server)
    assert server in text
    assert text.endswith(".")
    assert "\n" not in text
    assert "{" not in text
    return text


def foreign(directory: Path) -> None:
    save(directory, admin=issue(authority("another CA"), "admin", role=Role.ADMIN, key=key("admin")))


def foreign_namesake(directory: Path) -> None:
    ca = make_ca(key=key("namesake"))
    save(directory, admin=issue(ca, "admin", role=Role.ADMIN, key=key("admin")))


def expired(directory: Path) -> None:
    save(directory, admin=issue(authority(), "admin", role=Role.ADMIN, key=key("admin"), not_before=LONG_AGO))


def early(directory: Path) -> None:
    save(
        directory, admin=issue(authority(), "admin", role=Role.ADMIN, key=key("admin"), not_before=FAR_AHEAD)
    )


def for_servers(directory: Path) -> None:
    save(directory, admin=issue(authority(), "admin", purpose="server", key=key("admin")))


@pytest.mark.parametrize(
    ("spoil", "reason", "text"),
    [
        (foreign, "TLSV1_ALERT_UNKNOWN_CA", "does not trust the authority that signed admin.crt"),
        (foreign_namesake, "TLSV1_ALERT_UNKNOWN_CA", "does not trust the authority that signed admin.crt"),
        (
            expired,
            "SSLV3_ALERT_CERTIFICATE_EXPIRED",
            "admin.crt, or the authority that signed it, has expired",
        ),
        (early, "SSLV3_ALERT_BAD_CERTIFICATE", "malformed or not yet valid: check both clocks"),
        (for_servers, "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE", "admin.crt is not meant for clients"),
    ],
)
def test_the_server_refuses_the_client(
    certificates: Path, spoil: Callable[[Path], None], reason: str, text: str
) -> None:
    spoil(certificates)
    here, there = handshake(server_context(certificates), client_context(certificates, "admin"))
    assert not here.done
    # In TLS 1.3 the client is done before the server has judged it: the alert comes with the first read.
    assert there.done
    assert there.error is not None
    assert there.error.reason == reason
    assert text in sentence(there.error)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ssl.SSLError(1, "[SSL: HTTP_REQUEST] http request (_ssl.c:1006)"), "http request"),
        (ssl.SSLError(1, "[SSL] something new (_ssl.c:1)"), "something new"),
        (
            ssl.SSLError(1, "[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca (_ssl.c:1006)"),
            "the other side says: unknown ca",
        ),
        (
            ssl.SSLEOFError(8, "EOF occurred in violation of protocol (_ssl.c:2580)"),
            "EOF occurred in violation of protocol",
        ),
        (ssl.SSLError("it took too many steps"), "it took too many steps"),
        (OSError(104, "Connection reset by peer"), "Connection reset by peer"),
        (OSError("as it is"), "as it is"),
        (trio.BrokenResourceError(), ""),
    ],
)
def test_what_an_error_says(error: BaseException, words: str) -> None:
    assert plain(error) == words


def test_the_client_does_not_trust_the_server(certificates: Path, tmp_path: Path) -> None:
    other = make_directory(tmp_path / "other")
    ca = authority("another CA")
    save(other, server=issue(ca, "server", purpose="server", san=["localhost"], key=key("server")))
    here, there = handshake(server_context(other), client_context(certificates, "admin"))
    assert isinstance(there.error, ssl.SSLCertVerificationError)
    assert "our ca.crt did not sign its certificate" in sentence(there.error)
    assert here.error is not None
    assert here.error.reason == "TLSV1_ALERT_UNKNOWN_CA"


@pytest.mark.parametrize(
    ("server", "host"),
    [("build7:8443", "build7"), ("192.0.2.7:8443", "192.0.2.7"), ("[2001:db8::7]:8443", "2001:db8::7")],
)
def test_the_servers_certificate_holds_other_names(shared_certificates: Path, server: str, host: str) -> None:
    contexts = server_context(shared_certificates), client_context(shared_certificates, "admin")
    _, there = handshake(*contexts, hostname=host)
    assert isinstance(there.error, ssl.SSLCertVerificationError)
    text = sentence(there.error, server)
    assert f"`worker-service certs issue server --role server --san NAMES,{host} --force`" in text


@pytest.mark.parametrize(("start", "text"), [(LONG_AGO, "has expired"), (FAR_AHEAD, "not valid yet")])
def test_the_servers_certificate_is_out_of_date(
    certificates: Path, start: datetime.datetime, text: str
) -> None:
    server = issue(
        authority(), "server", purpose="server", san=["localhost"], key=key("server"), not_before=start
    )
    save(certificates, server=server)
    _, there = handshake(server_context(certificates), client_context(certificates, "admin"))
    assert text in sentence(there.error)


def test_a_clients_certificate_posing_as_a_server(certificates: Path) -> None:
    save(certificates, server=issue(authority(), "server", san=["localhost"], key=key("server")))
    _, there = handshake(server_context(certificates), client_context(certificates, "admin"))
    text = sentence(there.error)
    assert "is not trusted (un" in text  # "unsupported", later "unsuitable", certificate purpose
    assert "issued again" in text


def test_no_common_version(shared_certificates: Path) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old.load_cert_chain(shared_certificates / "server.crt", shared_certificates / "server.key")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    _, there = handshake(old, client_context(shared_certificates, "admin"))
    assert "do not both speak TLS 1.3" in sentence(there.error)


def answered(directory: Path, answer: bytes) -> ssl.SSLError:
    """What a client's handshake raises when ``answer``, then end of file, is all that comes back."""
    incoming = ssl.MemoryBIO()
    tls = client_context(directory, "admin").wrap_bio(incoming, ssl.MemoryBIO(), server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    incoming.write(answer)
    incoming.write_eof()
    with pytest.raises(ssl.SSLError) as caught:
        tls.do_handshake()
    return caught.value


@pytest.mark.parametrize(
    ("code", "text"),  # RFC 8446, section 6
    [
        (40, "share no way"),
        (42, "malformed or not yet valid"),
        (43, "not meant for clients"),
        (44, "revoked"),
        (45, "has expired"),
        (46, "does not accept admin.crt"),
        (48, "does not trust the authority"),
        (49, "denies access"),
        (51, "finds a signature made for admin.crt wrong"),
        (70, "do not both speak TLS 1.3"),
        (80, "failed (internal error)"),
        (115, "failed (unknown psk identity)"),
        (116, "got none: name one with --identity"),
        (120, "does not speak our protocol"),
    ],
)
def test_every_alert_has_a_sentence(shared_certificates: Path, code: int, text: str) -> None:
    error = answered(shared_certificates, bytes([21, 3, 3, 0, 2, 2, code]))
    assert text in sentence(error)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"\0\0\0\x10" + b"x" * 16]
)
def test_the_server_does_not_speak_tls(shared_certificates: Path, answer: bytes) -> None:
    assert "does not answer in TLS" in sentence(answered(shared_certificates, answer))


def test_the_server_hangs_up(shared_certificates: Path) -> None:
    assert "without saying why" in sentence(answered(shared_certificates, b""))
    assert "without saying why" in sentence(
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
    )


def test_the_cause_of_a_trio_error_is_what_counts(shared_certificates: Path) -> None:
    error = trio.BrokenResourceError()
    error.__cause__ = answered(shared_certificates, bytes([21, 3, 3, 0, 2, 2, 44]))
    assert "revoked" in sentence(error)


def test_anything_else_is_told_as_it_is() -> None:
    assert "(No route to host)" in sentence(OSError(errno.EHOSTUNREACH, "No route to host"))
    assert "(odd)" in sentence(ValueError("odd"))
    assert "(BrokenResourceError)" in sentence(trio.BrokenResourceError())
    assert "something new" in sentence(ssl.SSLError(1, "[SSL] something new (_ssl.c:1006)"))
