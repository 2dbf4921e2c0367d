"""The server's end, for those who do not read on: they are told before they are cut."""

import signal
from contextlib import closing
from pathlib import Path

from client import transport
from client.endpoint import Endpoint
from tests.client.either import SCHEMES
from tests.harness import PATIENCE, Server, serve
from wire.connection import NEED_DATA, Connection, Role, Signal
from wire.errors import ErrorCode
from wire.jobs import JobStatus
from wire.messages import Failure, Hello, Message, Output, Request


class Follower:
    """A client of which a stream waits for credit, from its first byte on."""

    def __init__(self, server: Server, scheme: str, job: JobStatus, credit: int) -> None:
        self._transport = transport.connect(Endpoint.parse(scheme + server.address), server.certs, "user")
        self._connection = Connection(Role.CLIENT)
        assert isinstance(self.hear(), Hello)
        self._transport.send(self._connection.send(Request(1, "stream", {"id": job.id}, credit)))

    def hear(self) -> Message | Signal:
        while (event := self._connection.next_event()) is NEED_DATA:
            data = self._transport.receive()
            if data is None:
                assert self._transport.wait(PATIENCE), "the server says nothing"
            else:
                self._connection.receive_data(data)
        return event

    def close(self) -> None:
        self._transport.close()


def test_who_waits_for_credit_is_told_that_the_server_ends(shared_certificates: Path) -> None:
    with serve(shared_certificates) as server, server.connect() as admin:
        job = admin.start(["sh", "-c", "echo hello; exec sleep 600"])
        followers = [Follower(server, scheme, job, credit) for scheme in SCHEMES for credit in (0, 3)]
        for follower in followers[1::2]:
            assert follower.hear() == Output(1, 0, 1, b"hel")
        server.process.send_signal(signal.SIGTERM)
        for follower in followers:
            with closing(follower):
                assert follower.hear() == Failure(0, ErrorCode.SHUTTING_DOWN, "The server is shutting down.")
                assert follower.hear() is Signal.CLOSED
        assert server.end() == 0
