"""Owns framing: a 32-bit big-endian length, then that many bytes of one msgpack object."""

from collections.abc import Iterator

from .errors import LocalProtocolError, RemoteProtocolError

HEADER_BYTES = 4
#: The largest payload either side accepts: room for argv and environment up to Linux's ARG_MAX.
MAX_FRAME_BYTES = 4 * 1024 * 1024
#: The memory of a longer payload is let go as soon as it is returned; that of others when more bytes come.
KEPT_BYTES = 64 * 1024


def encode_frame(payload: bytes, max_frame: int = MAX_FRAME_BYTES) -> bytes:
    """Put the length before a payload.

    Raises:
        LocalProtocolError: the payload is empty or longer than ``max_frame`` bytes.
    """
    return frame_of(payload, most=max_frame)


def frame_of(*parts: bytes, most: int = MAX_FRAME_BYTES) -> bytes:
    """The same for a payload in several parts."""
    size = sum(map(len, parts))
    if not 0 < size <= most:
        raise LocalProtocolError(f"a frame holds 1 to {most} bytes, not {size}")
    return b"".join((size.to_bytes(HEADER_BYTES, "big"), *parts))


class FrameDecoder:
    """Cuts a byte stream into frames, however the stream was split.

    A frame that announces more than ``max_frame`` bytes is refused as soon as its header is
    there, so that no peer can make us buffer more than one frame and one read.
    """

    def __init__(self, max_frame: int = MAX_FRAME_BYTES) -> None:
        self._max_frame = max_frame
        self._buffer = bytearray()
        self._start = 0

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the stream, any number of them."""
        self._forget_used()
        self._buffer += data

    def next_frame(self) -> bytes | None:
        """Return the next whole payload, or None while more bytes are needed.

        Raises:
            RemoteProtocolError: the header announces an empty or an oversized frame.
        """
        body = self._start + HEADER_BYTES
        if len(self._buffer) < body:
            return None
        length = int.from_bytes(self._buffer[self._start : body], "big")
        if not 0 < length <= self._max_frame:
            raise RemoteProtocolError(
                f"a frame of {length} bytes was announced; 1 to {self._max_frame} are allowed"
            )
        end = body + length
        if len(self._buffer) < end:
            return None
        with memoryview(self._buffer) as view:
            payload = bytes(view[body:end])
        self._start = end
        if length > KEPT_BYTES:  # nothing else may come for hours
            self._forget_used()
        return payload

    def _forget_used(self) -> None:
        if self._start:
            del self._buffer[: self._start]
            self._start = 0

    @property
    def announced(self) -> int:
        """The payload's size of the next frame; 0 if its header has not come."""
        body = self._start + HEADER_BYTES
        return int.from_bytes(self._buffer[self._start : body], "big") if len(self._buffer) >= body else 0

    @property
    def buffered(self) -> int:
        """Bytes received that no returned frame has used up."""
        return len(self._buffer) - self._start


def group_frames(data: bytes, most: int) -> Iterator[bytes]:
    """Cut a run of whole frames into runs of at most ``most`` bytes, or of one frame that is longer."""
    begin = end = 0
    while end < len(data):
        after = end + HEADER_BYTES + int.from_bytes(data[end : end + HEADER_BYTES], "big")
        if after - begin > most and end > begin:
            yield data[begin:end]
            begin = end
        end = after
    if data:
        yield data[begin:]
