"""A job's cgroup on this host: limited, signalled, killed, removed; and other hosts' texts."""

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from wire.limits import Limits
from worker import cgroup as cgroup_module
from worker.cgroup import JobCgroup, LimitRefusedError, check_enforceable, whole_disks
from worker.hierarchy import Controller, Hierarchies

pytestmark = pytest.mark.host
ALL = Limits(cpu=500, memory=64 * 2**20, disk_ops=100, disk_bytes=2**20, pids=20)
Sleeper = subprocess.Popen[bytes]


@pytest.fixture
def sleep() -> Iterator[Callable[[Path | None], Sleeper]]:
    """Starts processes that stay, each in a cgroup."""
    processes = []

    def start(path: Path | None) -> Sleeper:
        processes.append(subprocess.Popen(["sleep", "600"]))
        if path is not None:
            (path / "cgroup.procs").write_text(str(processes[-1].pid))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def cgroup(hierarchies: Hierarchies) -> JobCgroup:
    """A job's cgroup without limits."""
    return JobCgroup(hierarchies, "job", Limits())


def directories(hierarchies: Hierarchies) -> list[Path]:
    return [path for base in hierarchies.bases for path in base.iterdir() if path.is_dir()]


# --- limits


def read_back(hierarchies: Hierarchies, name: str) -> dict[str, str]:
    """What the kernel says it enforces, in v2's words, whichever version it is."""
    disks = whole_disks()
    found = {}
    for controller in ("cpu", "memory", "io", "pids"):
        version = hierarchies.controllers[controller].version
        path = hierarchies.controllers[controller].base / name

        def text(file: str, path: Path = path) -> str:
            return (path / file).read_text().strip()

        if controller == "io" and version == 1:
            ways = ("read_iops", "write_iops", "read_bps", "write_bps")
            files = [f"blkio.throttle.{way}_device" for way in ways]
            per_disk = [dict(line.split() for line in text(file).splitlines()) for file in files]
            found["io"] = "\n".join(
                "{} riops={} wiops={} rbps={} wbps={}".format(disk, *(each[disk] for each in per_disk))
                for disk in disks
            )
        elif controller == "io":
            order = ("riops", "wiops", "rbps", "wbps")
            lines = [line.split() for line in text("io.max").splitlines()]
            values = {disk: dict(word.split("=") for word in words) for disk, *words in lines}
            found["io"] = "\n".join(
                " ".join([disk, *(f"{key}={values[disk][key]}" for key in order)]) for disk in disks
            )
        elif controller == "cpu" and version == 1:
            found["cpu"] = f"{text('cpu.cfs_quota_us')} {text('cpu.cfs_period_us')}"
        elif controller == "cpu":
            found["cpu"] = text("cpu.max")
        elif controller == "memory" and version == 1:
            found["memory"] = text("memory.limit_in_bytes")
            both = path / "memory.memsw.limit_in_bytes"
            found["with swap"] = both.read_text().strip() if both.exists() else found["memory"]
        elif controller == "memory":
            found["memory"] = found["with swap"] = text("memory.max")
        else:
            found["pids"] = text("pids.max")
    return found


def test_limits_are_what_the_kernel_enforces(hierarchies: Hierarchies) -> None:
    cgroup = JobCgroup(hierarchies, "job", ALL)
    assert read_back(hierarchies, "job") == {
        "cpu": "50000 100000",
        "memory": str(64 * 2**20),
        "with swap": str(64 * 2**20),
        "io": "\n".join(f"{disk} riops=100 wiops=100 rbps=1048576 wbps=1048576" for disk in whole_disks()),
        "pids": "20",
    }
    assert sorted(cgroup.paths) == sorted(directories(hierarchies))
    assert cgroup.oom_kills() == 0


def test_a_cgroup_is_made_only_where_it_is_needed(hierarchies: Hierarchies) -> None:
    cgroup = JobCgroup(hierarchies, "job", Limits(pids=5))
    assert set(cgroup.paths) == {hierarchies.tracking / "job", hierarchies.controllers["pids"].base / "job"}
    assert sorted(cgroup.paths) == sorted(directories(hierarchies))


def test_a_refused_value_leaves_nothing(hierarchies: Hierarchies) -> None:
    refusal = r"The kernel refused pids = \d+ \(pids.max: Invalid argument\)\."
    with pytest.raises(LimitRefusedError, match=refusal):
        JobCgroup(hierarchies, "job", Limits(cpu=500, memory=64 * 2**20, pids=2**40))
    assert directories(hierarchies) == []


def test_a_name_that_is_taken_is_left_alone(hierarchies: Hierarchies, cgroup: JobCgroup) -> None:
    with pytest.raises(FileExistsError):
        JobCgroup(hierarchies, "job", Limits(cpu=500))
    assert directories(hierarchies) == [cgroup.path]


@pytest.mark.parametrize("limit", ["cpu", "memory", "disk_ops", "disk_bytes", "pids"])
def test_what_cannot_be_enforced_is_refused_with_controller_and_remedy(tmp_path: Path, limit: str) -> None:
    controller = {"disk_ops": "io", "disk_bytes": "io"}.get(limit, limit)
    limits = Limits(**{limit: 2**20})
    found = Hierarchies(tmp_path, missing={controller: f"no {controller} here; boot with it enabled"})
    with pytest.raises(LimitRefusedError) as caught:
        check_enforceable(found, limits)
    assert str(caught.value) == (
        f"The {limit} limit cannot be enforced on this host: no {controller} here; boot with it enabled."
    )
    check_enforceable(found, Limits())
    check_enforceable(Hierarchies(tmp_path, {controller: Controller(2, tmp_path)}), limits)


def test_a_disk_limit_needs_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup_module, "whole_disks", list)
    found = Hierarchies(tmp_path, {"io": Controller(2, tmp_path)})
    with pytest.raises(LimitRefusedError, match=r"disk_ops .*it has no disk"):
        check_enforceable(found, Limits(disk_ops=5))


def test_disks_are_those_with_a_device_and_a_number(tmp_path: Path) -> None:
    for name, dev in {"sda": "8:0\n", "nvme0n1": "259:1\n", "loop0": "7:0\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "dev").write_text(dev)
    for name in ("sda", "nvme0n1", "nvme0c0n1"):  # the last: a hidden path of a multipath disk
        (tmp_path / name / "device").mkdir(parents=True)
    assert whole_disks(tmp_path) == ["259:1", "8:0"]


@pytest.mark.parametrize(
    ("limit", "value", "version", "swap", "texts"),
    [
        ("cpu", 500, 2, True, [("cpu.max", "50000 100000")]),
        ("cpu", 10, 2, True, [("cpu.max", "1000 100000")]),
        ("cpu", 8000, 1, True, [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "800000")]),
        (
            "memory",
            2**20,
            2,
            True,
            [("memory.max", "1048576"), ("memory.swap.max", "0"), ("memory.oom.group", "1")],
        ),
        ("memory", 2**20, 2, False, [("memory.max", "1048576"), ("memory.oom.group", "1")]),
        (
            "memory",
            2**20,
            1,
            True,
            [("memory.limit_in_bytes", "1048576"), ("memory.memsw.limit_in_bytes", "1048576")],
        ),
        ("memory", 2**20, 1, False, [("memory.limit_in_bytes", "1048576")]),
        ("disk_ops", 7, 2, True, [("io.max", "8:0 riops=7 wiops=7"), ("io.max", "8:16 riops=7 wiops=7")]),
        ("disk_bytes", 7, 2, True, [("io.max", "8:0 rbps=7 wbps=7"), ("io.max", "8:16 rbps=7 wbps=7")]),
        (
            "disk_bytes",
            7,
            1,
            True,
            [
                ("blkio.throttle.read_bps_device", "8:0 7"),
                ("blkio.throttle.write_bps_device", "8:0 7"),
                ("blkio.throttle.read_bps_device", "8:16 7"),
                ("blkio.throttle.write_bps_device", "8:16 7"),
            ],
        ),
        ("pids", 7, 2, True, [("pids.max", "7")]),
        ("pids", 7, 1, True, [("pids.max", "7")]),
    ],
)
def test_settings(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    value: int,
    version: int,
    swap: bool,
    texts: list[tuple[str, str]],
) -> None:
    monkeypatch.setattr(cgroup_module, "whole_disks", lambda: ["8:0", "8:16"])
    if swap:
        for name in ("memory.swap.max", "memory.memsw.limit_in_bytes"):
            (tmp_path / name).touch()
    assert cgroup_module._settings(limit, value, version, tmp_path) == texts


@pytest.mark.parametrize(
    ("version", "file", "text", "kills"),
    [
        (2, "memory.events", "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 1\n", 2),
        (1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n", 4),
        (1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n", 0),  # before Linux 4.13
        (2, None, "", 0),
    ],
)
def test_oom_kills_are_the_kernels_count(
    tmp_path: Path, version: int, file: str | None, text: str, kills: int
) -> None:
    (tmp_path / "base").mkdir()
    found = Hierarchies(tmp_path / "base", {"memory": Controller(version, tmp_path / "base")})
    cgroup = JobCgroup(found, "job", Limits(memory=2**20))
    if file:
        (cgroup.path / file).write_text(text)
    assert cgroup.oom_kills() == kills


# --- members


def test_processes_join_through_descriptors(
    hierarchies: Hierarchies, sleep: Callable[[Path | None], Sleeper]
) -> None:
    cgroup = JobCgroup(hierarchies, "job", ALL)
    process = sleep(None)
    with cgroup.open_procs() as fds:
        assert len(fds) == len(cgroup.paths)
        for fd in fds:
            assert not os.get_inheritable(fd)
            os.write(fd, str(process.pid).encode())
    for path in cgroup.paths:
        assert (path / "cgroup.procs").read_text().split() == [str(process.pid)]
    assert not any(Path(f"/proc/self/fd/{fd}").exists() for fd in fds)
    assert cgroup.pids() == [process.pid]


def test_descriptors_are_closed_if_one_cannot_be_opened(cgroup: JobCgroup) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    cgroup.paths.append(Path("/nowhere"))
    with pytest.raises(FileNotFoundError), cgroup.open_procs():
        pass
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_signal_reaches_every_member_and_no_stranger(
    cgroup: JobCgroup, sleep: Callable[[Path | None], Sleeper]
) -> None:
    inner = cgroup.path / "made by" / "the job"
    inner.mkdir(parents=True)
    members = [sleep(cgroup.path), sleep(cgroup.path), sleep(inner)]
    stranger, neighbour = sleep(None), sleep(cgroup.path.parent)
    assert sorted(cgroup.pids()) == sorted(member.pid for member in members)
    cgroup.signal(signal.SIGTERM)
    assert [member.wait(5) for member in members] == [-signal.SIGTERM] * 3
    assert stranger.poll() is neighbour.poll() is None
    assert cgroup.is_empty()
    cgroup.signal(signal.SIGTERM)  # and nobody is left to hear it


def test_a_number_that_left_the_job_is_not_signalled(
    cgroup: JobCgroup, sleep: Callable[[Path | None], Sleeper], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was read as a member's, and had become a stranger's when it was pinned."""
    member, stranger = sleep(cgroup.path), sleep(None)
    answers = iter([[stranger.pid, member.pid], [member.pid]])
    monkeypatch.setattr(cgroup, "pids", lambda: next(answers))
    cgroup.signal(signal.SIGTERM)
    assert member.wait(5) == -signal.SIGTERM
    assert stranger.poll() is None


def test_a_job_with_more_processes_than_we_may_have_descriptors(
    cgroup: JobCgroup, sleep: Callable[[Path | None], Sleeper]
) -> None:
    members = [sleep(cgroup.path) for _ in range(20)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    filler = [os.dup(2)]
    while filler[-1] < 100:  # no hole is left below the limit
        filler.append(os.dup(2))
    resource.setrlimit(resource.RLIMIT_NOFILE, (filler[-1] + 8, hard))
    try:
        cgroup.signal(signal.SIGTERM)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in filler:
            os.close(fd)
    assert [member.wait(5) for member in members] == [-signal.SIGTERM] * 20


async def test_kill_wait_and_remove_with_nested_cgroups(
    hierarchies: Hierarchies, sleep: Callable[[Path | None], Sleeper]
) -> None:
    cgroup = JobCgroup(hierarchies, "job", Limits(pids=20))
    members = []
    for path in cgroup.paths:
        (path / "a" / "b").mkdir(parents=True)
        (path / "c").mkdir()
    for below in ("", "a", "a/b"):
        members.append(sleep(cgroup.path / below))
        (cgroup.paths[-1] / below / "cgroup.procs").write_text(str(members[-1].pid))
    assert not cgroup.is_empty()
    cgroup.kill()
    with trio.fail_after(5):
        await cgroup.wait_empty()
        assert await cgroup.remove()
        assert await cgroup.remove()  # again, and all of the others, are harmless
        await cgroup.wait_empty()
    cgroup.kill()
    assert [member.wait(5) for member in members] == [-signal.SIGKILL] * 3
    assert cgroup.pids() == []
    assert directories(hierarchies) == []


async def test_remove_kills_who_joins_late(
    cgroup: JobCgroup, sleep: Callable[[Path | None], Sleeper], monkeypatch: pytest.MonkeyPatch
) -> None:
    kill = cgroup.kill
    late: list[Sleeper] = []

    def kill_then_join() -> None:
        kill()
        if not late:
            late.append(sleep(cgroup.path))

    monkeypatch.setattr(cgroup, "kill", kill_then_join)
    with trio.fail_after(5):
        assert await cgroup.remove()
    assert late[0].wait(5) == -signal.SIGKILL


async def test_remove_is_bounded_and_shielded(
    cgroup: JobCgroup, sleep: Callable[[Path | None], Sleeper], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup_module, "REMOVE_DEADLINE", 0.05)
    member = sleep(cgroup.path)
    with monkeypatch.context() as patch, trio.fail_after(5), trio.CancelScope() as scope:
        patch.setattr(cgroup, "kill", lambda: None)
        scope.cancel()
        began = time.monotonic()
        assert not await cgroup.remove()
        assert time.monotonic() - began >= 0.05
    assert cgroup.pids() == [member.pid]
    with trio.CancelScope() as scope:
        scope.cancel()
        assert await cgroup.remove()
    assert not cgroup.path.exists()
