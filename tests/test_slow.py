"""`just test-slow`: each mode slows its tests down, what fails is named, and nothing is left."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cgroups import find_cgroups
from tests.harness import PATIENCE, alive, eventually
from tests.host.common import NOT_EMULATED

ROOT = Path(__file__).parents[1]
COMMAND = (sys.executable, "-m", "tests.slow", "--times", "1")
#: Tests that pass in one mode each.
TESTS = """
import os
from pathlib import Path

from worker.mounts import read_mounts


def test_half():
    quotas = {"cpu.max": "50000 100000", "cpu.cfs_quota_us": "50000"}
    files = {mount.own / name: quota for mount in read_mounts() for name, quota in quotas.items()}
    assert [path.read_text().strip() == quota for path, quota in files.items() if path.exists()] == [True]


def test_pinned():
    assert len(os.sched_getaffinity(0)) == 1


def test_busy():
    siblings = Path(f"/proc/{os.getppid()}/task/{os.getppid()}/children").read_text().split()
    spinners = [pid for pid in siblings if b"getppid" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(spinners) == len(os.sched_getaffinity(0))
"""


#: A test that stays, with a child.
STAY = """
import subprocess
import time
from pathlib import Path


def test_stay():
    here = Path(__file__).parent
    child = subprocess.Popen(["sleep", "600"])
    try:
        (here / "pid").write_text(f"{child.pid}\\n")
        time.sleep(600)
    finally:
        (here / "ended").touch()
"""


def run(tests: Path, *arguments: str) -> tuple[int, str]:
    """Run it once; return its exit code and its output, once it has left no cgroup."""
    command = [*COMMAND, *arguments, "-p", "no:cacheprovider", str(tests)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        output, _ = running.communicate()
    assert find_cgroups(f"worker-service-{running.pid}-*") == []
    return running.returncode, output


@pytest.fixture
def tests(tmp_path: Path) -> Path:
    path = tmp_path / "test_slowness.py"
    path.write_text(TESTS)
    return path


@pytest.mark.host
@NOT_EMULATED
@pytest.mark.parametrize("mode", ["half", "pinned", "busy"])
def test_each_mode_slows_its_tests_down_in_its_way(tests: Path, mode: str) -> None:
    code, output = run(tests, "--mode", mode, "-k", f"test_{mode}")
    assert code == 0, output
    assert f"\n--- passed\n{mode}, 1 of 1: passed, " in output


@pytest.mark.host
@NOT_EMULATED
def test_one_that_is_ended_leaves_nothing(tmp_path: Path) -> None:
    tests = tmp_path / "test_stay.py"
    tests.write_text(STAY)
    command = [*COMMAND, "--mode", "half", "-p", "no:cacheprovider", str(tests)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as running:
        pid = int(eventually(lambda: read(tmp_path / "pid"), "the test's own child"))
        running.send_signal(signal.SIGTERM)
        assert running.wait(PATIENCE) == 128 + signal.SIGTERM
    assert (tmp_path / "ended").exists()  # pytest has ended in its order
    assert not alive(pid)
    assert find_cgroups(f"worker-service-{running.pid}-*") == []


def read(path: Path) -> str:
    """What has been written to a file, a line of it at least; nothing before."""
    text = path.read_text() if path.exists() else ""
    return text if text.endswith("\n") else ""


def test_what_fails_is_named_and_the_other_modes_run(tests: Path) -> None:
    code, output = run(tests, "--mode", "pinned", "--mode", "busy", "-k", "test_busy")
    assert code == 1
    *_, first, named, second = output.splitlines()
    assert first.startswith("pinned, 1 of 1: FAILED with status 1, ")
    assert named.startswith("  FAILED ")
    assert "::test_busy" in named
    assert second.startswith("busy, 1 of 1: passed, ")
