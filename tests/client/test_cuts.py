"""Both clients, over both transports, through a proxy that resets connections to a real server."""

import hashlib
import random
import threading
from pathlib import Path

import pytest

from client.errors import ConnectError
from tests.client.either import KINDS, SCHEMES, Either, connected
from tests.harness import Server, eventually, join
from tests.proxy import proxy
from wire.jobs import Status

pytestmark = [pytest.mark.parametrize("kind", KINDS), pytest.mark.parametrize("scheme", SCHEMES)]
SIZE = 8 * 2**20


async def digest(client: Either, job_id: str, size: int) -> str:
    """The hash of a job's output, each byte of which must come once."""
    got, offset = hashlib.sha256(), 0
    async with client.stream(job_id) as stream:
        while (piece := await stream.piece()) is not None:
            assert piece.offset == offset
            offset += len(piece.data)
            got.update(piece.data)
    assert (offset, stream.job.exit_code) == (size, 0)
    return got.hexdigest()


async def test_a_stream_cut_at_random_moments_is_exact(
    server: Server, kind: str, scheme: str, tmp_path: Path
) -> None:
    data = random.Random(7).randbytes(SIZE)  # noqa: S311
    (tmp_path / "random").write_bytes(data)
    with proxy(server.port, seed=11) as between:
        async with connected(kind, scheme + between.address, server.certs) as client:
            job = await client.start(["cat", str(tmp_path / "random")])
            between.cut_later(12, SIZE // 8)
            between.cut()
            assert await digest(client, job.id, SIZE) == hashlib.sha256(data).hexdigest()
        assert between.accepted == 14


async def test_calls_after_and_across_a_cut(server: Server, kind: str, scheme: str) -> None:
    with proxy(server.port) as between:
        async with connected(kind, scheme + between.address, server.certs) as client:
            job = await client.start(["sleep", "0.6"])
            assert between.cut() == 1
            assert (await client.query(job.id)).status is Status.RUNNING
            later = threading.Timer(0.1, between.cut)
            later.start()
            assert (await client.wait(job.id)).exit_code == 0
            join(later)
            between.cut()
            assert job.id in {each.id for each in await client.list()}
            between.cut()
            assert (await client.stop(job.id)).exit_code == 0


async def test_a_server_that_is_away_for_a_while(server: Server, kind: str, scheme: str) -> None:
    with proxy(server.port) as between:
        async with connected(kind, scheme + between.address, server.certs) as client:
            job = await client.start(["sh", "-c", "echo one; sleep 0.5; echo two"])
            async with client.stream(job.id) as stream:
                first = await stream.piece()
                assert first is not None
                assert first.data == b"one\n"
                between.close()
                away = threading.Timer(0.4, between.reopen)
                away.start()
                second = await stream.piece()
                join(away)
                assert second is not None
                assert (second.offset, second.data) == (4, b"two\n")
                assert await stream.piece() is None
            assert stream.job.exit_code == 0


async def test_a_server_that_is_away_for_good(server: Server, kind: str, scheme: str) -> None:
    """BEHAVIOURS 16: after its patience, the client tells."""
    with proxy(server.port) as between:
        async with connected(kind, scheme + between.address, server.certs, patience=0.5) as client:
            job = await client.start(["sh", "-c", "echo one; exec sleep 600"])
            async with client.stream(job.id) as stream:
                assert await stream.piece() is not None
                between.close()
                with pytest.raises(ConnectError):
                    await stream.piece()
                with pytest.raises(RuntimeError):
                    _ = stream.job
    with server.connect() as direct:
        direct.stop(job.id, grace=0)


async def test_a_stream_from_the_end_that_is_cut_before_its_first_byte(
    server: Server, kind: str, scheme: str, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    script = f"echo before; while [ ! -e {go} ]; do sleep 0.01; done; echo after"
    with proxy(server.port) as between, server.connect() as other:
        job = other.start(["sh", "-c", script])
        eventually(lambda: other.query(job.id).output == 7, "what it prints before")
        async with (
            connected(kind, scheme + between.address, server.certs) as client,
            client.stream(job.id, tail_lines=0) as stream,
        ):

            def cut_while_it_prints() -> None:
                eventually(lambda: stream.offset == 7, "the stream's begin")
                between.close()
                go.touch()
                other.wait(job.id)
                between.reopen()

            cutter = threading.Thread(target=cut_while_it_prints)
            cutter.start()
            piece = await stream.piece()
            join(cutter)
            assert piece is not None
            assert (piece.offset, piece.data) == (7, b"after\n")
            assert await stream.piece() is None
