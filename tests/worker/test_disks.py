"""Which of a host's block devices are real disks, and on which of them weights have an effect."""

import errno
from pathlib import Path

import pytest

from worker import cgroupfs
from worker.disks import Disk, count_from_now, whole_disks, without_weights
from worker.hierarchy import Hierarchies

SDA = Disk("sda", "8:0", bfq=False)
SDB = Disk("sdb", "8:16", bfq=True)


def make(block: Path, name: str, dev: str | None, scheduler: str | None = None, *, device: bool) -> None:
    (block / name / "queue").mkdir(parents=True)
    if dev is not None:
        (block / name / "dev").write_text(dev + "\n")
    if scheduler is not None:
        (block / name / "queue/scheduler").write_text(scheduler + "\n")
    if device:
        (block / name / "device").mkdir()


def test_disks_are_those_with_a_device_and_a_number(tmp_path: Path) -> None:
    make(tmp_path, "sda", "8:0", "none mq-deadline [bfq]", device=True)
    make(tmp_path, "nvme0n1", "259:1", "[none] mq-deadline bfq", device=True)
    make(tmp_path, "vda", "254:0", device=True)  # its scheduler cannot be read
    make(tmp_path, "nvme0c0n1", None, device=True)  # a hidden path of a multipath disk
    make(tmp_path, "loop0", "7:0", "[none]", device=False)
    make(tmp_path, "dm-0", "253:0", "[bfq]", device=False)
    assert whole_disks(tmp_path) == [
        Disk("nvme0n1", "259:1", bfq=False),
        Disk("sda", "8:0", bfq=True),
        Disk("vda", "254:0", bfq=False),
    ]


def test_a_host_without_disks(tmp_path: Path) -> None:
    assert whole_disks(tmp_path) == []


def test_the_disks_of_this_machine_have_numbers() -> None:
    for disk in whole_disks():
        assert Path(f"/sys/dev/block/{disk.number}").resolve() == Path(f"/sys/block/{disk.name}").resolve()


@pytest.mark.parametrize(
    ("version", "qos", "names"),
    [
        (1, "8:0 enable=1 ctrl=user\n", ["sda"]),  # io.cost is no part of v1
        (2, None, ["sda"]),  # this kernel has none
        (2, "", ["sda"]),
        (2, "8:0 enable=0 ctrl=auto rpct=0.00\n", ["sda"]),
        (2, "8:0 enable=1 ctrl=auto rpct=0.00\n", []),
        (2, "8:1 enable=1 ctrl=auto\n8:16 enable=1 ctrl=auto\n", ["sda"]),
    ],
)
def test_weights_need_bfq_or_io_cost(tmp_path: Path, version: int, qos: str | None, names: list[str]) -> None:
    if qos is not None:
        (tmp_path / "io.cost.qos").write_text(qos)
    assert without_weights([SDA, SDB], version, tmp_path) == names


def test_counting_begins_with_a_ceiling_that_is_none_and_goes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, str]] = []

    def write(path: str, text: str) -> None:
        written.append((path, text))
        if text.startswith("8:0"):
            raise OSError(errno.ENODEV, "No such device")  # it has been taken out

    monkeypatch.setattr(cgroupfs, "write", write)
    count_from_now(tmp_path, [SDA, SDB])
    file = f"{tmp_path}/blkio.throttle.read_bps_device"
    assert written == [(file, f"{disk} {value}") for disk in ("8:0", "8:16") for value in (2**63 - 1, 0)]


@pytest.mark.host
def test_the_kernel_keeps_no_ceiling_from_counting(hierarchies: Hierarchies) -> None:
    controller = hierarchies.controllers["io"]
    if controller.version == 2:
        pytest.skip("v2 counts by itself")
    for way in ("read", "write"):
        for unit in ("bps", "iops"):
            assert (controller.base / f"blkio.throttle.{way}_{unit}_device").read_text() == ""
    assert whole_disks() == [] or "Total" in (controller.base / "blkio.throttle.io_service_bytes").read_text()
