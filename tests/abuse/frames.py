"""Owns a client that sends what costs much to read, again and again, over many connections of one identity.

`python -m tests.abuse.frames KIND IDENTITY CONNECTIONS PORT CERTS JOB SECONDS` prints as JSON how often it
has begun to. What ends a connection is sent over the next one. Kinds, with `ws-` before them for a WebSocket:

    cancels   200,000 cancels of an id that is not open, at once
    credits   200,000 credits likewise
    pings     50,000 pings, whose answers are read
    nested    a frame full of empty arrays
    deep      arrays in arrays, each of which announces as many entries as it may
    numbers   a frame of one array of numbers
    unknown   calls of a method that there is not
    start     starts of 65,000 arguments; one for a User is denied
    repeat    the same start again and again, by one id, with 65,000 variables
    partial   a frame, or a WebSocket message, of which the last byte never comes
"""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
import trio

from certs.contexts import ALPN_HTTP, ALPN_NATIVE, client_context
from tests.abuse.insider import UPGRADE
from tests.harness import PATIENCE
from wire.connection import Connection, Role, Signal
from wire.frames import encode_frame
from wire.messages import Cancel, Credit, Hello, Ping, Request, encode_message
from wire.trio_stream import RECEIVE_BYTES

KINDS = ("cancels", "credits", "pings", "nested", "deep", "numbers", "unknown", "start", "repeat", "partial")
#: Connections whose handshakes are under way at once.
HANDSHAKES = 16


def _call(params: dict[str, object], method: str = "query") -> bytes:
    return encode_frame(encode_message(Request(1, method, params)))


def _raw(head: bytes, filler: bytes, size: int) -> bytes:
    """A frame of ``size`` bytes: the beginning of a request whose one parameter is what is filled in."""
    whole = b"\x84\xa4type\xa7request\xa2id\x01\xa6method\xa5query\xa6params\x81\xa1x" + head
    count = (size - len(whole)) // len(filler)
    return encode_frame((whole + filler * count).ljust(size, b"\x01"))


def payloads(max_frame: int) -> dict[str, bytes]:
    """What is sent at a time, for a client that may send frames of a size."""
    entries = min(65_000, max_frame - 100)
    announced = b"\xdc" + entries.to_bytes(2, "big")
    words = [b"x"] * min(65_000, (max_frame - 200) // 3)
    start = {"type": "request", "id": 1, "method": "start", "params": {"argv": [b"/missing", *words]}}
    variables = {b"%05x" % number: b"" for number in range(entries)}
    same = {"argv": [b"/missing"], "env": variables, "id": "0d9b7e3a-6c1f-4f52-9a58-1be5a6d2c7f4"}
    repeat = {"type": "request", "id": 1, "method": "start", "params": same}
    return {
        "cancels": encode_frame(encode_message(Cancel(7))) * 200_000,
        "credits": encode_frame(encode_message(Credit(7, 1))) * 200_000,
        "pings": encode_frame(encode_message(Ping(7))) * 50_000,
        "nested": _raw(announced, b"\x90", max_frame),
        "deep": _raw(announced, b"\xdc" + entries.to_bytes(2, "big"), max_frame),
        "numbers": _raw(announced, b"\x01", len(announced) + entries),
        "unknown": b"".join(_call({}, "x" * 1000) for _ in range(1000)),
        "start": encode_frame(msgpack.packb(start)),
        "repeat": encode_frame(msgpack.packb(repeat)),
        "partial": encode_frame(bytes(max_frame))[:-1],
    }


class Flooder:
    """One flooding client.

    Args:
        kind: of the list above.
        identity: whose certificate it has.
        port: of the server, on loopback.
        certs: the directory of certificates.
    """

    def __init__(self, kind: str, identity: str, port: int, certs: Path) -> None:
        self.sent = 0
        self._kind = kind.removeprefix("ws-")
        self._websocket = kind.startswith("ws-")
        self._port = port
        alpn = ALPN_HTTP if self._websocket else ALPN_NATIVE
        self._context = client_context(certs, identity, alpn=alpn)
        self._handshakes = trio.CapacityLimiter(HANDSHAKES)

    async def run(self, connections: int, seconds: float) -> None:
        """Flood until the time is over, which begins when each connection has begun to send."""
        async with trio.open_nursery() as nursery:
            for _ in range(connections):
                nursery.start_soon(self._flood)
            with trio.fail_after(PATIENCE):
                while self.sent < connections:  # noqa: ASYNC110  # it counts up in many places
                    await trio.sleep(0.02)
            await trio.sleep(seconds)
            nursery.cancel_scope.cancel()

    async def _flood(self) -> None:
        while True:
            try:
                await self._connect_and_send()
            except* (OSError, trio.BrokenResourceError):
                pass  # it was ended, as it should be
            await trio.sleep(0.05)

    async def _connect_and_send(self) -> None:
        async with self._handshakes:
            tcp = await trio.open_tcp_stream("127.0.0.1", self._port)
            tls = trio.SSLStream(tcp, self._context, server_hostname="localhost")
            try:
                await tls.do_handshake()
                max_frame = await self._hello(tls)
            except BaseException:
                await trio.aclose_forcefully(tls)
                raise
        data = payloads(max_frame)[self._kind]
        if self._websocket:  # one message, not masked but by zeros
            data = b"\x82\xff" + len(data).to_bytes(8, "big") + bytes(4) + data
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, tls, nursery.cancel_scope.cancel)
                while True:
                    self.sent += 1
                    await tls.send_all(data)
                    if self._kind == "partial":
                        await trio.sleep_forever()
        finally:
            await trio.aclose_forcefully(tls)

    async def _hello(self, tls: trio.SSLStream[trio.SocketStream]) -> int:
        heard = b""
        connection = Connection(Role.CLIENT)
        if self._websocket:
            await tls.send_all(UPGRADE)
            while b"\r\n\r\n" not in heard:
                heard += await _some(tls)
            heard = heard.partition(b"\r\n\r\n")[2]
            while len(heard) < 4:
                heard += await _some(tls)
            heard = heard[2:] if heard[1] < 126 else heard[4:]  # behind the header of its first message
        while True:
            if heard:
                connection.receive_data(heard)
            if not isinstance(hello := connection.next_event(), Signal):
                if not isinstance(hello, Hello):  # `busy`, as the server has not closed the one before yet
                    raise trio.BrokenResourceError("refused")
                return hello.max_frame  # noqa: ASYNC910  # it has received it
            heard = await _some(tls)

    async def _read(self, tls: trio.SSLStream[trio.SocketStream], ended: Callable[[], None]) -> None:
        while await tls.receive_some(RECEIVE_BYTES):
            pass
        ended()


async def _some(tls: trio.SSLStream[trio.SocketStream]) -> bytes:
    data = bytes(await tls.receive_some(RECEIVE_BYTES))
    if not data:
        raise trio.BrokenResourceError("the server has closed")
    return data


def main(kind: str, identity: str, connections: int, port: int, certs: Path, seconds: float) -> None:
    """Flood, and tell how often."""
    flooder = Flooder(kind, identity, port, certs)
    trio.run(partial(flooder.run, connections, seconds))
    sys.stdout.write(json.dumps({"sent": flooder.sent}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # no orderly close: a flooder has none


if __name__ == "__main__":
    kind, identity, connections, port, certs, _, seconds = sys.argv[1:]
    main(kind, identity, int(connections), int(port), Path(certs), float(seconds))
