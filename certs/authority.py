"""Owns the making of certificates: an authority, what it issues, and the four that `certs init` writes."""

import datetime
import functools
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.errors import CertsError
from certs.files import check_free, install
from certs.names import alternative_names
from certs.roles import DEFAULT_ARC, Role, role_extension

KEY_BITS: Final = 4096
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
class Credential:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey

    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def init(
    directory: Path,
    *,
    san: Sequence[str],
    force: bool = False,
    arc: str = DEFAULT_ARC,
    key_bits: int = KEY_BITS,
) -> list[Path]:
    """Make ``ca``, ``server``, ``admin`` and ``user``, each a NAME.crt and a NAME.key in ``directory``.

    Args:
        directory: made, with mode 0700, if it is missing.
        san: the host names and IP addresses under which clients will reach the server; at least one.
        force: replace files that exist; without it, any of the eight existing means that none is written.
        arc: the OID below which roles are numbered.
        key_bits: the size of each RSA key.

    Returns:
        The eight paths, in the order of the names above.

    Raises:
        CertsError: a file exists, a name or ``arc`` is malformed, or the directory cannot be written.
    """
    names = ("ca", "server", "admin", "user")
    files = [f"{name}{suffix}" for name in names for suffix in (".crt", ".key")]
    # Whatever can be refused is refused before the seconds that the keys take.
    if not san:
        raise CertsError(
            "a server's certificate needs a name: give at least one host name or address with --san."
        )
    alternative_names(san)
    role_extension(Role.ADMIN, arc)
    if not force:
        check_free(directory, files)

    ca_key, server_key, admin_key, user_key = _generate_keys(len(names), key_bits)
    start = _now() - CLOCK_SKEW
    ca = make_ca(key=ca_key, not_before=start)
    client = functools.partial(issue, ca, arc=arc, not_before=start)
    made = (
        ca,
        issue(ca, "server", purpose="server", san=san, key=server_key, not_before=start),
        client("admin", role=Role.ADMIN, key=admin_key),
        client("user", role=Role.USER, key=user_key),
    )
    contents = (
        content for credential in made for content in (credential.certificate_pem(), credential.key_pem())
    )
    return install(directory, dict(zip(files, contents, strict=True)), force=force)


def make_ca(
    name: str = "worker-service CA",
    *,
    key: rsa.RSAPrivateKey | None = None,
    key_bits: int = KEY_BITS,
    not_before: datetime.datetime | None = None,
    not_after: datetime.datetime | None = None,
) -> Credential:
    """A self-signed authority, which may sign leaf certificates and revocation lists and nothing else.

    Args:
        name: its common name.
        key: its key; made, with ``key_bits`` bits, if none is given.
        not_before: default CLOCK_SKEW ago. Both times are aware, and kept to the second.
        not_after: default ``not_before`` + CA_LIFETIME.
    """
    key = key or _generate_key(key_bits)
    subject = _subject(name)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = _builder(subject, subject, key, not_before, not_after, CA_LIFETIME)
    for extension, critical in (
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (_key_usage(key_cert_sign=True, crl_sign=True), True),
        (identifier, False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False),
    ):
        builder = builder.add_extension(extension, critical)
    return Credential(builder.sign(key, hashes.SHA256()), key)


def issue(
    ca: Credential,
    name: str,
    *,
    purpose: Literal["server", "client"] = "client",
    san: Sequence[str] = (),
    role: Role | None = None,
    arc: str = DEFAULT_ARC,
    extensions: Iterable[tuple[str, bytes]] = (),
    key: rsa.RSAPrivateKey | None = None,
    key_bits: int = KEY_BITS,
    not_before: datetime.datetime | None = None,
    not_after: datetime.datetime | None = None,
) -> Credential:
    """A leaf certificate signed by ``ca``.

    Args:
        name: its common name.
        purpose: its one extended key usage.
        san: host names and IP addresses it is good for.
        role: the role of its bearer, as an extension below ``arc``.
        extensions: further ones, not critical, as dotted OID and DER.
        key: its key; made, with ``key_bits`` bits, if none is given.
        not_before: default CLOCK_SKEW ago. Both times are aware, and kept to the second.
        not_after: default ``not_before`` + SERVER_LIFETIME or CLIENT_LIFETIME.

    Raises:
        CertsError: a name in ``san``, or ``arc``, is malformed.
    """
    key = key or _generate_key(key_bits)
    usage, lifetime = _PURPOSES[purpose]
    issuer = ca.certificate.subject
    issuer_identifier = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = _builder(_subject(name), issuer, key, not_before, not_after, lifetime)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    # TLS 1.3 uses a certificate's key to sign and for nothing else.
    builder = builder.add_extension(_key_usage(digital_signature=True), critical=True)
    plain: list[x509.ExtensionType] = [
        x509.ExtendedKeyUsage([usage]),
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_identifier),
    ]
    if san:
        plain.append(x509.SubjectAlternativeName(alternative_names(san)))
    if role is not None:
        plain.append(role_extension(role, arc))
    plain += [x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), der) for oid, der in extensions]
    for extension in plain:
        builder = builder.add_extension(extension, critical=False)
    return Credential(builder.sign(ca.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: rsa.RSAPrivateKey,
    not_before: datetime.datetime | None,
    not_after: datetime.datetime | None,
    lifetime: datetime.timedelta,
) -> x509.CertificateBuilder:
    start = not_before or _now() - CLOCK_SKEW
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(not_after or start + lifetime)
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_usage(
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


def _generate_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def _generate_keys(count: int, bits: int) -> list[rsa.RSAPrivateKey]:
    # The search for primes runs without the GIL, so threads do share it out over the processors.
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(_generate_key, [bits] * count))


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)
