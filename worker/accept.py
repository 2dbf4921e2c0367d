"""Owns listening and accepting: connections go to the lobby; no error of accept(2) ends it or spins."""

import errno
import os
import socket
from functools import partial
from typing import NoReturn

import trio

from .carry_on import carry_on
from .gate import Gate
from .handshake import HEADER_BYTES
from .lobby import Lobby
from .log import Log
from .tally import Tally
from .threads import NoThreadError, may_need_threads

#: The most connections taken each time the event loop comes round: so many that in a flood of them nobody
#: waits long in the kernel's queue, so few that those who are connected do not wait long for the flood.
BATCH = 16
#: Pause after an accept that failed, in seconds: the connection is still there, so is the error.
PAUSE = 0.1
#: What accept(2) says when descriptors or memory have run out.
_USED_UP = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


class ListenError(Exception):
    """The address cannot be listened on; the text says why."""


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listen on every address of a host.

    Raises:
        ListenError: that is not possible there.
        OSError: this process may open no more files, or start no more threads.
    """
    try:
        with may_need_threads():
            return await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE) or isinstance(error, NoThreadError):
            raise  # that is not the address's fault
        raise ListenError(error.strerror or str(error)) from error
    except UnicodeError as error:  # the name cannot be one of a host
        raise ListenError("that is no host name") from error


async def accept_forever(listener: trio.SocketListener, lobby: Lobby, gate: Gate, log: Log) -> None:
    """Accept connections into the lobby until cancelled, whatever fails; close the listener then.

    Errors of the network that wait for an accept (accept(2), "Error handling") are this connection's alone.
    """
    async with listener:
        # Trio's own socket has no accept that does not wait.
        with socket.fromfd(listener.socket.fileno(), listener.socket.family, listener.socket.type) as sock:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, HEADER_BYTES)  # connections inherit it
            await carry_on("accept", partial(_accept, sock, lobby, gate, log), log)


async def _accept(sock: socket.socket, lobby: Lobby, gate: Gate, log: Log) -> NoReturn:
    failed = Tally(log, "a connection could not be accepted")
    while True:
        await trio.lowlevel.wait_readable(sock)
        try:
            for _ in range(BATCH):
                peer, address = sock.accept()
                lobby.enter(peer, address[:2])
        except BlockingIOError:
            pass
        except (OSError, MemoryError) as error:
            number = (error.errno if isinstance(error, OSError) else errno.ENOMEM) or 0
            failed.add(reason=os.strerror(number))
            if number in _USED_UP:
                gate.drop_oldest()
            await trio.sleep(PAUSE)
