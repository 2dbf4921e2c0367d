"""What is done to a whole cgroup tree: on plain files where these say enough, on this host's cgroups else."""

import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.harness import PATIENCE, SLOW, eventually
from tests.worker.common import descriptors
from worker import cgroupfs
from worker.hierarchy import Hierarchies
from worker.walk import finish, walk

Sleeper = subprocess.Popen[bytes]
Sleep = Callable[[Path | None], Sleeper]
V1 = pytest.param("v1", marks=pytest.mark.host)
HERE = pytest.param("here", marks=pytest.mark.host)


# --- plain files


def test_read_and_write(tmp_path: Path) -> None:
    before = descriptors()
    file = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        cgroupfs.write(str(file), "1")
    file.write_text("1 2\n")
    cgroupfs.write(str(file), "3")
    assert cgroupfs.read(str(file)) == "3 2\n"  # one write, and nothing is cut off
    assert cgroupfs.read(str(tmp_path)) == cgroupfs.read(str(tmp_path / "none")) == ""
    assert descriptors() == before


def test_a_tree_has_parents_first_and_no_links(tmp_path: Path) -> None:
    for folder in ("a/b", "c"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "link").symlink_to("/")
    (tmp_path / "file").touch()
    top = str(tmp_path)
    assert sorted(cgroupfs.children(top)) == [f"{top}/a", f"{top}/c"]
    visits = [(str(Path(f"/proc/self/fd/{fd}").readlink()), left) for fd, left in walk(top)]
    down = [path for path, left in visits if left is None]
    assert sorted(down) == [top, f"{top}/a", f"{top}/a/b", f"{top}/c"]
    assert down.index(f"{top}/a") < down.index(f"{top}/a/b")
    assert sorted(visit for visit in visits if visit[1]) == [(top, "a"), (top, "c"), (f"{top}/a", "b")]
    assert cgroupfs.children(f"{top}/none") == cgroupfs.children(f"{top}/file") == []


def test_members_are_those_of_the_whole_tree(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "cgroup.procs").write_text("12\n7\n")
    (tmp_path / "inner/cgroup.procs").write_text("300\n")
    assert cgroupfs.members(str(tmp_path)) == [12, 7, 300]
    assert cgroupfs.members(str(tmp_path / "none")) == []


@pytest.mark.parametrize(
    ("files", "empty"),
    [
        ({"cgroup.events": "populated 0\nfrozen 0\n"}, True),
        ({"cgroup.events": "populated 1\nfrozen 0\n"}, False),
        ({"cgroup.events": "populated 1\nfrozen 0\n", "cgroup.procs": ""}, False),  # zombies, with threads
        ({"tasks": "", "cgroup.procs": ""}, True),  # v1
        ({"tasks": "7\n", "cgroup.procs": "7\n"}, False),
        ({}, False),  # nothing in it can be read now
    ],
)
def test_what_is_empty(tmp_path: Path, files: dict[str, str], empty: bool) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert finish(cgroupfs.looking(str(tmp_path))) is empty
    assert finish(cgroupfs.looking(str(tmp_path / "gone")))


def test_remove_tree_says_what_is_left(tmp_path: Path) -> None:
    (tmp_path / "base" / "a" / "b").mkdir(parents=True)
    (tmp_path / "base" / "link").symlink_to("/")
    assert not cgroupfs.remove_tree(str(tmp_path / "base"))  # a plain directory keeps its files
    assert not (tmp_path / "base" / "a").exists()
    (tmp_path / "base" / "link").unlink()
    assert cgroupfs.remove_tree(str(tmp_path / "base"))
    assert cgroupfs.remove_tree(str(tmp_path / "base"))


def test_a_sweep_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroupfs, "SWEEP_DEADLINE", 0.02)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "file").touch()
    assert not cgroupfs.sweep(str(tmp_path / "none"), [str(tmp_path / "base")])
    assert (tmp_path / "base").exists()


def test_freeze_writes_what_there_is(tmp_path: Path) -> None:
    cgroupfs.set_frozen(str(tmp_path), frozen=True)
    assert list(tmp_path.iterdir()) == []
    for file, frozen, thawed in (("cgroup.freeze", "1", "0"), ("freezer.state", "FROZEN", "THAWED")):
        for state in (frozen, thawed):
            (tmp_path / file).write_text("")
            cgroupfs.set_frozen(str(tmp_path), frozen=state == frozen)
            assert (tmp_path / file).read_text() == state
        (tmp_path / file).write_text("")
        assert finish(cgroupfs.thawing(str(tmp_path)))
        assert (tmp_path / file).read_text() == thawed


# --- real cgroups, of each kind that this host has


@pytest.fixture
def cgroup(hierarchies: Hierarchies) -> Path:
    """A cgroup in the hierarchy that keeps jobs together."""
    assert hierarchies.tracking is not None
    path = hierarchies.tracking / "job"
    path.mkdir()
    return path


@contextmanager
def nested(cgroup: Path, depth: int) -> Iterator[int]:
    """Cgroups in each other, so many; the descriptor of the innermost."""
    fd = os.open(cgroup, os.O_DIRECTORY)
    try:
        for _ in range(depth):
            os.mkdir("deep", dir_fd=fd)
            inner = os.open("deep", os.O_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


def shows(file: Path, text: str) -> bool:
    return file.read_text() == text


def nest(cgroup: Path) -> Path:
    """A cgroup with an odd name below another."""
    inner = cgroup / "made by" / "the job"
    inner.mkdir(parents=True)
    return inner


@pytest.mark.parametrize("kind", [HERE, V1], indirect=True)
def test_a_signal_reaches_every_member_and_no_stranger(cgroup: Path, sleep: Sleep) -> None:
    members = [sleep(cgroup), sleep(cgroup), sleep(nest(cgroup))]
    (cgroup.parent / "neighbour").mkdir()
    stranger, neighbour = sleep(None), sleep(cgroup.parent / "neighbour")
    assert sorted(cgroupfs.members(str(cgroup))) == sorted(member.pid for member in members)
    finish(cgroupfs.sending(str(cgroup), signal.SIGTERM))
    assert [member.wait(PATIENCE / 4) for member in members] == [-signal.SIGTERM] * 3
    assert stranger.poll() is neighbour.poll() is None
    assert finish(cgroupfs.looking(str(cgroup)))
    assert not finish(cgroupfs.looking(str(cgroup.parent)))
    finish(cgroupfs.sending(str(cgroup), signal.SIGTERM))  # and nobody is left to hear it


@pytest.mark.parametrize("kind", [HERE, V1], indirect=True)
def test_a_number_that_left_the_tree_is_not_signalled(
    cgroup: Path, sleep: Sleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was read as a member's, and had become a stranger's when it was pinned."""
    member, stranger = sleep(cgroup), sleep(None)
    before = descriptors()
    really, first = cgroupfs._pids, [stranger.pid]
    monkeypatch.setattr(cgroupfs, "_pids", lambda fd: [first.pop(), *really(fd)] if first else really(fd))
    finish(cgroupfs.sending(str(cgroup), signal.SIGTERM))
    assert member.wait(PATIENCE / 4) == -signal.SIGTERM
    assert stranger.poll() is None
    assert descriptors() == before


@pytest.mark.parametrize("kind", [HERE, V1], indirect=True)
def test_a_member_whose_cgroup_the_kernel_does_not_tell_is_signalled(
    cgroup: Path, sleep: Sleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is with some kernels where one of its paths is longer than PATH_MAX."""
    member, really = sleep(cgroup), cgroupfs.read

    def read(path: str, parent: int | None = None) -> str:
        return "" if path == f"/proc/{member.pid}/cgroup" else really(path, parent)

    monkeypatch.setattr(cgroupfs, "read", read)
    finish(cgroupfs.sending(str(cgroup), signal.SIGTERM))
    assert member.wait(PATIENCE / 4) == -signal.SIGTERM


@pytest.mark.parametrize("kind", [HERE, V1], indirect=True)
def test_more_members_than_we_may_have_descriptors(cgroup: Path, sleep: Sleep) -> None:
    members = [sleep(cgroup) for _ in range(20)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    filler = [os.dup(2)]
    while filler[-1] < 100:  # no hole is left below the limit
        filler.append(os.dup(2))
    resource.setrlimit(resource.RLIMIT_NOFILE, (filler[-1] + 8, hard))
    try:
        finish(cgroupfs.sending(str(cgroup), signal.SIGTERM))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in filler:
            os.close(fd)
    assert [member.wait(PATIENCE / 4) for member in members] == [-signal.SIGTERM] * 20


@pytest.mark.parametrize("kind", [HERE, V1], indirect=True)
def test_a_tree_is_frozen_and_let_go(cgroup: Path, sleep: Sleep) -> None:
    inner = nest(cgroup)
    member = sleep(inner)
    file, frozen, thawed = (
        ("freezer.state", "FROZEN\n", "THAWED\n")
        if (inner / "freezer.state").exists()
        else ("cgroup.events", "populated 1\nfrozen 1\n", "populated 1\nfrozen 0\n")
    )
    cgroupfs.set_frozen(str(cgroup), frozen=True)
    eventually(partial(shows, inner / file, frozen), frozen)
    assert finish(cgroupfs.thawing(str(cgroup)))
    eventually(partial(shows, inner / file, thawed), thawed)
    assert member.poll() is None


@pytest.mark.parametrize("kind", [HERE, V1], indirect=True)
@pytest.mark.parametrize("frozen", [False, True], ids=["running", "frozen by the job itself"])
def test_a_kill_ends_the_whole_tree(cgroup: Path, sleep: Sleep, frozen: bool) -> None:
    inner = nest(cgroup)
    members = [sleep(cgroup), sleep(inner.parent), sleep(inner)]
    os.kill(members[0].pid, signal.SIGSTOP)
    if frozen:
        cgroupfs.set_frozen(str(inner), frozen=True)
    cgroupfs.kill(str(cgroup))
    assert [member.wait(PATIENCE / 4) for member in members] == [-signal.SIGKILL] * 3
    assert finish(cgroupfs.looking(str(cgroup)))
    cgroupfs.kill(str(cgroup))  # an empty one, and one that is gone
    assert cgroupfs.remove_tree(str(cgroup))
    cgroupfs.kill(str(cgroup))


@pytest.mark.parametrize("kind", [HERE, V1], indirect=True)
def test_a_sweep_kills_and_removes(cgroup: Path, hierarchies: Hierarchies, sleep: Sleep) -> None:
    members = [sleep(cgroup), sleep(nest(cgroup))]
    others = [base / "job" for base in hierarchies.bases[1:]]
    for other in others:
        other.mkdir()
        (other / "cgroup.procs").write_text(str(members[0].pid))
    assert cgroupfs.sweep(str(cgroup), [str(cgroup), *map(str, others)])
    assert [member.wait(PATIENCE / 4) for member in members] == [-signal.SIGKILL] * 2
    assert not any(path.exists() for path in [cgroup, *others])


@pytest.mark.parametrize("kind", [HERE, V1], indirect=True)
@pytest.mark.parametrize("frozen", [False, True], ids=["running", "frozen by the job itself"])
def test_a_tree_deeper_than_a_path_may_be_long(cgroup: Path, sleep: Sleep, frozen: bool) -> None:
    """Nothing recurses, nothing names a cgroup by its path, and one descriptor is enough."""
    deep, before = sleep(None), descriptors()
    with nested(cgroup, 1100) as bottom:
        with pytest.raises(OSError, match="File name too long"):
            Path(f"/proc/self/fd/{bottom}").readlink()
        cgroupfs.write("cgroup.procs", str(deep.pid), bottom)
        if frozen:
            cgroupfs.set_frozen("", bottom, frozen=True)
    assert cgroupfs.members(str(cgroup)) == [deep.pid]
    assert not finish(cgroupfs.looking(str(cgroup)))
    cgroupfs.kill(str(cgroup))
    assert deep.wait(PATIENCE / 4) == -signal.SIGKILL
    assert cgroupfs.sweep(str(cgroup), [str(cgroup)])
    assert not cgroup.exists()
    assert descriptors() == before


@pytest.mark.parametrize("kind", [HERE, V1], indirect=True)
def test_more_cgroups_beside_each_other_than_descriptors(cgroup: Path) -> None:
    for number in range(5000 if SLOW == 1 else 500):
        (cgroup / str(number)).mkdir()
    assert finish(cgroupfs.looking(str(cgroup)))
    assert cgroupfs.sweep(str(cgroup), [str(cgroup)])
    assert not cgroup.exists()


def test_cgroups_that_go_while_they_are_walked(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "a" / "b" / "c").mkdir(parents=True)
    steps = walk(str(top))
    for _ in range(3):
        next(steps)  # now it is in b
    for gone in ("a/b/c", "a/b", "a"):
        (top / gone).rmdir()
    assert [left for _, left in steps] == ["b", "a"]
    for name in ("a", "b"):
        (top / name).mkdir()
    steps = walk(str(top))
    for _ in range(2):
        next(steps)  # both are known, and it is in one
    for name in ("a", "b"):
        (top / name).rmdir()
    assert len([left for _, left in steps]) == 1
    assert cgroupfs.remove_tree(str(top))
