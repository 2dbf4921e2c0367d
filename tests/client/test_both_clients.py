"""Both clients do the same, over both transports, against a real server."""

import hashlib
import random
import signal
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest

from client.errors import CutError
from tests.client.either import KINDS, SCHEMES, Either, connected, endless
from tests.harness import Server, serve
from wire.errors import ErrorCode, RequestError
from wire.flow import DEFAULT_WINDOW
from wire.jobs import CauseKind, Status
from wire.messages import STDERR, STDOUT

pytestmark = [pytest.mark.parametrize("kind", KINDS), pytest.mark.parametrize("scheme", SCHEMES)]


@pytest.fixture
async def client(server: Server, kind: str, scheme: str) -> AsyncGenerator[Either]:
    async with connected(kind, scheme + server.address, server.certs) as connection:
        yield connection


def as_user(server: Server, kind: str, scheme: str) -> AbstractAsyncContextManager[Either]:
    return connected(kind, scheme + server.address, server.certs, "user")


async def test_the_hello_says_who_we_are(server: Server, kind: str, scheme: str) -> None:
    async with as_user(server, kind, scheme) as user:
        assert (user.hello.identity, user.hello.role) == ("user", "User")


async def test_a_job_is_started_waited_for_and_queried(client: Either) -> None:
    job = await client.start(["sh", "-c", "exit 3"])
    assert job.argv == (b"sh", b"-c", b"exit 3")
    ended = await client.wait(job.id)
    assert (ended.status, ended.exit_code) == (Status.EXITED, 3)
    assert await client.query(job.id) == ended
    assert await client.query(job.id[:18]) == ended


async def test_the_options_of_start(client: Either, tmp_path: Path) -> None:
    script = 'printf "$WORD" >&2; pwd; exec sleep 600'
    job = await client.start(
        ["sh", "-c", script], env={"WORD": "wörd"}, cwd=tmp_path, merge=True, seconds=0.2
    )
    assert await client.output(job.id) == {STDOUT: f"wörd{tmp_path}\n".encode(), STDERR: b""}
    ended = await client.query(job.id)
    assert ended.cause is not None
    assert ended.cause.kind is CauseKind.TIMEOUT


async def test_16_mib_arrive_exactly(client: Either, tmp_path: Path) -> None:
    data = random.Random(5).randbytes(16 * 2**20)  # noqa: S311  # a seed, so that a failure comes again
    path = tmp_path / "random"
    path.write_bytes(data)
    got = await client.output((await client.start(["cat", path.as_posix()])).id)
    assert hashlib.sha256(got[STDOUT]).digest() == hashlib.sha256(data).digest()
    assert got[STDERR] == b""


async def test_a_stream_may_begin_anywhere(client: Either) -> None:
    job = await client.start(["sh", "-c", "printf 0123456789; printf err >&2"], merge=True)
    assert await client.output(job.id, offset=4) == {STDOUT: b"456789err", STDERR: b""}
    assert await client.output(job.id, offset=13) == {STDOUT: b"", STDERR: b""}


async def test_a_job_is_stopped(client: Either) -> None:
    job = await client.start(["sleep", "600"])
    stopped = await client.stop(job.id, grace=5)
    assert (stopped.status, stopped.signal) == (Status.SIGNALED, signal.SIGTERM)
    assert stopped.cause is not None
    assert (stopped.cause.kind, stopped.cause.by) == (CauseKind.STOPPED, "admin")
    assert await client.stop(job.id) == stopped


async def test_the_list_is_in_order(client: Either) -> None:
    ids = [(await client.start(["true"])).id for _ in range(3)]
    assert [job.id for job in await client.list()][-3:] == ids


async def test_a_stream_left_early_leaves_the_connection_usable(client: Either) -> None:
    async with endless(client) as job:
        async with client.stream(job.id) as stream:
            piece = await stream.piece()
            assert piece is not None
            assert piece.data.startswith(b"y\n")
        with pytest.raises(RuntimeError):
            _ = stream.job
        assert (await client.query(job.id)).status is Status.RUNNING
        assert await stream.piece() is None


async def test_two_streams_and_a_call_share_a_connection(client: Either) -> None:
    size = 2 * DEFAULT_WINDOW
    job = await client.start(["head", "-c", str(size), "/dev/zero"])
    async with client.stream(job.id) as stalled:
        assert await stalled.piece() is not None
        assert (await client.output(job.id))[STDOUT] == bytes(size)
        assert (await client.query(job.id)).exit_code == 0
        rest = size
        while (piece := await stalled.piece()) is not None:
            rest = size - piece.offset - len(piece.data)
        assert rest == 0


async def test_the_block_s_own_error_comes_out_of_a_stream(client: Either) -> None:
    async with endless(client) as job:
        with pytest.raises(KeyError):
            async with client.stream(job.id) as stream:
                raise KeyError(await stream.piece())
        await client.query(job.id)


@pytest.mark.parametrize("method", ["query", "wait", "stop", "output"])
async def test_no_such_job(client: Either, method: str) -> None:
    with pytest.raises(RequestError) as caught:
        await getattr(client, method)("no-such-job")
    assert caught.value.code is ErrorCode.NOT_FOUND


async def test_an_ambiguous_id(client: Either) -> None:
    ids = [(await client.start(["true"])).id for _ in range(17)]  # two of them begin with the same digit
    shared = next(id_[0] for id_ in ids if sum(other[0] == id_[0] for other in ids) > 1)
    with pytest.raises(RequestError) as caught:
        await client.query(shared)
    assert caught.value.code is ErrorCode.AMBIGUOUS


@pytest.mark.parametrize(
    ("code", "argv", "cwd"),
    [
        (ErrorCode.NO_SUCH_PROGRAM, ["no-such-program-anywhere"], None),
        (ErrorCode.NOT_EXECUTABLE, ["/etc/passwd"], None),
        (ErrorCode.BAD_DIRECTORY, ["true"], "/no/such/directory"),
        (ErrorCode.BAD_REQUEST, [""], None),
    ],
)
async def test_what_cannot_be_started(
    client: Either, code: ErrorCode, argv: list[str], cwd: str | None
) -> None:
    before = await client.list()
    with pytest.raises(RequestError) as caught:
        await client.start(argv, cwd=cwd)
    assert caught.value.code is code
    assert caught.value.message.endswith(".")
    assert [job.id for job in await client.list()] == [job.id for job in before]


@pytest.mark.host
async def test_a_user_of_the_servers_host(client: Either) -> None:
    assert (await client.start(["true"], user="nobody", cwd="/")).user == "nobody"
    with pytest.raises(RequestError) as caught:
        await client.start(["true"], user="no-such-user")
    assert caught.value.code is ErrorCode.BAD_USER


async def test_a_user_may_look_and_nothing_else(
    client: Either, server: Server, kind: str, scheme: str
) -> None:
    job = await client.start(["echo", "hello"])
    async with as_user(server, kind, scheme) as user:
        for call in (partial(user.start, ["true"]), partial(user.stop, job.id)):
            with pytest.raises(RequestError) as caught:
                await call()
            assert caught.value.code is ErrorCode.DENIED
            assert "User" in caught.value.message
        assert (await user.output(job.id))[STDOUT] == b"hello\n"
        assert (await user.wait(job.id)).id in {each.id for each in await user.list()}


async def test_a_server_killed_in_the_middle_of_a_stream(
    shared_certificates: Path, kind: str, scheme: str
) -> None:
    """BEHAVIOURS 16: never taken for the end of the output; and every later call says the same."""
    with serve(shared_certificates) as server:
        async with connected(kind, scheme + server.address, server.certs, patience=0) as client:
            job = await client.start(["yes"])
            async with client.stream(job.id) as stream:
                assert await stream.piece() is not None
                server.process.kill()
                with pytest.raises(CutError) as caught:  # noqa: PT012
                    while await stream.piece():
                        pass
                assert str(caught.value).endswith(".")
                with pytest.raises(RuntimeError):
                    _ = stream.job
            for _ in range(2):
                with pytest.raises(CutError):
                    await client.query(job.id)


async def test_a_server_that_shuts_down_says_so(shared_certificates: Path, kind: str, scheme: str) -> None:
    with serve(shared_certificates) as server:
        async with connected(kind, scheme + server.address, server.certs, patience=0) as client:
            job = await client.start(["sh", "-c", "echo ready; exec sleep 600"])
            async with client.stream(job.id) as stream:
                await stream.piece()  # it is being served before the server is told
                server.process.send_signal(signal.SIGTERM)
                while await stream.piece() is not None:
                    pass
                assert stream.job.status is Status.SIGNALED
            with pytest.raises(RequestError) as caught:  # noqa: PT012
                while True:
                    await client.query(job.id)
            assert caught.value.code is ErrorCode.SHUTTING_DOWN
            with pytest.raises((RequestError, CutError)):
                await client.query(job.id)
