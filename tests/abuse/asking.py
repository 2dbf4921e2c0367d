"""Owns a client that asks for the same thing without end, over many connections of one identity.

`python -m tests.abuse.asking WHAT IDENTITY CONNECTIONS PORT CERTS JOB SECONDS` keeps as many requests under
way as each connection may have, and prints as JSON how many replies came. WHAT is a method; with `-unread`
behind it, no reply is read. A User's `start`, `stop` and `remove` are denied. An Admin's `start` starts real
jobs, its first `stop` stops the job, and `remove` is refused while it runs.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

import trio

from certs.contexts import ALPN_NATIVE, client_context
from wire.connection import Connection, Role, Signal
from wire.messages import Failure, Hello, Reply, Request
from wire.trio_stream import receive_event

METHODS = ("query", "list", "wait", "stream", "start", "stop", "remove")
#: Connections whose handshakes are under way at once.
HANDSHAKES = 16


class Asker:
    """One flooding client.

    Args:
        what: the method.
        identity: whose certificate it has.
        port: of the server, on loopback.
        certs: the directory of certificates.
        job: an id, for methods that take one.
    """

    def __init__(self, what: str, identity: str, port: int, certs: Path, job: str) -> None:
        self.replies = 0
        self._method, _, unread = what.partition("-")
        self._reads = not unread
        special: dict[str, dict[str, object]] = {
            "start": {"argv": ["true" if identity == "admin" else "x" * 1000]},
            "list": {},
            "stream": {"id": job, "follow": False, "tail_lines": 10},
        }
        self._params = special.get(self._method, {"id": job})
        self._credit = 2**31 - 1 if self._method == "stream" else 0
        self._port = port
        self._context = client_context(certs, identity, alpn=ALPN_NATIVE)
        self._handshakes = trio.CapacityLimiter(HANDSHAKES)

    async def run(self, connections: int, seconds: float) -> None:
        """Flood until the time is over."""
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for _ in range(connections):
                    nursery.start_soon(self._ask)

    async def _ask(self) -> None:
        async with self._handshakes:
            tcp = await trio.open_tcp_stream("127.0.0.1", self._port)
            tls = trio.SSLStream(tcp, self._context, server_hostname="localhost")
            await tls.do_handshake()
            connection = Connection(Role.CLIENT)
            hello = await receive_event(tls, connection)
        assert isinstance(hello, Hello)
        ids = iter(range(1, 2**31))
        ask = partial(Request, method=self._method, params=self._params, credit=self._credit)
        await tls.send_all(b"".join(connection.send(ask(next(ids))) for _ in range(hello.max_requests)))
        if not self._reads:
            await trio.sleep_forever()
        while True:
            connection.receive_data(await tls.receive_some(64 * 1024))
            more = b""
            while not isinstance(event := connection.next_event(), Signal):
                if isinstance(event, Reply | Failure):
                    self.replies += 1
                    more += connection.send(ask(next(ids)))
            if more:
                await tls.send_all(more)


if __name__ == "__main__":
    what, identity, connections, port, certs, job, seconds = sys.argv[1:]
    asker = Asker(what, identity, int(port), Path(certs), job)
    trio.run(asker.run, int(connections), float(seconds))
    sys.stdout.write(json.dumps({"replies": asker.replies}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # no orderly close: a flooder has none
