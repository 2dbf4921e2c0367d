"""Owns per-stream credit: how many bytes of output a sender may still send, and when to grant more.

The receiver grants credit in bytes of output data (headers are free). A sender never sends more
than it was granted, so a stopped reader costs its peer at most one window, and one slow stream
never holds up another request on its connection.
"""

from .errors import LocalProtocolError, RemoteProtocolError

#: The most credit one stream may ever have outstanding, in bytes.
MAX_CREDIT = 2**31 - 1
#: What our own clients grant at the start of a stream, in bytes: several round trips' worth.
DEFAULT_WINDOW = 4 * 1024 * 1024


class SendCredit:
    """The sender's side of one stream's credit."""

    def __init__(self, initial: int) -> None:
        self._available = 0
        self.grant(initial)

    @property
    def available(self) -> int:
        """Bytes that may be sent now."""
        return self._available

    def grant(self, amount: int) -> None:
        """Add what the peer granted.

        Raises:
            RemoteProtocolError: the sum would pass ``MAX_CREDIT``.
        """
        if self._available + amount > MAX_CREDIT:
            raise RemoteProtocolError(f"credit of a stream may not pass {MAX_CREDIT} bytes")
        self._available += amount

    def spend(self, amount: int) -> None:
        """Account for data about to be sent.

        Raises:
            LocalProtocolError: there is not that much credit.
        """
        if amount > self._available:
            raise LocalProtocolError(f"{amount} bytes would exceed the credit of {self._available}")
        self._available -= amount


class ReceiveCredit:
    """The receiver's side of one stream's credit: topped up when half of the window is used.

    Every byte ever granted is outstanding, held by the application, or owed to the sender again;
    together they are the window, which only an extra grant changes. Once everything has come in
    and was consumed, nothing is held, and less than half is owed: there is credit to go on with.

    Args:
        initial: the credit that the request carries, in bytes.
    """

    def __init__(self, initial: int) -> None:
        self._outstanding = 0
        self._held = 0
        self._owed = 0
        self.grant(initial)

    def grant(self, amount: int) -> None:
        """Account for credit about to be granted.

        Raises:
            LocalProtocolError: the sum would pass ``MAX_CREDIT``.
        """
        if self._outstanding + amount > MAX_CREDIT:
            raise LocalProtocolError(f"credit of a stream may not pass {MAX_CREDIT} bytes")
        self._outstanding += amount

    def received(self, amount: int) -> None:
        """Account for data that came in.

        Raises:
            RemoteProtocolError: the peer sent more than it was granted.
        """
        if amount > self._outstanding:
            raise RemoteProtocolError(f"{amount} bytes of output came with a credit of {self._outstanding}")
        self._outstanding -= amount
        self._held += amount

    def consumed(self, amount: int) -> int:
        """Account for data that the application has taken; return what to `grant` now, often 0.

        Raises:
            LocalProtocolError: more than came in was taken.
        """
        if not 0 <= amount <= self._held:
            raise LocalProtocolError(f"{amount} bytes were consumed, but {self._held} are there")
        self._held -= amount
        self._owed += amount
        if self._owed * 2 < self._outstanding + self._held + self._owed:
            return 0
        grant, self._owed = self._owed, 0
        return grant
