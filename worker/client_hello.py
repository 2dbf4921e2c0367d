"""Owns a look into a ClientHello: which application protocols it asks for (RFC 8446, 4.1.2; RFC 7301).

OpenSSL, as Python has it, goes on without a protocol where there is none in common, and does not say what was
asked for. So we look for ourselves. What makes no sense here is OpenSSL's to refuse.
"""

from typing import Final

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_ALPN: Final = 16
#: A fatal alert (2), no_application_protocol (120), in a record of its own (21), as nothing is encrypted yet.
NO_APPLICATION_PROTOCOL: Final = bytes((21, 3, 3, 0, 2, 2, 120))


class _Fields:
    """Takes fields with a length before them from the front of some bytes."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def take(self, count: int) -> bytes:
        """The next so many bytes; ValueError if there are fewer."""
        if len(self.rest) < count:
            raise ValueError("it ends too soon")
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def vector(self, size: int) -> bytes:
        """The next field, whose length is in ``size`` bytes before it."""
        return self.take(int.from_bytes(self.take(size), "big"))


def protocols(received: bytes) -> tuple[bytes, ...]:
    """The protocols that a client asks for; none if it asks for none, or makes no sense.

    Args:
        received: all that it has sent, in TLS records.
    """
    try:
        hello = _Fields(_client_hello(received))
        hello.take(2 + 32)  # version, random
        for size in (1, 2, 1):  # session id, cipher suites, compression methods
            hello.vector(size)
        extensions = _Fields(hello.vector(2))
        while extensions.rest:
            kind, data = int.from_bytes(extensions.take(2), "big"), extensions.vector(2)
            if kind == _ALPN:
                return _names(_Fields(data).vector(2))
    except ValueError:
        pass
    return ()


def _client_hello(received: bytes) -> bytes:
    """The message in the records, without its header."""
    records, found = _Fields(received), b""
    while records.rest:
        kind, _, data = records.take(1)[0], records.take(2), records.vector(2)
        if kind == _HANDSHAKE:
            found += data
    message = _Fields(found)
    if message.take(1)[0] != _CLIENT_HELLO:
        raise ValueError("it is another message")
    return message.vector(3)


def _names(data: bytes) -> tuple[bytes, ...]:
    fields, found = _Fields(data), []
    while fields.rest:
        found.append(fields.vector(1))
    return tuple(found)
