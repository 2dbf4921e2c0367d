"""`just test-slow`: each mode slows its tests down, what fails is named, and nothing is left."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cgroups import find_cgroups

ROOT = Path(__file__).parents[1]
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


def run(tests: Path, *arguments: str) -> tuple[int, str]:
    """Run it once; return its exit code and its output, once it has left no cgroup."""
    command = [sys.executable, "-m", "tests.slow", "--times", "1", *arguments]
    command += ["-p", "no:cacheprovider", str(tests)]
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
@pytest.mark.parametrize("mode", ["half", "pinned", "busy"])
def test_each_mode_slows_its_tests_down_in_its_way(tests: Path, mode: str) -> None:
    code, output = run(tests, "--mode", mode, "-k", f"test_{mode}")
    assert code == 0, output
    assert f"\n--- passed\n{mode}, 1 of 1: passed, " in output


def test_what_fails_is_named_and_the_other_modes_run(tests: Path) -> None:
    code, output = run(tests, "--mode", "busy", "--mode", "pinned", "-k", "test_pinned")
    assert code == 1
    *_, first, named, second = output.splitlines()
    assert first.startswith("busy, 1 of 1: FAILED with status 1, ")
    assert named.startswith("  FAILED ")
    assert "::test_pinned" in named
    assert second.startswith("pinned, 1 of 1: passed, ")
