"""The blocking client gives what arrived before the server's last word, and only then the word."""

import time

import pytest

from client.blocking import Client
from wire import codec
from wire.connection import Connection, Role
from wire.errors import ErrorCode, RequestError
from wire.jobs import JobReply, JobStatus, Status
from wire.messages import Failure, Hello, Message, Output, Reply


class LastWords:
    """A transport whose server answers the first request with output, result and its own end, in one read."""

    def __init__(self) -> None:
        self._server = Connection(Role.SERVER)
        hello = Hello(version=1, server="s", identity="i", role="User", max_frame=2**20, max_requests=9)
        self._reads = [self._server.send(hello)]

    def send(self, data: bytes) -> None:
        self._server.receive_data(data)
        self._server.next_event()
        job = JobStatus("id", Status.EXITED, 1, (b"true",), "i", time.time(), 4, exit_code=7)
        words: list[Message] = [
            Output(1, 0, 1, b"last"),
            Reply(1, codec.to_map(JobReply(job))),
            Failure(0, ErrorCode.SHUTTING_DOWN, "The server is shutting down."),
        ]
        self._reads.append(b"".join([self._server.send(word) for word in words]))

    def receive(self) -> bytes | None:
        return self._reads.pop(0) if self._reads else None

    def wait(self, timeout: float) -> bool:
        return True

    def has_room(self) -> bool:
        return True

    def shut(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_output_and_status_that_came_with_the_servers_end_are_kept() -> None:
    with Client(LastWords(), "server") as client:
        with client.stream("id") as stream:
            assert [piece.data for piece in stream] == [b"last"]
        assert stream.job.exit_code == 7
        with pytest.raises(RequestError, match="shutting down"):
            client.query("id")
