"""Owns the blocking client's WebSocket: binary messages inside TLS (wsproto, sans-IO)."""

import contextlib
import time

from wsproto import WSConnection
from wsproto.connection import ConnectionType
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from .endpoint import WEBSOCKET_SUBPROTOCOL, Endpoint
from .errors import ConnectError, CutError
from .transport import TlsTransport


class WebSocketTransport:
    """Bytes over binary WebSocket messages. To open it may take ``seconds``."""

    def __init__(self, below: TlsTransport, endpoint: Endpoint, seconds: float) -> None:
        self._below = below
        self._endpoint = endpoint
        self._websocket: WSConnection = WSConnection(ConnectionType.CLIENT)
        self._buffer = bytearray()
        self._ended = False
        accepted = False
        request = Request(host=str(endpoint), target="/", subprotocols=[WEBSOCKET_SUBPROTOCOL])
        below.send(self._websocket.send(request))
        rejected = None
        deadline = time.monotonic() + seconds
        while not accepted:
            if (events := self._events()) is None and not below.wait(deadline - time.monotonic()):
                raise below.silent()
            for event in events or ():
                match event:
                    case AcceptConnection(subprotocol=subprotocol):
                        if subprotocol != WEBSOCKET_SUBPROTOCOL:
                            raise ConnectError(
                                f"{endpoint} speaks WebSocket, but not our protocol: check --server."
                            )
                        accepted = True
                    case RejectConnection(status_code=status, has_body=has_body):
                        rejected = f"{endpoint} refuses our WebSocket (HTTP status {status}): check --server."
                        if not has_body:
                            raise ConnectError(rejected)
                    case RejectData(body_finished=True):
                        raise ConnectError(rejected or "")
                    case _:
                        self._take(event)  # the first messages may come along with the acceptance

    def send(self, data: bytes) -> None:
        try:
            message = self._websocket.send(BytesMessage(data))
        except LocalProtocolError as error:
            raise CutError(f"{self._endpoint} has closed the connection.") from error
        self._below.send(message)

    def receive(self) -> bytes | None:
        while not self._buffer and not self._ended:
            if (events := self._events()) is None:
                return None
            for event in events:
                self._take(event)
        data, self._buffer = bytes(self._buffer), bytearray()
        return data

    def wait(self, timeout: float) -> bool:
        return bool(self._buffer) or self._ended or self._below.wait(timeout)

    def has_room(self) -> bool:
        return self._below.has_room()

    def shut(self) -> None:
        self._below.shut()

    def _take(self, event: Event) -> None:
        match event:
            case BytesMessage(data=data):
                self._buffer += data
            case Ping():
                self._below.send(self._websocket.send(event.response()))
            case CloseConnection():
                self._ended = True
                with contextlib.suppress(CutError):
                    self._below.send(self._websocket.send(event.response()))
            case _:
                pass

    def close(self) -> None:
        last = b""
        try:
            with contextlib.suppress(LocalProtocolError):
                last = self._websocket.send(CloseConnection(code=1000))
        finally:
            self._below.close(last)

    def _events(self) -> list[Event] | None:
        """What has come, if anything has."""
        data = self._below.receive()
        if data is None:
            return None
        if not data:
            raise CutError(f"The connection to {self._endpoint} was cut.")
        try:
            self._websocket.receive_data(data)
            return list(self._websocket.events())
        except RemoteProtocolError as error:
            raise ConnectError(f"{self._endpoint} does not answer as a WebSocket: check --server.") from error
