"""What a signal handler of the caller's raises comes out of the blocking client at once (BEHAVIOURS 29)."""

import hashlib
import math
import random
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ECONNRESET
from pathlib import Path
from types import FrameType

import pytest

from certs.contexts import server_context
from client.blocking import Client, connect
from client.errors import CutError
from client.resume import LONGEST_PAUSE
from tests.client.either import SCHEMES
from tests.client.fake import HELLO
from tests.client.tls_peer import peer
from tests.harness import PATIENCE, SLOW, Server
from tests.proxy import proxy
from wire.connection import Connection, Role
from wire.messages import Output

#: What handlers raise: such errors mean something to sockets, TLS and decoders too.
ERRORS = [
    TimeoutError("the caller's own"),
    ConnectionResetError(ECONNRESET, "the caller's own"),
    ssl.SSLWantReadError("the caller's own"),
    ValueError("the caller's own"),
    KeyboardInterrupt("the caller's own"),
]
#: Far less than any time-out of the client's, in seconds.
AT_ONCE = 5.0 * SLOW
# The timer of pytest-timeout is the one that these tests set.
pytestmark = pytest.mark.timeout(method="thread")
every_scheme = pytest.mark.parametrize("scheme", SCHEMES)
every_error = pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
# A handler that strikes between a socket's birth and its first use leaves it to the collector.
leaves_sockets = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@contextmanager
def alarm(seconds: float, error: BaseException) -> Iterator[None]:
    """Raise an error from the handler of a real signal, after so long, unless the block has ended."""

    def strike(number: int, frame: FrameType | None) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, strike)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def struck(error: BaseException, seconds: float = 0.05) -> Iterator[None]:
    """A block that the error ends, at once and as it is."""
    began = time.monotonic()
    with pytest.raises(type(error)) as caught, alarm(seconds, error):
        yield
    assert caught.value is error
    assert time.monotonic() - began < AT_ONCE


@contextmanager
def silent_server(certs: Path, scheme: str = "") -> Iterator[str]:
    """A server that greets, takes nothing more, and never answers."""
    over = threading.Event()

    def greet(tcp: socket.socket) -> None:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with server_context(certs).wrap_socket(tcp, server_side=True) as tls:
            tls.sendall(Connection(Role.SERVER).send(HELLO))
            over.wait(PATIENCE)

    with peer(greet) as address:
        try:
            yield scheme + address
        finally:
            over.set()


@every_scheme
@every_error
def test_out_of_a_wait_whose_connection_goes_on(server: Server, scheme: str, error: BaseException) -> None:
    with server.connect(scheme=scheme) as client:  # it has no patience: another connection would be none
        job = client.start(["sleep", "600"])
        for _ in range(3):
            with struck(error):
                client.wait(job.id)
            assert client.query(job.id).id == job.id
        with client.stream(job.id) as stream, struck(error):
            next(stream)
        assert client.stop(job.id, grace=0).id == job.id
        assert client.wait(job.id).id == job.id


@every_scheme
@leaves_sockets
def test_a_stream_struck_at_any_moment_gives_each_byte_once(
    server: Server, scheme: str, tmp_path: Path
) -> None:
    chance = random.Random(12)  # noqa: S311  # a seed, so that a failure comes again
    data = chance.randbytes(4 * 2**20)
    path = tmp_path / "random"
    path.write_bytes(data)
    error = TimeoutError("the caller's own")
    found, strikes = bytearray(), 0
    with connect(scheme + server.address, certs=server.certs, identity="admin") as client:
        stream = client.stream(client.start(["cat", path.as_posix()]).id)
        ended = False
        while not ended:
            try:
                # The first strikes before the end for certain, the later ones leave time to get on.
                with alarm(chance.uniform(0.0005, 0.05 * SLOW if strikes else 0.003), error):
                    for piece in stream:
                        assert isinstance(piece, Output)
                        assert piece.offset == len(found)
                        found += piece.data
                    ended = True
            except TimeoutError as caught:
                if caught is not error:
                    raise
                strikes += 1
        assert stream.job.exit_code == 0
    assert strikes
    assert hashlib.sha256(found).digest() == hashlib.sha256(data).digest()


@every_scheme
@every_error
@leaves_sockets
def test_out_of_connect_at_any_moment(server: Server, scheme: str, error: BaseException) -> None:
    """Either there is a client, which works, or there is the handler's error, and nothing else."""
    chance = random.Random(13)  # noqa: S311
    usual = math.inf
    for _ in range(3):
        began = time.monotonic()
        server.connect(scheme=scheme).close()
        usual = min(usual, time.monotonic() - began)
    strikes = 0
    for _ in range(30):
        client = None
        try:
            with alarm(chance.uniform(0, usual), error):
                client = server.connect(scheme=scheme)
                client.close()
        except type(error) as caught:
            if error not in (caught, caught.__cause__):  # a codec of Python's makes another one of its class
                raise
            strikes += 1
            if client is not None:
                client.close()
    assert strikes


@every_error
def test_out_of_a_server_that_never_answers(shared_certificates: Path, error: BaseException) -> None:
    """Of the request, of a stream's and the client's end: none of them waits for the server."""
    with (
        silent_server(shared_certificates) as address,
        struck(error),
        connect(address, certs=shared_certificates, identity="admin", patience=0) as client,
        client.stream("0b5c") as stream,
    ):
        next(stream)


@every_error
def test_while_a_large_start_is_sent(shared_certificates: Path, error: BaseException) -> None:
    """Half a frame is on its way, so the connection is over: the next call says so."""
    with silent_server(shared_certificates) as address:
        client = connect(address, certs=shared_certificates, identity="admin", patience=0)
        with struck(error):
            client.start(["echo", *["x" * 2**16] * 60])
        for _ in range(2):
            with pytest.raises(CutError, match="exception struck"):
                client.query("0b5c")
        client.close()


@every_scheme
@leaves_sockets
def test_requests_struck_at_any_moment(server: Server, scheme: str) -> None:
    """The answer, or the handler's error; and a client with patience works after each."""
    chance = random.Random(14)  # noqa: S311
    error = TimeoutError("the caller's own")
    strikes = 0
    with connect(scheme + server.address, certs=server.certs, identity="admin") as client:
        jobs = [client.start(["true"]).id for _ in range(3)]
        for number in range(100):
            try:
                with alarm(chance.uniform(0, 0.003 * SLOW), error):
                    for job in jobs:
                        assert client.query(job).id == job
            except TimeoutError as caught:
                if caught is not error:
                    raise
                strikes += 1
            asked = jobs[number % 3]
            assert client.query(asked).id == asked
    assert strikes


@every_error
def test_between_two_tries(server: Server, error: BaseException) -> None:
    with proxy(server.port) as way:
        client = connect(way.address, certs=server.certs, identity="admin", patience=PATIENCE)
        way.close()
        with struck(error, LONGEST_PAUSE / 4):
            client.list().__next__()
        way.reopen()
        assert isinstance(list(client.list()), list)
        client.close()


def test_a_handler_that_raises_nothing_disturbs_nothing(server: Server) -> None:
    struck_at: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: struck_at.append(number))
    try:
        with server.connect() as client:
            job = client.start(["sh", "-c", "sleep 0.3; yes | head -c 1000000"])
            signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
            with client.stream(job.id) as stream:
                assert sum(len(piece.data) for piece in stream if isinstance(piece, Output)) == 1000000
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert struck_at


def test_an_error_that_the_caller_handles_meanwhile_is_not_taken_for_a_handlers(server: Server) -> None:
    """It is the context of what is raised then, and no more than that."""
    with proxy(server.port) as way:
        client: Client = connect(way.address, certs=server.certs, identity="admin", patience=0)
        way.close()
        try:
            raise TimeoutError("the caller's own")
        except TimeoutError:
            with pytest.raises(CutError):
                client.query("0b5c")
        client.close()
