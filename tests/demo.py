"""Owns the demonstration (`just demo`): the main job, end to end and for real, on this machine.

It makes certificates, runs a server on a free port of loopback, shows commands with their real output, and
checks each against what is promised. It leaves nothing behind, and fails with a sentence if anything was
not as promised.
"""

import contextlib
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from tests.cgroups import find_cgroups
from tests.harness import PATIENCE, alive
from worker.disks import whole_disks

PROGRAM = Path(sys.executable).with_name("worker-service")
LINES = 200_000
ID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
SORT = 'start -command "sort" "largefile.txt -o sortedfile.txt"'
LIMITS = "--cpu-limit 512 --memory-limit 500M --disk-limit 500"

#: A daemon as the book has it: it forks, starts a session of its own, forks again, and stays.
DAEMON = """\
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        with open("daemon.new", "w") as file:
            file.write(str(os.getpid()))
        os.rename("daemon.new", "daemon.pid")
        time.sleep(600)
    os._exit(0)
time.sleep(600)
"""


class BrokenPromiseError(Exception):
    """Something was not as promised; the message is one sentence."""


def promise(condition: object, sentence: str) -> None:
    """Fail with a sentence that says what was not as promised."""
    if not condition:
        raise BrokenPromiseError(sentence)


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        promise(time.monotonic() < deadline, f"this never came: {what}.")
        time.sleep(0.01)


def say(text: str = "") -> None:
    """Print a line at once, into a pipe too."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def heading(text: str) -> None:
    """Begin a part."""
    say(f"\n{text}\n{'-' * len(text)}")


class Shell:
    """A folder and an environment in which commands of worker-service are shown and run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("WORKER_SERVICE_")
        }

    def export(self, name: str, value: str) -> None:
        """Set a variable, and show it."""
        say(f"$ export {name}={shlex.quote(value)}")
        self.environment[name] = value

    def begin(self, line: str, redirection: str) -> "subprocess.Popen[bytes]":
        """Show a command line and run it beside us, with ``>FILE`` or ``2>FILE`` behind it."""
        say(f"$ worker-service {line} {redirection} &")
        number, _, name = redirection.rpartition(">")
        with (self.folder / name).open("wb") as file:
            return subprocess.Popen(
                [PROGRAM, *shlex.split(line)],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=None if number else file,
                stderr=file if number else None,
            )

    def run(self, line: str, *, code: int = 0) -> str:
        """Show a command line and what it prints, which is returned. It must exit with ``code``."""
        say(f"$ worker-service {line}")
        done = subprocess.run(
            [PROGRAM, *shlex.split(line)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        say(done.stdout.rstrip("\n"))
        if code:
            say(f"(exit code {done.returncode})")
        words = f"`worker-service {line}`"
        promise(done.returncode == code, f"{words} exited with {done.returncode}, not with {code}.")
        return done.stdout

    def start(self, line: str, ending: str = "") -> str:
        """Start a job by a command line, check the line that it prints, and return the job's id."""
        printed = self.run(line)
        expected = rf"job with id ({ID}) started{ending}\.\n"
        found = re.fullmatch(expected, printed)
        promise(found, f"`worker-service {line}` did not print `job with id <uuid> started{ending}.`.")
        return printed.split()[3]


class Server:
    """A server of our own, on a port that the kernel chose.

    Args:
        process: it.
        log: the file that its log goes to.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process = process
        self._log = log
        until(lambda: process.poll() is not None or self.logged("listening"), "the server's `listening`")
        if process.poll() is not None:
            raise BrokenPromiseError(f"the server did not start: {log.read_text().strip()}")
        (line,) = self.logged("listening")
        say(json.dumps(line))
        self.port = int(line["port"])
        self.missing = [line["controller"] for line in self.logged("limits are missing")]

    def logged(self, message: str) -> list[dict[str, Any]]:
        """The lines of its log with a message."""
        text = self._log.read_text()
        lines = [line for line in text[: text.rfind("\n") + 1].splitlines() if line.startswith("{")]
        return [line for line in map(json.loads, lines) if line["message"] == message]

    def check_end(self) -> None:
        """Hold it to its end: in order, nothing left."""
        promise(self.process.returncode == 0, f"the server exited with {self.process.returncode}.")
        promise(self.logged("ended"), "the server's log does not say that it ended.")
        promise("raceback" not in self._log.read_text(), "there is a traceback in the server's log.")
        left = find_cgroups(f"worker-service-{self.process.pid}-*")
        promise(not left, "the server left a cgroup behind.")
        say("The server ended in order, and left no process and no cgroup.")


@contextlib.contextmanager
def serve(shell: Shell) -> Iterator[Server]:
    """Run a server, and end it with the block, however that ends."""
    process = shell.begin("serve --listen 127.0.0.1:0", "2>server.log")
    try:
        yield Server(process, shell.folder / "server.log")
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise BrokenPromiseError("the server did not end within its time.") from None


def check_sorted(folder: Path) -> None:
    """Hold sort's file against Python's own sorting, then remove it, so that the next sort starts anew."""
    promise((folder / "sortedfile.txt").exists(), "there is no sortedfile.txt.")
    expected = sorted((folder / "largefile.txt").read_bytes().splitlines())
    promise((folder / "sortedfile.txt").read_bytes().splitlines() == expected, "the file is not sorted.")
    (folder / "sortedfile.txt").unlink()
    say(f"sortedfile.txt holds the {LINES:,} lines of largefile.txt in order.")


def show_start_and_query(shell: Shell) -> None:
    heading("Start a job, and ask about it")
    job = shell.start(SORT)
    shell.run(f"wait {job}")
    check_sorted(shell.folder)
    printed = shell.run(f"query {job}")
    promise(
        printed.startswith(f"job with id {job} has stopped.\n"), "`query` did not say that the job stopped."
    )


def show_limits(shell: Shell, server: Server) -> None:
    heading("Start a job with resource limits")
    lacking = [name for name in server.missing if name in ("cpu", "memory", "io")]
    if lacking or not whole_disks():
        printed = shell.run(f"{SORT} {LIMITS}", code=1)
        promise("cannot be enforced on this host" in printed, "the refusal does not say why.")
        say("This host cannot enforce all of them, so the job was refused. Nothing was started.")
        return
    job = shell.start(f"{SORT} {LIMITS}", " with resource limits")
    shell.run(f"wait {job}")
    check_sorted(shell.folder)


def show_stop(shell: Shell) -> None:
    heading("Stop a job, and the daemon that it started")
    (shell.folder / "daemon.py").write_text(DAEMON)
    job = shell.start(f"start -- {shlex.quote(sys.executable)} daemon.py")
    until((shell.folder / "daemon.pid").exists, "the daemon's pid")
    daemon = int((shell.folder / "daemon.pid").read_text())
    promise(alive(daemon), "the daemon did not stay.")
    say(f"The job forked twice: process {daemon} is a session of its own now.")
    printed = shell.run(f"query {job}")
    promise(printed.startswith(f"job with id {job} is running.\n"), "`query` did not say that the job runs.")
    pid = json.loads(shell.run(f"query {job} --json"))["pid"]
    printed = shell.run(f"stop {job}")
    promise(printed == f"Success! job with id {job} stopped.\n", "`stop` did not say that the job stopped.")
    promise(not alive(daemon), "the daemon outlived its job.")
    promise(not alive(pid), "the job's process is still there.")
    promise(not find_cgroups(job), "the job's cgroup is still there.")
    say(f"Neither process {pid} nor the daemon {daemon} is left, and the job's cgroup is gone.")


def show_streams(shell: Shell) -> None:
    heading("Stream a job's output, to two followers at once")
    noise = random.Random(5).randbytes(1_000_000)  # noqa: S311  # any bytes will do, NULs among them
    (shell.folder / "noise").write_bytes(noise)
    (shell.folder / "report.sh").write_text(
        "for line in 'Server started on port 8080' 'foo bar' 'bar foo'; do\n"
        '    echo "$(date -u +%FT%TZ) [INFO] $line"; sleep 0.1\n'
        "done\n"
    )
    job = shell.start("start -- sh report.sh")
    printed = shell.run(f"stream {job}")
    promise(printed.count("\n") == 3 and "[INFO] bar foo" in printed, "`stream` did not show three lines.")
    job = shell.start("start -- sh -c 'cat noise; while ! [ -e joined ]; do sleep 0.05; done; cat noise'")
    first, second = shell.folder / "first", shell.folder / "second"
    followers = [shell.begin(f"stream {job}", ">first")]
    try:
        until(lambda: first.stat().st_size == len(noise), "the first half of the output")
        say("The first follower has the first half. Now the second joins.")
        followers.append(shell.begin(f"stream {job}", ">second"))
        until(lambda: second.stat().st_size == len(noise), "the first half, for who joined late")
        (shell.folder / "joined").touch()
        for follower in followers:
            promise(follower.wait(PATIENCE) == 0, "a follower exited with a code other than 0.")
    finally:
        for follower in followers:
            follower.kill()
            follower.wait()
    for path in (first, second):
        promise(path.read_bytes() == noise * 2, f"the {path.name} follower missed some bytes.")
    say(f"Both followers have all {2 * len(noise):,} bytes, from the first, exactly.")


def show_roles(shell: Shell) -> None:
    heading("A User may look, and may not touch")
    printed = shell.run("start --identity user -- true", code=4)
    promise("The role User may not start jobs" in printed, "the refusal does not say why.")
    job = shell.start("start -- echo hello")
    promise(shell.run(f"stream --identity user {job}") == "hello\n", "a User could not stream.")


def demonstrate(folder: Path) -> None:
    """Show everything.

    Raises:
        BrokenPromiseError: something was not as promised.
    """
    shell = Shell(folder)
    heading("Make certificates")
    shell.export("WORKER_SERVICE_CERTS", str(folder / "certs"))
    made = shell.run("certs init").split()
    names = {f"{name}.{kind}" for name in ("ca", "server", "admin", "user") for kind in ("crt", "key")}
    promise({Path(path).name for path in made} == names, "`certs init` did not make the eight files.")

    heading("Run a server")
    chance = random.Random(2)  # noqa: S311  # any lines will do
    with (folder / "largefile.txt").open("w") as file:
        file.writelines(f"{chance.getrandbits(80):025}\n" for _ in range(LINES))
    with serve(shell) as server:
        shell.export("WORKER_SERVICE_SERVER", f"127.0.0.1:{server.port}")
        show_start_and_query(shell)
        show_limits(shell, server)
        show_streams(shell)
        show_stop(shell)
        show_roles(shell)
        heading("End the server")
        shell.run("list")
    server.check_end()


def _leave(number: int, frame: object) -> NoReturn:
    del frame
    sys.exit(128 + number)


def main() -> int:
    """Show everything, clean up, and return the exit code."""
    signal.signal(signal.SIGTERM, _leave)  # the clean-up runs then too
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="worker-service-demo-") as folder:
            demonstrate(Path(folder))
    except BrokenPromiseError as error:
        say(f"\ndemo: not as promised: {error}")
        return 1
    except subprocess.TimeoutExpired as error:
        say(f"\ndemo: not as promised: `{shlex.join(map(str, error.cmd))}` took longer than {PATIENCE:g} s.")
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    say(f"\ndemo: all as promised in {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
