"""Owns what a server may be called: host names and IP addresses, from text to a certificate's form."""

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from cryptography import x509

from certs.errors import CertsError

# Underscores stand in no host name by the letter, but do in those that container networks give out.
_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.IGNORECASE)


def alternative_names(names: Iterable[str]) -> list[x509.GeneralName]:
    """``names`` as subject alternative names, each once, in order; CertsError if one is malformed."""
    return list(dict.fromkeys(map(_alternative_name, names)))


def _alternative_name(text: str) -> x509.GeneralName:
    try:
        if "%" not in text:  # a zone means something on one machine only
            return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    labels = text.removeprefix("*.").split(".")
    # A last label of digits is a mistyped address: no top-level domain is numeric (RFC 3696, section 2).
    if len(text) <= 253 and all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdecimal():
        return x509.DNSName(text.lower())
    raise CertsError(
        f"{text!r} is neither a host name nor an IP address: give names such as worker.example.com "
        "(in their xn-- form if they are international), 192.0.2.7 or 2001:db8::7, without a port."
    )
