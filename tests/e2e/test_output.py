"""Every byte a job prints reaches every subscriber, exactly, and then the end (BEHAVIOURS 1, 2, 15)."""

import hashlib
import random
import sys
import threading
import time

from client.blocking import Client
from tests.harness import Server, join
from wire.messages import STDERR, STDOUT


def collect(client: Client, job_id: str, offset: int = 0) -> dict[int, bytes]:
    """All that a job prints from an offset, by stream; asserts that offsets have no gap."""
    found = {STDOUT: bytearray(), STDERR: bytearray()}
    with client.stream(job_id, offset=offset) as stream:
        for piece in stream:
            assert piece.offset == offset
            offset += len(piece.data)
            found[piece.stream] += piece.data
    assert stream.job.output == offset
    return {number: bytes(data) for number, data in found.items()}


def test_random_bytes_arrive_exactly(admin: Client, tmp_path: object) -> None:
    """16 MiB with NULs, invalid UTF-8 and long runs without a newline."""
    path = f"{tmp_path}/random"
    data = random.Random(7).randbytes(16 * 2**20)  # noqa: S311  # a test wants the same bytes each time
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(data)
    got = collect(admin, admin.start(["cat", path]).id)
    assert hashlib.sha256(got[STDOUT]).digest() == hashlib.sha256(data).digest()
    assert got[STDERR] == b""


def test_streams_are_kept_apart(admin: Client) -> None:
    job = admin.start(["sh", "-c", "printf out; printf err >&2"])
    assert collect(admin, job.id) == {STDOUT: b"out", STDERR: b"err"}


def test_merge_keeps_the_exact_order(admin: Client) -> None:
    script = "i=0; while [ $i -lt 500 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done"
    job = admin.start(["sh", "-c", script], merge=True)
    expected = "".join(f"o{i}\ne{i}\n" for i in range(500)).encode()
    assert collect(admin, job.id) == {STDOUT: expected, STDERR: b""}


def test_a_stream_may_begin_anywhere(admin: Client) -> None:
    job = admin.start(["printf", "0123456789"])
    admin.wait(job.id)
    assert collect(admin, job.id, offset=4)[STDOUT] == b"456789"
    assert collect(admin, job.id, offset=10)[STDOUT] == b""


def test_followers_that_join_at_random_moments_get_all_of_it(server: Server, admin: Client) -> None:
    script = (
        "import sys\n"
        "for i in range(60000):\n"
        "    sys.stdout.write(f'{i:08}' * 10 + chr(10))\n"
        "    i % 500 or sys.stdout.flush()"
    )
    job = admin.start([sys.executable, "-c", script])
    expected = hashlib.sha256("".join(f"{i:08}" * 10 + "\n" for i in range(60000)).encode()).digest()
    digests: list[bytes] = []

    def follow(delay: float) -> None:
        time.sleep(delay)
        with server.connect() as client:
            digests.append(hashlib.sha256(collect(client, job.id)[STDOUT]).digest())

    chance = random.Random(11)  # noqa: S311  # likewise
    followers = [threading.Thread(target=follow, args=(chance.uniform(0, 0.4),)) for _ in range(20)]
    for follower in followers:
        follower.start()
    join(*followers)
    assert digests == [expected] * 20


def test_a_thousand_short_jobs_lose_no_byte(admin: Client) -> None:
    for _ in range(1000):
        assert collect(admin, admin.start(["printf", "x"]).id)[STDOUT] == b"x"
