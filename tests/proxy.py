"""Owns a TCP proxy that breaks connections, for tests of what comes back after a cut."""

import random
import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.harness import PATIENCE

CHUNK_BYTES = 64 * 1024


class _Connection:
    """One connection that is passed on, by a thread for each direction."""

    def __init__(self, near: socket.socket, far: socket.socket, limit: int | None) -> None:
        self.over = threading.Event()
        self._near = near
        self._far = far
        self._limit = limit
        self._reset = False
        self._stopped, self._stop = socket.socketpair()
        threading.Thread(target=self._run, daemon=True).start()

    def reset(self) -> None:
        """Break it on both sides; what is on its way is lost."""
        self._reset = True
        self._stop.close()

    def _run(self) -> None:
        back = threading.Thread(target=self._pump, args=(self._far, self._near, self._limit), daemon=True)
        back.start()
        self._pump(self._near, self._far, None)
        back.join()
        for end in (self._near, self._far):
            with suppress(OSError):
                if self._reset:
                    # With a linger of zero, close(2) sends a reset: socket(7).
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.close()
        self._stop.close()
        self._stopped.close()
        self.over.set()

    def _pump(self, source: socket.socket, target: socket.socket, limit: int | None) -> None:
        try:
            while self._wait(source, select.POLLIN):
                data = source.recv(CHUNK_BYTES)
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                rest = memoryview(data if limit is None else data[:limit])
                while rest and self._wait(target, select.POLLOUT):
                    with suppress(BlockingIOError):
                        rest = rest[target.send(rest, socket.MSG_DONTWAIT) :]
                if limit is not None and (limit := limit - len(data)) <= 0:
                    self.reset()
        except OSError:
            self.reset()  # what one side does to us, the other one sees

    def _wait(self, end: socket.socket, event: int) -> bool:
        """Wait until one side is ready; False if this is to end."""
        poll = select.poll()
        poll.register(end, event)
        poll.register(self._stopped, select.POLLIN)
        return self._stopped.fileno() not in dict(poll.poll())


class Proxy:
    """Passes connections on to a port on loopback, until it is told to break them.

    Args:
        target: the port that it stands before.
        seed: of its random numbers, so that a failure comes again.
    """

    def __init__(self, target: int, *, seed: int = 0) -> None:
        self.target = target
        #: How many connections there were.
        self.accepted = 0
        self._within = self._left = 0
        self._chance = random.Random(seed)  # noqa: S311
        self._lock = threading.Lock()
        self._connections: list[_Connection] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        #: Where it listens.
        self.port: int = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._thread = self._listen()

    def cut(self) -> int:
        """Reset every connection, on both sides; return how many there were."""
        with self._lock:
            live = [each for each in self._connections if not each.over.is_set()]
            self._connections.clear()
        for each in live:
            each.reset()
        for each in live:
            each.over.wait(PATIENCE)
        return len(live)

    def cut_later(self, count: int, within: int) -> None:
        """Reset each of the next connections after a random number of bytes from the target.

        Args:
            count: how many connections.
            within: the most bytes.
        """
        with self._lock:
            self._left, self._within = count, within

    def close(self) -> None:
        """Reset every connection, and refuse new ones."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(2)
        self._thread.join(PATIENCE)
        self._listener.close()
        self.cut()

    def reopen(self) -> None:
        """Listen again, on the same port, after `close`."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._thread = self._listen()

    def _listen(self) -> threading.Thread:
        thread = threading.Thread(target=self._accept, daemon=True)
        thread.start()
        return thread

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    near.close()
                    continue
                with self._lock:
                    limit = None
                    if self._left:
                        self._left -= 1
                        limit = self._chance.randint(1, self._within)
                    self.accepted += 1
                    self._connections.append(_Connection(near, far, limit))


@contextmanager
def proxy(target: int, *, seed: int = 0) -> Iterator[Proxy]:
    """A proxy until the block ends; see `Proxy`."""
    made = Proxy(target, seed=seed)
    try:
        yield made
    finally:
        made.close()
