"""Limits on tasks on a real kernel: a fork bomb stays within its own, harms nobody, and can be stopped."""

import os
import statistics
import time
from collections.abc import Callable

import pytest

from client.blocking import Client
from tests.harness import alive, eventually
from tests.host.common import begin, control, directories, figure, program
from wire.jobs import JobStatus
from wire.limits import parse_limits

pytestmark = pytest.mark.host
MOST = 50
#: An answer that comes so soon is no slower than on an idle machine, in seconds.
ANSWER_SECONDS = 0.1
#: How many times as long an answer may take beside a fork bomb as beside a job that just computes.
MOST_TIMES = 5
REQUESTS = 20


def members(job: JobStatus) -> list[int]:
    """The processes of a job. (pids.current also counts, for an instant, a fork that is being refused.)"""
    return [int(line) for line in (control(job, "pids.max").parent / "cgroup.procs").read_text().split()]


def median(call: Callable[[], object]) -> float:
    times = []
    for _ in range(REQUESTS):
        began = time.monotonic()
        call()
        times.append(time.monotonic() - began)
    return statistics.median(times)


def answers(client: Client, job: JobStatus) -> dict[str, float]:
    """How long the server takes to answer beside a job, in seconds."""
    return {
        "query": median(lambda: client.query(job.id)),
        "start": median(lambda: client.start(["true"])),
    }


def test_a_fork_bomb_is_contained(admin: Client) -> None:
    limits = parse_limits(pids=str(MOST))
    busy, _ = begin(admin, program("compute", os.cpu_count()), limits)
    usual = answers(admin, busy)
    admin.stop(busy.id, grace=0.2)
    job = admin.start(program("bomb"), limits=limits)
    eventually(lambda: len(members(job)) == MOST, "as many processes as the limit lets be")
    refused = control(job, "pids.events")
    eventually(lambda: int(refused.read_text().split()[1]) > 0, "a refused fork")
    sizes = [len(members(job)) for _ in range(50)]
    latencies = answers(admin, job)
    sizes += [len(members(job)) for _ in range(50)]
    processes = members(job)
    admin.stop(job.id, grace=0.2)
    for what, seconds in latencies.items():
        figure(f"{what} beside a fork bomb, median", seconds * 1000, "ms")
        figure(f"{what} beside a job that computes, median", usual[what] * 1000, "ms")
    assert set(sizes) == {MOST}
    assert not [pid for pid in processes if alive(pid)]
    assert not directories(job)
    for what, seconds in latencies.items():
        assert seconds < max(ANSWER_SECONDS, MOST_TIMES * usual[what]), (latencies, usual)
