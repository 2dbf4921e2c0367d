"""Owns lists of revoked certificates (CRLs, RFC 5280): making the next one, and what a set of them says.

A file may hold several, one for each authority of a ``ca.crt``. Each belongs to the authority that signed it,
which is found by trying its key: two authorities may have the same name.
"""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certs import pem
from certs.errors import CertsError
from certs.signing import Authority, begin

#: What makes a list one of some certificates only, or a change to another. Both ought to be critical.
_PARTIAL: Final = (x509.DeltaCRLIndicator, x509.IssuingDistributionPoint)


@dataclass(frozen=True, slots=True)
class RevocationList:
    """What one authority has revoked.

    ``next_update`` is when it ought to have been replaced; past it nobody can know what was revoked since.
    ``authority`` is as `authority_id` gives it.
    """

    authority: bytes
    number: int
    this_update: datetime.datetime
    next_update: datetime.datetime | None
    revoked: Mapping[int, datetime.datetime]


def read_lists(
    content: bytes, path: Path, authorities: Iterable[x509.Certificate]
) -> tuple[RevocationList, ...]:
    """The lists in the content of ``path``, at most one for each of ``authorities``.

    Raises:
        CertsError: one cannot be read, is signed by none of them, or by one that has another there.
    """
    found: list[RevocationList] = []
    for crl in pem.lists(content, path):
        authority = next((ca for ca in authorities if _signed(crl, ca)), None)
        if authority is None:
            raise CertsError(
                f"{path} holds a list that no authority in ca.crt signed: take it out, or put the right one "
                "there."
            )
        if any(other.authority == authority_id(authority) for other in found):
            raise CertsError(
                f"{path} holds two lists of one authority: leave the one with the higher number."
            )
        found.append(_parsed(crl, authority, path))
    return tuple(found)


def next_list(
    ca: Authority,
    old: RevocationList | None,
    serials: Iterable[int],
    next_update: datetime.datetime,
) -> x509.CertificateRevocationList:
    """The list that replaces ``old``: all of its revocations and those of ``serials``, from now on.

    Its number is one more, and its ``this_update`` no earlier, whatever the clock says.
    """
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    start = begin() if old is None else max(begin(), old.this_update)
    revoked = dict.fromkeys(serials, now) | dict(old.revoked if old else {})
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.certificate.subject)
        .last_update(start)
        .next_update(next_update)
        .add_extension(ca.identifier, critical=False)
        .add_extension(x509.CRLNumber(old.number + 1 if old else 1), critical=False)
    )
    for serial, when in revoked.items():
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(ca.key, ca.hash)


def with_list(content: bytes, path: Path, ca: Authority, new: x509.CertificateRevocationList) -> bytes:
    """The content of ``path`` with the list of ``ca``, if there is one, replaced by ``new``."""
    others = [crl for crl in pem.lists(content, path) if not _signed(crl, ca.certificate)] if content else []
    return b"".join(crl.public_bytes(Encoding.PEM) for crl in (new, *others))


def authority_id(certificate: x509.Certificate) -> bytes:
    """What tells authorities apart: name and key. One whose certificate was renewed is still the same.

    Names are compared as OpenSSL does (RFC 5280, section 7.1): a renewal may store one as another type of
    string. Else the same authority would be two, and the list of the one would say nothing of the other.
    """
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    name = [
        sorted((it.oid.dotted_string, " ".join(str(it.value).split()).lower()) for it in part)
        for part in certificate.subject.rdns
    ]
    return repr(name).encode() + key


def signer(certificate: x509.Certificate, authorities: Sequence[x509.Certificate]) -> x509.Certificate | None:
    """Which of ``authorities`` signed ``certificate``, if one did."""
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            continue
        return authority
    return None


def _signed(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        key = authority.public_key()
        return crl.issuer == authority.subject and crl.is_signature_valid(key)  # type: ignore[arg-type]
    except (TypeError, ValueError, UnsupportedAlgorithm):  # a key that cannot have signed it
        return False


def _parsed(crl: x509.CertificateRevocationList, authority: x509.Certificate, path: Path) -> RevocationList:
    try:
        number = 0
        for extension in crl.extensions:
            if isinstance(extension.value, x509.CRLNumber):
                number = extension.value.crl_number
            elif extension.critical or isinstance(extension.value, _PARTIAL):
                # The list is not what it seems, but of some certificates only, or a change to another.
                raise CertsError(
                    f"{path} holds a list of a kind that is not supported (extension "
                    f"{extension.oid.dotted_string}): have a plain one made."
                )
        revoked = {entry.serial_number: entry.revocation_date_utc for entry in crl}
        return RevocationList(
            authority_id(authority), number, crl.last_update_utc, crl.next_update_utc, revoked
        )
    except ValueError as error:
        raise CertsError(f"{path} holds a list that cannot be read.") from error
