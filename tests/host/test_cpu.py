"""CPU limits on a real kernel: how long work takes under one, and how much several processes get together.

The ceilings are so low that a job gets its share on a busy machine too.
"""

import pytest

from client.blocking import Client
from tests.host.common import check_stretched, figure, numbers, program
from wire.limits import parse_limits

pytestmark = pytest.mark.host
TENTH = parse_limits(cpu="100m")
TOLERANCE = 0.15


def test_work_at_a_tenth_of_a_cpu_takes_ten_times_as_long(admin: Client) -> None:
    work = program("burn", 0.3)
    check_stretched("0.3 s of work at 0.1 CPU", lambda: numbers(admin, work, TENTH)[0], 3.0, TOLERANCE)


def test_processes_share_one_ceiling(admin: Client) -> None:
    wall, used = numbers(admin, program("crowd", 4, 3.0), TENTH)
    figure("four busy processes at 0.1 CPU", used / wall, "CPU")
    assert used / wall <= 0.1 * (1 + TOLERANCE)
    assert used > 0
