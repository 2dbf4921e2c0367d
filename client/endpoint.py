"""Owns a server's address as people write it: HOST:PORT, or wss://HOST:PORT for WebSocket."""

import re
from dataclasses import dataclass

from .errors import AddressError

DEFAULT_SERVER = "127.0.0.1:8443"
DEFAULT_IDENTITY = "admin"
WEBSOCKET_SCHEME = "wss://"
WEBSOCKET_SUBPROTOCOL = "worker.v1.msgpack"
_HOST = re.compile(r"\[[^\[\]]*:[^\[\]]*\]|[^\[\]:]*")
MAX_PORT, MAX_DIGITS = 65535, 5


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens, and whether to speak WebSocket to it."""

    host: str
    port: int
    websocket: bool = False

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        """Read ``HOST:PORT``, ``[IPV6]:PORT`` or ``wss://HOST:PORT``.

        Raises:
            AddressError: it is none of them.
        """
        rest = text.removeprefix(WEBSOCKET_SCHEME).removesuffix("/")
        host, colon, port = rest.rpartition(":")
        if problem := _problem(rest, host, colon, port):
            raise AddressError(f"{text!r} is no server address: {problem}.")
        return cls(host.removeprefix("[").removesuffix("]"), int(port), text.startswith(WEBSOCKET_SCHEME))

    @property
    def is_here(self) -> bool:
        """Whether the server is on this host, as far as its address tells."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def _problem(rest: str, host: str, colon: str, port: str) -> str | None:
    """What is wrong with the two parts of an address, in words; None if nothing is."""
    if not rest or "/" in rest:
        return f"write HOST:PORT, such as {DEFAULT_SERVER}, or wss://HOST:PORT"
    if not _HOST.fullmatch(host) or (not colon and "]" in rest):
        return "write an IPv6 address, and no other, in brackets, such as [::1]:8443"
    if not colon:
        return f"it lacks the port; write {rest}:{DEFAULT_SERVER.rpartition(':')[2]}, or another port"
    if not host:
        return (
            f"it lacks the host; write {DEFAULT_SERVER.rpartition(':')[0]}:{port or 'PORT'}, or another host"
        )
    if not (port.isascii() and port.isdigit() and len(port) <= MAX_DIGITS and 0 < int(port) <= MAX_PORT):
        return f"a port is a number from 1 to {MAX_PORT}"
    return None
