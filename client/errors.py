"""Owns what a client's caller may have to handle, beside wire.errors.RequestError for refused requests."""


class ClientError(Exception):
    """Base: the server could not be reached or talked to; the message is one sentence for people."""


class AddressError(ClientError):
    """The server's address is not one."""


class ConnectError(ClientError):
    """Nobody answers at the server's address."""


class TlsError(ClientError):
    """The TLS connection was refused, by the server or by us.

    Args:
        message: one sentence for people.
        cut: nobody said that they refuse; the connection ended before it was open.
    """

    def __init__(self, message: str, *, cut: bool = False) -> None:
        super().__init__(message)
        self.cut = cut


class CutError(ClientError):
    """The connection ended before the answer was complete; what became of the request is unknown."""
