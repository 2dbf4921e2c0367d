"""Owns what jobs of these tests do: ``python -I -S program.py NAME ARGUMENT...`` calls the function NAME.

It imports the standard library alone, and tells what it measured, on stdout, a line at a time.
"""

import contextlib
import mmap
import os
import resource
import signal
import sys
import time
from pathlib import Path


def say(*words: object) -> None:
    """Print a line at once."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def wait_for(path: str) -> None:
    """Stay until a file is there."""
    while not Path(path).exists():
        time.sleep(0.01)


def spin(cpu_seconds: float) -> None:
    """Use this process's share of CPU time until it has had so much more of it."""
    until = time.process_time() + cpu_seconds
    while time.process_time() < until:
        pass


def hold(mib: int) -> bytes:
    """Memory in which every page is written to."""
    return b"x" * (mib * 2**20)


def burn(cpu_seconds: str) -> None:
    """Spin for so many seconds of CPU time and tell how long that took."""
    began = time.monotonic()
    spin(float(cpu_seconds))
    say(time.monotonic() - began)


def crowd(processes: str, seconds: str) -> None:
    """Spin in several processes for so long; tell how long that was, and the CPU time of all together."""
    began = time.monotonic()
    for _ in range(int(processes)):
        if os.fork() == 0:
            while time.monotonic() < began + float(seconds):
                pass
            os._exit(0)
    for _ in range(int(processes)):
        os.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    say(time.monotonic() - began, used.ru_utime + used.ru_stime)


def allocate(mib: str) -> None:
    """Hold so much memory for a moment."""
    say("allocated", len(hold(int(mib))))


def allocate_in(processes: str, mib: str) -> None:
    """Hold so much memory in each of several processes at once, and stay."""
    for _ in range(int(processes)):
        if os.fork() == 0:
            held = hold(int(mib))
            while held:
                time.sleep(1)
    while True:
        time.sleep(1)


def stay_deaf() -> None:
    """Tell our pid, ignore every signal that can be ignored, and stay."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_IGN)
    say(os.getpid())
    while True:
        time.sleep(1)


def move(way: str, path: str, block: int, count: int) -> float:
    """Read or write the first blocks of a file past the page cache; return the seconds that took."""
    buffer = mmap.mmap(-1, block)  # anonymous memory begins on a page, as O_DIRECT wants it
    fd = os.open(path, os.O_DIRECT | os.O_CREAT | (os.O_RDONLY if way == "read" else os.O_WRONLY))
    began = time.monotonic()
    for _ in range(count):
        moved = os.readv(fd, [buffer]) if way == "read" else os.write(fd, buffer)
        if moved != block:
            raise OSError(f"{moved} bytes of {block}")
    return time.monotonic() - began


def direct(way: str, path: str, block: str, count: str) -> None:
    """Tell how long direct reads or writes took."""
    say(move(way, path, int(block), int(count)))


def compute(processes: str) -> None:
    """Use up that many CPUs for ever."""
    for _ in range(int(processes)):
        if os.fork() == 0:
            while True:
                pass
    say("ready")
    os.wait()


def bomb() -> None:
    """Fork, and so do the children, for ever; SIGTERM is ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        with contextlib.suppress(OSError):
            os.fork()


def use(path: str, cpu_seconds: str, mib: str, written_mib: str) -> None:
    """Use CPU time, memory and disk beside a file ``path``; stay with a child until that file is there."""
    held = hold(int(mib))
    spin(float(cpu_seconds))
    move("write", path + ".data", 2**20, int(written_mib))
    if os.fork() == 0:
        wait_for(path)
        os._exit(0)
    say("ready", len(held))
    os.wait()


def leave(cpu_seconds: str) -> None:
    """End while a child that has used so much CPU time stays."""
    read, write = os.pipe()
    if os.fork() == 0:
        spin(float(cpu_seconds))
        os.write(write, b"x")
        time.sleep(600)
    os.read(read, 1)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
