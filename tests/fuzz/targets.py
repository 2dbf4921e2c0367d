"""Owns what is fuzzed: for each target, inputs, and a check that raises where the code breaks a promise.

Inputs are bytes, so that one that fails can be kept as a file. They are drawn around what is valid, as what
is random all through gets no further than the first check.
"""

import contextlib
import functools
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import msgpack  # type: ignore[import-untyped]  # it ships no types
import trio
import trio.testing
from hypothesis import strategies as st

from certs.authority import issue
from certs.errors import CertsError
from certs.roles import DEFAULT_ARC, Role, RoleError, identity_of
from client.cli.exits import UsageError
from client.cli.follow import Which
from tests.fuzz.inputs import PADDED, PAYLOADS, STREAMS, Inputs, mutated
from tests.harness import PATIENCE
from tests.tlshelp import authority, der, doubled_role, key
from wire import codec, limits, messages, payload
from wire.connection import Connection, Signal, State
from wire.connection import Role as End
from wire.errors import ErrorCode, LocalProtocolError, RemoteProtocolError, RequestError
from wire.features import FEATURES
from wire.frames import FrameDecoder, encode_frame
from wire.payload import FROM_LOOKER, FROM_SERVER, FROM_STARTER, Caps
from worker.bounds import Bounds
from worker.client_hello import protocols
from worker.intake import Intake
from worker.methods import prepare
from worker.retain import parse_retention
from worker.websocket import SUBPROTOCOL, ServerWebSocket

MAX_FRAME = 4096


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that takes what strangers send.

    Args:
        inputs: where inputs come from.
        check: raises if the code breaks a promise; what it may raise by contract, it catches.
    """

    inputs: Inputs
    check: Callable[[bytes], None]


# --- framing and the connection


def _split(data: bytes) -> list[bytes]:
    """Pieces whose sizes the input itself decides."""
    pieces, place = [], 0
    while place < len(data):
        size = 1 + data[place] % 37
        pieces.append(data[place : place + size])
        place += size
    return pieces


def _frames(pieces: list[bytes]) -> tuple[list[bytes], bool]:
    decoder = FrameDecoder(MAX_FRAME)
    found = []
    try:
        for piece in pieces:
            decoder.receive_data(piece)
            while (frame := decoder.next_frame()) is not None:
                found.append(frame)
            assert decoder.buffered < 4 + MAX_FRAME
    except RemoteProtocolError:
        return found, False
    return found, True


def check_framing(data: bytes) -> None:
    """However a stream is split, the same frames come out, and they are what was put in."""
    found, whole = _frames(_split(data))
    assert (found, whole) == _frames([data])
    assert data.startswith(b"".join(encode_frame(frame, MAX_FRAME) for frame in found))


def check_message(data: bytes) -> None:
    """A payload of either end is refused, or is a message that survives being encoded and decoded again."""
    for types in (messages.TYPES, messages.CLIENT_TYPES):
        try:
            message = messages.decode_message(data, types=types)
        except RemoteProtocolError:
            continue
        _check_decoded(message, types)


def _check_decoded(message: messages.Message, types: Mapping[str, type[messages.Message]]) -> None:
    if isinstance(message, messages.Request):
        message = replace(message, unknown=None)  # which is not sent on
    numbers = [value for name in message.__slots__ if type(value := getattr(message, name)) is int]
    assert all(0 <= number < 2**63 for number in numbers)
    try:
        again = messages.encode_message(message)
    except LocalProtocolError:  # unknown fields are kept in params; they may be what may not be sent
        assert isinstance(message, messages.Request | messages.Reply)
        return
    assert _same(messages.decode_message(again, types=types), message)
    if isinstance(message, messages.Output):
        assert messages.decode_message(messages.encode_output(message)[4:]) == message


def _same(one: messages.Message, other: messages.Message) -> bool:
    # NaN is not equal to itself; `repr` is.
    return one == other or repr(one) == repr(other)


def _opened(end: End, caps: Caps = FROM_SERVER) -> Connection:
    connection = Connection(end, max_frame=MAX_FRAME, caps=caps)
    if end is End.SERVER:
        connection.send(messages.Hello(1, "s", "bob", "Admin", MAX_FRAME, 256, features=FEATURES))
    return connection


def _taken(connection: Connection) -> Iterator[messages.Message]:
    """The messages that have come whole, but for those that count no more."""
    while (event := connection.next_event()) not in (Signal.NEED_DATA, Signal.CLOSED):
        if not isinstance(event, Signal):
            yield event


def _events(pieces: list[bytes], end: End, caps: Caps = FROM_SERVER) -> tuple[list[str], bool]:
    connection = _opened(end, caps)
    found = []
    try:
        for piece in (*pieces, b""):
            connection.receive_data(piece)
            for event in _taken(connection):
                found.append(repr(event))
                if isinstance(event, messages.Request):
                    _prepared(event)
    except RemoteProtocolError:
        assert connection.state is State.FAILED
        assert not connection.open_requests
        if end is End.SERVER:
            connection.send(messages.Failure(0, ErrorCode.PROTOCOL, "?"))
        return found, False
    assert connection.state in (State.CLOSED, State.EXPECT_HELLO, State.OPEN)
    return found, True


def _prepared(request: messages.Request) -> None:
    for role in Role:
        for one in (request, replace(request, unknown=None)):  # its parameters are looked at then
            with contextlib.suppress(RequestError):
                prepare(role, one)


def check_connection(data: bytes) -> None:
    """Whatever a peer sends, either end tells messages or fails for good, however it is split."""
    for end in End:
        assert _events(_split(data), end) == _events([data], end)


# --- what a client may send, and how it is taken in


class _Oracle:
    """What msgpack itself makes of a payload, and what it counts meanwhile."""

    def __init__(self, data: bytes) -> None:
        self.containers = self.entries = self.largest = 0
        self.value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            ext_hook=self._extension,
            list_hook=self._count,
            object_pairs_hook=lambda pairs: dict(self._count(pairs)),
        )

    def _count(self, container: Any) -> Any:
        self.containers += 1
        self.entries += len(container)
        self.largest = max(self.largest, len(container))
        return container

    def _extension(self, code: int, data: bytes) -> None:
        raise ValueError(f"extension {code} of {len(data)} bytes")

    def is_within(self, caps: Caps) -> bool:
        """Whether nothing speaks against it."""
        counted = self.containers <= (caps.containers or self.containers), self.entries <= caps.total
        named = type(self.value) is dict and all(type(key) is str for key in self.value)
        return named and all(counted) and self.largest <= caps.items and _depth(self.value) <= caps.depth


def _depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def check_payload(data: bytes) -> None:
    """With caps, a payload is what msgpack makes of it, or refused; and refused only if it passes a cap."""
    try:
        oracle = _Oracle(data)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError):
        oracle = None
    for caps in (FROM_LOOKER, FROM_STARTER, FROM_SERVER):
        try:
            found = payload.unpack(data, caps)
        except RemoteProtocolError:
            assert oracle is None or not oracle.is_within(caps) or caps is not FROM_LOOKER
        else:
            assert oracle is not None
            assert repr(found) == repr(oracle.value)  # NaN is not equal to itself
            assert _depth(found) <= caps.depth
            assert oracle.containers <= (caps.containers or oracle.containers)


def check_intake(data: bytes) -> None:
    """Taken in by turns from a stream, whatever its pieces, it is what a connection makes of it at once."""
    assert trio.run(_take_in, _split(data)) == _events([data], End.SERVER, FROM_LOOKER)


async def _take_in(pieces: list[bytes]) -> tuple[list[str], bool]:
    client, server = trio.testing.memory_stream_pair()
    connection = _opened(End.SERVER, FROM_LOOKER)
    found: list[str] = []
    whole = True
    large = trio.CapacityLimiter(1)
    intake = Intake(server, connection, trio.lowlevel.checkpoint, large, PATIENCE)

    async def send() -> None:
        for piece in pieces:
            await client.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()
        await client.send_eof()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            try:
                while (event := await intake.next_event()) is not Signal.CLOSED:
                    found.append(repr(event))
            except RemoteProtocolError:
                whole = False
                nursery.cancel_scope.cancel()
    assert large.available_tokens == 1
    return found, whole


# --- WebSocket


def _request(*lines: bytes) -> bytes:
    return b"\r\n".join((b"GET / HTTP/1.1", *lines, b"", b""))


_UPGRADE = _request(
    b"Host: a.example",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    b"Sec-WebSocket-Protocol: " + SUBPROTOCOL.encode(),
)


@st.composite
def _websocket_frames(draw: st.DrawFn) -> bytes:
    opcode = draw(st.sampled_from([0, 0, 1, 2, 2, 8, 9, 10, 3]))
    payload = draw(st.binary(max_size=8) | st.builds(bytes, st.integers(120, 130)))
    fin = draw(st.sampled_from([0x80, 0x80, 0, 0x40]))
    size = bytes((0x80 | len(payload),)) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    mask = draw(st.sampled_from([bytes(4), b"\1\2\3\4"]))
    return bytes((fin | opcode,)) + size + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


_WEBSOCKET = st.one_of(
    mutated(st.just(_UPGRADE)),
    mutated(st.lists(_websocket_frames(), max_size=8).map(b"".join)).map(lambda frames: _UPGRADE + frames),
    st.lists(_websocket_frames(), max_size=8).map(lambda frames: _UPGRADE + b"".join(frames)),
)


def check_websocket(data: bytes) -> None:
    """A WebSocket's server end accepts or refuses, gives messages, and ends as streams of Trio do."""
    head, _, frames = data.partition(b"\r\n\r\n")
    trio.run(_talk, head + b"\r\n\r\n", frames)


async def _talk(head: bytes, frames: bytes) -> None:
    client, server = trio.testing.memory_stream_pair()
    websocket = ServerWebSocket(server)
    upgraded = False

    async def upgrade() -> None:
        nonlocal upgraded
        upgraded = await websocket.upgrade()

    with trio.fail_after(PATIENCE):
        await client.send_all(head)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upgrade)
            await trio.testing.wait_all_tasks_blocked()
            if upgraded:
                await client.send_all(frames)
            await client.send_eof()
        size = 0
        with contextlib.suppress(trio.BrokenResourceError):
            while upgraded and (message := await websocket.receive_some()):
                size += len(message)
        assert size <= len(frames)
        with contextlib.suppress(trio.BrokenResourceError):
            await websocket.aclose()


# --- certificates


@functools.cache
def _certificates() -> tuple[bytes, ...]:
    ca = authority()
    clients = [issue(ca, "alice", role=role, key=key("admin")) for role in Role]
    server = issue(ca, "server", purpose="server", san=["localhost"], key=key("server"))
    return (*map(der, [*clients, server, ca]), der(doubled_role()))


_OID = bytes.fromhex("2b06010401e03901")
_VALUES = {Role.ADMIN: b"\x0c\x05Admin", Role.USER: b"\x0c\x04User"}


@st.composite
def _mutated_certificates(draw: st.DrawFn) -> bytes:
    """A certificate with bytes changed: anywhere, or where its role stands."""
    data = bytearray(draw(st.sampled_from(_certificates())))
    place = data.find(_OID)
    near = st.integers(max(0, place - 12), place + 28) if place >= 0 else st.nothing()
    for _ in range(draw(st.integers(1, 4))):
        index = min(draw(near | near | st.integers(0, len(data) - 1)), len(data) - 1)
        if draw(st.booleans()):
            data[index] = draw(st.integers(0, 255))
        else:
            data[index] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)


def check_certificate(data: bytes) -> None:
    """Any bytes are a certificate with exactly the role that stands in them, or none at all."""
    try:
        identity = identity_of(data, DEFAULT_ARC)
    except RoleError:
        return
    number = b"\x01" if identity.role is Role.ADMIN else b"\x02"
    value = _VALUES[identity.role]
    assert _OID + number + b"\x04" + bytes((len(value),)) + value in data.replace(
        number + b"\x01\x01\xff\x04", number + b"\x04"
    )
    assert identity.name.isprintable()


# --- what people write


_NUMBERS = st.from_regex(r"[0-9]{1,22}[a-zA-Z%]{0,4}(,[0-9]{1,5}[smhdM]?)?", fullmatch=True)
_WORDS = st.text(max_size=12) | _NUMBERS


def check_text(data: bytes) -> None:
    """Any text given to a flag is a value that may be used, or one sentence."""
    text = os.fsdecode(data)
    for parse in (limits.parse_cpu, limits.parse_memory, limits.parse_disk, limits.parse_pids):
        with contextlib.suppress(limits.LimitError):
            parsed = parse(text)
            parsed.check()
            messages.encode_message(messages.Request(1, "start", {"limits": codec.to_map(parsed)}))
    with contextlib.suppress(limits.LimitError):
        limits.Limits(cpu_weight=limits.parse_weight("--cpu-weight", text)).check()
    with contextlib.suppress(limits.LimitError):
        parse_retention(text)
    with contextlib.suppress(limits.LimitError):
        Bounds(max_frame=int(limits.parse_bytes("--max-frame", text))).check()
    for flag in ("offset", "tail", "tail_bytes", "since"):
        with contextlib.suppress(UsageError):
            keywords = Which(**cast("dict[str, Any]", {flag: text})).keywords()
            messages.encode_message(messages.Request(1, "stream", keywords))
    with contextlib.suppress(CertsError, RoleError):
        identity_of(b"", text)


def check_client_hello(data: bytes) -> None:
    """What asks for protocols that we cannot read asks for none; and nothing is asked for twice."""
    names = protocols(data)
    assert sum(map(len, names)) <= len(data)
    assert protocols(data[: len(data) // 2]) in ((), names)


@functools.cache
def _client_hello() -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2", "worker.v1"])
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="builder.example").do_handshake()
    return outgoing.read()


TARGETS = {
    "framing": Target(STREAMS | mutated(STREAMS) | st.binary(), check_framing),
    "message": Target(PAYLOADS, check_message),
    "connection": Target(STREAMS | mutated(STREAMS), check_connection),
    "payload": Target(PADDED | PAYLOADS, check_payload),
    "intake": Target(STREAMS | mutated(STREAMS), check_intake),
    "client-hello": Target(st.deferred(lambda: mutated(st.just(_client_hello()))), check_client_hello),
    "websocket": Target(_WEBSOCKET, check_websocket),
    "certificate": Target(st.deferred(_mutated_certificates), check_certificate),
    "text": Target(_WORDS.map(os.fsencode) | st.binary(max_size=24), check_text),
}
