"""Owns the checks of a server that lives: its start, its jobs under the unit's options, its reload."""

import contextlib
import re
import shutil
import socket
import threading
import time
from pathlib import Path

from tests.systemd.guest import (
    ADDRESS,
    AUTHORITY,
    CERTS,
    CGROUPS,
    INSTRUCTION,
    OURS,
    PROGRAM,
    UNIT,
    ask,
    eventually,
    job_cgroup,
    join,
    output,
    require,
    runs,
    serial_of,
    sh,
    show,
)
from wire.jobs import JobStatus, Usage
from wire.limits import Limits

#: A limit for jobs, in bytes.
MEMORY = 64 * 2**20
#: A job that takes all the memory that it can get.
EATER = ["/usr/bin/python3", "-c", "x = bytearray(10**6)\nwhile 1: x += bytes(10**6)"]
#: What a job says of itself.
TELL = """
id -un
cat /proc/self/cgroup
grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status
umask
pwd
ulimit -n
"""


def used_by(job: JobStatus) -> Usage:
    """What a job used, which must be known."""
    require(job.usage, "nobody knows what a job used")
    assert job.usage is not None
    return job.usage


def the_unit_is_clean() -> None:
    """`systemd-analyze verify` has nothing to say of the unit as shipped; `security` counts what it did."""
    require(sh(f"systemd-analyze verify --man=no /etc/systemd/system/{UNIT}") == "", "verify is not silent")
    sh("systemctl daemon-reload")
    said = sh(f"systemd-analyze security --no-pager {UNIT} | tail -1")
    found = re.search(r"Overall exposure level for .*: ([0-9.]+)", said)
    require(found and float(found[1]) <= 8.9, "the unit leaves more open than it did")


def without_certificates_it_is_not_tried_again() -> None:
    """A start without certificates fails in words; Restart= leaves it alone."""
    sh("systemctl daemon-reload && systemctl start worker-service", code=1)
    require(ask("NRestarts") == "0" and ask("ActiveState") == "failed", "it was tried again")
    require("ca.crt" in sh(f"journalctl -u {UNIT} -o cat --no-pager | grep ca.crt"), "nobody is told why")


def started_is_ready() -> None:
    """The last line of the README's instructions returns when the port is open, and status tells so."""
    for name in ("ca.crt", "server.crt", "server.key"):
        shutil.copy(AUTHORITY / name, CERTS)
    begun = time.monotonic()
    sh(INSTRUCTION.read_text())
    with socket.create_connection(ADDRESS, timeout=0.5):
        show(f"connected to the port at once; the start took {time.monotonic() - begun:.1f} s in all")
    said = sh(f"systemctl status --no-pager {UNIT}")
    require("Active: active (running)" in said, "it is not active")
    require('Status: "Serving."' in said, "status does not tell what it says")


def jobs_run_under_all_hardening() -> None:
    """Jobs of root and of another user start, stream and stop; the server lies in a leaf of the unit's."""
    above = [CGROUPS / "cgroup.subtree_control", CGROUPS / "system.slice/cgroup.subtree_control"]
    before = [file.read_text() for file in above]
    controllers = set((OURS / "cgroup.controllers").read_text().split())
    with contextlib.closing(join()) as client:
        for user in (None, "nobody"):
            text, status = output(client, client.start(["sh", "-c", TELL], user=user))
            show(f"a job of {user or 'root'}:", *text.splitlines(), f"ended: {status.cause}")
            said = text.splitlines()
            require(said[0] == (user or "root") and status.exit_code == 0, "it is not what was asked for")
            require(said[1].startswith(f"0::/system.slice/{UNIT}/worker-service-"), "its cgroup is elsewhere")
            expected = ["0022", "/var/lib/worker-service", "1024"]
            require(said[-3:] == expected, f"its umask, directory and ulimit are not {expected}")
            sleeper = client.start(["sleep", "600"], user=user)
            ended = client.stop(sleeper.id)
            show(f"stopped: {ended.status} by signal {ended.signal}, cause {ended.cause}")
            require(ended.signal == 15 and not runs(sleeper.pid or 0), "it does not stop")
        sleeper = client.start(["sleep", "600"], limits=Limits(cpu=100, memory=MEMORY, pids=5, disk_ops=500))
        sh(f"systemd-cgls --no-pager -l -u {UNIT}")
        cgroup = job_cgroup(sleeper)
        for name in ("cpu.max", "memory.max", "memory.swap.max", "pids.max", "io.max"):
            if (cgroup / name).exists():
                show(f"{cgroup.relative_to(CGROUPS)}/{name}: {(cgroup / name).read_text().strip()}")
        require((cgroup / "memory.max").read_text() == f"{MEMORY}\n", "memory.max is not what was asked for")
        client.stop(sleeper.id)
    server = Path(f"/proc/{ask('MainPID')}/cgroup").read_text().strip()
    show(f"the server itself: {server}")
    require(re.fullmatch(rf"0::/system.slice/{UNIT}/worker-service-\d+-\w+\.server", server), "not in a leaf")
    require(not (OURS / "cgroup.procs").read_text(), "processes are in the unit's own cgroup")
    require({"cpu", "io", "memory", "pids"} <= controllers, f"delegated are only {controllers}")
    require([file.read_text() for file in above] == before, "systemd's own cgroups were changed")
    astray = [p for p in CGROUPS.rglob("worker-service-*-*") if not p.is_relative_to(OURS)]
    require(not astray, f"cgroups of ours outside of the unit's: {astray}")
    # The unit's own description speaks of cgroups, too.
    told = sh(f"journalctl -p warning -u {UNIT} -o cat --no-pager _PID=1").replace(ask("Description"), "")
    require(not re.search("[Ff]ailed to .*(cgroup|control group)", told), "systemd complains of cgroups")


def limits_bite() -> None:
    """Limits on memory, CPU and tasks are the kernel's word, through Delegate=yes."""
    with contextlib.closing(join()) as client:
        for user in (None, "nobody"):
            job = client.start(EATER, limits=Limits(memory=MEMORY), user=user)
            ended = client.wait(job.id)
            usage = used_by(ended)
            show(f"memory, {ended.user}: {ended.cause}, peak {usage.memory_peak}")
            require(ended.cause and ended.cause.kind == "oom", "more memory than allowed is not its end")
            job = client.start(
                ["timeout", "5", "sh", "-c", "while :; do :; done"], limits=Limits(cpu=100), user=user
            )
            ended = client.wait(job.id)
            usage = used_by(ended)
            used = (usage.cpu_user or 0) + (usage.cpu_system or 0)
            show(f"cpu 100m, {ended.user}: used {used:.2f} s in 5, held back for {usage.throttled:.2f}")
            require(0 < used < 1.5, "it used more than its share")
            fork = "for n in 1 2 3 4 5 6; do sleep 5 & done; wait"
            text, _ = output(client, client.start(["sh", "-c", fork], limits=Limits(pids=4), user=user))
            show(f"4 tasks, {user or 'root'}: {text.strip()}")
            require("fork" in text.lower(), "a fork past the limit did not fail")
    require(ask("NRestarts") == "0", "the server was restarted")


def limits_of_the_unit_hold_for_all() -> None:
    """systemctl set-property bounds all jobs together; neither it nor daemon-reload moves what is there."""
    with contextlib.closing(join()) as client:
        job = client.start(["sleep", "600"], limits=Limits(memory=MEMORY, cpu=500))
        before = (OURS / "cgroup.subtree_control").read_text()
        sh("systemctl daemon-reload")
        sh(f"systemctl set-property --runtime {UNIT} MemoryMax=400M MemorySwapMax=0")
        show(f"memory.max of the unit: {(OURS / 'memory.max').read_text().strip()}")
        require((OURS / "cgroup.subtree_control").read_text() == before, "systemd took controllers away")
        cgroup = job_cgroup(job)
        require((cgroup / "memory.max").read_text() == f"{MEMORY}\n", "the job's limit is gone")
        require((cgroup / "cpu.max").read_text() == "50000 100000\n", "the job's limit is gone")
        eater = client.start(EATER)
        ended = client.wait(eater.id)
        show(f"a job without limits that eats: signal {ended.signal}, cause {ended.cause}")
        require(ended.cause and ended.cause.kind == "oom", "the unit's limit does not hold for it")
        require(client.query(job.id).status == "running", "another job went with it")
        client.stop(job.id)
    sh(f"systemctl set-property --runtime {UNIT} MemoryMax=infinity")
    require(ask("NRestarts") == "0", "the server went with it")


def reload_takes_certificates() -> None:
    """systemctl reload returns with the new certificate in force, while a stream runs on."""
    sh(f"{PROGRAM} certs renew server --dir {AUTHORITY}")
    old = serial_of()
    with contextlib.closing(join()) as client:
        job = client.start(["sh", "-c", "while :; do echo tick; sleep 0.1; done"])
        seen = [0]
        over: list[object] = []

        def follow() -> None:
            try:
                with join() as follower:
                    with follower.stream(job.id) as stream:
                        for piece in stream:
                            seen[0] += len(piece.data)
                    over.append(stream.job.cause)
            except Exception as error:  # noqa: BLE001
                over.append(error)

        thread = threading.Thread(target=follow)
        thread.start()
        eventually(lambda: seen[0] > 10, "the stream's beginning")
        shutil.copy(AUTHORITY / "server.crt", CERTS / "server.new")
        (CERTS / "server.new").rename(CERTS / "server.crt")
        begun = time.monotonic()
        sh(f"systemctl reload {UNIT}")
        took = time.monotonic() - begun
        new = serial_of()
        show(f"{took:.2f} s after the file changed, serial {old[:8]}... is now {new[:8]}...")
        require(new != old, "reload returned before the new certificate was in force")
        at = seen[0]
        eventually(lambda: seen[0] > at + 50, "what the stream brings after the reload")
        require(not over, f"the stream ended: {over}")
        client.stop(job.id)
        thread.join()
    show(f"the stream went on: {at} bytes at the reload, {seen[0]} in all; ended by {over}")
    require(ask("ActiveState") == "active" and ask("StatusText") == "Serving.", "it still reloads")
    sh(f"journalctl -u {UNIT} -o short-monotonic --no-pager -n 6")
