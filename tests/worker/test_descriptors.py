"""How files are shared out, and that no part takes of another."""

import pytest
import trio

from wire.errors import ErrorCode, RequestError
from wire.limits import Limits
from worker.bounds import DEFAULTS
from worker.descriptors import MEMORY_WATCH, OWN, PIPES, START, STARTS, JobFiles, share_out


@pytest.mark.parametrize("most", [128, 256, 1024, 4096, 20_000])
def test_all_parts_together_are_what_there_is(most: int) -> None:
    shares = share_out(DEFAULTS, most)
    bounds = shares.bounds
    connections = bounds.max_connections + bounds.max_handshakes + bounds.max_waiting
    jobs = shares.jobs + shares.starts * START
    assert OWN + connections + jobs <= most
    assert jobs >= min((most - OWN) // 2, DEFAULTS.max_jobs * (PIPES + MEMORY_WATCH))
    assert min(bounds.max_connections, bounds.max_handshakes, bounds.max_waiting, shares.starts) >= 1
    assert shares.max_jobs >= 10


def test_with_hardly_any_there_is_one_of_each() -> None:
    shares = share_out(DEFAULTS, 20)
    assert min(shares.bounds.max_connections, shares.bounds.max_waiting, shares.starts, shares.max_jobs) == 1


def test_enough_change_nothing() -> None:
    shares = share_out(DEFAULTS, 20_000)
    assert shares.bounds is DEFAULTS
    assert shares.starts == STARTS
    assert shares.max_jobs == DEFAULTS.max_jobs


async def test_what_is_past_the_jobs_part_is_refused() -> None:
    await trio.lowlevel.checkpoint()
    shares = share_out(DEFAULTS, 256)
    files, held = JobFiles(shares), list[int]()
    while sum(held) <= shares.jobs - (PIPES + MEMORY_WATCH):
        held.append(files.take(Limits(memory=2**20) if len(held) % 2 else None))
    with pytest.raises(RequestError, match=r"ulimit -n, LimitNOFILE=") as caught:
        files.take(Limits(memory=2**20))
    assert caught.value.code is ErrorCode.BUSY
    assert shares.jobs - (PIPES + MEMORY_WATCH) < sum(held) <= shares.jobs
    files.give_back(held.pop())
    files.give_back(held.pop())
    held.append(files.take(Limits(memory=2**20)))
