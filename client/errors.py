"""Owns what a client's caller may have to handle, beside wire.errors.RequestError for refused requests."""


class ClientError(Exception):
    """Base: the server could not be reached or talked to; the message is one sentence for people."""


class AddressError(ClientError):
    """The server's address is not one."""


class ConnectError(ClientError):
    """Nobody answers at the server's address."""


class TlsError(ClientError):
    """The TLS connection was refused, by the server or by us."""


class CutError(ClientError):
    """The connection ended before the answer was complete; what became of the request is unknown."""
