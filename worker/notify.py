"""Owns what a service manager is told of us: that we are ready, reload, end, and live. Source: sd_notify(3).

Each message is one datagram to the Unix socket that NOTIFY_SOCKET names. Without one, nobody is told. What
cannot be delivered is left out: no message is worth holding up the server, or failing it.
"""

import os
import socket
import time
from collections.abc import MutableMapping
from typing import Self

#: The most of a number that fits into 64 bits.
DIGITS = 20


class Notifier:
    """Talks to the service manager.

    Args:
        address: its socket: a path, or with a leading ``@`` a name without a file; None for no manager.
        watchdog: seconds within which it wants to hear that we live; None if it does not ask.
    """

    def __init__(self, address: str | None = None, watchdog: float | None = None) -> None:
        self.watchdog = watchdog
        self._address = "\0" + address[1:] if address and address.startswith("@") else address
        self._stopping = False

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Self:
        """Take what a manager has left in the environment: out of it, as it is for nobody else."""
        address = environment.pop("NOTIFY_SOCKET", None)
        period = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        meant = pid in ("", str(os.getpid()))
        asked = meant and period.isascii() and period.isdigit() and len(period) <= DIGITS and int(period) > 0
        return cls(address or None, int(period) / 1e6 if address and asked else None)

    def ready(self, status: str) -> None:
        """We serve; also said after a reload. ``status`` is a sentence for `systemctl status`."""
        if not self._stopping:  # who is at the end has no other state to be in
            self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """We read our files again; `ready` says when that is over."""
        if not self._stopping:
            self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=Reloading.")

    def stopping(self, status: str) -> None:
        """We end; from now on we are neither ready nor reload."""
        self._stopping = True
        self._send("STOPPING=1", f"STATUS={status}")

    def alive(self) -> None:
        """We live; said at least once in ``watchdog`` seconds, or we are killed and started again."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            pass  # whoever was to be told has gone
