"""Owns what may be asked of an authority: names, roles, host names, lifetimes, keys."""

import datetime
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from certs.errors import ArgumentsError, CertsError
from certs.names import alternative_names
from certs.roles import Role, role_extension

#: What a certificate is for, as the command line says it.
RoleName = Literal["admin", "user", "server"]
ROLES: Final = {"admin": Role.ADMIN, "user": Role.USER, "server": None}
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}")
LEAST_RSA_BITS: Final = 2048
#: OpenSSL takes none that is larger.
MOST_RSA_BITS: Final = 16384
LEAST_EXPONENT: Final = 65537
_CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")


def check_name(name: str, role: RoleName | None = None) -> None:
    """Raise ArgumentsError if ``name`` cannot be a common name and the stem of a file for a role."""
    if not _NAME.fullmatch(name):
        raise ArgumentsError(
            f"{name!r} cannot be a name: use up to 64 letters, digits and . _ - @, and begin with a letter, "
            "a digit or _."
        )
    if role is not None and (name == "ca" or (name == "server" and role != "server")):
        raise ArgumentsError(f"{name!r} is the name of the {name}'s own certificate: choose another.")


def lifetime_of(days: int) -> datetime.timedelta:
    """A lifetime; ArgumentsError if it makes no sense."""
    if not 1 <= days <= 36500:
        raise ArgumentsError(f"--days {days} must be a number of days from 1 to 36500.")
    return datetime.timedelta(days=days)


def check_hosts(role: RoleName, san: Sequence[str], arc: str) -> None:
    """Raise CertsError if the host names for a role, or the arc, make no sense."""
    role_extension(Role.ADMIN, arc)
    alternative_names(san)
    if role == "server" and not san:
        raise ArgumentsError("a server's certificate needs a name: give at least one with --san.")
    if role != "server" and san:
        raise ArgumentsError("--san is for servers: a client's certificate holds no host names.")


def requested_hosts(csr: x509.CertificateSigningRequest) -> list[str]:
    """The host names and IP addresses that a request asks for."""
    try:
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def strong(key: CertificatePublicKeyTypes, path: Path) -> CertificatePublicKeyTypes:
    """A request's key, if it may be signed; CertsError if it may not."""
    if weakness := weakness_of(key):
        raise CertsError(
            f"{path} is for {weakness}: make one with RSA of 2048 bits or more, P-256 or Ed25519."
        )
    return key


def weakness_of(key: CertificatePublicKeyTypes) -> str | None:
    """What kind of key this is, if TLS 1.3 as OpenSSL speaks it by default does not take it, or ought not."""
    if isinstance(key, rsa.RSAPublicKey) and LEAST_RSA_BITS <= key.key_size <= MOST_RSA_BITS:
        exponent = key.public_numbers().e
        # NIST SP 800-56B, section 6.2; smaller ones have let forged signatures through, again and again.
        good = exponent >= LEAST_EXPONENT and exponent % 2
        return None if good else f"an RSA key with the public exponent {exponent}, where 65537 is usual"
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return None
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return None
    return "a key that TLS 1.3 does not take"
