"""Owns the checks of a server's end: hung, killed, stopped; and of what is left then, which is nothing."""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

from tests.systemd.guest import (
    CERTS,
    CGROUPS,
    OURS,
    PATIENCE,
    PROGRAM,
    UNIT,
    ask,
    comes_back,
    eventually,
    join,
    members,
    printed,
    require,
    restarted,
    runs,
    sh,
    show,
    stubborn_jobs,
)
from wire.jobs import JobStatus


def a_hung_server_is_replaced() -> None:
    """A server that is stopped with SIGSTOP says nothing: systemd kills it and starts another."""
    pid, restarts = ask("MainPID"), int(ask("NRestarts"))
    with stubborn_jobs(2):
        os.kill(int(pid), signal.SIGSTOP)
        begun = time.monotonic()
        comes_back(pid, restarts)
        show(f"{time.monotonic() - begun:.0f} s after SIGSTOP, another serves")
    sh(f"journalctl -u {UNIT} -o short-monotonic --no-pager -n 25 _PID=1")


def a_killed_server_is_replaced() -> None:
    """kill -9 of the server, and of server and spawner at once: no job is left, and another serves."""
    pid = ask("MainPID")
    for also_spawner in (False, True):
        restarts = int(ask("NRestarts"))
        leaf = CGROUPS / Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::/")
        victims = members(leaf) if also_spawner else [int(pid)]
        with stubborn_jobs(2):
            for victim in victims:
                os.kill(victim, signal.SIGKILL)
            begun = time.monotonic()
            pid = comes_back(pid, restarts)
            show(f"{time.monotonic() - begun:.1f} s after kill -9 of {len(victims)}, another serves")


def stop_ends_jobs_in_order() -> None:
    """systemctl stop: TERM, the grace, KILL; followers get the last byte and the end; nothing is left."""
    got: dict[str, tuple[str, JobStatus]] = {}
    with stubborn_jobs(2) as (client, jobs, _):
        soft = client.start(
            ["sh", "-c", "trap 'echo flushed; exit 5' TERM; echo ready; while :; do sleep 0.1; done"]
        )
        printed(client, soft, "ready")

        follow = [threading.Event() for _ in range(3)]

        def read(job: JobStatus, begun: threading.Event) -> None:
            with join() as follower, follower.stream(job.id) as stream:
                text = b""
                for piece in stream:
                    text += piece.data
                    begun.set()
            got[job.id] = text.decode(), stream.job

        threads = [threading.Thread(target=read, args=it) for it in zip((*jobs, soft), follow, strict=True)]
        for thread in threads:
            thread.start()
        require(all(event.wait(PATIENCE) for event in follow), "a follower gets nothing")
        begun = time.monotonic()
        stop = threading.Thread(target=sh, args=[f"systemctl stop {UNIT}"])
        stop.start()
        eventually(lambda: ask("SubState") == "stop-sigterm", "the stop under way")
        show(f"meanwhile: {ask('StatusText')}")
        stop.join()
        took = time.monotonic() - begun
        for thread in threads:
            thread.join()
        for job in (*jobs, soft):
            text, status = got[job.id]
            how = f"exit code {status.exit_code}, signal {status.signal}"
            show(f"{status.user}: {text.splitlines()}, {how}, {status.cause}")
            require(
                status.cause is not None and status.cause.by == "server",
                "a follower did not hear how it ended",
            )
            require(("flushed" if job is soft else "got TERM") in text, "output of the grace is lost")
        require(took >= 10, f"the stop took {took:.1f} s, less than the grace")
    # The result is another where TimeoutStopSec= is over first.
    require(ask("Result") == "success" and ask("ExecMainStatus") == "0", "it did not end well")
    require(not OURS.exists(), "the unit's cgroup is left")
    sh(f"systemctl status --no-pager -n 5 {UNIT}", code=3)
    sh(f"systemctl start {UNIT}")


def what_lies_outside_the_unit_is_swept() -> None:
    """Where --cgroup-parent leads out of the unit, systemd kills the spawner, and the next server sweeps."""
    drop_in = Path(f"/run/systemd/system/{UNIT}.d/outside.conf")
    drop_in.parent.mkdir(parents=True)
    serve = f"{PROGRAM} serve --listen 127.0.0.1:8443 --certs {CERTS} --cgroup-parent /jobs"
    drop_in.write_text(f"[Service]\nExecStart=\nExecStart={serve}\n")
    sh(f"systemctl daemon-reload && systemctl restart {UNIT}")
    for _ in range(3):
        pid, restarts = ask("MainPID"), int(ask("NRestarts"))
        with stubborn_jobs(2) as (_, _, pids):
            os.kill(int(pid), signal.SIGKILL)
            eventually(lambda: ask("ActiveState") != "active", "its end")
            show(f"once systemd is done with it, {sum(map(runs, pids))} of {len(pids)} run")
            eventually(partial(restarted, restarts), "the restarted server", 120)
        bases = sorted(path.name for path in (CGROUPS / "jobs").iterdir() if path.is_dir())
        show(f"pid {pid} is now {ask('MainPID')}; below /jobs: {', '.join(bases)}")
        require(len(bases) == 1, "cgroups of the dead server are left")
    drop_in.unlink()
    sh(f"systemctl daemon-reload && systemctl restart {UNIT}", quiet=True)
