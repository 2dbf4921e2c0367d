"""Every core operation, cancelled at its checkpoints, leaves nothing; and what is left is found.

`just race` cancels at every checkpoint, twice; here the long operations are cancelled at some of them. An
emulated machine, which is slow, is there for its cgroups: what those do not matter to is left out there.
"""

import re
from pathlib import Path

import pytest
import trio

from tests.harness import SLOW
from tests.host.common import NOT_EMULATED, skip_if_emulated
from tests.race import footprint
from tests.race.cancel import Moment, Swept, sweep
from tests.race.footprint import LeftError
from tests.race.operations import HOST_OPERATIONS, OPERATIONS
from tests.race.seeds import seed_scheduler
from tests.race.world import kinds, open_world
from worker.blocks import BLOCK_BYTES, Chunk
from worker.cgroup import JobCgroup
from worker.output import Missing
from worker.reader import Reader
from worker.spill_file import SpillFile

pytestmark = pytest.mark.host
#: Every n-th checkpoint of what has hundreds, so that this takes seconds.
STRIDES = {
    "life": 2,
    "start": 3,
    "start_again": 3,
    "stop": 4,
    "drain": 5,
    "restart": 11,
    "session": 29,
    "request": 29,
    "stream": 5,
    "remove": 5,
    "native_connection": 43,
    "websocket_connection": 71,
    "native_client": 43,
    "websocket_client": 71,
    "audited_request": 11,
    "audited_session": 11,
    "serve": 71,
    "make_room": 7,
    "make_room_by_dropping": 7,
    "wait_for_room": 5,
    "read_back": 5,
}
#: The fewest checkpoints that an operation can have; with fewer, nothing would have been tested.
FEWEST = {"session": 100, "request": 80, "serve": 150, "native_connection": 100, "websocket_connection": 150}


def run_sweep(
    name: str, folder: Path, certs: Path, *, moment: Moment, kind: str = "here", stride: int = 1
) -> Swept:
    async def run() -> Swept:
        async with open_world(folder, certs, kind) as world:
            return await sweep(world, OPERATIONS[name], moment, stride=stride)

    seed_scheduler(0)
    return trio.run(run)


def found_by(name: str, folder: Path, certs: Path) -> str:
    """What a sweep finds, which fails: the harness's own words."""
    for moment in Moment:
        try:
            run_sweep(name, folder, certs, moment=moment)
        except BaseExceptionGroup as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            assert isinstance(error, LeftError)
            return str(error)
    pytest.fail("a bug that was planted was not found")


CASES = [(name, kind) for name in OPERATIONS for kind in (kinds() if name in HOST_OPERATIONS else ["here"])]


@pytest.mark.parametrize("moment", Moment, ids=lambda moment: moment.name.lower())
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_cancelled_at_its_checkpoints(
    tmp_path: Path, shared_certificates: Path, cancelled: list[int], name: str, kind: str, moment: Moment
) -> None:
    if kind == "none" or name not in HOST_OPERATIONS:
        skip_if_emulated()
    stride = STRIDES.get(name, 1) * (1 if kind == "here" else 5) * (1 if SLOW == 1 else 3)
    swept = run_sweep(name, tmp_path, shared_certificates, moment=moment, kind=kind, stride=stride)
    assert swept.runs * stride >= FEWEST.get(name, 5)
    cancelled.append(swept.runs - 1)


# --- bugs planted on purpose


def test_a_cgroup_that_is_not_removed_on_cancel_is_found(
    tmp_path: Path, shared_certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprint, "SETTLE_SECONDS", 0.3)
    real = JobCgroup.remove

    async def remove(self: JobCgroup) -> bool:
        await trio.lowlevel.checkpoint()  # where a shield belongs
        return await real(self)

    monkeypatch.setattr(JobCgroup, "remove", remove)
    found = found_by("life", tmp_path, shared_certificates)
    assert found.startswith("life, cancelled at checkpoint ")
    assert re.search(r"left behind: .*cgroup /sys/fs/cgroup/\S*/life", found), found


@NOT_EMULATED
def test_a_descriptor_that_is_not_closed_is_found(
    tmp_path: Path, shared_certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprint, "SETTLE_SECONDS", 0.3)
    files: list[SpillFile] = []
    monkeypatch.setattr(SpillFile, "close", lambda self: files.append(self))
    found = found_by("read_back", tmp_path, shared_certificates)
    monkeypatch.undo()
    for file in files:
        file.close()
    assert re.search(r"left behind: descriptor \S+ \(deleted\)", found), found


@NOT_EMULATED
def test_a_byte_that_is_lost_on_cancel_is_found(
    tmp_path: Path, shared_certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Reader.next

    async def next_piece(self: Reader, most: int = BLOCK_BYTES) -> Chunk | Missing | None:
        try:
            return await real(self, most)
        except trio.Cancelled:
            self.offset += 1
            raise

    monkeypatch.setattr(Reader, "next", next_piece)
    assert "a reader lost its place" in found_by("read_back", tmp_path, shared_certificates)
