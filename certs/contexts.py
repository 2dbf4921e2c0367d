"""Owns the TLS contexts of both ends, made of the files in one directory.

It stands on the command line's way to its first byte, so it imports the standard library and nothing else.
Each function reads the disk and returns a new context: to reload is to call again and keep the old one if
that raises.
"""

import functools
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from certs import reading
from certs.errors import ContextError

ALPN_NATIVE: Final = "worker.v1"
ALPN_HTTP: Final = "http/1.1"
#: What a server speaks, as it stands in a ClientHello.
PROTOCOLS: Final = frozenset({ALPN_NATIVE.encode(), ALPN_HTTP.encode()})


def default_directory() -> Path:
    """Where certificates are looked for when nothing names a directory.

    It is ``worker-service/certs`` below $XDG_CONFIG_HOME, or below ~/.config where that is unset, empty or
    relative (XDG Base Directory Specification). ContextError if there is no home directory either.
    """
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".config"
        except RuntimeError:
            raise ContextError(
                "there is no home directory to look for certificates in: name a directory with "
                "WORKER_SERVICE_CERTS."
            ) from None
    return base / "worker-service" / "certs"


def server_context(directory: Path) -> ssl.SSLContext:
    """The server's side of mutual TLS 1.3, from ``ca.crt``, ``server.crt`` and ``server.key``.

    A peer that offers none of our protocols is not refused by this context (CPython does not let a server do
    that): its ``selected_alpn_protocol()`` is None. The listener looks into the ClientHello for it.

    Raises:
        ContextError: a file is missing, unreadable or not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    # A resumed session is not verified again: without tickets, a certificate that has expired or was revoked
    # since opens no new connection.
    context.num_tickets = 0
    _prepare(context, directory, "server")
    context.set_alpn_protocols([ALPN_NATIVE, ALPN_HTTP])
    return context


def client_context(
    directory: Path, identity: str, *, alpn: str = ALPN_NATIVE, here: bool = True
) -> ssl.SSLContext:
    """A client's side of mutual TLS 1.3, from ``ca.crt`` and ``identity``'s ``.crt`` and ``.key``.

    The server must prove the name or address that the caller passes as ``server_hostname``.

    Args:
        directory: where the files are.
        identity: the stem of the client's two.
        alpn: the protocol to ask for.
        here: whether the server is on this host, so that its authority may be made here too.

    Raises:
        ContextError: a file is missing, unreadable or not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies the peer and its name
    context.hostname_checks_common_name = False
    _prepare(context, directory, identity, here=here)
    context.set_alpn_protocols([alpn])
    return context


def _prepare(context: ssl.SSLContext, directory: Path, identity: str, *, here: bool = True) -> None:
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    ca, certificate, key = (directory / name for name in ("ca.crt", f"{identity}.crt", f"{identity}.key"))
    # OpenSSL's errors name no file, hence one look at each before it is handed over.
    remedy = functools.partial(_remedy, directory, identity, here=here)
    _check_readable(ca, "certificate", remedy)
    _check_readable(certificate, "certificate", remedy)
    _check_readable(key, "key", remedy)
    _trust(context, ca, remedy)
    try:
        context.load_cert_chain(certificate, key, password=lambda: _no_passphrase(key))
    except ssl.SSLError as error:
        # Which of the two files is it? A certificate that can be trusted is a certificate.
        _trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate, remedy)
        library, reason = getattr(error, "library", None), getattr(error, "reason", None)
        if reason == "KEY_VALUES_MISMATCH":
            sentence = f"{key} is not the key of {certificate}: {remedy()}."
        elif library == "SSL" and reason:
            problem = reason.lower().replace("_", " ")
            sentence = f"OpenSSL does not accept {certificate} and its key ({problem}): {remedy()}."
        else:
            sentence = f"{key} holds no private key in PEM: {remedy()}."
        raise ContextError(sentence) from error
    except OSError as error:
        raise ContextError(f"cannot read {certificate} or its key: {error.strerror}.") from error


def _trust(context: ssl.SSLContext, path: Path, remedy: Callable[[], str]) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise ContextError(f"{path} holds no certificate in PEM: {remedy()}.") from error
    except OSError as error:
        raise ContextError(f"cannot read {path}: {error.strerror}.") from error


def _check_readable(path: Path, kind: str, remedy: Callable[[], str]) -> None:
    try:
        descriptor = reading.open_file(path)
        size = os.fstat(descriptor).st_size
        os.close(descriptor)
        if size > reading.MOST_BYTES:
            raise ContextError(f"{path} is too large to be a {kind}: {remedy()}.")
    except FileNotFoundError:
        raise ContextError(f"no {kind} {path}: {remedy()}.") from None
    except PermissionError:
        raise ContextError(
            f"no permission to read {path}: run as its owner, or name another directory with --certs."
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ContextError(f"cannot read {path}: {getattr(error, 'strerror', error)}.") from error


def _no_passphrase(key: Path) -> str:
    # Without this callback OpenSSL would ask on the terminal, and a server has none.
    raise ContextError(
        f"{key} is encrypted: store it without a passphrase (`openssl pkey -in OLD -out NEW`), readable by "
        "its owner only."
    )


def _remedy(directory: Path, identity: str, *, here: bool) -> str:
    if not os.path.exists(directory / "ca.crt"):  # noqa: PTH110 - Path.exists() raises where we may not look
        if not here:  # a new authority of ours would be none that the server trusts
            files = f"ca.crt, {identity}.crt and {identity}.key"
            return f"get {files} from the server's operator, or name another directory with --certs"
        return f"run `worker-service certs init --dir {directory}`, or name another directory with --certs"
    # An authority is there, and to make everything anew would cut off those who trust it.
    choice = "" if identity == "server" else ", or another identity with --identity"
    return f"put the right file there, or name another directory with --certs{choice}"
