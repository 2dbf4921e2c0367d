"""Owns servers that are none of ours: one connection each, on loopback, in a thread, by a script."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from certs.contexts import server_context
from tests.harness import PATIENCE

#: What a peer does with its accepted connection, TLS or not; it is closed, without a word, after that.
Script = Callable[[socket.socket], None]


@contextmanager
def peer(script: Script, certs: Path | None = None, *, alpn: str = "worker.v1") -> Iterator[str]:
    """Listen, and run the script on the first connection, behind TLS if there are certificates.

    Gives HOST:PORT. What the client does to the connection does not matter here.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)

        def run() -> None:
            with suppress(OSError):
                tcp, _ = listener.accept()
                with tcp:
                    tcp.settimeout(PATIENCE)
                    if certs is None:
                        script(tcp)
                        return
                    context = server_context(certs)
                    context.set_alpn_protocols([alpn])
                    with context.wrap_socket(tcp, server_side=True) as tls:
                        script(tls)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes an accept that nobody came for
            thread.join(PATIENCE)


def old_peer_context(certs: Path) -> ssl.SSLContext:
    """The server's side of TLS 1.2."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certs / "server.crt", certs / "server.key")
    return context


def old_client_context(certs: Path, identity: str) -> ssl.SSLContext:
    """The client's side of TLS 1.2."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(certs / "ca.crt")
    context.load_cert_chain(certs / f"{identity}.crt", certs / f"{identity}.key")
    return context
