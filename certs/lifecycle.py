"""Owns what is done with an authority over the years: it issues, signs requests and renews."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from certs import pem
from certs.authority import KEY_BITS, generate_key, key_pem, open_authority
from certs.errors import ArgumentsError, CertsError
from certs.files import alone, check_free, install
from certs.replaced import at_hand, with_current
from certs.revocation import signer
from certs.revoke import current_list
from certs.roles import DEFAULT_ARC, serial_text
from certs.signing import CLIENT_LIFETIME, SERVER_LIFETIME, Authority, begin, certify, reissue, subject_of
from certs.wishes import (
    ROLES,
    RoleName,
    check_hosts,
    check_name,
    lifetime_of,
    requested_hosts,
    strong,
    weakness_of,
)


@dataclass(frozen=True, slots=True)
class Made:
    """What was written, and what people ought to know of it."""

    path: Path
    certificate: x509.Certificate
    notes: tuple[str, ...] = ()


def issue(
    directory: Path,
    name: str,
    role: RoleName,
    *,
    san: Sequence[str] = (),
    days: int | None = None,
    force: bool = False,
    arc: str = DEFAULT_ARC,
    key_bits: int = KEY_BITS,
) -> Made:
    """Make a key and a certificate, as NAME.key and NAME.crt in the authority's directory.

    Args:
        directory: holds ca.crt and ca.key.
        name: its common name and the stem of its files.
        role: what it is for.
        san: for a server, the host names and IP addresses under which clients reach it.
        days: its lifetime; by default a client's is 45, a server's 365.
        force: replace files that exist.
        arc: the OID below which roles are numbered.
        key_bits: the size of the key.

    Raises:
        ArgumentsError: that makes no sense.
        CertsError: the authority cannot be used, or a file exists.
    """
    check_name(name, role)
    check_hosts(role, san, arc)
    ca = open_authority(directory)
    if not force:
        check_free(directory, [f"{name}.crt", f"{name}.key"])
    key = generate_key(key_bits)
    certificate, notes = _certify(ca, name, key.public_key(), role, san, days, arc)
    contents = {f"{name}.key": key_pem(key), f"{name}.crt": _pem(certificate)}
    return Made(_put(directory, name, contents, force=force), certificate, notes)


def request(directory: Path, name: str, *, force: bool = False, key_bits: int = KEY_BITS) -> Path:
    """Make NAME.key and NAME.csr, a request for `sign`, so that the key stays where it was made.

    Returns:
        The request's path.
    """
    check_name(name)
    if not force:
        check_free(directory, [f"{name}.key", f"{name}.csr"])
    key = generate_key(key_bits)
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject_of(name)).sign(key, hashes.SHA256())
    contents = {f"{name}.key": key_pem(key), f"{name}.csr": csr.public_bytes(Encoding.PEM)}
    return install(directory, contents, force=force)[1]


def sign(
    directory: Path,
    path: Path,
    role: RoleName,
    *,
    name: str | None = None,
    san: Sequence[str] = (),
    days: int | None = None,
    force: bool = False,
    arc: str = DEFAULT_ARC,
) -> Made:
    """Make a certificate for the public key of a request, as NAME.crt in the authority's directory.

    Of the request, its key and its common name are taken, and for a server the host names if ``san`` gives
    none. What else it asks for is not: the role is for who signs to say. Arguments and errors are those of
    `issue`, but for these:

    Args:
        path: the request, PKCS #10 in PEM.
        name: the common name, where it shall not be that of the request.
    """
    with pem.understood(path):
        certificate, name, notes = _signed(directory, path, role, name, san, days, force=force, arc=arc)
    contents = {f"{name}.crt": _pem(certificate)}
    return Made(_put(directory, name, contents, force=force), certificate, notes)


def _signed(
    directory: Path,
    path: Path,
    role: RoleName,
    name: str | None,
    san: Sequence[str],
    days: int | None,
    *,
    force: bool,
    arc: str,
) -> tuple[x509.Certificate, str, tuple[str, ...]]:
    """The certificate for a request, its name, and what people ought to know of it."""
    csr = pem.request(pem.read(path), path)
    names = [str(it.value) for it in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if name is None:
        if len(names) != 1:
            raise CertsError(f"{path} holds no common name, or several: give one with --name.")
        name = names[0]
    check_name(name, role)
    if role == "server" and not san:
        san = requested_hosts(csr)
    check_hosts(role, san, arc)
    ca = open_authority(directory)
    if not force:
        check_free(directory, [f"{name}.crt"])
    key = strong(csr.public_key(), path)
    known = current_list(directory, ca)
    if known and any(
        it.public_key() == key and it.serial_number in known.revoked for it in at_hand(directory, name)
    ):
        raise CertsError(
            f"{path} is for a key whose certificate was revoked: have it made again, with a new key."
        )
    certificate, notes = _certify(ca, name, key, role, san, days, arc)
    return certificate, name, notes


def renew(
    directory: Path, name: str, *, days: int | None = None, new_key: bool = False, key_bits: int = KEY_BITS
) -> Made:
    """Replace NAME.crt by one with another serial number, later dates and, unless told otherwise, its key.

    ``ca`` is renewed too: what the authority signed stays good with either of its certificates.

    Args:
        directory: holds ca.crt, ca.key and NAME.crt.
        name: whose certificate.
        days: its lifetime, otherwise that of the old one.
        new_key: make a new key as well, which replaces NAME.key.

    Raises:
        CertsError: it is not this authority's, was revoked, or the authority cannot be used.
    """
    check_name(name)
    with alone(directory):
        ca = open_authority(directory, ended=name == "ca")
        path = directory / f"{name}.crt"
        old = ca.certificate if name == "ca" else pem.certificates(pem.read(path), path)[0]
        with pem.understood(path):
            weakness = None if name == "ca" or new_key else weakness_of(old.public_key())
        if weakness:
            raise CertsError(f"{path} is for {weakness}: renew it with --new-key, or sign another request.")
        if name == "ca" and new_key:
            raise ArgumentsError("an authority with another key is another authority: see `certs init`.")
        if signer(old, [ca.certificate]) is None:
            raise CertsError(f"{path} is not signed by {directory / 'ca.crt'}: have a new one issued.")
        known = current_list(directory, ca)
        if known and old.serial_number in known.revoked:
            raise CertsError(f"{path} was revoked: issue a new one under another name, or with --force.")
        start = begin()
        lifetime = old.not_valid_after_utc - old.not_valid_before_utc if days is None else lifetime_of(days)
        end, notes = (start + lifetime, ()) if name == "ca" else _end(ca, start, lifetime)
        key = generate_key(key_bits) if new_key else None
        public = old.public_key() if key is None else key.public_key()
        with pem.understood(path):
            certificate = reissue(ca, old, key=public, not_before=start, not_after=end)
        contents = {f"{name}.crt": _pem(certificate)}
        if key is not None:
            contents = {f"{name}.key": key_pem(key)} | contents
        if name != "ca":  # which cannot be revoked
            contents = with_current(directory, name) | contents
        replaced_ = f"it replaces {serial_text(old.serial_number)}, which is good until {_day(old)}"
        return Made(install(directory, contents, force=True)[-1], certificate, (replaced_, *notes))


def _put(directory: Path, name: str, contents: dict[str, bytes], *, force: bool) -> Path:
    with alone(directory):
        if force:
            contents = with_current(directory, name) | contents
        return install(directory, contents, force=force)[-1]


def _certify(
    ca: Authority,
    name: str,
    key: CertificatePublicKeyTypes,
    role: RoleName,
    san: Sequence[str],
    days: int | None,
    arc: str,
) -> tuple[x509.Certificate, tuple[str, ...]]:
    lifetime = SERVER_LIFETIME if role == "server" else CLIENT_LIFETIME
    start = begin()
    end, notes = _end(ca, start, lifetime if days is None else lifetime_of(days))
    certificate = certify(
        ca,
        name,
        key,
        purpose="server" if role == "server" else "client",
        san=san,
        role=ROLES[role],
        arc=arc,
        not_before=start,
        not_after=end,
    )
    return certificate, notes


def _end(
    ca: Authority, start: datetime.datetime, lifetime: datetime.timedelta
) -> tuple[datetime.datetime, tuple[str, ...]]:
    """The end of a certificate: none outlives its authority."""
    last = ca.certificate.not_valid_after_utc
    if start + lifetime <= last:
        return start + lifetime, ()
    return last, (f"it ends with its authority, on {_day(ca.certificate)}",)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _day(certificate: x509.Certificate) -> str:
    return f"{certificate.not_valid_after_utc:%Y-%m-%d}"
