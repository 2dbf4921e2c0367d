"""Owns what the authorities of a ca.crt are worth: until when what each has signed is good.

A self-signed one stands by itself. Any other stands as long as one that has signed it, in the same file, does
too, and has not revoked it. OpenSSL says the same in a handshake, but for the revocation, and not of the
connections that are open.
"""

import datetime
from collections.abc import Iterable, Sequence

from cryptography import x509

from certs.revocation import RevocationList, authority_id, signer


def standing(
    authorities: Sequence[x509.Certificate], lists: Iterable[RevocationList]
) -> dict[bytes, datetime.datetime]:
    """Until when each authority stands, by its `authority_id`; one that does not is missing."""
    revoked = {it.authority: it.revoked for it in lists}
    signed = [(it, by) for it in authorities for by in authorities if signer(it, [by])]
    until: dict[bytes, datetime.datetime] = {}
    # Each round takes in those that the last one's have signed; they may sign each other, too.
    while True:
        before = dict(until)
        for certificate, by in signed:
            own, above, end = authority_id(certificate), authority_id(by), certificate.not_valid_after_utc
            if own != above:
                if above not in before or certificate.serial_number in revoked.get(above, ()):
                    continue
                end = min(end, before[above])
            until[own] = max(until.get(own, end), end)
        if until == before:
            return until
