"""What came over a WebSocket along with something else is there at once, though the socket below is empty."""

from collections import deque
from typing import cast

from wsproto import WSConnection
from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Request

from client.endpoint import WEBSOCKET_SUBPROTOCOL, Endpoint
from client.transport import TlsTransport
from client.websocket_transport import WebSocketTransport


class Below:
    """A transport in memory to a server that accepts a WebSocket, and says something along with that."""

    def __init__(self, first: bytes = b"") -> None:
        self.server = WSConnection(ConnectionType.SERVER)
        self.come: deque[bytes] = deque()
        self._first = first

    def send(self, data: bytes) -> None:
        self.server.receive_data(data)
        for event in self.server.events():
            if isinstance(event, Request):
                accepted = self.server.send(AcceptConnection(subprotocol=WEBSOCKET_SUBPROTOCOL))
                message = self.server.send(BytesMessage(self._first)) if self._first else b""
                self.come.append(accepted + message)

    def receive(self) -> bytes | None:
        return self.come.popleft() if self.come else None

    def wait(self, timeout: float) -> bool:
        return bool(self.come)


def opened(below: Below) -> WebSocketTransport:
    return WebSocketTransport(cast("TlsTransport", below), Endpoint("host", 1, websocket=True), 1.0)


def test_what_came_with_the_acceptance() -> None:
    transport = opened(Below(b"hello"))
    assert transport.wait(0)
    assert transport.receive() == b"hello"
    assert not transport.wait(0)


def test_an_end_that_came_with_a_message() -> None:
    below = Below()
    transport = opened(below)
    assert not transport.wait(0)
    below.come.append(below.server.send(BytesMessage(b"last")) + below.server.send(CloseConnection(1000)))
    assert transport.wait(0)
    assert transport.receive() == b"last"
    assert transport.wait(0)
    assert transport.receive() == b""
