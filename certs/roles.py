"""Owns what a certificate says about its bearer: a name, a serial number and exactly one role.

The role is an extension of the client's certificate: OID ``ARC.1`` holding the UTF8String ``Admin``, or
``ARC.2`` holding ``User``. Whether the certificate is genuine and in date is for TLS to say, before this
module sees it; here, whatever is not a client's certificate with exactly one well-formed role is refused.
OpenSSL has read the same bytes before, and more leniently: what it lets pass that is not DER is unreadable
here.
"""

import enum
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.errors import CertsError

DEFAULT_ARC: Final = "1.3.6.1.4.1.12345.1"


class Role(enum.Enum):
    """What a client may be; the value is the text in the certificate."""

    ADMIN = "Admin"
    USER = "User"


# The whole encoding of each value is compared, so another string type, another length form, trailing bytes
# and look-alike text are all one case: different bytes.
_ENCODED: Final = {Role.ADMIN: b"\x0c\x05Admin", Role.USER: b"\x0c\x04User"}
#: The longest name, in bytes of UTF-8, as it is printed: it stands in every reply and line about its bearer's
#: jobs. X.520 allows a common name 64 characters.
MAX_NAME_BYTES: Final = 256
#: How much of a name that is longer is told.
_TOLD = 64
_LEAF: Final = {Role.ADMIN: 1, Role.USER: 2}


class RoleError(CertsError):
    """A certificate that names no role, or not exactly one, or is unreadable: its bearer may do nothing.

    Args:
        message: one sentence for people.
        name: whose it is, where it could be read, as in `Identity`.
        serial: its number, likewise.
    """

    def __init__(self, message: str, name: str | None = None, serial: str | None = None) -> None:
        super().__init__(message)
        self.name = name
        self.serial = serial


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a certificate was issued to.

    ``name`` is the common name, made printable; the whole subject where there is no common name.
    ``serial`` is upper-case hexadecimal, two digits a byte, as ``openssl x509 -serial`` prints it.
    """

    name: str
    serial: str
    role: Role

    @property
    def principal(self) -> str:
        """Whose share of a server something counts against: an Admin and a User of one name are two."""
        return f"{self.role.value} {self.name}"


def role_oid(role: Role, arc: str = DEFAULT_ARC) -> x509.ObjectIdentifier:
    """The OID of ``role``'s extension below ``arc``; CertsError if ``arc`` is no OID."""
    try:
        return x509.ObjectIdentifier(f"{arc}.{_LEAF[role]}")
    except ValueError:
        raise CertsError(f"{arc!r} is no object identifier: give one such as {DEFAULT_ARC}.") from None


def role_extension(role: Role, arc: str = DEFAULT_ARC) -> x509.UnrecognizedExtension:
    """The extension that gives ``role`` to a certificate's bearer; CertsError if ``arc`` is no OID."""
    return x509.UnrecognizedExtension(role_oid(role, arc), _ENCODED[role])


def role_of(der: bytes, arc: str = DEFAULT_ARC) -> Role:
    """The role in a certificate.

    Args:
        der: the certificate, DER, as ``getpeercert(binary_form=True)`` gives it.
        arc: the OID below which roles are numbered.

    Raises:
        RoleError: the certificate is unreadable, or holds anything but exactly one well-formed role.
        CertsError: ``arc`` is no OID.
    """
    return identity_of(der, arc).role


def identity_of(der: bytes, arc: str = DEFAULT_ARC) -> Identity:
    """The bearer of a certificate; arguments and errors are those of `role_of`."""
    roles = {role_oid(role, arc): role for role in Role}
    name = serial = None
    try:
        certificate = x509.load_der_x509_certificate(der)
        serial = serial_text(certificate.serial_number)
        with warnings.catch_warnings(action="ignore"):  # of a name longer than X.520 allows
            name = name_of(certificate.subject)
        extensions = {extension.oid: extension.value for extension in certificate.extensions}
        encoded = {oid: value.public_bytes() for oid, value in extensions.items()}
    except x509.DuplicateExtension as error:
        raise RoleError(
            f"the certificate holds extension {_list([error.oid])} more than once: ask for a new one.",
            _shown(name),
            serial,
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # The parser's errors are of many kinds, a panic of its Rust part is not even an Exception, and
        # whatever it makes of hostile bytes, the answer is no.
        raise RoleError(  # noqa: ASYNC104  # nothing waits in here, so nothing is cancelled
            "the certificate cannot be read: ask for a new one.", _shown(name), serial
        ) from error
    try:
        _check_name(name)
        _check_purpose(extensions)
        return Identity(name, serial, _only_role(encoded, roles))
    except RoleError as error:
        error.name, error.serial = _shown(name), serial
        raise


def _check_name(name: str) -> None:
    if (size := len(name.encode())) > MAX_NAME_BYTES:
        raise RoleError(
            f"the certificate's name has {size:,} bytes: ask for one with a name of {MAX_NAME_BYTES} at most."
        )


def _shown(name: str | None) -> str | None:
    return name if name is None or len(name.encode()) <= MAX_NAME_BYTES else f"{name[:_TOLD]}…"


def _check_purpose(extensions: dict[x509.ObjectIdentifier, x509.ExtensionType]) -> None:
    """Refuse what OpenSSL takes for a client's: authorities, and certificates that name no purpose at all."""
    constraints = extensions.get(x509.BasicConstraints.oid)
    if isinstance(constraints, x509.BasicConstraints) and constraints.ca:
        raise RoleError("the certificate is an authority's: ask for a client's.")
    usage = extensions.get(x509.ExtendedKeyUsage.oid)
    if not isinstance(usage, x509.ExtendedKeyUsage) or ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise RoleError(
            "the certificate is not marked for clients: ask for one with extendedKeyUsage = clientAuth."
        )


def serial_text(serial: int) -> str:
    """A serial number as ``openssl x509 -serial`` prints it, also one that no certificate ought to have."""
    size = max(1, (abs(serial).bit_length() + 7) // 8)
    return "-" * (serial < 0) + abs(serial).to_bytes(size, "big").hex().upper()


def _only_role(encoded: dict[x509.ObjectIdentifier, bytes], roles: dict[x509.ObjectIdentifier, Role]) -> Role:
    # Every extension below the arc claims a role. An unknown one beside a known one is refused too: it might
    # be a role, or a restriction, that a newer server understands.
    below = tuple({f"{oid.dotted_string.rpartition('.')[0]}." for oid in roles})
    claims = [oid for oid in encoded if oid.dotted_string.startswith(below)]
    wanted = " or ".join(f'{oid.dotted_string} = UTF8String "{role.value}"' for oid, role in roles.items())
    if not claims:
        raise RoleError(f"the certificate holds no role: ask for one with {wanted}.")
    if len(claims) > 1:
        raise RoleError(
            f"the certificate holds more than one role ({_list(claims)}): ask for one with {wanted}."
        )
    (claim,) = claims
    role = roles.get(claim)
    if role is None:
        raise RoleError(
            f"the certificate holds an unknown role ({_list(claims)}): ask for one with {wanted}."
        )
    if encoded[claim] != _ENCODED[role]:
        raise RoleError(
            f"the certificate's role {_list(claims)} does not hold its one valid value: "
            f"ask for one with {wanted}."
        )
    return role


def _list(oids: Iterable[x509.ObjectIdentifier]) -> str:
    told = sorted(oid.dotted_string[:_TOLD] for oid in oids)
    return ", ".join(told[:4]) + (f" and {len(told) - 4} more" if len(told) > 4 else "")


def name_of(subject: x509.Name) -> str:
    """The common name, made printable; the whole subject where there is none."""
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    # The last common name is the most specific (RFC 6125, section 6.4.4).
    text = str(names[-1].value) if names else subject.rfc4514_string()
    # It will stand in logs and on terminals, where a newline or an escape sequence could forge a line; and
    # no two names may come out the same, so what escapes others is escaped too.
    return "".join(char if char.isprintable() and char != "\\" else ascii(char)[1:-1] for char in text)
