"""Owns NAME.old: the certificates that a NAME.crt has replaced and that are still good, for who revokes NAME.

A certificate that was renewed stays good until it ends, so that the new one can be handed over at leisure.
Were it forgotten, who revokes NAME later would revoke the newest alone, and leave a thief the others.
"""

import contextlib
import datetime
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs import pem
from certs.errors import CertsError


def replaced(directory: Path, name: str) -> list[x509.Certificate]:
    """The certificates that NAME.crt has replaced and that have not ended.

    Raises:
        CertsError: what tells of them cannot be read.
    """
    path = directory / f"{name}.old"
    return _good(pem.certificates(pem.read(path), path)) if os.path.lexists(path) else []


def at_hand(directory: Path, name: str) -> list[x509.Certificate]:
    """Those, and that in NAME.crt; each once, and none that has ended. Errors are those of `replaced`."""
    path = directory / f"{name}.crt"
    known = replaced(directory, name)
    with contextlib.suppress(CertsError):  # there is none, or nothing that a server would take
        known += _good(pem.certificates(pem.read(path), path)[:1])
    return list(dict.fromkeys(known))


def with_current(directory: Path, name: str) -> dict[str, bytes]:
    """The file to write before NAME.crt is replaced, so that what is in it is remembered with the others."""
    content = b"".join(it.public_bytes(Encoding.PEM) for it in at_hand(directory, name))
    return {f"{name}.old": content} if content else {}


def _good(certificates: list[x509.Certificate]) -> list[x509.Certificate]:
    now = datetime.datetime.now(datetime.UTC)
    return [it for it in certificates if it.not_valid_after_utc > now]
