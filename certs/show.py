"""Owns what people and programs are told of certificates and revocation lists: `certs show`."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs import pem
from certs.errors import CertsError
from certs.revocation import RevocationList, authority_id, read_lists, signer
from certs.roles import DEFAULT_ARC, RoleError, name_of, role_of, serial_text
from certs.trusted import AUTHORITIES, LIST
from certs.wishes import weakness_of


@dataclass(frozen=True, slots=True)
class Shown:
    """One certificate, or one revocation list.

    ``role`` is ``Admin``, ``User``, ``server``, ``authority``, ``none`` or ``list``; ``state`` is ``good``,
    ``early``, ``ended`` or ``revoked``. ``serial`` is a list's number. ``days_left`` counts whole days, and
    is negative once it has ended.
    """

    file: str
    subject: str
    issuer: str
    serial: str
    role: str
    state: str
    begins: datetime.datetime
    ends: datetime.datetime | None
    days_left: int | None
    hosts: tuple[str, ...] = ()
    revoked: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def files(directory: Path) -> list[Path]:
    """Each file of a directory that `show` shows: the authority's first, then by name."""
    try:
        found = [path for path in directory.iterdir() if path.suffix in (".crt", ".crl")]
    except OSError as error:
        raise CertsError(f"cannot read {directory}: {error.strerror}.") from error
    if not found:
        raise CertsError(f"{directory} holds no certificates: name another directory with --dir.")
    return sorted(found, key=lambda path: (path.stem != "ca", path.suffix != ".crt", path.name))


def show(path: Path, now: datetime.datetime, arc: str = DEFAULT_ARC) -> Iterator[Shown]:
    """Everything in a file, in order, and what ca.crt and ca.crl beside it say of that.

    Raises:
        CertsError: it cannot be read, or holds neither certificates nor lists.
    """
    content = pem.read(path)
    authorities = _authorities(path.parent)
    with pem.understood(path):
        if pem.holds(content, pem.LIST):
            for crl in pem.lists(content, path):
                yield _list(path, crl, authorities, now)
            return
        lists = _lists(path.parent, authorities)
        for certificate in pem.certificates(content, path):
            yield _certificate(path, certificate, authorities, lists, now, arc)


def words(shown: Shown) -> str:
    """A paragraph for people."""
    if shown.role == "list":
        lines = [
            f"list:     number {shown.serial} of the certificates that {shown.issuer} has revoked",
            f"revoked:  {', '.join(shown.revoked) or 'none'}",
        ]
    else:
        what = {
            "none": "none, so its bearer may do nothing",
            "authority": "an authority",
            "server": "a server",
        }
        lines = [
            f"subject:  {shown.subject}",
            f"serial:   {shown.serial}",
            f"role:     {what.get(shown.role, shown.role)}",
        ]
    if shown.hosts:
        lines.append(f"hosts:    {', '.join(shown.hosts)}")
    lines.append(f"valid:    {_validity(shown)}")
    if shown.state == "revoked":
        lines.append("revoked:  yes, servers that have ca.crl refuse it")
    lines += [f"note:     {note}" for note in shown.notes]
    return "".join([f"{shown.file}\n", *(f"  {line}\n" for line in lines)])


def _validity(shown: Shown) -> str:
    begins = f"from {shown.begins:%Y-%m-%d}"
    if shown.ends is None or shown.days_left is None:
        return f"{begins} on"
    span = f"{begins} to {shown.ends:%Y-%m-%d}"
    if shown.state == "ended":
        return f"{span}: ENDED"
    if shown.state == "early":
        return f"{span}: not yet"
    count = shown.days_left
    return f"{span}, {'less than a day' if not count else '1 day' if count == 1 else f'{count} days'} left"


def _certificate(
    path: Path,
    certificate: x509.Certificate,
    authorities: list[x509.Certificate],
    lists: tuple[RevocationList, ...],
    now: datetime.datetime,
    arc: str,
) -> Shown:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    role, notes = _role(certificate, arc)
    if weakness := weakness_of(certificate.public_key()):
        notes.append(f"it is for {weakness}.")
    authority = signer(certificate, authorities)
    if authorities and authority is None:
        notes.append("no authority in the ca.crt beside it has signed it.")
    state = "ended" if ends <= now else "early" if now < begins else "good"
    if authority is not None and state != "ended":
        known = next((it for it in lists if it.authority == authority_id(authority)), None)
        if known and certificate.serial_number in known.revoked:
            state = "revoked"
    return Shown(
        str(path),
        _printable(certificate.subject.rfc4514_string()),
        _printable(certificate.issuer.rfc4514_string()),
        serial_text(certificate.serial_number),
        role,
        state,
        begins,
        ends,
        (ends - now).days,
        _hosts(certificate),
        notes=tuple(notes),
    )


def _role(certificate: x509.Certificate, arc: str) -> tuple[str, list[str]]:
    try:
        if certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return "authority", []
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if ExtendedKeyUsageOID.SERVER_AUTH in purposes and ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
            return "server", []
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        pass  # then what matters is whether it holds a role
    try:
        return role_of(certificate.public_bytes(Encoding.DER), arc).value, []
    except RoleError as error:
        return "none", [str(error)]


def _list(
    path: Path,
    crl: x509.CertificateRevocationList,
    authorities: list[x509.Certificate],
    now: datetime.datetime,
) -> Shown:
    notes: tuple[str, ...] = ()
    try:
        (parsed,) = read_lists(crl.public_bytes(Encoding.PEM), path, authorities)
        number, revoked = parsed.number, parsed.revoked
    except CertsError as error:
        number, revoked, notes = 0, {}, (str(error),)
    ends = crl.next_update_utc
    return Shown(
        str(path),
        "",
        name_of(crl.issuer),
        str(number),
        "list",
        "ended" if ends is not None and ends <= now else "good",
        crl.last_update_utc,
        ends,
        None if ends is None else (ends - now).days,
        revoked=tuple(map(serial_text, revoked)),
        notes=notes,
    )


def _authorities(directory: Path) -> list[x509.Certificate]:
    path = directory / AUTHORITIES
    try:
        return pem.certificates(pem.read(path), path)
    except CertsError:
        return []  # it is told where that file itself is shown


def _lists(directory: Path, authorities: list[x509.Certificate]) -> tuple[RevocationList, ...]:
    path = directory / LIST
    try:
        return read_lists(pem.read(path), path, authorities)
    except CertsError:
        return ()


def _hosts(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return ()
    hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return tuple(map(_printable, hosts))


def _printable(text: str) -> str:
    # A newline or an escape sequence in a certificate could forge what stands on a terminal.
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
