"""A signal handler's exception strikes a stream of the blocking client at each of its steps."""

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from client.blocking import Client
from tests.client.fake import JOB, BlockingLink, FakeServer
from tests.harness import PATIENCE
from wire import codec
from wire.jobs import JobReply
from wire.messages import STDOUT, Message, Output, Reply, Request

#: A job's output.
LOG = bytes(range(250))


def log_of(message: Message) -> Iterator[Message]:
    """What a server in memory says of a stream: LOG from the offset on, in five pieces at most."""
    if isinstance(message, Request):
        for offset in range(message.params.get("offset", 0), len(LOG), 50):
            yield Output(message.id, offset, STDOUT, LOG[offset : offset + 50])
        yield Reply(message.id, codec.to_map(JobReply(JOB)))


@contextmanager
def strike_at(step: int, error: BaseException) -> Iterator[None]:
    """Raise an error at the ``step``-th place in the client's own code where a signal handler can run.

    That is where a function is entered, and where one of C's has returned.
    """
    left = step

    def watch(frame: FrameType, event: str, arg: object) -> None:
        nonlocal left
        if event in ("call", "c_return") and frame.f_globals["__name__"].startswith("client."):
            left -= 1
            if not left:
                raise error

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)


def test_a_stream_struck_at_each_of_its_steps_gives_each_byte_once() -> None:
    error = TimeoutError("the caller's own")
    for step in itertools.count(1):
        found, strikes = bytearray(), 0
        client = Client(
            BlockingLink(FakeServer(log_of)),
            "x",
            dial=lambda: BlockingLink(FakeServer(log_of)),
            patience=PATIENCE,
        )
        stream = client.stream("x")
        for _ in range(2):
            try:
                with strike_at(0 if strikes else step, error):
                    for piece in stream:
                        assert isinstance(piece, Output)
                        assert piece.offset == len(found)
                        found += piece.data
                break
            except TimeoutError as caught:
                if caught is not error:
                    raise
                strikes += 1
        assert (bytes(found), stream.job) == (LOG, JOB), step
        client.close()
        if not strikes:
            break
    assert step > 100  # so many there are at least, in five pieces
