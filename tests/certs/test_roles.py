"""Owns the proof that exactly one well-formed role is accepted, and nothing else."""

import contextlib
import functools
import warnings

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from certs.authority import Credential, issue
from certs.errors import CertsError
from certs.roles import DEFAULT_ARC, MAX_NAME_BYTES, Identity, Role, RoleError, identity_of, role_of
from tests.forged import PADDED_OID, REFUSED, VALUE, tlv, with_extensions
from tests.tlshelp import authority, der, doubled_role, forge, key

ADMIN, USER, UNKNOWN = (f"{DEFAULT_ARC}.{leaf}" for leaf in (1, 2, 3))
SAYS_ADMIN, SAYS_USER = b"\x0c\x05Admin", b"\x0c\x04User"


def certificate(*extensions: tuple[str, bytes]) -> bytes:
    return der(issue(authority(), "someone", extensions=extensions, key=key("someone")))


@functools.cache
def whole() -> bytes:
    return certificate((USER, SAYS_USER))


@pytest.mark.parametrize("role", Role)
def test_a_role_is_read(role: Role) -> None:
    assert role_of(der(issue(authority(), "someone", role=role, key=key("someone")))) is role


@pytest.mark.parametrize(
    ("extension", "role"), [((ADMIN, SAYS_ADMIN), Role.ADMIN), ((USER, SAYS_USER), Role.USER)]
)
def test_a_role_is_these_very_bytes(extension: tuple[str, bytes], role: Role) -> None:
    assert role_of(certificate(extension)) is role


@pytest.mark.parametrize(
    ("extensions", "reason"),
    [
        pytest.param([], "no role", id="absent"),
        pytest.param([("1.3.6.1.4.1.12345.2.1", SAYS_ADMIN)], "no role", id="another arc"),
        pytest.param([(f"{ADMIN}.1", SAYS_ADMIN)], "unknown role", id="below the role"),
        pytest.param([(ADMIN, SAYS_ADMIN), (f"{ADMIN}.1", b"")], "more than one role", id="one and below it"),
        pytest.param([("1.3.6.1.4.1.12345.11", SAYS_ADMIN)], "no role", id="arc with a similar prefix"),
        pytest.param([(UNKNOWN, SAYS_ADMIN)], "unknown role", id="unknown"),
        pytest.param([(ADMIN, SAYS_ADMIN), (USER, SAYS_USER)], "more than one role", id="both"),
        pytest.param([(ADMIN, SAYS_ADMIN), (UNKNOWN, SAYS_USER)], "more than one role", id="one and unknown"),
        pytest.param([(ADMIN, b""), (USER, SAYS_USER)], "more than one role", id="one and an empty one"),
        pytest.param([(ADMIN, SAYS_USER)], "one valid value", id="Admin's OID says User"),
        pytest.param([(USER, SAYS_ADMIN)], "one valid value", id="User's OID says Admin"),
        pytest.param([(ADMIN, b"")], "one valid value", id="empty"),
        pytest.param([(ADMIN, b"\x0c\x00")], "one valid value", id="empty string"),
        pytest.param([(ADMIN, b"Admin")], "one valid value", id="bare text"),
        pytest.param([(ADMIN, b"\x13\x05Admin")], "one valid value", id="PrintableString"),
        pytest.param([(ADMIN, b"\x16\x05Admin")], "one valid value", id="IA5String"),
        pytest.param([(ADMIN, b"\x04\x05Admin")], "one valid value", id="OCTET STRING"),
        pytest.param([(ADMIN, b"\x1e\x0a\0A\0d\0m\0i\0n")], "one valid value", id="BMPString"),
        pytest.param([(ADMIN, b"\x30\x07\x0c\x05Admin")], "one valid value", id="in a SEQUENCE"),
        pytest.param([(ADMIN, b"\x0c\x81\x05Admin")], "one valid value", id="long form of the length"),
        pytest.param([(ADMIN, SAYS_ADMIN + b"\0")], "one valid value", id="trailing byte"),
        pytest.param([(ADMIN, SAYS_ADMIN * 2)], "one valid value", id="twice in one extension"),
        pytest.param([(ADMIN, b"\x0c\x06Admin\0")], "one valid value", id="NUL"),
        pytest.param([(ADMIN, b"\x0c\x05admin")], "one valid value", id="lower case"),
        pytest.param([(ADMIN, b"\x0c\x06Admin ")], "one valid value", id="space"),
        pytest.param([(ADMIN, b"\x0c\x05Admi")], "one valid value", id="cut short"),
    ],
)
def test_anything_else_is_refused(extensions: list[tuple[str, bytes]], reason: str) -> None:
    with pytest.raises(RoleError, match=reason):
        role_of(certificate(*extensions))


def test_a_doubled_extension_is_refused() -> None:
    with pytest.raises(RoleError, match=f"{ADMIN} more than once"):
        role_of(der(doubled_role()))


def test_bytes_after_the_certificate_are_refused() -> None:
    with pytest.raises(RoleError, match="cannot be read"):
        role_of(certificate((ADMIN, SAYS_ADMIN)) + b"\0")


def test_another_extension_that_cannot_be_read_is_refused() -> None:
    credential = issue(authority(), "someone", role=Role.ADMIN, san=["someone"], key=key("someone"))
    # The name's tag becomes one that no GeneralName has.
    with pytest.raises(RoleError, match="cannot be read"):
        role_of(forge(credential, authority(), b"\x82\x07someone", b"\x8f\x07someone"))


def test_a_certificate_cut_anywhere_is_refused() -> None:
    for length in range(len(whole())):
        with pytest.raises(RoleError, match="cannot be read"):
            role_of(whole()[:length])


@given(st.binary())
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(RoleError, match="cannot be read"):
        role_of(garbage)


@given(position=st.integers(0), value=st.integers(0, 255))
def test_damage_never_raises_anything_else(position: int, value: int) -> None:
    damaged = bytearray(whole())
    damaged[position % len(damaged)] = value
    with contextlib.suppress(RoleError):
        assert role_of(bytes(damaged)) is Role.USER


def test_the_arc_is_the_operators() -> None:
    credential = issue(authority(), "someone", role=Role.ADMIN, arc="1.2.840.9", key=key("someone"))
    assert role_of(der(credential), "1.2.840.9") is Role.ADMIN
    with pytest.raises(RoleError, match="no role"):
        role_of(der(credential))


@pytest.mark.parametrize("arc", ["", "x", "1..2", "1.2.", "9.9", "1.-2", "1.2\n"])
def test_a_malformed_arc_is_the_operators_mistake_not_the_clients(arc: str) -> None:
    with pytest.raises(CertsError, match="no object identifier") as caught:
        role_of(certificate((ADMIN, SAYS_ADMIN)), arc)
    assert not isinstance(caught.value, RoleError)


def test_a_servers_certificate_is_no_clients_whatever_its_role() -> None:
    server = issue(authority(), "server", purpose="server", role=Role.ADMIN, key=key("server"))
    with pytest.raises(RoleError, match="not marked for clients"):
        role_of(der(server))


def test_an_identity_has_a_name_and_a_serial() -> None:
    credential = issue(authority(), "ada", role=Role.USER, key=key("someone"))
    digits = f"{credential.certificate.serial_number:X}"
    serial = digits.zfill(len(digits) + len(digits) % 2)
    assert identity_of(der(credential)) == Identity("ada", serial, Role.USER)


def named(*attributes: x509.NameAttribute[str]) -> bytes:
    like = issue(authority(), "x", role=Role.USER, key=key("someone")).certificate
    builder = (
        x509.CertificateBuilder()
        .issuer_name(like.issuer)
        .subject_name(x509.Name(attributes))
        .public_key(like.public_key())
        .serial_number(0x0A0B)
        .not_valid_before(like.not_valid_before_utc)
        .not_valid_after(like.not_valid_after_utc)
    )
    for extension in like.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return der(Credential(builder.sign(authority().key, hashes.SHA256()), key("someone")))


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ([(NameOID.COMMON_NAME, "Zoë Ünal")], "Zoë Ünal"),
        ([(NameOID.COMMON_NAME, "eve\nroot \x1b[2J")], r"eve\nroot \x1b[2J"),
        ([(NameOID.COMMON_NAME, r"eve\nroot")], r"eve\\nroot"),
        ([(NameOID.COMMON_NAME, "general"), (NameOID.COMMON_NAME, "specific")], "specific"),
        ([(NameOID.ORGANIZATION_NAME, "Acme")], "O=Acme"),
        ([], ""),
    ],
)
def test_a_name_is_one_printable_line(attributes: list[tuple[x509.ObjectIdentifier, str]], name: str) -> None:
    identity = identity_of(named(*(x509.NameAttribute(oid, value) for oid, value in attributes)))
    assert identity == Identity(name, "0A0B", Role.USER)


def long_name(size: int) -> bytes:
    with warnings.catch_warnings(action="ignore"):  # X.520 allows 64, and OpenSSL does not look at that
        return named(x509.NameAttribute(NameOID.COMMON_NAME, "x" * size, _validate=False))


def test_a_name_that_is_too_long_for_every_reply_and_line_is_refused() -> None:
    assert identity_of(long_name(MAX_NAME_BYTES)).name == "x" * MAX_NAME_BYTES
    with pytest.raises(RoleError, match="has 60,000 bytes: ask for one with a name of 256") as caught:
        identity_of(long_name(60_000))
    assert caught.value.name == "x" * 64 + "…"
    assert caught.value.serial == "0A0B"


@pytest.mark.parametrize("forged", REFUSED)
def test_what_tls_lets_pass_is_refused_here(forged: str) -> None:
    """OpenSSL reads leniently what is no DER; whatever it makes of these, no role comes out."""
    by, build = REFUSED[forged]
    if by == "role":
        with pytest.raises(RoleError):
            role_of(build().der)


def test_a_number_that_is_padded_is_no_role() -> None:
    """OpenSSL cannot read it either, so no server ever gets that far."""
    with pytest.raises(RoleError):
        role_of(with_extensions(tlv(0x30, PADDED_OID + VALUE)).der)


def test_an_authoritys_certificate_is_no_clients_whatever_its_role() -> None:
    with pytest.raises(RoleError, match="an authority's"):
        role_of(REFUSED["an authority's"][1]().der)


def test_a_refusal_says_whose_certificate_it_was() -> None:
    for forged in ("no role", "doubled", "an authority's"):
        with pytest.raises(RoleError) as caught:
            identity_of(REFUSED[forged][1]().der)
        assert caught.value.name == "forged"
        assert caught.value.serial


def test_a_panic_of_the_parser_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Rust part raises what is no Exception; one client's certificate must not end the server."""

    class Panic(BaseException):
        pass

    def panic(data: bytes) -> x509.Certificate:
        raise Panic

    monkeypatch.setattr(x509, "load_der_x509_certificate", panic)
    with pytest.raises(RoleError, match="cannot be read"):
        role_of(b"")
