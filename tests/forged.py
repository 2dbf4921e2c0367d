"""Owns clients' certificates that must not be let in, each wrong in its own way, each validly signed.

What a careful library does not build (an extension twice, lengths that are no DER) is put together here from
the bytes of a good one.
"""

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.authority import Credential, issue
from certs.roles import DEFAULT_ARC, Role, role_extension
from tests.tlshelp import authority, der, key

ADMIN, USER, UNKNOWN = (f"{DEFAULT_ARC}.{leaf}" for leaf in (1, 2, 3))
SAYS_ADMIN, SAYS_USER = b"\x0c\x05Admin", b"\x0c\x04User"
#: The parts of Admin's extension as they stand in a certificate: its OID, and its value in an OCTET STRING.
OID = b"\x06\x09\x2b\x06\x01\x04\x01\xe0\x39\x01\x01"
PADDED_OID = b"\x06\x0a\x2b\x06\x01\x04\x01\xe0\x39\x01\x80\x01"
VALUE = b"\x04\x07" + SAYS_ADMIN
CRITICAL, NOT_CRITICAL = b"\x01\x01\xff", b"\x01\x01\x00"
LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True, slots=True)
class Forged:
    """A certificate as bytes, which no library need be able to read, and its key."""

    der: bytes
    key: rsa.RSAPrivateKey


def tlv(tag: int, content: bytes) -> bytes:
    """An ASN.1 value in DER (X.690, section 8.1)."""
    length = len(content)
    size = (length.bit_length() + 7) // 8
    head = bytes([length]) if length < 0x80 else bytes([0x80 | size]) + length.to_bytes(size, "big")
    return bytes([tag]) + head + content


def content(encoded: bytes) -> bytes:
    """What the first value holds."""
    size = encoded[1] & 0x7F if encoded[1] & 0x80 else 0
    length = int.from_bytes(encoded[2 : 2 + size], "big") if size else encoded[1]
    return encoded[2 + size : 2 + size + length]


def values(encoded: bytes) -> Iterator[bytes]:
    """The values that stand one behind the other."""
    while encoded:
        first = encoded[: len(encoded) if encoded[1] == 0x80 else len(tlv(encoded[0], content(encoded)))]
        yield first
        encoded = encoded[len(first) :]


def with_extensions(*added: bytes) -> Forged:
    """A client's certificate with more extensions, byte for byte."""
    good = issue(authority(), "forged", key=key("forged"))
    *fields, extensions = values(content(good.certificate.tbs_certificate_bytes))
    wrapped = tlv(0xA3, tlv(0x30, content(content(extensions)) + b"".join(added)))
    return _sign(tlv(0x30, b"".join(fields) + wrapped))


def _sign(signed: bytes) -> Forged:
    _, algorithm, _ = values(content(der(authority())))
    signature = authority().key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    return Forged(tlv(0x30, signed + algorithm + tlv(0x03, b"\0" + signature)), key("forged"))


def with_values(*extensions: tuple[str, bytes]) -> Forged:
    """A client's certificate with extensions of these contents."""
    return _whole(issue(authority(), "forged", extensions=extensions, key=key("forged")))


def _whole(credential: Credential) -> Forged:
    return Forged(der(credential), credential.key)


def _built(
    *extensions: tuple[x509.ExtensionType, bool],
    purposes: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.CLIENT_AUTH,),
    ca: bool = False,
    subject: str | None = None,
) -> Forged:
    like = issue(authority(), "forged", key=key("forged")).certificate
    name = [x509.NameAttribute(NameOID.COMMON_NAME, "forged")]
    if subject is not None:
        name.append(x509.NameAttribute(x509.ObjectIdentifier(subject), "Admin"))
    builder = (
        x509.CertificateBuilder()
        .issuer_name(like.issuer)
        .subject_name(x509.Name(name))
        .public_key(like.public_key())
        .serial_number(like.serial_number)
        .not_valid_before(like.not_valid_before_utc)
        .not_valid_after(like.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
    )
    for kind in (x509.KeyUsage, x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier):
        found = like.extensions.get_extension_for_class(kind)
        builder = builder.add_extension(found.value, found.critical)
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return _whole(Credential(builder.sign(authority().key, hashes.SHA256()), key("forged")))


_ROLE = (role_extension(Role.ADMIN), False)

#: What is refused, and who says so: "role" our own check, "tls" OpenSSL in the handshake.
REFUSED: dict[str, tuple[str, Callable[[], Forged]]] = {
    "no role": ("role", lambda: with_values()),
    "unknown role": ("role", lambda: with_values((UNKNOWN, SAYS_ADMIN))),
    "both roles": ("role", lambda: with_values((ADMIN, SAYS_ADMIN), (USER, SAYS_USER))),
    "a role and an unknown one": ("role", lambda: with_values((ADMIN, SAYS_ADMIN), (UNKNOWN, b""))),
    "a role and one below it": ("role", lambda: with_values((ADMIN, SAYS_ADMIN), (f"{ADMIN}.1", b""))),
    "doubled": ("role", lambda: with_extensions(*[tlv(0x30, OID + VALUE)] * 2)),
    "Admin's number, User's name": ("role", lambda: with_values((ADMIN, SAYS_USER))),
    "empty extension": ("role", lambda: with_values((ADMIN, b""))),
    "empty string": ("role", lambda: with_values((ADMIN, b"\x0c\x00"))),
    "trailing byte": ("role", lambda: with_values((ADMIN, SAYS_ADMIN + b"\0"))),
    "PrintableString": ("role", lambda: with_values((ADMIN, b"\x13\x05Admin"))),
    "IA5String": ("role", lambda: with_values((ADMIN, b"\x16\x05Admin"))),
    "BMPString": ("role", lambda: with_values((ADMIN, b"\x1e\x0a\0A\0d\0m\0i\0n"))),
    "OCTET STRING": ("role", lambda: with_values((ADMIN, b"\x04\x05Admin"))),
    "SEQUENCE": ("role", lambda: with_values((ADMIN, tlv(0x30, SAYS_ADMIN)))),
    "indefinite length": ("role", lambda: with_values((ADMIN, b"\x2c\x80" + SAYS_ADMIN + b"\0\0"))),
    "long form of the length": ("role", lambda: with_values((ADMIN, b"\x0c\x81\x05Admin"))),
    "large, 4 kB": ("role", lambda: with_values((ADMIN, tlv(0x0C, b"Admin" * 800)))),
    "huge, 60 kB": ("tls", lambda: with_values((ADMIN, tlv(0x0C, b"Admin" * 12_000)))),
    "huge, 200 kB": ("tls", lambda: with_values((ADMIN, tlv(0x0C, b"Admin" * 40_000)))),
    "critical": ("tls", lambda: with_extensions(tlv(0x30, OID + CRITICAL + VALUE))),
    "critical and empty": ("tls", lambda: with_extensions(tlv(0x30, OID + CRITICAL + b"\x04\x00"))),
    "critical, no DER": ("tls", lambda: with_extensions(tlv(0x30, OID + b"\x01\x01\x01" + VALUE))),
    "not critical, no DER": ("role", lambda: with_extensions(tlv(0x30, OID + NOT_CRITICAL + VALUE))),
    "extension's length, no DER": (
        "role",
        lambda: with_extensions(tlv(0x30, OID + b"\x04\x81\x07" + SAYS_ADMIN)),
    ),
    "extension of indefinite length": ("role", lambda: with_extensions(b"\x30\x80" + OID + VALUE + b"\0\0")),
    "role in the subject": ("role", lambda: _built(subject=ADMIN)),
    "role as a purpose": (
        "role",
        lambda: _built(purposes=(ExtendedKeyUsageOID.CLIENT_AUTH, x509.ObjectIdentifier(ADMIN))),
    ),
    "role as another name": (
        "role",
        lambda: _built(
            (
                x509.SubjectAlternativeName([x509.OtherName(x509.ObjectIdentifier(ADMIN), SAYS_ADMIN)]),
                False,
            )
        ),
    ),
    "for servers": ("tls", lambda: _built(_ROLE, purposes=(ExtendedKeyUsageOID.SERVER_AUTH,))),
    "for any purpose": ("tls", lambda: _built(_ROLE, purposes=(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,))),
    "for no purpose": ("role", lambda: _built(_ROLE, purposes=())),
    "an authority's": ("role", lambda: _built(_ROLE, ca=True)),
    "the authority's own": ("tls", lambda: _whole(authority())),
    "of another authority": (
        "tls",
        lambda: _whole(issue(authority("another CA"), "forged", role=Role.ADMIN, key=key("forged"))),
    ),
    "expired": (
        "tls",
        lambda: _whole(issue(authority(), "forged", role=Role.ADMIN, key=key("forged"), not_before=LONG_AGO)),
    ),
}
