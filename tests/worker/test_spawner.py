"""The link to the real spawner program: what it starts, reports, survives, and leaves behind."""

import errno
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.harness import PATIENCE, alive, children, eventually
from tests.host.common import NOT_EMULATED
from tests.worker.common import KeptLog, without_threads
from wire.limits import Limits
from worker import spawner as spawner_module
from worker import spawner_main
from worker.cgroup import JobCgroup
from worker.child import Child, ProcessSpec, SpawnError
from worker.hierarchy import Hierarchies
from worker.link import frame
from worker.spawner import Spawner
from worker.state import Exit

pytestmark = pytest.mark.host
PATH = b"/usr/local/bin:/usr/bin:/bin"


def spec(*argv: str | bytes, env: dict[bytes, bytes] | None = None, cwd: str = "/") -> ProcessSpec:
    return ProcessSpec(
        tuple(map(os.fsencode, argv)), {b"PATH": PATH} if env is None else env, os.fsencode(cwd), merge=True
    )


async def start(
    spawner: Spawner,
    *argv: str | bytes,
    job: str = "job",
    cgroup: JobCgroup | None = None,
    source: str = "",
) -> Child:
    """Start a process whose output nobody wants."""
    with ExitStack() as stack:
        null = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, null)
        procs = stack.enter_context(cgroup.open_directories()) if cgroup else []
        return await spawner.spawn(job, spec(*argv), [null, *procs], source=source)


async def run(spawner: Spawner, what: ProcessSpec, job: str = "job") -> tuple[bytes, Exit]:
    """Start a process; return all that it prints and how it ended."""
    read, write = os.pipe()
    async with trio.lowlevel.FdStream(read) as stream:
        try:
            child = await spawner.spawn(job, what, [write])
        finally:
            os.close(write)
        output = b"".join([data async for data in stream])
        return output, await child.wait()


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208


@NOT_EMULATED
async def test_concurrent_spawns_are_kept_apart(spawner: Spawner) -> None:
    found: dict[int, tuple[bytes, Exit]] = {}

    async def one(number: int) -> None:
        found[number] = await run(spawner, spec("sh", "-c", f"echo {number}; exit {number}"), f"job {number}")

    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(one, number)
    assert {number: (output, end.code) for number, (output, end) in found.items()} == {
        number: (b"%d\n" % number, number) for number in range(30)
    }


@NOT_EMULATED
async def test_large_arguments_of_any_bytes_beside_small_ones(spawner: Spawner) -> None:
    large = [bytes([number]) * 125_000 for number in (0x41, 0xFF, 0x0A, 0x22) * 3]
    found: list[tuple[bytes, Exit]] = []

    async def one(job: str, *argv: bytes) -> None:
        found.append(await run(spawner, spec(*argv), job))

    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(one, f"large {number}", b"printf", b"%s", *large)
            nursery.start_soon(one, f"small {number}", b"printf", b"%s", b"\xc3\xa4\xff")
    assert sorted(output for output, _ in found) == sorted([b"".join(large), b"\xc3\xa4\xff"] * 2)


@NOT_EMULATED
async def test_environment_and_directory_of_any_bytes(spawner: Spawner, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff \n"
    os.mkdir(folder)  # noqa: PTH102  # bytes that are no text
    what = ProcessSpec((b"/bin/sh", b"-c", b'printf "%s|" "$A"; pwd'), {b"A": b"\xfe="}, folder, merge=True)
    assert (await run(spawner, what))[0] == b"\xfe=|" + folder + b"\n"


@NOT_EMULATED
async def test_merged_and_separate_outputs(spawner: Spawner) -> None:
    for merge in (True, False):
        with ExitStack() as stack:
            pipes = [os.pipe() for _ in range(1 if merge else 2)]
            for fd in (end for pipe in pipes for end in pipe):
                stack.callback(os.close, fd)
            what = ProcessSpec((b"sh", b"-c", b"printf out; printf err >&2"), {b"PATH": PATH}, b"/", merge)
            await (await spawner.spawn("job", what, [write for _, write in pipes])).wait()
            assert [os.read(read, 100) for read, _ in pipes] == ([b"outerr"] if merge else [b"out", b"err"])


@NOT_EMULATED
async def test_exit_status_signal_and_usage(spawner: Spawner) -> None:
    _, end = await run(spawner, spec("sh", "-c", "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; exit 3"))
    assert (end.code, end.signal) == (3, None)
    assert end.usage is not None
    assert 0.001 < end.usage.cpu_user < 10
    assert 0 <= end.usage.cpu_system < 10
    _, end = await run(spawner, spec("sh", "-c", "kill -SEGV $$"))
    assert (end.code, end.signal) == (None, signal.SIGSEGV)


# --- failures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Programs that cannot run, and one that can."""
    for name, text, mode in (
        ("text", "no program\n", 0o644),
        ("garbage", "no program\n", 0o755),
        ("lost", "#!/no/such/interpreter\n", 0o755),
        ("good", "#!/bin/sh\nprintf ran\n", 0o755),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    return tmp_path


@NOT_EMULATED
@pytest.mark.parametrize(
    ("argv", "cwd", "step", "number"),
    [
        (["./none"], ".", "exec", errno.ENOENT),
        (["none"], ".", "exec", errno.ENOENT),
        (["./text"], ".", "exec", errno.EACCES),
        (["./garbage"], ".", "exec", errno.ENOEXEC),
        (["./lost"], ".", "interpreter", errno.ENOENT),
        (["./good/none"], ".", "exec", errno.ENOTDIR),
        (["."], ".", "exec", errno.ENOENT),  # no slash: looked for on PATH, where it is a directory
        (["true", "x" * 200_000], ".", "exec", errno.E2BIG),
        (["true"], "none", "cwd", errno.ENOENT),
        (["true"], "good", "cwd", errno.ENOTDIR),
    ],
)
async def test_failures_name_step_and_reason(
    spawner: Spawner, folder: Path, argv: list[str], cwd: str, step: str, number: int
) -> None:
    if argv == ["."]:
        number = errno.EACCES
    with pytest.raises(SpawnError) as caught:
        await run(spawner, spec(*argv, cwd=str(folder / cwd)))
    assert (caught.value.step, caught.value.errno) == (step, number)
    assert str(caught.value) == f"{step}: {os.strerror(number)}"
    eventually(lambda: children(spawner.pid) == [], "the failed child reaped")
    assert (await run(spawner, spec("./good", cwd=str(folder))))[0] == b"ran"


async def test_a_cgroup_that_is_gone(spawner: Spawner, hierarchies: Hierarchies) -> None:
    cgroup = JobCgroup(hierarchies, "job", Limits())
    null = os.open(os.devnull, os.O_WRONLY)
    with cgroup.open_directories() as procs:
        cgroup.path.rmdir()
        with pytest.raises(SpawnError) as caught:
            await spawner.spawn("job", spec("true"), [null, *procs])
    os.close(null)
    assert (caught.value.step, caught.value.errno) == ("cgroup", errno.ENOENT)


@NOT_EMULATED
async def test_a_spawner_out_of_descriptors_says_so_and_goes_on(spawner: Spawner) -> None:
    await (await start(spawner, "true")).wait()  # it has begun
    before = descriptors(spawner.pid)
    limits = resource.prlimit(spawner.pid, resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir(f"/proc/{spawner.pid}/fd")}  # noqa: PTH208
    free = (number for number in range(10_000) if number not in used)
    two = [next(free), next(free)]  # for ours, and half a pipe
    resource.prlimit(spawner.pid, resource.RLIMIT_NOFILE, (two[1] + 1, limits[1]))
    with pytest.raises(SpawnError) as caught:
        await start(spawner, "true")
    assert (caught.value.step, caught.value.errno) == ("fork", errno.EMFILE)
    resource.prlimit(spawner.pid, resource.RLIMIT_NOFILE, limits)
    assert (await (await start(spawner, "true")).wait()).code == 0
    assert descriptors(spawner.pid) == before


@NOT_EMULATED
@pytest.mark.parametrize(
    ("path", "found"),
    [
        (None, "/bin/true"),  # the default
        (b"/usr/bin", "/bin/true"),
        (b"", b"cwd"),
        (b":/nowhere", b"cwd"),
        (b"/nowhere:", b"cwd"),
        (b"/nowhere::/also/nowhere", b"cwd"),
        (b"a", b"a"),  # relative to the job's directory
        (b"none:a:b", b"a"),
        (b"noexec:a", b"a"),
        (b"folder:b", b"b"),  # a directory of the program's name is passed over
        (b"file:b", b"b"),  # PATH names a file
        (b"none:file", errno.ENOENT),
        (b"none", errno.ENOENT),
        (b"noexec", errno.EACCES),
        (b"noexec:none", errno.EACCES),  # that one was there says more than that another was not
        (b"none:noexec", errno.EACCES),
        (b"noexec:file", errno.EACCES),
        (b"folder", errno.EACCES),
        (b"garbage:a", errno.ENOEXEC),  # no shell is tried, nor the next
        (b"lost:a", b"a"),  # its interpreter is not there
        (b"none:lost:none", errno.ENOENT),
    ],
)
async def test_path_is_searched_as_execvp_does(
    spawner: Spawner, tmp_path: Path, path: bytes | None, found: bytes | str | int
) -> None:
    texts = {"garbage": "garbage\n", "lost": "#!/no/such/interpreter\n"}
    for name in ("cwd", "a", "b", "noexec", *texts):
        (tmp_path / name).mkdir()
        program = tmp_path / name / "prog"
        if name == "cwd":
            program = tmp_path / "prog"
        program.write_text(texts.get(name, f"#!/bin/sh\nprintf {name}\n"))
        program.chmod(stat.S_IRUSR if name == "noexec" else 0o755)
    (tmp_path / "folder" / "prog").mkdir(parents=True)
    (tmp_path / "file").touch()
    env = {} if path is None else {b"PATH": path}
    if isinstance(found, int):
        with pytest.raises(SpawnError) as caught:
            await run(spawner, spec("prog", env=env, cwd=str(tmp_path)))
        step = "interpreter" if b"lost" in (path or b"") else "exec"
        assert (caught.value.step, caught.value.errno) == (step, found)
    else:
        program_name = "true" if found == "/bin/true" else "prog"
        output, end = await run(spawner, spec(program_name, env=env, cwd=str(tmp_path)))
        assert (output, end.code) == (b"" if found == "/bin/true" else found, 0)


# --- what is left


@NOT_EMULATED
async def test_orphans_are_adopted_and_reaped(spawner: Spawner) -> None:
    output, end = await run(spawner, spec("sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"))
    pid = int(output)
    assert end.code == 0
    assert children(spawner.pid) == [pid]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the orphan reaped")


@NOT_EMULATED
async def test_two_hundred_spawns_leave_no_descriptor(spawner: Spawner) -> None:
    async def several() -> None:
        await (await start(spawner, "true")).wait()
        with pytest.raises(SpawnError):
            await start(spawner, "no such program")

    await several()
    ours, theirs = descriptors(os.getpid()), descriptors(spawner.pid)
    for _ in range(100):
        await several()
    assert descriptors(os.getpid()) == ours
    assert descriptors(spawner.pid) == theirs
    assert spawner._children == {}
    eventually(lambda: children(spawner.pid) == [], "every child reaped")


async def test_a_job_has_three_descriptors(spawner: Spawner, hierarchies: Hierarchies) -> None:
    read, write = os.pipe()
    cgroup = JobCgroup(hierarchies, "job", Limits(pids=10))
    with cgroup.open_directories() as procs:
        what = spec("sh", "-c", "ls /proc/$$/fd; cat /proc/$$/cgroup")
        child = await spawner.spawn("job", what, [write, *procs])
    os.close(write)
    await child.wait()
    output = os.read(read, 65536).decode().split()
    os.close(read)
    assert output[:3] == ["0", "1", "2"]
    assert ":" in output[3]
    assert sum(line.endswith(f"{hierarchies.bases[0].name}/job") for line in output) == len(cgroup.paths)


# --- the end of the spawner


@NOT_EMULATED
async def test_a_killed_spawner_loses_its_children_and_is_replaced(spawner: Spawner, log: KeptLog) -> None:
    first, ended = spawner.pid, await start(spawner, "true", job="ended")
    await ended.wait()
    running = await start(spawner, "sleep", "600", job="running")
    os.kill(first, signal.SIGKILL)
    assert await running.wait() == Exit.by_loss()
    assert (await ended.wait()).code == 0
    assert (await (await start(spawner, "true")).wait()).code == 0
    assert spawner.pid != first
    assert len(log.messages) == 1
    os.kill(running.pid, signal.SIGKILL)  # its cgroup would have seen to it


async def lost_or_served(spawner: Spawner, job: str = "job") -> str:
    """For a spawn about when the spawner dies: which of both is seen first is left to chance."""
    await trio.lowlevel.checkpoint()
    try:
        child = await start(spawner, "true", job=job)
    except SpawnError as error:
        return error.step
    end = await child.wait()
    return f"exited {end.code}" if not end.lost else "lost"


@NOT_EMULATED
async def test_spawns_under_way_are_lost_with_the_spawner(spawner: Spawner) -> None:
    os.kill(spawner.pid, signal.SIGSTOP)
    failures: list[SpawnError] = []
    others: set[str] = set()

    async def lose(*argv: str) -> None:
        with pytest.raises(SpawnError) as caught:
            await start(spawner, *argv, job=f"lost {len(argv)}")
        failures.append(caught.value)

    async def other(number: int) -> None:
        others.add(await lost_or_served(spawner, f"other {number}"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lose, "true")  # sent
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(lose, "true", *["x" * 120_000] * 5)  # half sent
        await trio.testing.wait_all_tasks_blocked()
        for number in range(3):  # waiting for their turn
            nursery.start_soon(other, number)
        await trio.testing.wait_all_tasks_blocked()
        assert not failures
        os.kill(spawner.pid, signal.SIGKILL)
    assert [(failure.step, failure.errno) for failure in failures] == [("lost", 0)] * 2
    assert "the spawner was lost" in str(failures[0])
    assert others <= {"lost", "exited 0"}
    assert await lost_or_served(spawner) == "exited 0"
    assert spawner._children == {}


@NOT_EMULATED
async def test_spawns_just_after_the_death_are_lost_or_served(spawner: Spawner) -> None:
    for _ in range(10):
        first = spawner.pid
        os.kill(first, signal.SIGKILL)
        eventually(lambda pid=first: not alive(pid), "its end")  # type: ignore[misc]
        assert await lost_or_served(spawner) in ("lost", "exited 0")
        while spawner.pid == first:  # noqa: ASYNC110  # it is another process that we wait for
            await trio.sleep(0.001)


async def test_a_hung_spawner_is_replaced_and_the_cgroups_stay(
    spawner: Spawner, hierarchies: Hierarchies, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = spawner.pid
    os.kill(first, signal.SIGSTOP)
    with monkeypatch.context() as patch, trio.fail_after(PATIENCE / 4):
        patch.setattr(spawner_module, "LINK_DEADLINE", 0.05)
        with pytest.raises(SpawnError, match="lost"):
            await start(spawner, "true", *["x" * 120_000] * 10)
    with trio.fail_after(PATIENCE / 4):
        cgroup = JobCgroup(hierarchies, "job", Limits(pids=5))
        child = await start(spawner, "true", cgroup=cgroup)
        assert (await child.wait()).code == 0
        assert await cgroup.remove()
    assert not alive(first)


async def test_a_spawner_that_fails_is_replaced_and_the_cgroups_stay(
    spawner: Spawner, hierarchies: Hierarchies
) -> None:
    first, running = spawner.pid, await start(spawner, "sleep", "600", job="running")
    assert spawner._sock is not None
    await spawner._sock.send(b"\0\0\0\1x")  # not JSON
    assert await running.wait() == Exit.by_loss()
    os.kill(running.pid, signal.SIGKILL)
    cgroup = JobCgroup(hierarchies, "job", Limits(pids=5))
    child = await start(spawner, "true", cgroup=cgroup)
    assert (await child.wait()).code == 0
    assert await cgroup.remove()
    assert spawner.pid != first


@NOT_EMULATED
async def test_signals_to_the_group_do_not_end_it(spawner: Spawner) -> None:
    before = spawner.pid
    await start(spawner, "true", job="first")  # it has begun
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(before, number)
    assert (await (await start(spawner, "true")).wait()).code == 0
    assert spawner.pid == before


@asynccontextmanager
async def own_spawner(hierarchies: Hierarchies, log: KeptLog) -> AsyncIterator[Spawner]:
    """One that ends with the block."""
    spawner = Spawner(hierarchies, log)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as link:
            await link.start(spawner.run)
            yield spawner
            link.cancel_scope.cancel()


async def test_the_end_of_the_link_ends_all(hierarchies: Hierarchies, log: KeptLog) -> None:
    async with own_spawner(hierarchies, log) as spawner:
        pids = [spawner.pid]
        for number in range(3):
            cgroup = JobCgroup(hierarchies, f"job {number}", Limits(pids=5))
            (cgroup.path / "inner").mkdir()
            pids.append((await start(spawner, "sleep", "600", job=str(number), cgroup=cgroup)).pid)
    assert [pid for pid in pids if alive(pid)] == []
    assert [path for base in hierarchies.bases for path in base.iterdir() if path.is_dir()] == []
    assert log.messages == []


def test_jobs_are_killed_before_it_looks_who_has_died(hierarchies: Hierarchies) -> None:
    """A service manager that sees the server gone kills the spawner, too: it has no time to look around."""
    cgroup = JobCgroup(hierarchies, "job", Limits())
    ours, theirs = socket.socketpair()
    program = [sys.executable, "-I", "-S", spawner_main.__file__, str(theirs.fileno()), "1024", ""]
    with (
        subprocess.Popen([*program, *map(str, hierarchies.bases)], pass_fds=[theirs.fileno()]) as process,
        subprocess.Popen(["sleep", "600"]) as job,
    ):
        theirs.close()
        ours.settimeout(PATIENCE)
        (cgroup.path / "cgroup.procs").write_text(str(job.pid))
        ours.sendall(frame({"op": "ping"}))
        heard = b""
        while b"pong" not in heard:
            heard += ours.recv(4096)
        ours.close()
        begun = time.monotonic()
        assert job.wait(PATIENCE) == -signal.SIGKILL
        assert time.monotonic() - begun < spawner_main.DYING  # for so long it looks whether we are gone
        assert process.wait(PATIENCE) == 0
    assert not cgroup.path.exists()


# --- cancelled spawns


@NOT_EMULATED
async def test_a_spawn_cancelled_before_it_was_sent_leaves_no_trace(spawner: Spawner) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await start(spawner, "sleep", "600")
    assert scope.cancelled_caught
    assert spawner._children == {}
    os.kill(spawner.pid, signal.SIGSTOP)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(start, spawner, "sleep", "0", *["0" * 120_000] * 10, job="first"))
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.001):
            await start(spawner, "sleep", "600", job="second")  # waits for its turn to send
        assert [name.split()[0] for name in spawner._children] == ["first"]
        os.kill(spawner.pid, signal.SIGCONT)
    assert (await (await start(spawner, "true")).wait()).code == 0


@NOT_EMULATED
async def test_what_is_said_of_a_spawn_that_was_given_up_is_not_for_the_next_one_of_its_job(
    spawner: Spawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.kill(spawner.pid, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(spawner_module, "START_DEADLINE", 0.05)
        with pytest.raises(SpawnError, match="timeout"):
            await start(spawner, "sh", "-c", "exit 3")
    found: list[Child] = []

    async def again() -> None:
        found.append(await start(spawner, "sh", "-c", "exit 0"))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(again)
            await trio.testing.wait_all_tasks_blocked()
            os.kill(spawner.pid, signal.SIGCONT)
        assert (await found[0].wait()).code == 0


@pytest.mark.parametrize("order", ["removed before it is forked", "removed meanwhile"])
async def test_a_cancelled_spawn_and_a_removed_cgroup_leave_no_process(
    spawner: Spawner, hierarchies: Hierarchies, order: str
) -> None:
    for number in range(10):
        cgroup = JobCgroup(hierarchies, f"job {number}", Limits(pids=5))
        os.kill(spawner.pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(start, spawner, "sleep", "600", job=str(number), cgroup=cgroup))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        if order == "removed meanwhile":
            os.kill(spawner.pid, signal.SIGCONT)
        assert await cgroup.remove()
        os.kill(spawner.pid, signal.SIGCONT)
    assert spawner._children == {}
    assert (await (await start(spawner, "true")).wait()).code == 0  # it has come to the end of its requests
    eventually(lambda: children(spawner.pid) == [], "no process left")
    for base in hierarchies.bases:
        assert not any(path.is_dir() for path in base.iterdir())


@NOT_EMULATED
async def test_without_threads_a_new_spawner_is_tried_again(spawner: Spawner, log: KeptLog) -> None:
    with without_threads():
        os.kill(spawner.pid, signal.SIGKILL)
        while "no new spawner could be started; trying again" not in log.messages:
            await trio.lowlevel.checkpoint()
    assert (await run(spawner, spec("echo", "again")))[0] == b"again\n"
