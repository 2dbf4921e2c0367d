"""Owns what tests of TLS share: quick certificates of any kind, directories of them, two peers in memory."""

import functools
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from certs.authority import Credential, issue, make_ca
from certs.files import install
from certs.roles import DEFAULT_ARC, Role

SERVER_NAMES = ("localhost", "127.0.0.1", "::1")


@functools.cache
def key(name: str) -> rsa.RSAPrivateKey:
    """A 2048-bit key, the same one for a name throughout the run: making them is what costs."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@functools.cache
def authority(name: str = "worker-service CA") -> Credential:
    """A valid authority. Every name has its own key, so "another CA" is foreign to the default one."""
    return make_ca(name, key=key(name))


def save(directory: Path, **credentials: Credential) -> None:
    """Write each credential as NAME.crt and NAME.key, over what is there."""
    install(
        directory,
        {
            name: content
            for stem, credential in credentials.items()
            for name, content in (
                (f"{stem}.crt", credential.certificate_pem()),
                (f"{stem}.key", credential.key_pem()),
            )
        },
        force=True,
    )


def make_directory(directory: Path, *, san: Iterable[str] = SERVER_NAMES) -> Path:
    """What `certs init` makes, from quick keys: ca, server, admin and user. Returns ``directory``."""
    ca = authority()
    save(
        directory,
        ca=ca,
        server=issue(ca, "server", purpose="server", san=list(san), key=key("server")),
        admin=issue(ca, "admin", role=Role.ADMIN, key=key("admin")),
        user=issue(ca, "user", role=Role.USER, key=key("user")),
    )
    return directory


def der(credential: Credential) -> bytes:
    return credential.certificate.public_bytes(Encoding.DER)


def forge(credential: Credential, ca: Credential, old: bytes, new: bytes) -> bytes:
    """The DER of ``credential`` with ``old`` in its signed part replaced by ``new``, as long, signed anew.

    With it, tests build what no careful library lets them: one extension twice, say.
    """
    assert len(old) == len(new)
    signed = credential.certificate.tbs_certificate_bytes
    assert signed.count(old) == 1
    signed = signed.replace(old, new)
    signature = ca.key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    whole = der(credential)
    start = whole.index(credential.certificate.tbs_certificate_bytes)
    middle = whole[start + len(signed) : -len(signature)]  # algorithm, and the header of the signature
    return whole[:start] + signed + middle + signature


def doubled_role() -> Credential:
    """A client of the default authority whose certificate, validly signed, holds Admin's extension twice."""
    third, admin = (b"\x06\x09\x2b\x06\x01\x04\x01\xe0\x39\x01" + last for last in (b"\x03", b"\x01"))
    single = issue(
        authority(),
        "doubled",
        role=Role.ADMIN,
        extensions=[(f"{DEFAULT_ARC}.3", b"\x0c\x05Admin")],
        key=key("doubled"),
    )
    forged = forge(single, authority(), third, admin)
    return replace(single, certificate=x509.load_der_x509_certificate(forged))


@dataclass(slots=True)
class Peer:
    """One end of a handshake in memory, and the error that ended it, if one did."""

    tls: ssl.SSLObject
    error: ssl.SSLError | None = None
    done: bool = False

    def step(self) -> None:
        """Go on with the handshake; once it is done, read, as alerts may follow it."""
        if self.error is not None:
            return
        try:
            if self.done:
                self.tls.read(1)
            else:
                self.tls.do_handshake()
                self.done = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.error = error


def handshake(
    server: ssl.SSLContext, client: ssl.SSLContext, *, hostname: str = "localhost"
) -> tuple[Peer, Peer]:
    """Shake hands in memory until neither end has anything to say. Returns the server's end, the client's."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = Peer(server.wrap_bio(to_server, to_client, server_side=True))
    there = Peer(client.wrap_bio(to_client, to_server, server_hostname=hostname))
    pending = True
    while pending:
        there.step()
        here.step()
        pending = bool((to_client.pending and not there.error) or (to_server.pending and not here.error))
    return here, there
