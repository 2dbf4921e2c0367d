"""What a job has used, as each kind of host counts it: recorded texts of the kernel's files."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from wire.jobs import Usage
from wire.limits import Limits
from worker import usage
from worker.cgroup import JobCgroup
from worker.hierarchy import Controller, Hierarchies
from worker.usage import measure

CPU_V2 = "usage_usec 3500000\nuser_usec 2250000\nsystem_usec 1250000\n"
UNIFIED = {
    "cpu.stat": CPU_V2
    + "core_sched.force_idle_usec 0\nnr_periods 7\nnr_throttled 5\nthrottled_usec 250000\nnr_bursts 0\n",
    "memory.current": "1048576\n",
    "memory.peak": "2097152\n",
    "pids.current": "3\n",
    "io.stat": "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0 cost.usage=7\n"
    "253:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n"  # what lies on 8:0 counts once
    "8:16 \n"
    "8:32 rbytes=100 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n",
}
V1 = {
    "cpuacct.stat": "user 150\nsystem 50\n",
    "cpu.stat": "nr_periods 7\nnr_throttled 5\nthrottled_time 250000000\nnr_bursts 0\nburst_time 0\n",
    "memory.usage_in_bytes": "1048576\n",
    "memory.max_usage_in_bytes": "2097152\n",
    "pids.current": "3\n",
    "blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 12288\n"
    "8:0 Async 0\n8:0 Discard 512\n8:0 Total 12288\n253:0 Read 4096\n253:0 Write 8192\n"
    "8:32 Read 100\nTotal 12388\n",
    "blkio.throttle.io_serviced_recursive": "8:0 Read 1\n8:0 Write 2\n253:0 Read 1\n8:32 Read 1\nTotal 4\n",
}
ALL = Usage(
    cpu_user=2.25,
    cpu_system=1.25,
    memory=2**20,
    memory_peak=2**21,
    tasks=3,
    disk_read=4196,
    disk_written=8192,
    disk_reads=2,
    disk_writes=2,
    throttled=0.25,
)
TICKS = os.sysconf("SC_CLK_TCK")
V1_CPU = {"cpu_user": 150 / TICKS, "cpu_system": 50 / TICKS}


@pytest.fixture(autouse=True)
def disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """This host has two real disks."""
    monkeypatch.setattr(usage, "_is_disk", lambda number: number in ("8:0", "8:32"))


def host(
    folder: Path, version: int, texts: Mapping[str, str], *, controllers: str = "cpu memory io pids"
) -> Hierarchies:
    """A host whose hierarchies are all in one folder, with the files of a job."""
    (folder / "job").mkdir()
    for name, text in texts.items():
        (folder / "job" / name).write_text(text)
    return Hierarchies(folder, {name: Controller(version, folder) for name in controllers.split()})


def test_a_unified_host(tmp_path: Path) -> None:
    assert measure(host(tmp_path, 2, UNIFIED), "job") == ALL


def test_a_v1_host(tmp_path: Path) -> None:
    found = host(tmp_path, 1, V1)
    found.cpuacct = tmp_path
    expected = {name: getattr(ALL, name) for name in ALL.__slots__} | V1_CPU
    assert measure(found, "job") == Usage(**expected)


def test_a_hybrid_host_counts_cpu_time_in_v2(tmp_path: Path) -> None:
    (tmp_path / "unified/job").mkdir(parents=True)
    (tmp_path / "unified/job/cpu.stat").write_text(CPU_V2)
    (tmp_path / "v1").mkdir()
    found = host(tmp_path / "v1", 1, {name: V1[name] for name in V1 if name != "cpuacct.stat"})
    found.tracking = tmp_path / "unified"
    assert measure(found, "job") == ALL


def test_what_is_not_counted_is_not_known(tmp_path: Path) -> None:
    cpu_alone = Usage(cpu_user=2.25, cpu_system=1.25)
    assert measure(host(tmp_path, 2, {"cpu.stat": CPU_V2}), "job") == Usage(
        cpu_user=2.25, cpu_system=1.25, disk_read=0, disk_written=0, disk_reads=0, disk_writes=0
    )
    assert measure(Hierarchies(tmp_path), "job") == cpu_alone
    assert measure(Hierarchies(tmp_path), "gone") is None
    assert measure(Hierarchies(None), "job") is None


def test_a_disk_without_figures_in_one_line_with_the_next(tmp_path: Path) -> None:
    """Some kernels print it so."""
    text = "7:7 7:6 8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n8:32 "
    found = measure(host(tmp_path, 2, {"cpu.stat": CPU_V2, "io.stat": text}), "job")
    assert found is not None
    assert (found.disk_read, found.disk_written, found.disk_reads, found.disk_writes) == (10, 20, 1, 2)


def test_a_kernel_without_a_peak(tmp_path: Path) -> None:
    texts = {name: UNIFIED[name] for name in UNIFIED if name != "memory.peak"}
    found = measure(host(tmp_path, 2, texts), "job")
    assert found is not None
    assert (found.memory, found.memory_peak) == (2**20, None)


@pytest.mark.host
@pytest.mark.parametrize("kind", ["here", "v1"], indirect=True)
def test_this_host_counts_a_fresh_job(hierarchies: Hierarchies) -> None:
    JobCgroup(hierarchies, "job", Limits())
    found = measure(hierarchies, "job")
    assert found is not None
    assert (found.cpu_user, found.cpu_system, found.throttled) == (0, 0, 0)
    assert (found.tasks, found.disk_read, found.disk_written, found.max_rss) == (0, 0, 0, None)
    assert found.memory is not None
    assert found.memory < 2**20
