"""A server whose parent left it something odd serves all the same, or says why not: never neither."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.blocking import Client, connect
from tests.cli.program import PROGRAM, ROOT
from tests.harness import PATIENCE, Server, eventually, serve
from wire.errors import ErrorCode, RequestError
from wire.jobs import Status

BLOCK = "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())"
IGNORE = (
    "[signal.signal(number, signal.SIG_IGN) for number in signal.valid_signals() "
    "if number not in (signal.SIGKILL, signal.SIGSTOP)]"
)


def parent(*statements: str) -> list[str]:
    """A command that does something to itself, and becomes the one behind it."""
    code = "; ".join(
        ("import os, resource, signal, sys", *statements, "os.execvp(sys.argv[1], sys.argv[1:])")
    )
    return [sys.executable, "-c", code]


def output_of(client: Client, *argv: str) -> str:
    """What a job prints that ends well."""
    job = client.start(argv)
    eventually(lambda: client.query(job.id).status is not Status.RUNNING, "the job's end")
    with client.stream(job.id) as stream:
        printed = b"".join(piece.data for piece in stream)
    assert stream.job.exit_code == 0, (stream.job, printed)
    return printed.decode()


def looks_well(server: Server) -> None:
    """A job ends, one can be stopped, and certificates are read again."""
    with server.connect() as client:
        assert output_of(client, "echo", "hello") == "hello\n"
        job = client.start(["sleep", "600"])
        assert client.stop(job.id).status is Status.SIGNALED
    server.process.send_signal(signal.SIGHUP)
    server.logged("certificates were reloaded")


@pytest.mark.parametrize(
    "statements", [[BLOCK], [IGNORE], [BLOCK, IGNORE]], ids=["blocked", "ignored", "both"]
)
def test_any_signal_blocked_or_ignored(shared_certificates: Path, statements: list[str]) -> None:
    with serve(shared_certificates, prefix=parent(*statements)) as server:
        looks_well(server)
        with server.connect() as client:
            status = output_of(client, "grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")
        assert re.findall(r"\t(\w+)", status) == ["0" * 16] * 2
        assert server.end() == 0


def test_a_directory_that_was_removed_before(shared_certificates: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    with serve(shared_certificates, cwd=gone, prefix=parent(f"os.rmdir({str(gone)!r})")) as server:
        told = server.logged("the working directory has been removed; jobs that name none work in another")
        assert (told["level"], told["directory"]) == ("warning", "/")
        looks_well(server)
        with server.connect() as client:
            assert output_of(client, "pwd") == "/\n"


def test_a_relative_path_in_a_directory_that_was_removed(shared_certificates: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    for number, flags in enumerate((["--certs", "c"], ["--audit", "a"], ["--spill-dir", "s"])):
        gone.mkdir()
        words = [*parent(f"os.rmdir({str(gone)!r})"), *PROGRAM, "serve", "--listen", "127.0.0.1:0"]
        words += ["--certs", str(shared_certificates)] if number else []
        done = subprocess.run(
            [*words, *flags],
            cwd=gone,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (done.returncode, done.stderr) == (
            2,
            f"worker-service: {flags[0]} {flags[1]!r} is relative, and the working directory has been "
            "removed: give an absolute path, or start the server in a directory that is there.\n",
        )


def test_a_directory_that_is_removed_later(shared_certificates: Path, tmp_path: Path) -> None:
    """Relative paths mean what they meant at the start; a start without a directory is refused in words."""
    here = tmp_path / "here"
    kept = tmp_path / "kept"
    here.mkdir()
    shutil.copytree(shared_certificates, kept)
    flags = ("--audit", "../audit.log", "--spill-dir", "..")
    with (
        serve(Path("../kept"), *flags, cwd=here) as server,
        connect(server.address, certs=kept, identity="admin", patience=0) as client,
    ):
        assert output_of(client, "pwd") == f"{here}\n"
        here.rmdir()
        with pytest.raises(RequestError) as refused:
            client.start(["true"])
        assert refused.value.code is ErrorCode.BAD_DIRECTORY
        assert str(here) in refused.value.message
        job = client.start(["true"], cwd="/")
        assert client.wait(job.id).exit_code == 0
        server.process.send_signal(signal.SIGHUP)
        server.logged("certificates were reloaded")
        audited = tmp_path / "audit.log"
        eventually(lambda: job.id in audited.read_text(), "the job's lines")


@contextmanager
def plain_server(script: str, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server started by a shell's script, whose log nobody may read; its process and address."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        address = f"127.0.0.1:{held.getsockname()[1]}"
    with subprocess.Popen(
        ["sh", "-c", script, "sh", *PROGRAM, "serve", "--listen", address, *flags],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            yield process, address
        finally:
            process.kill()


def connected(address: str, certs: Path) -> Client:
    """A client, once the server is there."""

    def attempt() -> Client | None:
        try:
            return connect(address, certs=certs, identity="admin", patience=0)
        except Exception:  # noqa: BLE001  # not yet
            return None

    found: Client = eventually(attempt, "the server")
    return found


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full", ">/dev/full"])
def test_descriptors_that_are_closed_or_full(shared_certificates: Path, closed: str) -> None:
    script = f'exec "$@" {closed}'
    with plain_server(script, "--certs", str(shared_certificates)) as (process, address):
        with connected(address, shared_certificates) as client:
            assert output_of(client, "sh", "-c", "echo one; cat") == "one\n"
            for number in (0, 1, 2):
                target = Path(f"/proc/{process.pid}/fd/{number}").readlink()
                assert not target.name.startswith("socket:"), (number, target)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full"])
def test_an_exit_code_does_not_depend_on_stderr(
    server: Server, shared_certificates: Path, tmp_path: Path, closed: str
) -> None:
    good = ["--certs", str(shared_certificates)]
    for code, flags in (
        (2, [*good, "--grace", "-1"]),
        (6, ["--certs", str(tmp_path / "none")]),
        (7, [*good, "--listen", server.address]),
        (7, [*good, "--audit", str(tmp_path / "none" / "audit")]),
        (7, [*good, "--spill-dir", str(tmp_path / "none")]),
    ):
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", *PROGRAM, "serve", *flags],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == code, flags


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_any_umask(shared_certificates: Path, tmp_path: Path, umask: int) -> None:
    audit = tmp_path / "audit.log"
    prefix = parent(f"os.umask({umask})")
    with serve(shared_certificates, "--audit", str(audit), prefix=prefix) as server:
        looks_well(server)
        assert re.search(
            r"^Umask:\t0022$", Path(f"/proc/{server.process.pid}/status").read_text(), re.MULTILINE
        )
        assert audit.stat().st_mode & 0o777 == 0o600


def test_children_that_are_not_its_own(shared_certificates: Path) -> None:
    prefix = ["sh", "-c", 'true & sleep 600 2>/dev/null & echo child $! >&2; exec "$@"', "sh"]
    with serve(shared_certificates, prefix=prefix) as server:
        child = int(server.noise[0].split()[1])
        try:
            looks_well(server)
        finally:
            os.kill(child, signal.SIGKILL)
        looks_well(server)
        assert server.end() == 0


def test_an_environment_without_a_word(shared_certificates: Path) -> None:
    prefix = [
        "env",
        "-i",
        "LC_ALL=C",
        "TZ=Nowhere/At_All",
        "WATCHDOG_USEC=" + "9" * 400,
        "NOTIFY_SOCKET=/none",
    ]
    with serve(shared_certificates, prefix=[*prefix, f"PYTHONPATH={ROOT}"]) as server:
        looks_well(server)
        with server.connect() as client:
            assert "PATH=/usr/local/sbin:" in output_of(client, "env")
            assert output_of(client, "printf", "é") == "é"


def test_what_ends_or_cripples_it_later_is_told(shared_certificates: Path) -> None:
    limits = (
        "signal.setitimer(signal.ITIMER_REAL, 3600)",
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10**9, 10**9))",
        "resource.setrlimit(resource.RLIMIT_CPU, (10**6, 10**6))",
    )
    with serve(shared_certificates, prefix=parent(*limits)) as server:
        told = server.logged("an alarm that was set before the start ends this server")
        assert 3500 < told["seconds"] <= 3600
        first, second = (server.logged("this process was started with a limit", count) for count in (1, 2))
        assert ("ulimit -f" in first["remedy"], first["limit"]) == (True, 10**9)
        assert ("ulimit -t" in second["remedy"], second["limit"]) == (True, 10**6)
        looks_well(server)


@pytest.mark.parametrize("files", [8, 16, 24, 40, 64])
def test_hardly_any_descriptors(shared_certificates: Path, files: int) -> None:
    """It serves, or says why not."""
    limit = f"resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))"
    words = [
        *parent(limit),
        *PROGRAM,
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--certs",
        str(shared_certificates),
    ]
    with subprocess.Popen(
        words, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if '"listening"' in line:
                process.send_signal(signal.SIGTERM)
        code = process.wait(PATIENCE)
    assert "Traceback" not in "".join(said)
    assert "traceback" not in "".join(said)
    served = any('"listening"' in line for line in said)
    assert code == (0 if served else 7), said
    if not served:
        assert any(line.startswith("worker-service: the server may not open enough") for line in said), said


def test_a_search_path_with_a_folder_that_may_not_be_entered(
    shared_certificates: Path, tmp_path: Path
) -> None:
    """As shells do: a program that is not found is not one that may not be executed."""
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: only root can run jobs as another user")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o700)
    plain = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    plain.chmod(0o755)
    (plain / "there").touch(mode=0o644)
    try:
        with serve(shared_certificates) as server, server.connect() as client:
            for program, code in (
                ("nowhere", ErrorCode.NO_SUCH_PROGRAM),
                ("there", ErrorCode.NOT_EXECUTABLE),
            ):
                for path in (f"{locked}:{plain}", f"{plain}:{locked}"):
                    with pytest.raises(RequestError) as refused:
                        client.start([program], env={"PATH": path}, user="nobody", cwd="/")
                    assert refused.value.code is code, (program, path)
            job = client.start(["true"], env={"PATH": f"{locked}:/usr/bin:/bin"}, user="nobody", cwd="/")
            assert client.wait(job.id).exit_code == 0
    finally:
        shutil.rmtree(plain)


def test_a_variable_is_blamed_for_what_it_says(shared_certificates: Path) -> None:
    for variable, value, code, sentence in (
        (
            "TMPDIR",
            "/nonexistent",
            7,
            "TMPDIR '/nonexistent' cannot be written to: No such file or directory.",
        ),
        (
            "WORKER_SERVICE_LISTEN",
            "here",
            2,
            "WORKER_SERVICE_LISTEN 'here' is not HOST:PORT, such as 127.0.0.1:8443 or [::1]:8443.",
        ),
    ):
        done = subprocess.run(
            [*PROGRAM, "serve", "--certs", str(shared_certificates)],
            env=os.environ | {"PYTHONPATH": str(ROOT), variable: value},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (done.returncode, done.stderr) == (code, f"worker-service: {sentence}\n")


NO_PIDFD = """
import ctypes, errno, struct
load, compare = (0x20, 0, 0, 0), (0x15, 0, 1, 434)
refuse, allow = (6, 0, 0, 0x50000 | errno.ENOSYS), (6, 0, 0, 0x7FFF0000)
code = b"".join(struct.pack("HBBI", *word) for word in (load, compare, refuse, allow))
kept = ctypes.create_string_buffer(code)
program = struct.pack("HxxxxxxQ", 4, ctypes.addressof(kept))
prctl = ctypes.CDLL(None).prctl
assert prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
"""


def test_a_host_without_pidfds_is_refused(shared_certificates: Path) -> None:
    """As with Linux before 5.3, or an old container engine's filter: stops would do nothing."""
    command = [*parent(f"exec({NO_PIDFD!r})"), *PROGRAM, "serve", "--listen", "127.0.0.1:0"]
    done = subprocess.run(
        [*command, "--certs", str(shared_certificates)],
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 7, done.stderr
    assert "pidfd_open(2), without which no job can be stopped: Function not implemented" in done.stderr
    assert "Linux 5.3" in done.stderr
    assert "Traceback" not in done.stderr
