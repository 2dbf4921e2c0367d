"""Owns the messages between the server and its spawner: how they are framed and taken apart, at both ends.

A message is its length, 32 bits and big-endian, and then JSON. Bytes that are no text, or many, come behind
the JSON and a NUL as they are: to write 3 MiB of arguments as JSON and to read it took 0.2 s of either end.
The spawner loads this, so it imports the standard library alone.
"""

import array
import json
import socket

LENGTH_BYTES = 4
FD_BYTES = array.array("i").itemsize
#: The most descriptors of one message: stdout, stderr and the hierarchies of a v1 host.
MAX_FDS = 32
#: How much is read at once, in bytes.
READ_BYTES = 256 * 1024
#: The empty message: the server ends in order.
GOODBYE = bytes(LENGTH_BYTES)


def frame(message: dict, data: bytes = b"") -> bytes:  # type: ignore[type-arg]
    """A message, as it is sent."""
    body = json.dumps(message).encode()
    if data:
        body += b"\0" + data
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class Incoming:
    """What has come from the other end and was not taken yet."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """More has come."""
        self._buffer += data

    def _end(self) -> int:
        return LENGTH_BYTES + int.from_bytes(self._buffer[:LENGTH_BYTES], "big")

    def has_message(self) -> bool:
        """Whether a whole message is there."""
        return len(self._buffer) >= LENGTH_BYTES and len(self._buffer) >= self._end()

    def take(self) -> tuple[dict, bytes]:  # type: ignore[type-arg]
        """Take the next message, which is there, and the bytes with it; for the empty one an empty dict."""
        end = self._end()
        body, _, data = bytes(self._buffer[LENGTH_BYTES:end]).partition(b"\0")
        del self._buffer[:end]
        return json.loads(body or b"{}"), data


class Inbox:
    """The spawner's end: messages with descriptors, read from a blocking socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._incoming = Incoming()
        self._fds: list[list[int]] = []  # of each message that has some
        self.has_message = self._incoming.has_message

    def read(self) -> bool:
        """Read once; False at the server's end."""
        try:
            # Not socket.recv_fds, which drops its flags: these descriptors must never reach a job.
            data, ancillary, flags, _ = self._sock.recvmsg(
                READ_BYTES, socket.CMSG_SPACE(MAX_FDS * FD_BYTES), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return False
        if ancillary or flags & socket.MSG_CTRUNC:
            fds = array.array("i")
            for _, _, rights in ancillary:
                fds.frombytes(rights[: len(rights) // FD_BYTES * FD_BYTES])
            self._fds.append(fds.tolist())
        self._incoming.feed(data)
        return bool(data)

    def take(self) -> tuple[dict, bytes, list[int]]:  # type: ignore[type-arg]
        """Take the next message, which is there, its bytes and its descriptors.

        Those are fewer than it says in ``fds`` if this process may not open as many.
        """
        message, data = self._incoming.take()
        return message, data, self._fds.pop(0) if message.get("fds") else []
