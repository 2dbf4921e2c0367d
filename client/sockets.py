"""Owns the blocking client's sockets, which never block: how one is connected, and all waiting for one."""

import errno
import os
import select
import socket
from typing import Final

from .endpoint import Endpoint
from .errors import ConnectError
from .interruption import attempt

#: What connect(2) says on a socket that does not block: the end of it is waited for.
_UNDER_WAY: Final = (errno.EINPROGRESS, errno.EAGAIN)


def connect_tcp(endpoint: Endpoint, seconds: float) -> socket.socket:
    """Connect a socket that never blocks: each address that the host has is tried for ``seconds``.

    Raises:
        ConnectError: nobody answers at any of them; why the first one does not.
    """
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectError(unreachable(endpoint, error)) from error
    except ValueError as error:  # what IDNA says of a host that no name can be
        raise ConnectError(unreachable(endpoint, OSError("no such name"))) from error
    problem: OSError | None = None
    for family, kind, protocol, _, address in found:
        tcp = attempt(socket.socket, family, kind, protocol)
        if isinstance(tcp, OSError):
            problem = problem or tcp
            continue
        try:
            tcp.setblocking(False)
            number = tcp.connect_ex(address)
            if number in _UNDER_WAY:
                in_time = Waiter(tcp).wait(select.POLLOUT, seconds)
                number = tcp.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if in_time else errno.ETIMEDOUT
            if number == 0:
                return tcp
        except BaseException:
            tcp.close()
            raise
        tcp.close()
        reason = "timed out" if number == errno.ETIMEDOUT else os.strerror(number)
        problem = problem or OSError(number, reason)
    problem = problem or OSError("no such name")
    raise ConnectError(unreachable(endpoint, problem)) from problem


class Waiter:
    """Waits for a socket."""

    def __init__(self, tcp: socket.socket) -> None:
        self._fd = tcp.fileno()
        self._poll = select.poll()

    def wait(self, events: int, timeout: float | None) -> bool:
        """Wait for one of poll(2)'s events; False after ``timeout`` seconds without, None is for ever."""
        self._poll.register(self._fd, events)
        return bool(self._poll.poll(None if timeout is None else max(0.0, timeout) * 1000))


def unreachable(endpoint: Endpoint, error: OSError) -> str:
    """Say that nobody answers, and what to do."""
    reason = error.strerror or str(error) or "no answer"
    return f"Cannot reach the server at {endpoint} ({reason}): check --server, and that it runs."
