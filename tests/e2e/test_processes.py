"""Jobs end whole, and leave nothing: processes, cgroups, descriptors, zombies (BEHAVIOURS 5-8, 10-13)."""

import json
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from client.blocking import Client
from tests.e2e.test_output import collect
from tests.harness import PATIENCE, Server, alive, at_rest, children, eventually, join, serve
from wire.errors import ErrorCode, RequestError
from wire.jobs import CauseKind, JobStatus, Status
from wire.limits import Limits
from wire.messages import STDOUT

#: A daemon as the book has it: forks, starts a session, forks again, tells its pid and session, and stays.
DAEMON = """
import os, sys, time, signal
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if os.fork() == 0:
        open(sys.argv[1] + '.new', 'w').write(f'{os.getpid()} {os.getsid(0)}')
        os.rename(sys.argv[1] + '.new', sys.argv[1])
        time.sleep(600)
    os._exit(0)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.005)
time.sleep(float(sys.argv[2]))
"""


def dead(pid: int) -> bool:
    return not alive(pid)


def start_daemon(client: Client, where: Path, stay: float) -> tuple[JobStatus, int]:
    """A job whose daemon has escaped parent, session and group; the job itself stays for a while."""
    job = client.start([sys.executable, "-c", DAEMON, str(where), str(stay)])
    eventually(where.exists, "the daemon's pid")
    pid, session = map(int, where.read_text().split())  # told by itself: it may have been killed by now
    assert session not in (job.pid, os.getsid(0))
    return job, pid


def test_a_daemon_dies_with_stop(admin: Client, tmp_path: Path) -> None:
    job, pid = start_daemon(admin, tmp_path / "pid", 600)
    assert alive(pid)
    stopped = admin.stop(job.id)
    assert not alive(pid)
    assert stopped.cause is not None
    assert (stopped.cause.kind, stopped.cause.by) == (CauseKind.STOPPED, "admin")


def test_a_daemon_dies_with_its_job(admin: Client, tmp_path: Path) -> None:
    job, pid = start_daemon(admin, tmp_path / "pid", 0)
    ended = admin.wait(job.id)
    assert not alive(pid)
    assert (ended.status, ended.exit_code) == (Status.EXITED, 0)


def test_nothing_survives_a_kill_of_the_server(shared_certificates: Path, tmp_path: Path) -> None:
    with serve(shared_certificates) as doomed, doomed.connect() as client:
        job, pid = start_daemon(client, tmp_path / "pid", 600)
        spawner = doomed.spawner_pid
        doomed.process.kill()
        for process in (job.pid, pid, spawner):
            eventually(partial(dead, process), f"the end of {process}")
        eventually(lambda: not doomed.cgroups(), "the removal of its cgroups")


def test_the_next_server_sweeps_what_a_double_kill_left(shared_certificates: Path, tmp_path: Path) -> None:
    with serve(shared_certificates) as doomed, doomed.connect() as client:
        job, pid = start_daemon(client, tmp_path / "pid", 600)
        os.kill(doomed.spawner_pid, signal.SIGSTOP)
        spawner = doomed.spawner_pid
        doomed.process.kill()
        doomed.process.wait()
        os.kill(spawner, signal.SIGKILL)
        eventually(lambda: not alive(spawner), "the end of the spawner")
        assert alive(pid)
        with serve(shared_certificates):
            for process in (job.pid, pid):
                eventually(partial(dead, process), f"the end of {process}")
            eventually(lambda: not doomed.cgroups(), "the removal of its cgroups")


def test_a_live_server_is_never_swept(server: Server, admin: Client, shared_certificates: Path) -> None:
    job = admin.start(["sleep", "600"])
    with serve(shared_certificates):
        assert admin.query(job.id).status is Status.RUNNING
    assert admin.query(job.id).status is Status.RUNNING
    assert server.cgroups()
    admin.stop(job.id)


def test_a_killed_spawner_loses_its_jobs_and_not_the_server(
    shared_certificates: Path, tmp_path: Path
) -> None:
    with serve(shared_certificates) as running, running.connect() as client:
        job, pid = start_daemon(client, tmp_path / "pid", 600)
        ended = client.start(["true"])
        client.wait(ended.id)
        os.kill(running.spawner_pid, signal.SIGKILL)
        lost = client.wait(job.id)
        assert lost.cause is not None
        assert (lost.status, lost.cause.kind) == (Status.SIGNALED, CauseKind.LOST)
        assert not alive(pid)
        assert client.query(ended.id).exit_code == 0
        assert collect(client, client.start(["printf", "again"]).id)[STDOUT] == b"again"
        eventually(lambda: not running.job_cgroups(), "the removal of the cgroups")


def test_the_exit_is_reported_at_once_and_the_leftover_killed(server: Server, admin: Client) -> None:
    began = time.monotonic()
    job = admin.start(["sh", "-c", "sleep 600 & echo $!"])
    output = collect(admin, job.id)[STDOUT]
    assert time.monotonic() - began < PATIENCE
    assert not alive(int(output))
    assert admin.query(job.id).exit_code == 0


def test_a_job_that_ignores_term_gets_its_grace_and_is_heard(admin: Client) -> None:
    script = "trap '' TERM; echo ready; i=0; while :; do echo line $i; i=$((i+1)); sleep 0.01; done"
    job = admin.start(["sh", "-c", script])
    with admin.stream(job.id) as stream:
        next(iter(stream))
    stopped = admin.stop(job.id, grace=0.5)
    assert (stopped.status, stopped.signal) == (Status.SIGNALED, signal.SIGKILL)
    assert stopped.ended is not None
    lines = collect(admin, job.id)[STDOUT].decode().splitlines()
    assert len(lines) > 10
    assert lines[1:-1] == [f"line {i}" for i in range(len(lines) - 2)]


def test_bytes_flushed_on_term_are_kept(admin: Client) -> None:
    """More than a pipe holds: without a reader during the stop, the job would block for its whole grace."""
    script = (
        "import os, signal, time\n"
        "def end(*_):\n"
        "    rest = b'x' * 3_000_000\n"
        "    while rest: rest = rest[os.write(1, rest):]\n"
        "    os._exit(7)\n"
        "signal.signal(signal.SIGTERM, end); os.write(1, b'ready\\n'); time.sleep(600)"
    )
    job = admin.start([sys.executable, "-c", script])
    with admin.stream(job.id) as stream:
        next(iter(stream))
    began = time.monotonic()
    stopped = admin.stop(job.id, grace=2 * PATIENCE)
    assert time.monotonic() - began < PATIENCE
    assert (stopped.exit_code, stopped.output) == (7, 6 + 3_000_000)
    assert collect(admin, job.id)[STDOUT] == b"ready\n" + b"x" * 3_000_000


def test_others_of_a_job_get_their_grace_though_the_first_is_gone(admin: Client) -> None:
    script = "(trap 'sleep 0.3; echo cleaned; exit' TERM; echo ready; while :; do sleep 0.01; done) & wait"
    job = admin.start(["sh", "-c", script])
    with admin.stream(job.id) as stream:
        next(iter(stream))
    admin.stop(job.id)
    assert collect(admin, job.id)[STDOUT] == b"ready\ncleaned\n"


def test_concurrent_stops_and_stops_after_the_end_agree(server: Server, admin: Client) -> None:
    job = admin.start(["sleep", "600"])
    answers: list[JobStatus] = []

    def stop() -> None:
        with server.connect() as client:
            answers.append(client.stop(job.id))

    stoppers = [threading.Thread(target=stop) for _ in range(5)]
    for stopper in stoppers:
        stopper.start()
    join(*stoppers)
    answers.append(admin.stop(job.id))
    assert len(answers) == 6
    assert len(set(map(repr, answers))) == 1


def test_a_stop_with_less_grace_overtakes_one_with_more(server: Server, admin: Client) -> None:
    job = admin.start(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done"])
    with admin.stream(job.id) as stream:
        next(iter(stream))

    def stop_patiently() -> None:
        with server.connect() as client:
            client.stop(job.id, grace=600)

    patient = threading.Thread(target=stop_patiently)
    patient.start()
    assert admin.stop(job.id, grace=0).signal == signal.SIGKILL
    join(patient)


def test_a_stopped_process_can_be_stopped(admin: Client) -> None:
    job = admin.start(["sh", "-c", "kill -STOP $$; sleep 600"])
    assert admin.stop(job.id, grace=15).signal == signal.SIGTERM


def test_a_timeout_stops_the_job(admin: Client) -> None:
    ended = admin.wait(admin.start(["sleep", "600"], seconds=0.1).id)
    assert ended.cause is not None
    assert ended.cause.kind is CauseKind.TIMEOUT


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_from_within_is_no_stop_and_no_oom(admin: Client, number: signal.Signals) -> None:
    job = admin.start(["sh", "-c", f"kill -{int(number)} $$"], limits=Limits(memory=200 * 2**20))
    ended = admin.wait(job.id)
    assert ended.cause is not None
    assert (ended.status, ended.signal, ended.cause.kind) == (Status.SIGNALED, number, CauseKind.SIGNALED)


PROBE = """
import json, os, signal
status = dict(line.split(':', 1) for line in open('/proc/self/status'))
print(json.dumps({
    'env': dict(os.environ), 'cwd': os.getcwd(), 'sid': os.getsid(0), 'pid': os.getpid(),
    'fds': sorted(int(fd) for fd in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + fd)),
    'stdin': os.readlink('/proc/self/fd/0'),
    'masks': {name: int(status[name], 16) for name in ('SigBlk', 'SigIgn', 'SigCgt')},
}))
"""


def test_a_job_starts_clean(shared_certificates: Path, tmp_path: Path) -> None:
    """Environment by allow-list, descriptors 0 to 2, no blocked or ignored signal, a session of its own."""
    env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "SECRET": "42", "LD_LIBRARY_PATH": "/nowhere"}
    program = tmp_path / "probe"
    # Not python itself, which ignores SIGPIPE before its first line: sh sees what exec left.
    program.write_text(
        f"#!/bin/sh\ngrep -E '^Sig(Blk|Ign)' /proc/self/status >&2\nexec {sys.executable} -I -c \"$1\"\n"
    )
    program.chmod(0o755)
    with serve(shared_certificates, env=env, cwd=tmp_path) as running, running.connect() as client:
        got = collect(client, client.start([str(program), PROBE], env={"MINE": "yes", "LANG": "C"}).id)
    seen = json.loads(got[STDOUT])
    ours = {
        name: value
        for name, value in seen["env"].items()
        if name not in ("PWD", "_", "SHLVL", "OLDPWD", "LC_CTYPE")
    }
    assert ours == {"PATH": env["PATH"], "LANG": "C", "MINE": "yes"}
    assert seen["fds"] == [0, 1, 2]
    assert seen["stdin"] == "/dev/null"
    assert seen["cwd"] == str(tmp_path)
    assert seen["sid"] == seen["pid"]
    masks = dict(line.split(":\t") for line in got[2].decode().splitlines())
    assert {name: int(mask, 16) for name, mask in masks.items()} == {"SigBlk": 0, "SigIgn": 0}


def test_what_cannot_be_started_leaves_nothing(server: Server, admin: Client, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no program")
    noexec = tmp_path / "noexec"
    noexec.write_text("no program")
    noexec.chmod(0o755)
    before = len(list(admin.list()))
    cases: list[tuple[list[str], str | None, ErrorCode]] = [
        (["no-such-program"], None, ErrorCode.NO_SUCH_PROGRAM),
        (["/no/such/program"], None, ErrorCode.NO_SUCH_PROGRAM),
        ([str(text)], None, ErrorCode.NOT_EXECUTABLE),
        ([str(noexec)], None, ErrorCode.NOT_EXECUTABLE),
        ([str(tmp_path)], None, ErrorCode.NOT_EXECUTABLE),
        (["true"], "/no/such/directory", ErrorCode.BAD_DIRECTORY),
        (["true"], str(text), ErrorCode.BAD_DIRECTORY),
        (["true"], "relative", ErrorCode.BAD_REQUEST),
        ([""], None, ErrorCode.BAD_REQUEST),
        (["true", "x" * 200_000], None, ErrorCode.BAD_REQUEST),
    ]
    for argv, cwd, code in cases:
        with pytest.raises(RequestError) as caught:
            admin.start(argv, cwd=cwd)
        assert caught.value.code is code, (argv, cwd)
    assert len(list(admin.list())) == before
    assert not server.job_cgroups()
    assert children(server.spawner_pid) == []


def test_arguments_of_any_bytes_up_to_the_kernels_limit(admin: Client) -> None:
    odd = b"\xff\xfe\n ' \" $HOME *"
    assert collect(admin, admin.start([b"printf", b"%s", odd]).id)[STDOUT] == odd
    many = ["x" * 100_000] * 15
    got = collect(admin, admin.start(["printf", "%s", *many]).id)[STDOUT]
    assert got == b"x" * 1_500_000


def test_a_thousand_jobs_leave_nothing(server: Server, admin: Client) -> None:
    def descriptors() -> list[int]:
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in (server.process.pid, server.spawner_pid)]  # noqa: PTH208

    admin.wait(admin.start(["true"]).id)
    before = at_rest(descriptors)
    jobs = [admin.start(["true"]).id for _ in range(1000)]
    for job in jobs:
        assert admin.wait(job).exit_code == 0
    assert not server.job_cgroups()
    assert children(server.spawner_pid) == []
    eventually(lambda: descriptors() == before, "the descriptors that they had before")


def test_a_job_runs_in_its_cgroup_from_its_first_instruction(server: Server, admin: Client) -> None:
    job = admin.start(["cat", "/proc/self/cgroup"], limits=Limits(pids=10))
    lines = collect(admin, job.id)[STDOUT].decode().splitlines()
    unified = next(line for line in lines if line.startswith("0::"))
    assert unified.endswith(job.id)
    limited = (
        next(line for line in lines if ":pids:" in line)
        if any(":pids:" in line for line in lines)
        else unified
    )
    assert limited.endswith(job.id)


def test_a_cgroup_made_by_the_job_is_removed_too(server: Server, admin: Client) -> None:
    script = """
        own=$(sed -n 's/^0:://p' /proc/self/cgroup)
        for mount in /sys/fs/cgroup/unified /sys/fs/cgroup; do
            [ -d "$mount$own" ] && break
        done
        mkdir "$mount$own/inner"
        sh -c "echo 0 > $mount$own/inner/cgroup.procs; exec sleep 600" &
        while [ -z "$(cat "$mount$own/inner/cgroup.procs")" ]; do sleep 0.01; done
        echo done
    """
    job = admin.start(["sh", "-c", script])
    assert collect(admin, job.id)[STDOUT] == b"done\n"
    assert not [path for path in server.job_cgroups() if path.name == job.id]
