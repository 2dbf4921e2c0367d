"""Owns the next list of revoked certificates in an authority's directory, which keeps what the last held."""

import datetime
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509

from certs import pem
from certs.authority import open_authority
from certs.errors import ArgumentsError, CertsError
from certs.files import alone, install
from certs.replaced import replaced
from certs.revocation import RevocationList, authority_id, next_list, read_lists, signer, with_list
from certs.signing import Authority, begin
from certs.wishes import check_name, lifetime_of

LIST: Final = "ca.crl"
_SERIAL: Final = re.compile(r"(?:0x)?([0-9a-fA-F:]{1,60})")


@dataclass(frozen=True, slots=True)
class Revoked:
    """The list that was written: its number, how many it holds, and the serial numbers that are new in it."""

    path: Path
    number: int
    count: int
    added: tuple[int, ...]
    ends: datetime.datetime


def revoke(
    directory: Path, names: Sequence[str] = (), *, serials: Sequence[str] = (), days: int | None = None
) -> Revoked:
    """Write the next list of revoked certificates, ca.crl, into the authority's directory.

    Args:
        directory: holds ca.crt, ca.key and, from the second time on, ca.crl.
        names: certificates to revoke, each the NAME of a NAME.crt there, with which those go that it has
            replaced, or a path. With neither names nor serials, the list is written anew, with new dates.
        serials: serial numbers to revoke, in hexadecimal, for certificates that are not at hand.
        days: after how many it must have been written anew, or servers accept nobody; by default it lasts
            as long as the authority does.

    Raises:
        ArgumentsError: that makes no sense.
        CertsError: the authority cannot be used, or did not sign that certificate.
    """
    wanted = [_serial(text) for text in serials]
    with alone(directory):
        ca = open_authority(directory)
        for name in names:
            wanted += _serials_of(directory, name, ca)
        old = current_list(directory, ca)
        added = tuple(dict.fromkeys(serial for serial in wanted if not old or serial not in old.revoked))
        ends = ca.certificate.not_valid_after_utc
        if days is not None:
            ends = min(begin() + lifetime_of(days), ends)
        new = next_list(ca, old, added, ends)
        path = directory / LIST
        content = with_list(pem.read(path) if os.path.lexists(path) else b"", path, ca, new)
        (path,) = install(directory, {LIST: content}, force=True)
        return Revoked(path, old.number + 1 if old else 1, len(new), added, ends)


def current_list(directory: Path, ca: Authority) -> RevocationList | None:
    """The list that an authority has in its directory, if it has one.

    Raises:
        CertsError: there is a file, but nobody can tell what was revoked.
    """
    path = directory / LIST
    if not os.path.lexists(path):
        return None
    certificates = pem.certificates(pem.read(directory / "ca.crt"), directory / "ca.crt")
    own = authority_id(ca.certificate)
    return next((it for it in read_lists(pem.read(path), path, certificates) if it.authority == own), None)


def _serials_of(directory: Path, name: str, ca: Authority) -> list[int]:
    """The serial numbers of a path's certificate, or of NAME's and those that it has replaced."""
    earlier: list[x509.Certificate] = []
    if "/" in name or name.endswith((".crt", ".pem")):
        path = Path(name)
    else:
        check_name(name)
        path = directory / f"{name}.crt"
        earlier = replaced(directory, name)
    certificate = pem.certificates(pem.read(path), path)[0]
    with pem.understood(path):
        its_own = certificate.public_key() == ca.certificate.public_key()
    if its_own:
        raise ArgumentsError("an authority cannot revoke itself: take it out of every ca.crt.")
    if signer(certificate, [ca.certificate]) is None:
        raise CertsError(f"{path} is not signed by {directory / 'ca.crt'}: revoke it where it was issued.")
    # Before a rotation, they may have been another authority's.
    return [certificate.serial_number, *(it.serial_number for it in earlier if signer(it, [ca.certificate]))]


def _serial(text: str) -> int:
    match = _SERIAL.fullmatch(text)
    digits = match[1].replace(":", "") if match else ""
    if not digits or not 0 < int(digits, 16) < 2**160:
        raise ArgumentsError(
            f"{text!r} is no serial number: give it in hexadecimal, as `certs show` prints it."
        )
    return int(digits, 16)
