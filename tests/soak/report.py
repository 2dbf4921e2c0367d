"""Owns what is told of a server that hangs or differs from the model: its state in /proc, and its stacks."""

import signal
import time
from contextlib import suppress
from pathlib import Path

from tests.harness import Server, eventually
from tests.proc import processor_seconds

#: Lines of the server's log that are told.
LOG_LINES = 20


def state_of(server: Server) -> list[str]:
    """What /proc tells of a server that lives: what each of its threads does, and how busy it is."""
    pid = server.process.pid
    if server.process.poll() is not None:
        return [f"the server has ended with {server.process.returncode}", *_log(server)]
    lines = [f"the server, pid {pid}:"]
    with suppress(OSError):
        used = processor_seconds(pid)
        time.sleep(1)
        lines.append(f"  {processor_seconds(pid) - used:.2f} s of CPU time in the last second")
        for task in sorted(Path(f"/proc/{pid}/task").iterdir()):
            words = (task / "stat").read_text().rpartition(")")[2].split()
            lines.append(
                f"  thread {task.name}: state {words[0]}, in {(task / 'wchan').read_text() or 'user'}"
            )
        files = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
        lines.append(
            f"  {len(files)} descriptors, {sum('(deleted)' in file for file in files)} of deleted files"
        )
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        wanted = ("VmRSS", "VmHWM", "Threads", "SigBlk", "SigCgt")
        lines += [f"  {line}" for line in status if line.startswith(wanted)]
    return [*lines, *_stack(server), *_log(server)]


def _stack(server: Server) -> list[str]:
    """End the server with SIGABRT, by which its fault handler writes where each thread is."""
    before = len(server.noise)
    server.process.send_signal(signal.SIGABRT)
    server.process.send_signal(signal.SIGCONT)  # in case it was stopped
    with suppress(AssertionError):
        eventually(lambda: server.process.poll() is not None, "the end by SIGABRT")
    with suppress(AssertionError):
        eventually(lambda: any("Current thread" in line for line in server.noise[before:]), "a stack")
    return ["its Python stack:", *(f"  {line.rstrip()}" for line in server.noise[before:])]


def _log(server: Server) -> list[str]:
    usual = ("job started", "job ended", "denied", "a connection was cut")
    lines = [line for line in list(server.log) if line.get("message") not in usual]
    return [
        "the last lines of its log, without starts and ends:",
        *(f"  {line}" for line in lines[-LOG_LINES:]),
    ]
