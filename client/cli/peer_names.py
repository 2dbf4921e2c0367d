"""Owns the look at the names that a server's certificate holds, for whoever came by one that it lacks."""

import socket
import ssl
from pathlib import Path
from typing import cast

from certs.contexts import client_context

from ..endpoint import Endpoint
from ..transport import CONNECT_SECONDS

#: What X509_STORE_CTX_get_error(3) says of a name, and of an address, that the certificate does not hold.
_MISMATCH = (62, 64)


def lacks_name(error: BaseException | None) -> bool:
    """Whether a handshake failed because the server's certificate holds other names."""
    return isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _MISMATCH


def names_of(endpoint: Endpoint, certs: Path, identity: str) -> list[str]:
    """The names and addresses that a server's certificate holds; none if they cannot be had.

    The certificate must be signed by our authority all the same, and nothing is said to the server.
    """
    try:
        context = client_context(certs, identity)
        context.check_hostname = False
        with (
            socket.create_connection((endpoint.host, endpoint.port), CONNECT_SECONDS) as tcp,
            context.wrap_socket(tcp) as tls,
        ):
            found = tls.getpeercert() or {}
    except OSError:
        return []
    names = cast(tuple[tuple[str, str], ...], found.get("subjectAltName", ()))
    return [_as_written(kind, name) for kind, name in names]


def _as_written(kind: str, name: str) -> str:
    if kind != "IP Address":
        return name
    import ipaddress

    return str(ipaddress.ip_address(name))  # OpenSSL writes ::1 in full
