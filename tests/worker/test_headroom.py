"""How many tasks all jobs together may have: by the lowest bound above them, less what is left to others."""

from pathlib import Path

import pytest

from tests.worker.common import KeptLog
from worker.cgroupfs import read
from worker.headroom import ceiling, leave_room, tasks_above
from worker.hierarchy import Controller, Hierarchies


@pytest.mark.parametrize(
    ("most", "for_jobs"), [(1, 1), (2, 1), (20, 10), (120, 60), (128, 64), (1000, 900), (32768, 29492)]
)
def test_a_share_is_left_and_never_more_than_half(most: int, for_jobs: int) -> None:
    assert ceiling(most) == for_jobs


def bounded(folder: Path, most: str, base: str) -> Path:
    """A cgroup with a bound, and a base in it."""
    (folder / base).mkdir(parents=True)
    (folder / "pids.max").write_text(f"{most}\n")
    (folder / base / "pids.max").write_text("max\n")
    return folder / base


def test_the_lowest_bound_above_counts(tmp_path: Path) -> None:
    own = tasks_above(tmp_path)  # by the host alone
    assert own is not None
    assert own <= int(read("/proc/sys/kernel/pid_max"))
    assert tasks_above(bounded(tmp_path / "a", "max", "base")) == own
    assert tasks_above(bounded(tmp_path / "b", "7", "between/base")) == 7
    assert tasks_above(bounded(tmp_path / "b" / "c", "9", "base")) == 7


def test_the_base_gets_it_and_a_refusal_is_told(tmp_path: Path, log: KeptLog) -> None:
    base = bounded(tmp_path / "a", "120", "base")
    leave_room(Hierarchies(base, {"pids": Controller(1, base)}), log)
    assert (base / "pids.max").read_text().startswith("60")
    assert log.lines == []
    leave_room(Hierarchies(base, {"pids": Controller(1, tmp_path / "none")}), log)
    assert log.messages == ["jobs may use up all tasks of this host"]
    leave_room(Hierarchies(base), log)
    assert len(log.lines) == 1
