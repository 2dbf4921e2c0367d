"""Owns the accept loop: connections go to the lobby; no error of accept(2) ends it or makes it spin."""

import errno
import os
import socket
from typing import NoReturn

import trio

from .gate import Gate
from .handshake import HEADER_BYTES
from .lobby import Lobby
from .log import Log
from .tally import Tally

#: The most connections taken each time the event loop comes round: so many that in a flood of them nobody
#: waits long in the kernel's queue, so few that those who are connected do not wait long for the flood.
BATCH = 16
#: Pause after an accept that failed, in seconds: the connection is still there, so is the error.
PAUSE = 0.1
#: What accept(2) says when descriptors or memory have run out.
_USED_UP = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


async def accept_forever(listener: trio.SocketListener, lobby: Lobby, gate: Gate, log: Log) -> NoReturn:
    """Accept connections into the lobby until cancelled; close the listener then.

    Errors of the network that wait for an accept (accept(2), "Error handling") are this connection's alone.
    """
    failed = Tally(log, "a connection could not be accepted")
    async with listener:
        # Trio's own socket has no accept that does not wait.
        with socket.fromfd(listener.socket.fileno(), listener.socket.family, listener.socket.type) as sock:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, HEADER_BYTES)  # connections inherit it
            while True:
                await trio.lowlevel.wait_readable(sock)
                try:
                    for _ in range(BATCH):
                        peer, address = sock.accept()
                        lobby.enter(peer, address[:2])
                except BlockingIOError:
                    pass
                except OSError as error:
                    number = error.errno or 0
                    failed.add(reason=os.strerror(number))
                    if number in _USED_UP:
                        gate.drop_oldest()
                    await trio.sleep(PAUSE)
