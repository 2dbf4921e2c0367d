"""Owns the sentence a client's user reads when TLS fails: who refused whom, why, and what to do next."""

import re
import shlex
import ssl
from collections.abc import Sequence
from typing import Final

_SAME_AUTHORITY: Final = (
    "use certificates made together with the server's, naming their directory with --certs"
)
_CHECK_SERVER: Final = "check that --server names the port of a worker-service"

# Keyed by the alert's name (RFC 8446, section 6) as OpenSSL spells it, or by OpenSSL's own reason for what
# fails on this side. The server's alerts about our certificate come after our handshake has succeeded, with
# the first read.
_SENTENCES: Final = {
    "UNKNOWN_CA": f"{{server}} does not trust the authority that signed {{cert}}: {_SAME_AUTHORITY}.",
    "DECRYPT_ERROR": f"{{server}} finds a signature made for {{cert}} wrong: {_SAME_AUTHORITY}.",
    "CERTIFICATE_EXPIRED": "{server} says that {cert}, or the authority that signed it, has expired: "
    "have a new one issued.",
    "CERTIFICATE_REVOKED": "{server} says that {cert} has been revoked: have a new one issued.",
    "CERTIFICATE_REQUIRED": "{server} wants a client certificate and got none: name one with --identity.",
    "BAD_CERTIFICATE": "{server} finds {cert} malformed or not yet valid: check both clocks, or have a new "
    "one issued.",
    "UNSUPPORTED_CERTIFICATE": "{server} says that {cert} is not meant for clients: name a client's "
    "certificate with --identity.",
    "CERTIFICATE_UNKNOWN": "{server} does not accept {cert}: have a new one issued; the server's log says "
    "what is wrong with it.",
    "ACCESS_DENIED": "{server} denies access to the bearer of {cert}: name another with --identity.",
    "PROTOCOL_VERSION": f"{{server}} and this client do not both speak TLS 1.3: {_CHECK_SERVER}.",
    "HANDSHAKE_FAILURE": f"{{server}} and this client share no way to speak TLS 1.3: {_CHECK_SERVER}.",
    "NO_APPLICATION_PROTOCOL": f"{{server}} does not speak our protocol: {_CHECK_SERVER} of this version.",
    "WRONG_VERSION_NUMBER": f"{{server}} does not answer in TLS: {_CHECK_SERVER}.",
}
_SYNONYMS: Final = {
    "UNSUPPORTED_PROTOCOL": "PROTOCOL_VERSION",
    "NO_CERTIFICATE": "CERTIFICATE_REQUIRED",
}

#: What stands around the words of an OpenSSL error: ``[SSL: HTTP_REQUEST] http request (_ssl.c:1006)``.
_PLACE: Final = re.compile(r"^\[[^\]]*\] *| *\(_ssl\.c:\d+\)$")
_ALERT: Final = re.compile(r"^(?:tls|ssl)v\d+ alert ")


def refusal(error: BaseException, *, identity: str, server: str, names: Sequence[str] = ()) -> str:
    """One sentence for the failure of a TLS connection, seen from the client.

    Args:
        error: what the handshake or a later read raised; an ssl.SSLError or OSError, or an error raised from
            one, as Trio's BrokenResourceError is.
        identity: the client's identity, the stem of its certificate's file.
        server: the server, as HOST:PORT.
        names: those that its certificate holds, if they are known.
    """
    error = _root(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return _distrust(error, server, names)
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError)):
        return f"{server} cut the connection without saying why: {_CHECK_SERVER}, and see the server's log."
    if isinstance(error, ssl.SSLError):
        name = _alert(error)
        sentence = _SENTENCES.get(_SYNONYMS.get(name, name))
        if sentence is not None:
            return sentence.format(server=server, cert=f"{identity}.crt")
        problem = name.lower().replace("_", " ")
    else:
        problem = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"TLS with {server} failed ({problem}): {_CHECK_SERVER}, and see the server's log."


def plain(error: BaseException) -> str:
    """What an error says, for people: of OpenSSL's, without the names and places in its own source."""
    if not isinstance(error, ssl.SSLError):
        return getattr(error, "strerror", None) or str(error)
    text = str(
        error.strerror or "".join(error.args[:1])
    )  # str() of one that is raised in Python is a tuple's
    return _ALERT.sub("the other side says: ", _PLACE.sub("", text))


def _root(error: BaseException) -> BaseException:
    while not isinstance(error, OSError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _alert(error: ssl.SSLError) -> str:
    # CPython knows no name for some alerts (NO_APPLICATION_PROTOCOL is one): then OpenSSL's text has it. The
    # prefix of an alert, SSLV3_ALERT_ or TLSV1_ALERT_, tells its age and nothing else.
    reason: str | None = getattr(error, "reason", None)  # what ssl.py itself raises has none
    if reason is None:
        reason = _PLACE.sub("", str(error)).upper().replace(" ", "_")
    return reason.rpartition("ALERT_")[2]


def _distrust(error: ssl.SSLCertVerificationError, server: str, names: Sequence[str]) -> str:
    match error.verify_code:  # the X509_V_ERR_ codes of X509_STORE_CTX_get_error(3)
        case 62 | 64:  # hostname mismatch, IP address mismatch
            host = server.rpartition(":")[0].strip("[]") or server
            return _lacking(server, host, names)
        case 10:  # expired
            return f"the certificate of {server}, or its authority, has expired: have it issued again."
        case 9:  # not yet valid
            return f"the certificate of {server} is not valid yet: check both clocks."
        case 7 | 18 | 19 | 20 | 21:  # bad signature; self-signed, alone or in the chain; issuer not found
            return f"{server} is not trusted, as our ca.crt did not sign its certificate: {_SAME_AUTHORITY}."
    return f"{server} is not trusted ({error.verify_message}): have its certificate issued again."


def _lacking(server: str, host: str, names: Sequence[str]) -> str:
    """A new certificate must keep the names of the old one; the authority, which others trust, must stay."""
    if names:
        held, san, which = f", but for {', '.join(names)}", shlex.quote(",".join((*names, host))), ""
    else:
        held, san, which = "", f"NAMES,{host}", ", where NAMES are those that it holds now"
    return (
        f"the certificate of {server} is not good for {host}{held}: use a name that it holds, or have the "
        f"server's operator add this one: `worker-service certs issue server --role server --san {san} "
        f"--force`{which}."
    )
