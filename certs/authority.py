"""Owns the making of certificates: an authority, what it issues, and the four that `certs init` writes."""

import datetime
import functools
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from certs import pem
from certs.errors import CertsError
from certs.files import check_free, install
from certs.names import alternative_names
from certs.roles import DEFAULT_ARC, Role, role_extension
from certs.signing import CA_LIFETIME, Authority, begin, certify, key_usage, start_builder, subject_of

KEY_BITS: Final = 4096


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey

    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self) -> bytes:
        return key_pem(self.key)


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
    start = begin()
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
    key = key or generate_key(key_bits)
    subject = subject_of(name)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = start_builder(subject, subject, key.public_key(), not_before, not_after, CA_LIFETIME)
    for extension, critical in (
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (key_usage(key_cert_sign=True, crl_sign=True), True),
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
    """A leaf certificate signed by ``ca``, and its key: made, with ``key_bits`` bits, if none is given.

    The other arguments, and what it raises, are those of `certify`.
    """
    key = key or generate_key(key_bits)
    certificate = certify(
        Authority(ca.certificate, ca.key),
        name,
        key.public_key(),
        purpose=purpose,
        san=san,
        role=role,
        arc=arc,
        extensions=extensions,
        not_before=not_before,
        not_after=not_after,
    )
    return Credential(certificate, key)


def open_authority(directory: Path, *, ended: bool = False) -> Authority:
    """The authority of a directory: ca.key, and the certificate in ca.crt that is its own.

    Args:
        directory: where they are.
        ended: whether it may have ended.

    Raises:
        CertsError: it cannot be used.
    """
    path = directory / "ca.key"
    if not os.path.lexists(path):
        raise CertsError(
            f"there is no {path}: do this where the authority's key is, or name its directory with --dir."
        )
    key = pem.key(pem.read(path), path)
    path = directory / "ca.crt"
    for certificate in pem.certificates(pem.read(path), path):
        with pem.understood(path):
            own = certificate.public_key() == key.public_key()
        if own:
            if certificate.not_valid_after_utc <= datetime.datetime.now(datetime.UTC) and not ended:
                day = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
                raise CertsError(f"{path} ended on {day}: renew it with `worker-service certs renew ca`.")
            return Authority(certificate, key)
    raise CertsError(f"{directory / 'ca.key'} is not the key of {path}: put the right one there.")


def generate_key(bits: int = KEY_BITS) -> rsa.RSAPrivateKey:
    """A new key; with the default size it takes about a second."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def key_pem(key: rsa.RSAPrivateKey) -> bytes:
    """A key as it goes into a file."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _generate_keys(count: int, bits: int) -> list[rsa.RSAPrivateKey]:
    # The search for primes runs without the GIL, so threads do share it out over the processors.
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(generate_key, [bits] * count))
