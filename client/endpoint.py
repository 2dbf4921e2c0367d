"""Owns a server's address as people write it: HOST:PORT, or wss://HOST:PORT for WebSocket."""

from dataclasses import dataclass

from .errors import AddressError

DEFAULT_SERVER = "127.0.0.1:8443"
DEFAULT_IDENTITY = "admin"
WEBSOCKET_SCHEME = "wss://"
WEBSOCKET_SUBPROTOCOL = "worker.v1.msgpack"
MAX_PORT = 65535


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
        rest = text.removeprefix(WEBSOCKET_SCHEME)
        host, _, port = rest.removesuffix("/").rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        if not bare or (":" in bare) != host.startswith("[") or not (port.isascii() and port.isdigit()):
            raise AddressError(
                f"{text!r} is no server address: write HOST:PORT, such as {DEFAULT_SERVER}, or wss://HOST:PORT."
            )
        if not 0 < int(port) <= MAX_PORT:
            raise AddressError(f"{text!r} is no server address: a port is a number from 1 to {MAX_PORT}.")
        return cls(bare, int(port), rest != text)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
