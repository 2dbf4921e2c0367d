"""What only the Trio client does: many tasks over one connection, cancelled at any moment."""

import random
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio

from client import trio_exchange, trio_link
from client.errors import CutError
from client.trio_client import Client, open_client
from client.trio_output import Stream
from tests.client.either import SCHEMES, endless
from tests.harness import PATIENCE, Server, serve
from wire.flow import DEFAULT_WINDOW
from wire.jobs import Status

pytestmark = pytest.mark.parametrize("scheme", SCHEMES)


@pytest.fixture
async def client(server: Server, scheme: str) -> AsyncGenerator[Client]:
    with trio.fail_after(PATIENCE):
        async with open_client(scheme + server.address, certs=server.certs, identity="admin") as connection:
            yield connection


async def read(stream: Stream) -> bytes:
    return b"".join([piece.data async for piece in stream])


async def output(client: Client, job_id: str) -> bytes:
    async with client.stream(job_id) as stream:
        return await read(stream)


async def test_hundreds_of_calls_at_once(client: Client) -> None:
    """More than the server takes at once: the others wait for their turn."""
    job = await client.start(["true"])
    ended = await client.wait(job.id)
    count = 2 * client.hello.max_requests
    answers = []

    async def ask() -> None:
        answers.append(await client.query(job.id))

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(ask)
    assert answers == [ended] * count


async def test_jobs_at_once(client: Client) -> None:
    async def run(number: int) -> None:
        job = await client.start(["sh", "-c", f"echo {number}; exit {number}"])
        async with client.stream(job.id) as stream:
            assert await read(stream) == f"{number}\n".encode()
        assert stream.job.exit_code == number

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(run, number)


async def test_followers_over_one_connection(client: Client) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"
    job = await client.start(["sh", "-c", script])
    expected = "".join(f"line {number}\n" for number in range(20000)).encode()
    got = []

    async def follow() -> None:
        got.append(await output(client, job.id))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(follow)
    assert got == [expected] * 20


async def test_a_stalled_stream_holds_up_nobody(client: Client) -> None:
    """BEHAVIOURS 3: and it may go on where it was."""
    size = 4 * DEFAULT_WINDOW
    job = await client.start(["head", "-c", str(size), "/dev/zero"])
    async with client.stream(job.id) as stalled, client.stream(job.id) as barely:
        first = await anext(barely)
        assert await output(client, job.id) == bytes(size)
        assert (await client.wait(job.id)).status is Status.EXITED
        assert await read(stalled) == bytes(size)
        assert len(first.data) + len(await read(barely)) == size


async def test_calls_cancelled_at_random_moments_do_no_harm(client: Client) -> None:
    """A caller never sends for itself, so none can leave half a frame on the wire."""
    chance = random.Random(3)  # noqa: S311
    long_words = ["echo", *["x" * 1000] * 64]

    async def abandon(job_id: str, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await output(client, job_id)
        with trio.move_on_after(seconds):
            await client.start(long_words)
        with trio.move_on_after(seconds):
            await client.wait(job_id)

    async with endless(client) as job:
        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(abandon, job.id, chance.uniform(0, 0.05))
        assert (await client.query(job.id)).status is Status.RUNNING
    assert await output(client, (await client.start(["echo", "hello"])).id) == b"hello\n"


async def test_a_connecting_cancelled_at_any_moment_is_cancelled_and_no_more(
    server: Server, scheme: str
) -> None:
    """Also over WebSocket, where tasks of its own are cancelled too, no group comes out."""
    came_out = []
    for step in range(40):
        with trio.move_on_after(step * 0.0005) as scope:
            try:
                async with open_client(scheme + server.address, certs=server.certs, identity="admin"):
                    await trio.sleep_forever()
            except BaseException as error:
                came_out.append(type(error))
                raise
        assert scope.cancelled_caught
    assert came_out == [trio.Cancelled] * 40


async def test_what_a_block_raises_comes_out_as_it_is(server: Server, scheme: str) -> None:
    for error in (KeyError("ours"), ExceptionGroup("ours", [KeyError("ours")]), CutError("ours")):
        with pytest.raises(type(error)) as caught:
            async with open_client(scheme + server.address, certs=server.certs, identity="admin"):
                raise error
        assert caught.value is error


async def test_the_death_of_the_server_reaches_every_call(shared_certificates: Path, scheme: str) -> None:
    caught = []

    async def ask(client: Client, job_id: str) -> None:
        with pytest.raises(CutError) as info:
            await client.wait(job_id)
        caught.append(info.value)

    with trio.fail_after(PATIENCE), serve(shared_certificates) as server:
        async with open_client(
            scheme + server.address, certs=server.certs, identity="admin", patience=0
        ) as client:
            job = await client.start(["sleep", "600"])
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(ask, client, job.id)
                server.process.kill()
        assert len(set(map(id, caught))) == 10  # each its own, with a traceback of its own


async def test_a_server_that_freezes_is_found_out_and_left(
    shared_certificates: Path, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trio_exchange, "PING_SECONDS", 1)  # more than it takes when it lives
    monkeypatch.setattr(trio_link, "CLOSE_SECONDS", 0.15)
    with trio.fail_after(PATIENCE), serve(shared_certificates) as server:
        async with open_client(
            scheme + server.address, certs=server.certs, identity="admin", patience=0
        ) as client:
            job = await client.start(["true"])
            server.process.send_signal(signal.SIGSTOP)
            with pytest.raises(CutError, match="no longer answers"):  # noqa: PT012
                while True:
                    await client.query(job.id)
            before = trio.current_time()
        assert trio.current_time() - before < PATIENCE / 2
        server.process.send_signal(signal.SIGCONT)
