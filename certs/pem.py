"""Owns the reading of PEM: certificates, keys, requests, revocation lists, and a sentence for each failure.

A file that holds less than it begins, as one does that is being copied, is refused as a whole.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from certs import reading
from certs.errors import CertsError

CERTIFICATE: Final = "CERTIFICATE"
LIST: Final = "X509 CRL"
REQUEST: Final = "CERTIFICATE REQUEST"


def read(path: Path) -> bytes:
    """The content of a file; CertsError if it cannot be had."""
    try:
        return reading.read(path)
    except FileNotFoundError:
        raise CertsError(
            f"there is no file {path}: check its name, or name another directory with --dir."
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise CertsError(f"cannot read {path}: {getattr(error, 'strerror', error)}.") from error


@contextlib.contextmanager
def understood(path: Path) -> Iterator[None]:
    """Turn whatever a parser makes of the content of ``path`` into a CertsError.

    Certificates are read in two steps: much of what is wrong with one shows when it is asked for an extension
    or its key. The parser's errors are of many kinds, and a panic of its Rust part is not even an Exception.
    """
    try:
        yield
    except (CertsError, OSError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CertsError(  # noqa: ASYNC104  # nothing waits in here, so nothing is cancelled
            f"{path} holds what cannot be read ({reason:.200}): have it made again."
        ) from error


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
    with understood(path):
        valid = found.is_signature_valid
    if not valid:
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
        with understood(path):
            return [load(block + b"\n") for block in blocks]
    except CertsError as error:
        raise CertsError(f"{path} holds a {what} that cannot be read.") from error
