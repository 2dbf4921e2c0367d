"""Owns what the authorities of a ca.crt are worth: until when what each has signed is good.

A self-signed one stands by itself. Any other stands as long as one that has signed it, in the same file, does
too, and has not revoked it. OpenSSL says the same in a handshake, but for the revocation, and not of the
connections that are open.
"""

import datetime
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cryptography import x509

from certs.revocation import RevocationList, authority_id, signer


class Standing(NamedTuple):
    """Until when an authority stands, and with whom: it and those above it, by their `authority_id`."""

    until: datetime.datetime
    line: frozenset[bytes]


def standing(
    authorities: Sequence[x509.Certificate], lists: Iterable[RevocationList]
) -> dict[bytes, Standing]:
    """How each authority stands, by its `authority_id`; one that does not is missing."""
    revoked = {it.authority: it.revoked for it in lists}
    signed = [(it, by) for it in authorities for by in authorities if signer(it, [by])]
    found: dict[bytes, Standing] = {}
    # Each round takes in those that the last one's have signed; they may sign each other, too.
    while True:
        before = dict(found)
        for certificate, by in signed:
            own, above = authority_id(certificate), authority_id(by)
            new = Standing(certificate.not_valid_after_utc, frozenset([own]))
            if own != above:
                if above not in before or certificate.serial_number in revoked.get(above, ()):
                    continue
                new = Standing(min(new.until, before[above].until), new.line | before[above].line)
            old = found.get(own, new)
            # In several ways, it needs those alone that are in each.
            found[own] = Standing(max(old.until, new.until), old.line & new.line)
        if found == before:
            return found
