"""Owns what the checks work with in the guest: a shell, systemd's word on the unit, a client, and jobs."""

import contextlib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from client.blocking import Client, connect
from client.errors import ClientError
from wire.jobs import JobStatus

UNIT = "worker-service.service"
CGROUPS = Path("/sys/fs/cgroup")
OURS = CGROUPS / "system.slice" / UNIT
PROGRAM = "/opt/worker-service/bin/worker-service"
AUTHORITY, CERTS = Path("/root/certs"), Path("/etc/worker-service/certs")
#: What the host has left: the last of the README's instructions, and the names of the checks that it wants.
INSTRUCTION, CHOSEN = Path("/root/instruction"), Path("/root/chosen")
ADDRESS = ("127.0.0.1", 8443)
#: Nothing here takes as long, in seconds, but on a machine that does not move.
PATIENCE = 60.0
#: What holds back SIGTERM, says that it got it, and has a daemon that has left its session and does the same.
STUBBORN = r"""
trap 'echo got TERM' TERM
setsid sh -c 'trap "" TERM; echo daemon; while :; do sleep 1; done' &
echo up
while :; do sleep 1; done
"""


class CheckError(Exception):
    """Something was not so; the message says what."""


def require(condition: object, sentence: str) -> None:
    if not condition:
        raise CheckError(sentence)


def show(*lines: str) -> None:
    """Show what was done or seen; as all that the checks show, it goes to the host as it is written."""
    for line in lines:
        sys.stdout.write(f"  {line}\n")
    sys.stdout.flush()


def sh(command: str, *, code: int | None = 0, quiet: bool = False) -> str:
    """Type a command, show what it prints, and hold it to its exit code."""
    begun = time.monotonic()
    done = subprocess.run(
        ["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if not quiet:
        took = time.monotonic() - begun
        show(
            f"# {command}", *done.stdout.rstrip().splitlines(), f"[exit code {done.returncode}, {took:.1f} s]"
        )
    require(code in (None, done.returncode), f"`{command}` ended with {done.returncode}: {done.stdout}")
    return done.stdout


def ask(name: str) -> str:
    """A property of the unit, as systemd knows it."""
    return sh(f"systemctl show --value -p {name} {UNIT}", quiet=True).strip()


def eventually(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    deadline = time.monotonic() + patience
    while not (value := condition()):
        require(time.monotonic() < deadline, f"never came within {patience:.0f} s: {what}")
        time.sleep(0.05)
    return value


def join() -> Client:
    return connect("{}:{}".format(*ADDRESS), certs=AUTHORITY, identity="admin", patience=0)


def output(client: Client, job: JobStatus) -> tuple[str, JobStatus]:
    """All that a job prints, and how it ended."""
    with client.stream(job.id) as stream:
        text = b"".join(piece.data for piece in stream).decode()
    return text, stream.job


def printed(client: Client, job: JobStatus, word: str) -> None:
    """Wait until a job has printed a word."""

    def there() -> bool:
        with client.stream(job.id, follow=False) as stream:
            return word in b"".join(piece.data for piece in stream).decode()

    eventually(there, f"{word!r} of a job")


def members(cgroup: Path) -> list[int]:
    """The processes in a cgroup and below it."""
    return [int(pid) for file in cgroup.rglob("cgroup.procs") for pid in file.read_text().split()]


def job_cgroup(job: JobStatus) -> Path:
    line = Path(f"/proc/{job.pid}/cgroup").read_text().strip()
    return CGROUPS / line.removeprefix("0::/")


def runs(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@contextlib.contextmanager
def stubborn_jobs(count: int) -> Iterator[tuple[Client, list[JobStatus], set[int]]]:
    """Jobs that hold back TERM, as root and as another user; afterwards none of them may be left."""
    with contextlib.closing(join()) as client:
        jobs = [client.start(["sh", "-c", STUBBORN], user=("nobody", None)[n % 2]) for n in range(count)]
        for job in jobs:
            printed(client, job, "daemon")
        pids = {pid for job in jobs for pid in members(job_cgroup(job))}
        show(f"{count} jobs that hold back TERM, with daemons: {len(pids)} processes")
        require(len(pids) >= 4 * count, f"jobs of {len(pids)} processes cannot be all")
        with contextlib.suppress(ClientError):
            yield client, jobs, pids
    left = [pid for pid in pids if runs(pid)]
    require(not left, f"of the jobs' processes, these are left: {left}")
    show("no process of theirs is left")


def restarted(restarts: int) -> bool:
    """Whether systemd has started the unit once more, and it is ready."""
    return int(ask("NRestarts")) == restarts + 1 and ask("ActiveState") == "active"


def comes_back(old_pid: str, restarts: int) -> str:
    """Wait for the server's successor, and return its pid; of its predecessor nothing may be left."""
    eventually(lambda: restarted(restarts), "the restarted server", 120)
    pid = ask("MainPID")
    require(pid != old_pid, "the server is the same")
    bases = sorted(path.name for path in OURS.iterdir() if path.is_dir())
    show(f"pid {old_pid} is now {pid}; below the unit's cgroup: {', '.join(bases)}")
    foreign = [name for name in bases if not name.startswith(f"worker-service-{pid}-")]
    require(not foreign, f"cgroups of the dead server are left: {foreign}")
    with join() as client:
        require(list(client.list()) == [], "a new server has jobs")
        require(output(client, client.start(["echo", "serves"]))[0] == "serves\n", "it starts no job")
    return pid


def serial_of(certs: Path = AUTHORITY) -> str:
    """The serial number of the certificate that the server shows."""
    context = ssl.create_default_context(cafile=certs / "ca.crt")
    context.load_cert_chain(certs / "user.crt", certs / "user.key")
    with (
        socket.create_connection(ADDRESS, timeout=PATIENCE) as tcp,
        context.wrap_socket(tcp, server_hostname="127.0.0.1") as tls,
    ):
        return str((tls.getpeercert() or {})["serialNumber"])
