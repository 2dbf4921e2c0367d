"""Owns the signing of certificates by an authority, for a public key: new ones, and old ones once more."""

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    CertificatePublicKeyTypes,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.names import alternative_names
from certs.roles import DEFAULT_ARC, Role, role_extension

CA_LIFETIME: Final = datetime.timedelta(days=365)
SERVER_LIFETIME: Final = datetime.timedelta(days=365)
CLIENT_LIFETIME: Final = datetime.timedelta(days=45)

# A certificate starts this long before it is made, so a peer whose clock is a little slow accepts it at once.
# Its lifetime is counted from there.
CLOCK_SKEW: Final = datetime.timedelta(minutes=5)

_PURPOSES: Final = {
    "server": (ExtendedKeyUsageOID.SERVER_AUTH, SERVER_LIFETIME),
    "client": (ExtendedKeyUsageOID.CLIENT_AUTH, CLIENT_LIFETIME),
}


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority's certificate and the key to sign with, of any kind that certificates may have."""

    certificate: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes

    @property
    def hash(self) -> hashes.SHA256 | None:
        """What its signatures hash with; None for keys that see to it themselves."""
        own = isinstance(self.key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
        return None if own else hashes.SHA256()

    @property
    def identifier(self) -> x509.AuthorityKeyIdentifier:
        """How what it signs names it."""
        try:
            own = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        except x509.ExtensionNotFound:
            return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)


def certify(
    ca: Authority,
    name: str,
    key: CertificatePublicKeyTypes,
    *,
    purpose: Literal["server", "client"] = "client",
    san: Sequence[str] = (),
    role: Role | None = None,
    arc: str = DEFAULT_ARC,
    extensions: Iterable[tuple[str, bytes]] = (),
    not_before: datetime.datetime | None = None,
    not_after: datetime.datetime | None = None,
) -> x509.Certificate:
    """A leaf certificate for a public key, whose private one may be somewhere else.

    Args:
        ca: who signs.
        name: its common name.
        key: the public key.
        purpose: its one extended key usage.
        san: host names and IP addresses it is good for.
        role: the role of its bearer, as an extension below ``arc``.
        extensions: further ones, not critical, as dotted OID and DER.
        not_before: default CLOCK_SKEW ago. Both times are aware, and kept to the second.
        not_after: default ``not_before`` + SERVER_LIFETIME or CLIENT_LIFETIME.

    Raises:
        CertsError: a name in ``san``, or ``arc``, is malformed.
    """
    usage, lifetime = _PURPOSES[purpose]
    builder = start_builder(subject_of(name), ca.certificate.subject, key, not_before, not_after, lifetime)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    # TLS 1.3 uses a certificate's key to sign and for nothing else.
    builder = builder.add_extension(key_usage(digital_signature=True), critical=True)
    plain: list[x509.ExtensionType] = [
        x509.ExtendedKeyUsage([usage]),
        x509.SubjectKeyIdentifier.from_public_key(key),
        ca.identifier,
    ]
    if san:
        plain.append(x509.SubjectAlternativeName(alternative_names(san)))
    if role is not None:
        plain.append(role_extension(role, arc))
    plain += [x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), der) for oid, der in extensions]
    for extension in plain:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(ca.key, ca.hash)


def reissue(
    ca: Authority,
    old: x509.Certificate,
    *,
    key: CertificatePublicKeyTypes,
    not_before: datetime.datetime | None = None,
    not_after: datetime.datetime | None = None,
) -> x509.Certificate:
    """``old`` again, with another serial number and other dates: the same subject, names, purpose and role.

    Args:
        key: its public key, the same one or a new one.
        not_before: as for `certify`.
        not_after: default ``not_before`` and the lifetime of ``old``.
    """
    lifetime = old.not_valid_after_utc - old.not_valid_before_utc
    builder = start_builder(old.subject, ca.certificate.subject, key, not_before, not_after, lifetime)
    for extension in old.extensions:
        value = extension.value
        if isinstance(value, x509.AuthorityKeyIdentifier):
            value = ca.identifier
        elif isinstance(value, x509.SubjectKeyIdentifier) and key != old.public_key():
            value = x509.SubjectKeyIdentifier.from_public_key(key)
        builder = builder.add_extension(value, extension.critical)
    return builder.sign(ca.key, ca.hash)


def start_builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: CertificatePublicKeyTypes,
    not_before: datetime.datetime | None,
    not_after: datetime.datetime | None,
    lifetime: datetime.timedelta,
) -> x509.CertificateBuilder:
    start = not_before or begin()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(not_after or start + lifetime)
    )


def subject_of(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def begin() -> datetime.datetime:
    """When what is signed now becomes valid: CLOCK_SKEW ago, to the second."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0) - CLOCK_SKEW
