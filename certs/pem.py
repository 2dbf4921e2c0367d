"""Owns the reading of PEM: certificates, keys, requests, revocation lists, and a sentence for each failure.

A file that holds less than it begins, as one does that is being copied, is refused as a whole.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from certs.errors import CertsError

#: More than any file of ours has, in bytes: a list of 100,000 revoked certificates is a tenth of it.
MOST_BYTES: Final = 64 * 2**20
CERTIFICATE: Final = "CERTIFICATE"
LIST: Final = "X509 CRL"
REQUEST: Final = "CERTIFICATE REQUEST"


def read(path: Path) -> bytes:
    """The content of a file; CertsError if it cannot be had."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise CertsError(
            f"there is no file {path}: check its name, or name another directory with --dir."
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise CertsError(f"cannot read {path}: {getattr(error, 'strerror', error)}.") from error
    if len(content) > MOST_BYTES:
        raise CertsError(f"{path} is too large to hold certificates.")
    return content


def holds(content: bytes, label: str) -> bool:
    """Whether anything with a label, such as LIST, begins in the content of a file."""
    return f"-----BEGIN {label}-----".encode() in content


def certificates(content: bytes, path: Path) -> list[x509.Certificate]:
    """Every certificate in the content of ``path``; at least one."""
    return _all(content, path, CERTIFICATE, "certificate", x509.load_pem_x509_certificate)


def lists(content: bytes, path: Path) -> list[x509.CertificateRevocationList]:
    """Every revocation list in the content of ``path``; at least one."""
    return _all(content, path, LIST, "revocation list", x509.load_pem_x509_crl)


def request(content: bytes, path: Path) -> x509.CertificateSigningRequest:
    """The request in the content of ``path``, which must be signed with the key that it is for."""
    found: x509.CertificateSigningRequest
    found, *_ = _all(content, path, REQUEST, "certificate request", x509.load_pem_x509_csr)
    if not found.is_signature_valid:
        raise CertsError(f"{path} is not signed with the key that it names: have it made again.")
    return found


def key(content: bytes, path: Path) -> CertificateIssuerPrivateKeyTypes:
    """The private key in the content of ``path``."""
    try:
        found = load_pem_private_key(content, None)
    except TypeError:
        raise CertsError(
            f"{path} is encrypted: store it without a passphrase (`openssl pkey -in OLD -out NEW`), readable "
            "by its owner only."
        ) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertsError(f"{path} holds no private key in PEM.") from error
    if not hasattr(found, "sign"):
        raise CertsError(f"{path} holds a key that cannot sign.")
    return cast("CertificateIssuerPrivateKeyTypes", found)


def _all(content: bytes, path: Path, label: str, what: str, load: Callable[[bytes], Any]) -> list[Any]:
    whole = re.findall(rb"-----BEGIN ([^-]+)-----[^-]*-----END \1-----", content)
    if content.count(b"-----") != 4 * len(whole):
        raise CertsError(f"{path} is incomplete: copy it again.")
    begin, end = (re.escape(f"-----{word} {label}-----".encode()) for word in ("BEGIN", "END"))
    blocks = re.findall(begin + rb".*?" + end, content, re.DOTALL)
    if not blocks:
        raise CertsError(f"{path} holds no {what} in PEM.")
    try:
        found = [load(block + b"\n") for block in blocks]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertsError(f"{path} holds a {what} that cannot be read.") from error
    return found
