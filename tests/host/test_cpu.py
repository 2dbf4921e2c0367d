"""CPU limits on a real kernel: how long work takes under one, and how much several processes get together."""

import pytest

from client.blocking import Client
from tests.host.common import check_stretched, figure, numbers, program
from wire.limits import parse_limits

pytestmark = pytest.mark.host
HALF = parse_limits(cpu="512")
TOLERANCE = 0.15


def test_a_second_of_work_at_half_a_cpu_takes_two(admin: Client) -> None:
    work = program("burn", 1.0)
    check_stretched("1 s of work at half a CPU", lambda: numbers(admin, work, HALF)[0], 2.0, TOLERANCE)


def test_processes_share_one_ceiling(admin: Client) -> None:
    wall, used = numbers(admin, program("crowd", 4, 2.0), HALF)
    figure("four busy processes at half a CPU", used / wall, "CPU")
    assert used / wall <= 0.5 * (1 + TOLERANCE)
    assert used > 0
