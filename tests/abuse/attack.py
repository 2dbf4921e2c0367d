"""Owns a flood from outside: connections that never get as far as their hello, held open or opened again.

`python -m tests.abuse.attack PORT SECONDS KIND=COUNT...` prints "ready" once all of them were open, keeps
them up for so long, and prints as JSON how many connections it made. They come from 127.0.0.2 and its
neighbours. Kinds:

    silent    says nothing
    hello     sends a whole ClientHello, and then nothing
    trickle   sends one, a byte at a time
    garbage   sends what is no TLS
"""

import errno
import json
import os
import select
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

#: Seconds between two bytes of a trickle.
PACE = 0.02
SOURCES = 20


def client_hello() -> bytes:
    """What a client of ours says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["worker.v1"])
    outgoing = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without a peer")


@dataclass
class Attacker:
    """One connection of a kind, opened again whenever it is cut."""

    kind: str
    source: str
    sock: socket.socket | None = None
    sent: int = 0


class Flood:
    """All of them.

    Args:
        port: the server's.
        attackers: who attacks.
    """

    def __init__(self, port: int, attackers: list[Attacker]) -> None:
        self._port = port
        self._attackers = attackers
        self._hello = client_hello()
        self._epoll = select.epoll()
        self._open: dict[int, Attacker] = {}
        self.made = 0

    def run(self, seconds: float) -> None:
        """Open all, say so, and keep them up."""
        for attacker in self._attackers:
            self._connect(attacker)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        end = time.monotonic() + seconds
        trickle = 0.0
        while (now := time.monotonic()) < end:
            for fd, _ in self._epoll.poll(PACE, 256):
                self._reconnect_if_cut(self._open[fd])
            if now >= trickle:
                trickle = now + PACE
                for attacker in self._attackers:
                    if attacker.kind == "trickle":
                        self._say(attacker, self._hello[attacker.sent : attacker.sent + 1])

    def _connect(self, attacker: Attacker) -> None:
        sock = attacker.sock = socket.socket()
        attacker.sent = 0
        sock.bind((attacker.source, 0))
        sock.settimeout(10)
        try:
            sock.connect(("127.0.0.1", self._port))
        except OSError:  # it will be tried again
            sock.close()
            attacker.sock = None
            return
        sock.setblocking(False)
        self.made += 1
        self._open[sock.fileno()] = attacker
        self._epoll.register(sock, select.EPOLLIN | select.EPOLLRDHUP)
        if attacker.kind == "hello":
            self._say(attacker, self._hello)
        elif attacker.kind == "garbage":
            self._say(attacker, os.urandom(400))

    def _say(self, attacker: Attacker, data: bytes) -> None:
        if attacker.sock is not None:
            try:
                attacker.sent += attacker.sock.send(data)
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    self._again(attacker)
        else:
            self._connect(attacker)

    def _reconnect_if_cut(self, attacker: Attacker) -> None:
        assert attacker.sock is not None
        try:
            if attacker.sock.recv(65536):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._again(attacker)

    def _again(self, attacker: Attacker) -> None:
        if attacker.sock is not None:
            del self._open[attacker.sock.fileno()]
            attacker.sock.close()
        self._connect(attacker)


def _attackers(words: list[str]) -> Iterator[Attacker]:
    for word in words:
        kind, _, count = word.partition("=")
        for number in range(int(count)):
            yield Attacker(kind, f"127.0.0.{2 + number % SOURCES}")


if __name__ == "__main__":
    flood = Flood(int(sys.argv[1]), list(_attackers(sys.argv[3:])))
    flood.run(float(sys.argv[2]))
    sys.stdout.write(json.dumps({"made": flood.made}) + "\n")
