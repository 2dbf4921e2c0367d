"""Owns a client with a certificate that floods one connection, and reads as little as it can.

`python -m tests.abuse.insider KIND PORT CERTS JOB SECONDS` prints as JSON how many bytes it has sent. Kinds:

    pings        pings of the native protocol whose answers it never reads
    cancels      requests, each cancelled at once; it reads
    lists        requests for pages of the list; it reads
    trickle      one request, a byte at a time, again and again; it reads
    key-updates  TLS 1.3 KeyUpdate messages, each of which asks for another
    ws-pings     WebSocket pings whose answers it never reads
    fragments    empty fragments of one WebSocket message
    headers      an HTTP header without end, then a new connection, and so on
"""

import contextlib
import json
import os
import select
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from certs.contexts import ALPN_HTTP, ALPN_NATIVE, client_context
from tests.harness import PATIENCE
from wire.connection import Connection, Role, Signal
from wire.messages import Cancel, Ping, Request

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"Sec-WebSocket-Protocol: worker.v1.msgpack\r\n\r\n"
)
BATCH = 256


class Insider:
    """One flooding client."""

    def __init__(self, port: int, certs: Path, job: str, seconds: float) -> None:
        self._port = port
        self._certs = certs
        self._job = job
        self._end = time.monotonic() + seconds
        self.sent = 0

    def run(self, kind: str) -> None:
        """Flood until the time is over or the server has cut the connection for good."""
        floods: dict[str, Callable[[], None]] = {
            "pings": self._pings,
            "cancels": self._cancels,
            "lists": self._lists,
            "trickle": self._trickle,
            "key-updates": self._key_updates,
            "ws-pings": lambda: self._websocket(b"\x89\x80" + bytes(4)),
            "fragments": lambda: self._websocket(b"\x00\x80" + bytes(4), begin=b"\x02\x80" + bytes(4)),
            "headers": self._headers,
        }
        with contextlib.suppress(OSError):
            floods[kind]()

    def _connect(self, alpn: str) -> ssl.SSLSocket:
        context = client_context(self._certs, "user", alpn=alpn)
        sock = socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE)
        return context.wrap_socket(sock, server_hostname="localhost")

    def native(self) -> tuple[ssl.SSLSocket, Connection]:
        """Open a connection, up to the server's hello."""
        tls, connection = self._connect(ALPN_NATIVE), Connection(Role.CLIENT)
        while connection.next_event() is Signal.NEED_DATA:
            connection.receive_data(tls.recv(65536))
        return tls, connection

    def _flood(self, tls: ssl.SSLSocket | socket.socket, pieces: Iterator[bytes]) -> None:
        """Send for as long as the server takes it, and then wait."""
        tls.settimeout(0.2)
        while time.monotonic() < self._end:
            data = next(pieces)
            try:
                tls.sendall(data)
            except TimeoutError:  # it takes no more; that we have sent a part does not matter
                time.sleep(max(0, self._end - time.monotonic()))
            else:
                self.sent += len(data)

    def _pings(self) -> None:
        tls, connection = self.native()
        ping = connection.send(Ping(1))
        self._flood(tls, iter(lambda: ping * BATCH, b""))

    def _talk(self, batch: Callable[[Connection, Iterator[int]], bytes]) -> None:
        """Send batches, and read what comes; a batch when all of the last was answered."""
        tls, connection = self.native()
        tls.settimeout(10)
        ids = count(1)
        while time.monotonic() < self._end:
            data = batch(connection, ids)
            tls.sendall(data)
            self.sent += len(data)
            while connection.open_requests:
                connection.receive_data(tls.recv(256 * 1024))
                while not isinstance(connection.next_event(), Signal):
                    pass

    def _cancels(self) -> None:
        def batch(connection: Connection, ids: Iterator[int]) -> bytes:
            return b"".join(
                connection.send(Request(number, "wait", {"id": self._job})) + connection.send(Cancel(number))
                for number in (next(ids) for _ in range(BATCH))
            )

        self._talk(batch)

    def _lists(self) -> None:
        def batch(connection: Connection, ids: Iterator[int]) -> bytes:
            return b"".join(connection.send(Request(next(ids), "list")) for _ in range(32))

        self._talk(batch)

    def _trickle(self) -> None:
        tls, connection = self.native()
        for number in count(1):
            for byte in connection.send(Request(number, "query", {"id": self._job})):
                if time.monotonic() > self._end:
                    return
                tls.sendall(bytes((byte,)))
                self.sent += 1
            while connection.open_requests:
                connection.receive_data(tls.recv(65536))
                connection.next_event()

    def _websocket(self, frame: bytes, begin: bytes = b"") -> None:
        tls = self._connect(ALPN_HTTP)
        tls.sendall(UPGRADE)
        assert b" 101 " in tls.recv(65536)
        tls.sendall(begin)
        self._flood(tls, iter(lambda: frame * 2048, b""))

    def _headers(self) -> None:
        while time.monotonic() < self._end:
            with contextlib.suppress(OSError), self._connect(ALPN_HTTP) as tls:
                tls.sendall(UPGRADE[:-2] + b"X-Long: ")
                for _ in range(64):
                    tls.sendall(b"x" * 4096)
                    self.sent += 4096

    def _key_updates(self) -> None:
        """Write TLS records ourselves, as Python's ssl cannot say KeyUpdate (RFC 8446, 4.6.3, 5.2, 7.2)."""
        context = client_context(self._certs, "user", alpn=ALPN_NATIVE)
        with tempfile.NamedTemporaryFile() as keylog:
            context.keylog_filename = keylog.name
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
            sock = socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE)
            done = False
            while not done:
                try:
                    tls.do_handshake()
                    done = True
                except ssl.SSLWantReadError:
                    pass
                sock.sendall(outgoing.read())
                if not done:
                    incoming.write(sock.recv(65536))
            assert tls.cipher() == ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)
            lines = [line.split() for line in Path(keylog.name).read_text().splitlines()]
        secret = next(bytes.fromhex(line[2]) for line in lines if line[0] == "CLIENT_TRAFFIC_SECRET_0")
        assert select.select([sock], [], [], 10)[0]  # its hello
        self._flood(sock, _key_update_records(secret))


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    label = b"tls13 " + label
    info = size.to_bytes(2, "big") + bytes((len(label),)) + label + b"\0"
    return HKDFExpand(SHA384(), size, info).derive(secret)


def _key_update_records(secret: bytes) -> Iterator[bytes]:
    while True:
        records = []
        for _ in range(BATCH):
            header = b"\x17\x03\x03" + (5 + 1 + 16).to_bytes(2, "big")
            sealed = AESGCM(_expand(secret, b"key", 32)).encrypt(
                _expand(secret, b"iv", 12), b"\x18\x00\x00\x01\x01\x16", header
            )
            records.append(header + sealed)
            secret = _expand(secret, b"traffic upd", 48)
        yield b"".join(records)


if __name__ == "__main__":
    insider = Insider(int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], float(sys.argv[5]))
    insider.run(sys.argv[1])
    sys.stdout.write(json.dumps({"sent": insider.sent}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # no orderly close: a flooder has none
