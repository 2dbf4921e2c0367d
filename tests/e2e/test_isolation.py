"""What a job does not inherit of its server, as it sees it itself; and a job as another user."""

import errno
import json
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.blocking import Client
from tests.e2e.test_hosts import NO_CGROUP, changed
from tests.e2e.test_output import collect
from tests.harness import PATIENCE, Server, alive, serve
from tests.host.common import FOUR, NOT_EMULATED
from wire.errors import ErrorCode, RequestError
from wire.messages import STDERR, STDOUT
from worker.privileges import JOB_SCORE
from worker.protect import SCORE

pytestmark = pytest.mark.host
PROBE = Path(__file__).with_name("probe.py").read_text()
NOBODY = pwd.getpwnam("nobody")
KEY = f"secret-{os.getpid()}"
#: What a careless shell or service manager may leave to the server, which then becomes the program behind it.
CARELESS = """
import ctypes, os, pty, resource, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
KEYCTL, ADD_KEY = {"x86_64": (250, 248), "aarch64": (219, 217), "riscv64": (219, 217)}[os.uname().machine]
def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
os.setsid()
master, slave = pty.openpty()
os.open(os.ttyname(slave), os.O_RDWR)  # now our controlling terminal
for fd in (master, slave):
    os.set_inheritable(fd, True)
os.umask(0o077)
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
os.nice(5)
open("/proc/self/oom_score_adj", "w").write("300")
resource.setrlimit(resource.RLIMIT_NOFILE, (777, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
core = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (core, core))
os.environ["SECRET"] = "42"
for number in (signal.SIGUSR1, signal.SIGPIPE, signal.SIGCHLD, 40):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
check(libc.syscall(KEYCTL, 1, None))
check(libc.syscall(ADD_KEY, b"user", sys.argv[1].encode(), b"payload", 7, -3))
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
sets = (ctypes.c_uint32 * 6)()
check(libc.capget(header, sets))
sets[2] = sets[1] & (1 << 1 | 1 << 10)  # CAP_DAC_OVERRIDE, CAP_NET_BIND_SERVICE
check(libc.capset(header, sets))
for number in (1, 10):
    check(libc.prctl(47, 2, number, 0, 0))
check(libc.prctl(28, 4, 0, 0, 0))  # SECBIT_NO_SETUID_FIXUP
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture(scope="module")
def careless(shared_certificates: Path) -> Iterator[Server]:
    """A server that inherits all that a server should not have."""
    prefix = [sys.executable, "-I", "-S", "-c", CARELESS, KEY]
    with serve(shared_certificates, prefix=prefix) as running:
        yield running


def probe(client: Client, python: str = sys.executable, **options: Any) -> dict[str, Any]:
    """What a job says of itself."""
    found = collect(client, client.start([python, "-I", "-S", "-c", PROBE, KEY], cwd="/", **options).id)
    assert found[STDERR] == b"", found[STDERR].decode()
    seen: dict[str, Any] = json.loads(found[STDOUT])
    return seen


@NOT_EMULATED
def test_a_job_inherits_nothing_of_a_careless_server(careless: Server) -> None:
    """Seen from within; tests/e2e/test_processes.py looks at environment, descriptors and signals."""
    assert Path(f"/proc/{careless.process.pid}/status").read_text().count("CapAmb:\t0000000000000402") == 1
    with careless.connect() as client:
        seen = probe(client)
        signals = collect(client, client.start(["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]).id)
        descriptors = collect(client, client.start(["ls", "/proc/self/fd"]).id)
    assert [int(line.split()[1], 16) for line in signals[STDOUT].decode().splitlines()] == [0, 0]
    assert descriptors[STDOUT].split() == [b"0", b"1", b"2", b"3"]  # the last is that of ls itself
    assert "SECRET" not in seen["environment"]
    assert (seen["no_new_privs"], seen["securebits"]) == (1, 0)
    assert (seen["capabilities"]["CapInh"], seen["capabilities"]["CapAmb"]) == (0, 0)
    assert (seen["umask"], seen["nice"], seen["policy"]) == (0o022, 0, os.SCHED_OTHER)
    own = int(Path(f"/proc/{careless.process.pid}/oom_score_adj").read_text())
    assert own in (300, SCORE)  # as far as the kernel lets it
    assert seen["oom_score_adj"] == max(0, own) + JOB_SCORE
    assert seen["limits"]["RLIMIT_CORE"] == [0, 0]
    assert seen["limits"]["RLIMIT_NOFILE"][0] == 777
    assert seen["terminal"] == "ENXIO"
    session, group, pid = seen["session"]
    assert session == group == pid
    assert seen["key"] is False


@NOT_EMULATED
def test_each_job_has_a_session_keyring_of_its_own(admin: Client) -> None:
    first, second = probe(admin)["keyring"], probe(admin)["keyring"]
    assert first != second


#: Uses up what keys a user may have, says so, and stays.
HOARD = """
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
ADD_KEY = {"x86_64": 248, "aarch64": 217, "riscv64": 217}[os.uname().machine]
number = 0
while libc.syscall(ADD_KEY, b"user", b"key %d" % number, b"x", 1, -3) >= 0:
    number += 1
os.write(1, os.strerror(ctypes.get_errno()).encode())
time.sleep(600)
"""


@NOT_EMULATED
def test_without_a_keyring_of_its_own_it_has_not_the_servers_either(careless: Server, python: str) -> None:
    with careless.connect() as client:
        hoarder = client.start([python, "-I", "-S", "-c", HOARD], cwd="/", user="nobody")
        with client.stream(hoarder.id) as stream:
            assert next(iter(stream)).data == os.strerror(errno.EDQUOT).encode()
        first, second = (probe(client, python, user="nobody") for _ in range(2))
        assert first["keyring"] == second["keyring"], "there was room for one after all"
        assert first["key"] is False
        client.stop(hoarder.id)


@NOT_EMULATED
def test_root_without_a_user_keeps_what_it_has(server: Server, admin: Client) -> None:
    """Whoever is Admin there is root: no promise is made that is not kept."""
    seen, status = probe(admin), Path(f"/proc/{server.process.pid}/status").read_text()
    own = dict(line.split(":\t", 1) for line in status.splitlines())
    assert seen["uids"] == own["Uid"].split()
    assert seen["groups"] == sorted(map(int, own["Groups"].split()))
    assert seen["capabilities"]["CapEff"] == int(own["CapEff"], 16)
    assert admin.query(admin.start(["true"]).id).user == pwd.getpwuid(os.geteuid()).pw_name


def check_is_nobody(seen: dict[str, Any]) -> None:
    assert seen["uids"] == [str(NOBODY.pw_uid)] * 4
    assert seen["gids"] == [str(NOBODY.pw_gid)] * 4
    assert seen["groups"] == sorted(os.getgrouplist("nobody", NOBODY.pw_gid))
    assert seen["back_to_root"] == "EPERM"
    assert seen["kill_parent"] == "EPERM"
    names = {"HOME": NOBODY.pw_dir, "USER": "nobody", "LOGNAME": "nobody", "SHELL": NOBODY.pw_shell}
    assert {name: seen["environment"][name] for name in names} == names
    assert (seen["stdout_owner"], seen["reopened"]) == (NOBODY.pw_uid, "ok")
    assert seen["oom_score_adj"] >= JOB_SCORE
    assert seen["limits"]["RLIMIT_CORE"] == [0, 0]


@NOT_EMULATED
def test_a_user_job_is_that_user_without_a_single_capability(careless: Server, python: str) -> None:
    with careless.connect() as client:
        seen = probe(client, python, user="nobody")
        assert [job.user for job in client.list()][-1] == "nobody"
    check_is_nobody(seen)
    assert set(seen["capabilities"].values()) == {0}
    assert (seen["no_new_privs"], seen["key"]) == (1, False)


@NOT_EMULATED
def test_the_environment_that_is_asked_for_goes_before_the_users(admin: Client) -> None:
    script = 'printf "%s %s" "$HOME" "$USER"'
    job = admin.start(["sh", "-c", script], env={"HOME": "/tmp"}, cwd="/", user="nobody")
    assert collect(admin, job.id)[STDOUT] == b"/tmp nobody"


@NOT_EMULATED
@pytest.mark.parametrize("user", [None, "nobody"])
@pytest.mark.parametrize("merge", [False, True])
def test_who_drops_root_by_itself_can_still_open_its_outputs(
    admin: Client, python: str, user: str | None, *, merge: bool
) -> None:
    """As a server program does that begins as root, and then writes its log to /dev/stderr."""
    drop = "" if user else "os.setgroups([]); os.setgid(65534); os.setuid(65534);"
    # What /dev/stdout and /dev/stderr lead to; the virtual machine's /dev lacks these.
    writes = "echo 1 >/proc/self/fd/1; echo 2 >/proc/self/fd/2"
    script = f"import os; {drop} os.execv('/bin/sh', ['sh', '-c', '{writes}'])"
    argv = [python, "-I", "-S", "-c", script]
    found = collect(admin, admin.start(argv, cwd="/", merge=merge, user=user).id)
    assert found == ({STDOUT: b"1\n2\n", STDERR: b""} if merge else {STDOUT: b"1\n", STDERR: b"2\n"})


@NOT_EMULATED
def test_root_by_name_is_root(admin: Client) -> None:
    seen = probe(admin, user="root")
    assert seen["uids"] == ["0"] * 4
    assert seen["capabilities"]["CapEff"] == probe(admin)["capabilities"]["CapEff"]


def test_a_user_job_ends_as_any_other(server: Server, admin: Client) -> None:
    job = admin.start(["sh", "-c", "setsid sleep 600 & echo $!; exec sleep 600"], cwd="/", user="nobody")
    with admin.stream(job.id) as stream:
        daemon = int(next(iter(stream)).data)
    assert admin.stop(job.id).signal == 15
    assert not alive(daemon)
    assert not [path for path in server.job_cgroups() if path.name == job.id]


@NOT_EMULATED
def test_what_a_user_may_not_is_a_typed_error(server: Server, admin: Client, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    closed = tmp_path / "program"
    closed.write_text("#!/bin/sh\n")
    closed.chmod(0o700)
    tmp_path.chmod(0o755)
    before = len(list(admin.list()))
    cases: list[tuple[ErrorCode, str, dict[str, Any]]] = [
        (ErrorCode.BAD_USER, "There is no user 'no-such-user'", {"user": "no-such-user"}),
        (ErrorCode.BAD_DIRECTORY, "user 'nobody' cannot work in", {"cwd": tmp_path / "closed"}),
        (ErrorCode.NOT_EXECUTABLE, "user 'nobody' may not execute", {"argv": [str(closed)]}),
    ]
    for parent in (tmp_path, *tmp_path.parents):
        if not parent.stat().st_mode & 0o001:  # pytest's own folder is closed
            cases[2] = (ErrorCode.NOT_EXECUTABLE, "may not execute", cases[2][2])
    for code, words, options in cases:
        with pytest.raises(RequestError, match=words) as caught:
            admin.start(**{"argv": ["true"], "cwd": "/", "user": "nobody"} | options)
        assert caught.value.code is code
    assert len(list(admin.list())) == before
    assert not server.job_cgroups()


#: Tries to leave its cgroups, to change their limits, to signal the server's processes; tells what it could.
ESCAPE = """
while IFS=: read -r _ names path; do
    for mount in $(awk '$3 ~ /^cgroup2?$/ {print $2}' /proc/self/mounts); do
        for folder in "$mount$path" "$mount$(dirname "$path")" "$mount"; do
            for file in cgroup.procs tasks cgroup.kill memory.limit_in_bytes memory.max pids.max; do
                [ -e "$folder/$file" ] && (echo 0 >"$folder/$file") 2>/dev/null && echo "wrote $folder/$file"
            done
            mkdir "$folder/inner" 2>/dev/null && echo "made $folder/inner"
        done
    done
done </proc/self/cgroup
for pid in $*; do
    kill -0 $pid 2>/dev/null && echo "may signal $pid"
    cat /proc/$pid/environ 2>/dev/null && echo "may look into $pid"
done
echo tried
"""


def test_a_user_job_cannot_get_at_its_cgroups_or_at_the_server(server: Server, admin: Client) -> None:
    pids = map(str, (server.process.pid, server.spawner_pid))
    job = admin.start(["sh", "-c", ESCAPE, "sh", *pids], cwd="/", user="nobody", limits=FOUR)
    assert collect(admin, job.id) == {STDOUT: b"tried\n", STDERR: b""}


@NOT_EMULATED
def test_a_user_job_without_a_cgroup_cannot_get_at_its_keeper(shared_certificates: Path, python: str) -> None:
    with serve(shared_certificates, prefix=changed(NO_CGROUP)) as running, running.connect() as client:
        check_is_nobody(probe(client, python, user="nobody"))
        job = client.start(["sh", "-c", "setsid sleep 600 & echo $!; exec sleep 600"], cwd="/", user="nobody")
        with client.stream(job.id) as stream:
            daemon = int(next(iter(stream)).data)
        client.stop(job.id)
        assert not alive(daemon)


# --- what the operator decides


@NOT_EMULATED
def test_the_operators_user_and_who_may_change_it(shared_certificates: Path, python: str) -> None:
    with serve(shared_certificates, "--job-user", "nobody") as running, running.connect() as client:
        check_is_nobody(probe(client, python))
        assert probe(client, user="root")["uids"] == ["0"] * 4
    pinned = ("--job-user", "nobody", "--pin-job-user")
    with serve(shared_certificates, *pinned) as running, running.connect() as client:
        check_is_nobody(probe(client, python))
        check_is_nobody(probe(client, python, user="nobody"))
        with pytest.raises(RequestError, match="runs every job as 'nobody'") as caught:
            client.start(["true"], user="root")
        assert caught.value.code is ErrorCode.BAD_USER


@NOT_EMULATED
def test_the_operator_may_allow_privileges_and_core_dumps(shared_certificates: Path, python: str) -> None:
    flags = ("--allow-new-privileges", "--allow-core-dumps")
    prefix = ["sh", "-c", 'ulimit -c 1024; exec "$@"', "sh"]
    with serve(shared_certificates, *flags, prefix=prefix) as running, running.connect() as client:
        seen = probe(client, python, user="nobody")
    assert seen["no_new_privs"] == 0
    assert seen["limits"]["RLIMIT_CORE"] == [1024 * 512] * 2 or seen["limits"]["RLIMIT_CORE"] == [2**20] * 2
    assert seen["capabilities"]["CapBnd"] != 0
    assert {seen["capabilities"][name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}


def set_user_id(folder: Path) -> Path:
    """A program with the set-user-ID bit of root, where the user nobody can reach it."""
    program = folder / "id"
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    program.chmod(0o4755)
    return program


@NOT_EMULATED
@pytest.mark.parametrize("allowed", [False, True])
def test_a_set_user_id_program_gives_root_only_if_allowed(shared_certificates: Path, allowed: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        if os.statvfs(folder).f_flag & os.ST_NOSUID:
            pytest.skip(f"NOT TESTED: {folder} is mounted nosuid; set TMPDIR to a folder that is not")
        program = set_user_id(folder)
        flags = ("--allow-new-privileges",) if allowed else ()
        with serve(shared_certificates, *flags) as running, running.connect() as client:
            found = collect(client, client.start([str(program), "-u"], cwd="/", user="nobody").id)
    assert int(found[STDOUT]) == (0 if allowed else NOBODY.pw_uid)


@NOT_EMULATED
@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--pin-job-user",), 2, "--pin-job-user needs --job-user NAME"),
        (("--job-user", "no-such-user"), 7, "--job-user 'no-such-user' names no user of this host"),
    ],
)
def test_flags_that_make_no_sense(
    shared_certificates: Path, flags: tuple[str, ...], code: int, words: str
) -> None:
    command = [sys.executable, "-m", "client.cli", "serve", "--listen", "127.0.0.1:0"]
    ended = subprocess.run(
        [*command, "--certs", str(shared_certificates), *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=3 * PATIENCE,
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (code, 1)
    assert words in ended.stderr


# --- a server that is not root


def test_a_server_that_is_not_root(shared_certificates: Path, python: str) -> None:
    """It runs jobs as itself, says no to others, and is closed to jobs of its own user.

    A capability lets it reach this repository and its certificates, which may be root's alone; jobs lack it.
    """
    reach = "+dac_read_search"
    prefix = ["setpriv", f"--reuid={NOBODY.pw_uid}", f"--regid={NOBODY.pw_gid}", "--clear-groups"]
    prefix += ["--inh-caps", reach, "--ambient-caps", reach, "--"]
    with serve(shared_certificates, prefix=prefix, cwd=Path("/")) as running, running.connect() as client:
        for options in ({}, {"user": "nobody"}):
            seen = probe(client, python, **options)
            assert seen["uids"] == [str(NOBODY.pw_uid)] * 4
            assert {seen["capabilities"][name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
            assert seen["no_new_privs"] == 1
            assert seen["oom_score_adj"] == JOB_SCORE
        with pytest.raises(RequestError, match=r"as another user, such as 'root': Operation not") as caught:
            client.start(["true"], user="root")
        assert caught.value.code is ErrorCode.BAD_USER
        with pytest.raises(RequestError) as caught:  # which the server itself could enter
            client.start(["true"], cwd=shared_certificates)
        assert caught.value.code is ErrorCode.BAD_DIRECTORY
        for pid in (running.process.pid, running.spawner_pid):
            looked = collect(client, client.start(["cat", f"/proc/{pid}/environ"]).id)
            assert b"Permission denied" in looked[STDERR]
            # As the capability alone would see to that: what nobody may look into is root's in /proc.
            assert Path(f"/proc/{pid}/environ").stat().st_uid == 0
            assert looked[STDOUT] == b""
