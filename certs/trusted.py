"""Owns what a server trusts at one moment: the files of its directory, read as one, and who is accepted.

OpenSSL verifies a client's chain, dates and purpose in the handshake, and looks into the list of revoked
certificates, so that who is refused gets the alert that says why. `TrustedSet.judge` says it again of those
that were accepted before, and where OpenSSL cannot: it wants a list of every authority or of none, and calls
an ended list an expired certificate.
"""

import datetime
import enum
import functools
import os
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from certs import pem
from certs.contexts import server_context
from certs.errors import CertsError
from certs.exposure import exposures
from certs.revocation import RevocationList, authority_id, read_lists, signer
from certs.roles import name_of, serial_text
from certs.standing import Standing, standing

AUTHORITIES: Final = "ca.crt"
LIST: Final = "ca.crl"
SERVER: Final = "server.crt"
KEY: Final = "server.key"
#: Everything that a server reads.
FILES: Final = (AUTHORITIES, LIST, SERVER, KEY)


class Reason(enum.Enum):
    """Why a client is not, or no longer, accepted."""

    REVOKED = enum.auto()
    EXPIRED = enum.auto()
    #: Nobody can say whether it was revoked, as the list has ended.
    UNDECIDED = enum.auto()


class NotAcceptedError(CertsError):
    """A client's certificate is not accepted; the text is a sentence for its user."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, str(self)), self.__dict__


@dataclass(frozen=True, slots=True)
class Bearer:
    """What a verdict on a client depends on; ``authority`` is None if none of ours signed its certificate."""

    name: str
    serial: int
    ends: datetime.datetime
    authority: bytes | None


@dataclass(frozen=True, slots=True)
class Term:
    """Until when a file is good, and what to do about it."""

    file: str
    what: str
    ends: datetime.datetime
    remedy: str


@dataclass(frozen=True)
class TrustedSet:
    """The files of one directory, consistent with each other.

    Args:
        context: the server's side of TLS.
        authorities: every certificate of ca.crt.
        lists: every list of ca.crl.
        server: the first certificate of server.crt.
        exposed: what to say of the key, or the directory, if other users of this host can get at it.
    """

    context: ssl.SSLContext
    authorities: tuple[x509.Certificate, ...]
    lists: tuple[RevocationList, ...]
    server: x509.Certificate
    exposed: tuple[str, ...] = ()

    @classmethod
    def read(cls, directory: Path, now: datetime.datetime) -> "TrustedSet":
        """Read a directory.

        Raises:
            CertsError: a file is missing, unreadable, not what it should be, or has ended.
        """
        context = server_context(directory)
        authorities, lists, server = _parse(directory)
        if server.not_valid_after_utc <= now:
            raise CertsError(
                f"{directory / SERVER} ended on {_day(server.not_valid_after_utc)}: renew it with "
                "`worker-service certs renew server`."
            )
        for ended in (it.next_update for it in lists if it.next_update and it.next_update <= now):
            raise CertsError(
                f"{directory / LIST} ended on {_day(ended)}: have it written anew with "
                "`worker-service certs revoke`."
            )
        if lists:
            try:
                context.load_verify_locations(cafile=directory / LIST)
            except (ssl.SSLError, OSError) as error:
                raise CertsError(f"OpenSSL does not accept {directory / LIST}: {error}.") from error
        found = cls(context, authorities, lists, server, tuple(exposures(directory, KEY)))
        try:
            with pem.understood(directory / AUTHORITIES):
                # Asked for later, it would be asked for in a server that runs.
                found.trusted, found.standing, found.terms  # noqa: B018
        except CertsError as error:
            raise CertsError(
                f"{directory / AUTHORITIES} holds an authority that cannot be used ({error.__cause__}): "
                "take it out."
            ) from error
        return found

    @functools.cached_property
    def trusted(self) -> frozenset[bytes]:
        """The ids of its authorities."""
        return frozenset(map(authority_id, self.authorities))

    @functools.cached_property
    def standing(self) -> Mapping[bytes, Standing]:
        """How its authorities stand; some may not."""
        return standing(self.authorities, self.lists)

    def context_at(self, now: datetime.datetime) -> ssl.SSLContext:
        """The context for a handshake at this time."""
        covered = {it.authority for it in self.lists if not _ended(it, now) and it.this_update <= now}
        if covered and covered >= self.trusted:
            self.context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        else:
            self.context.verify_flags &= ~ssl.VERIFY_CRL_CHECK_LEAF
        return self.context

    def bearer(self, der: bytes) -> Bearer:
        """What `judge` needs to know of a certificate that a handshake has verified, given in DER."""
        certificate = x509.load_der_x509_certificate(der)
        authority = signer(certificate, self.authorities)
        return Bearer(
            name_of(certificate.subject),
            certificate.serial_number,
            certificate.not_valid_after_utc,
            None if authority is None else authority_id(authority),
        )

    def judge(self, bearer: Bearer, now: datetime.datetime) -> None:
        """Raise NotAcceptedError if a certificate is not, or no longer, good enough."""
        if bearer.ends <= now:
            raise _verdict(bearer, Reason.EXPIRED, "has expired")
        if bearer.authority not in self.trusted:
            raise _verdict(bearer, Reason.REVOKED, "is not signed by an authority that this server trusts")
        stands = self.standing.get(bearer.authority)
        if stands is None:
            raise _verdict(bearer, Reason.REVOKED, "is signed by an authority that is not trusted any more")
        if stands.until <= now:
            raise _verdict(bearer, Reason.EXPIRED, "is signed by an authority that has expired")
        if any(it.authority == bearer.authority and bearer.serial in it.revoked for it in self.lists):
            raise _verdict(bearer, Reason.REVOKED, "has been revoked")

    def check_lists(self, bearer: Bearer, now: datetime.datetime) -> None:
        """Raise NotAcceptedError if a list has ended that tells whether a certificate was revoked.

        It must be one that `judge` lets pass. The lists of those above its authority count too.
        """
        line = self.standing[bearer.authority].line if bearer.authority else ()
        for it in self.lists:
            if it.authority in line and _ended(it, now):
                raise NotAcceptedError(
                    Reason.UNDECIDED,
                    "The server accepts nobody, as its list of revoked certificates has ended: its operator "
                    "must renew the list with `worker-service certs revoke`.",
                )

    @functools.cached_property
    def terms(self) -> tuple[Term, ...]:
        """When each file ends."""
        return tuple(_terms(self.authorities, self.lists, self.server))


def read_terms(directory: Path) -> list[Term]:
    """When each file of a server's directory ends, or has ended; CertsError if one cannot be read."""
    return list(_terms(*_parse(directory)))


def _verdict(bearer: Bearer, reason: Reason, what: str) -> NotAcceptedError:
    whose = f"The certificate of {bearer.name} (serial {serial_text(bearer.serial)})"
    return NotAcceptedError(reason, f"{whose} {what}: have a new one issued.")


def _parse(
    directory: Path,
) -> tuple[tuple[x509.Certificate, ...], tuple[RevocationList, ...], x509.Certificate]:
    path = directory / AUTHORITIES
    with pem.understood(path):
        content = pem.read(path)
        if pem.holds(content, pem.LIST):
            raise CertsError(f"{path} holds a list of revoked certificates: move it to {LIST}, beside it.")
        authorities = tuple(pem.certificates(content, path))
    path = directory / LIST
    with pem.understood(path):
        lists = read_lists(pem.read(path), path, authorities) if os.path.lexists(path) else ()
    path = directory / SERVER
    with pem.understood(path):
        return authorities, lists, pem.certificates(pem.read(path), path)[0]


def _terms(
    authorities: tuple[x509.Certificate, ...], lists: tuple[RevocationList, ...], server: x509.Certificate
) -> Iterator[Term]:
    for authority in authorities:
        what = f"the authority {name_of(authority.subject)}"
        remedy = "renew it with `worker-service certs renew ca`, or take it out of ca.crt"
        yield Term(AUTHORITIES, what, authority.not_valid_after_utc, remedy)
    for it in lists:
        if it.next_update is not None:
            what = f"list {it.number} of revoked certificates"
            yield Term(LIST, what, it.next_update, "have it written anew with `worker-service certs revoke`")
    remedy = "renew it with `worker-service certs renew server`"
    yield Term(SERVER, "the server's certificate", server.not_valid_after_utc, remedy)


def _ended(it: RevocationList, now: datetime.datetime) -> bool:
    return it.next_update is not None and it.next_update <= now


def _day(when: datetime.datetime) -> str:
    return f"{when:%Y-%m-%d}"
