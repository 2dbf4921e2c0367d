"""What a limit means to the kernel, what is refused before anything starts, and what is noted."""

import errno
import os
from pathlib import Path

import pytest

from wire.limits import MAX_VALUE, Limits
from worker import ceilings, cgroupfs
from worker.ceilings import LimitRefusedError, apply, bfq_weight, check_enforceable, notes, settings, why_not
from worker.disks import Disk
from worker.hierarchy import Controller, Hierarchies

EVERY = ["cpu", "memory", "disk_ops", "disk_bytes", "pids", "cpu_weight", "disk_weight"]
CONTROLLER = {"disk_ops": "io", "disk_bytes": "io", "disk_weight": "io", "cpu_weight": "cpu"}
SDA, SDB = Disk("sda", "8:0", bfq=True), Disk("sdb", "8:16", bfq=True)


@pytest.fixture(autouse=True)
def disks(monkeypatch: pytest.MonkeyPatch) -> list[Disk]:
    """The disks that this host is made to have; tests change them."""
    disks = [SDA, SDB]
    monkeypatch.setattr(ceilings, "whole_disks", lambda: disks)
    return disks


# --- what can be enforced


@pytest.mark.parametrize("limit", EVERY)
def test_what_cannot_be_enforced_is_refused_with_controller_and_remedy(tmp_path: Path, limit: str) -> None:
    controller = CONTROLLER.get(limit, limit)
    limits = Limits(**{limit: 2**20})
    found = Hierarchies(tmp_path, missing={controller: f"no {controller} here; boot with it enabled"})
    with pytest.raises(LimitRefusedError) as caught:
        check_enforceable(found, limits)
    assert str(caught.value) == (
        f"The {limit} limit cannot be enforced on this host: no {controller} here; boot with it enabled."
    )
    check_enforceable(found, Limits())
    for version in (1, 2):
        check_enforceable(Hierarchies(tmp_path, {controller: Controller(version, tmp_path)}), limits)


@pytest.mark.parametrize("limit", EVERY)
def test_a_host_without_cgroups_enforces_nothing(limit: str) -> None:
    missing = dict.fromkeys(("cpu", "memory", "io", "pids"), "no cgroup hierarchy is mounted; remedy")
    assert why_not(Hierarchies(None, missing=missing), limit) == "no cgroup hierarchy is mounted; remedy"
    assert why_not(Hierarchies(None), limit) == f"there is no {CONTROLLER.get(limit, limit)} controller"


@pytest.mark.parametrize("limit", ["disk_ops", "disk_bytes", "disk_weight"])
def test_a_disk_limit_needs_a_disk(tmp_path: Path, disks: list[Disk], limit: str) -> None:
    disks.clear()
    found = Hierarchies(tmp_path, {"io": Controller(2, tmp_path)})
    with pytest.raises(LimitRefusedError, match=rf"{limit} .* the io controller finds no real disk"):
        check_enforceable(found, Limits(**{limit: 5}))


@pytest.mark.parametrize(
    ("version", "also"), [(1, r"scheduler\)\.$"), (2, r"scheduler\) or with io\.cost\.qos\.$")]
)
def test_a_disk_weight_needs_a_disk_that_heeds_it(
    tmp_path: Path, disks: list[Disk], version: int, also: str
) -> None:
    base = tmp_path / "slice" / "base"
    found = Hierarchies(base, {"io": Controller(version, base)})
    check_enforceable(found, Limits(disk_weight=5))
    disks[:] = [Disk("vda", "254:0", bfq=False), SDB, Disk("vdb", "254:16", bfq=False)]
    remedy = r"shares vda, vdb by weight only .*\(echo bfq >/sys/block/vda/queue/" + also
    with pytest.raises(LimitRefusedError, match=remedy):
        check_enforceable(found, Limits(disk_weight=5))
    check_enforceable(found, Limits(disk_ops=5, disk_bytes=5))  # these need no scheduler
    (tmp_path / "io.cost.qos").write_text("254:0 enable=1\n254:16 enable=1\n")  # in the root, above the base
    if version == 2:
        check_enforceable(found, Limits(disk_weight=5))
    else:
        assert why_not(found, "disk_weight")


# --- what is written


@pytest.mark.parametrize(
    ("limit", "value", "version", "texts"),
    [
        ("cpu", 500, 2, [("cpu.max", "50000 100000")]),
        ("cpu", 10, 2, [("cpu.max", "1000 100000")]),
        ("cpu", MAX_VALUE, 2, [("cpu.max", f"{2**44 - 1} 100000")]),
        ("cpu", 8000, 1, [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "800000")]),
        ("cpu", MAX_VALUE, 1, [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", str(2**44 - 1))]),
        ("memory", 2**20, 2, [("memory.max", "1048576"), ("memory.swap.max", "0")]),
        (
            "memory",
            2**20,
            1,
            [("memory.limit_in_bytes", "1048576"), ("memory.memsw.limit_in_bytes", "1048576")],
        ),
        ("disk_ops", 7, 2, [("io.max", "8:0 riops=7 wiops=7"), ("io.max", "8:16 riops=7 wiops=7")]),
        ("disk_bytes", 7, 2, [("io.max", "8:0 rbps=7 wbps=7"), ("io.max", "8:16 rbps=7 wbps=7")]),
        (
            "disk_bytes",
            7,
            1,
            [
                ("blkio.throttle.read_bps_device", "8:0 7"),
                ("blkio.throttle.write_bps_device", "8:0 7"),
                ("blkio.throttle.read_bps_device", "8:16 7"),
                ("blkio.throttle.write_bps_device", "8:16 7"),
            ],
        ),
        (
            "disk_ops",
            2**32,  # v1 keeps 32 bits of it, and would let no operation through
            1,
            [
                ("blkio.throttle.read_iops_device", "8:0 4294967295"),
                ("blkio.throttle.write_iops_device", "8:0 4294967295"),
                ("blkio.throttle.read_iops_device", "8:16 4294967295"),
                ("blkio.throttle.write_iops_device", "8:16 4294967295"),
            ],
        ),
        ("pids", 7, 2, [("pids.max", "7")]),
        ("pids", 7, 1, [("pids.max", "7")]),
        ("pids", 2**22, 2, [("pids.max", str(2**22))]),
        ("pids", 2**22 + 1, 2, [("pids.max", "max")]),
        ("cpu_weight", 250, 2, [("cpu.weight", "250")]),
        ("cpu_weight", 100, 1, [("cpu.shares", "1024")]),
        ("cpu_weight", 1, 1, [("cpu.shares", "10")]),
        ("cpu_weight", 10_000, 1, [("cpu.shares", "102400")]),
        ("disk_weight", 10_000, 2, [("io.weight", "10000"), ("io.bfq.weight", "1000")]),
        ("disk_weight", 10_000, 1, [("blkio.bfq.weight", "1000")]),
    ],
)
def test_settings(tmp_path: Path, limit: str, value: int, version: int, texts: list[tuple[str, str]]) -> None:
    optional = ("memory.swap.max", "memory.memsw.limit_in_bytes", "io.weight", "io.bfq.weight")
    assert settings(limit, value, version, tmp_path, [SDA, SDB]) == [
        setting for setting in texts if setting[0] not in optional
    ]
    for name in optional:
        (tmp_path / name).touch()
    assert settings(limit, value, version, tmp_path, [SDA, SDB]) == texts


@pytest.mark.parametrize(
    ("weight", "bfq"), [(1, 1), (99, 99), (100, 100), (101, 100), (111, 101), (9999, 999), (10_000, 1000)]
)
def test_bfq_weights_have_the_same_default_and_ends(weight: int, bfq: int) -> None:
    assert bfq_weight(weight) == bfq


@pytest.fixture
def host(tmp_path: Path) -> Hierarchies:
    """A v2 host with a job's directory of plain files."""
    (tmp_path / "job").mkdir()
    for name in ("cpu.max", "io.max", "pids.max"):
        (tmp_path / "job" / name).touch()
    return Hierarchies(
        tmp_path, {controller: Controller(2, tmp_path) for controller in ("cpu", "io", "pids")}
    )


def test_a_disk_that_was_taken_out_is_passed_over(
    host: Hierarchies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def write(path: str, text: str) -> None:
        written.append((Path(path).relative_to(tmp_path / "job").name, text))
        if text.startswith("8:0"):
            raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(cgroupfs, "write", write)
    apply(host, "job", Limits(disk_ops=5, pids=9))
    assert written == [
        ("io.max", "8:0 riops=5 wiops=5"),
        ("io.max", "8:16 riops=5 wiops=5"),
        ("pids.max", "9"),
    ]


def test_a_value_that_the_kernel_refuses_is_told(host: Hierarchies, tmp_path: Path) -> None:
    (tmp_path / "job/pids.max").unlink()
    refusal = r"^The kernel refused pids = 9 \(pids\.max: No such file or directory\)\.$"
    with pytest.raises(LimitRefusedError, match=refusal):
        apply(host, "job", Limits(cpu=500, pids=9))
    assert (tmp_path / "job/cpu.max").read_text() == "50000 100000"


# --- notes


def test_more_than_the_machine_has_is_noted() -> None:
    cpus = os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    most = int(Path("/proc/sys/kernel/pid_max").read_text())
    assert notes(Limits(cpu=cpus * 1000, memory=memory, pids=most, disk_ops=MAX_VALUE, cpu_weight=9)) == ()
    assert notes(Limits(cpu=cpus * 1000 + 500, memory=memory + 2**30, pids=most + 1)) == (
        f"The cpu limit of {cpus}.5 CPUs is more than this machine's {cpus} CPUs.",
        f"The memory limit of {memory / 2**30 + 1:.1f} GiB "
        f"is more than this machine's {memory / 2**30:.1f} GiB.",
        f"The pids limit of {most + 1} tasks is more than this machine's {most} tasks.",
    )
