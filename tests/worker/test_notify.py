"""What a service manager hears of a real server, over a real socket; and the unit file that goes with it."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio

from tests.harness import PATIENCE, serve
from tests.worker.common import KeptLog
from worker.notify import Notifier
from worker.watchdog import keep_alive

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "worker/systemd/worker-service.service"


class Manager:
    """A service manager's end: `hear` gives the next message."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind("\0" + address[1:] if address.startswith("@") else address)
        self.sock.settimeout(PATIENCE)

    def hear(self) -> list[str]:
        return self.sock.recv(4096).decode().split("\n")

    def hear_all(self, first: str) -> list[str]:
        """The next message that begins so; what comes before it is the watchdog's."""
        while (lines := self.hear())[0] != first:
            assert lines == ["WATCHDOG=1"]
        return lines


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    """One with a socket of either kind."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@worker-service-test-{os.getpid()}"
    made = Manager(address)
    with made.sock:
        yield made


# --- messages


def test_what_is_said(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    notifier.ready("Serving.")
    assert manager.hear() == ["READY=1", "STATUS=Serving."]
    notifier.reloading()
    first, monotonic, _ = manager.hear()
    assert first == "RELOADING=1"
    name, _, microseconds = monotonic.partition("=")
    assert name == "MONOTONIC_USEC"
    now = subprocess.run(
        ["cat", "/proc/uptime"], capture_output=True, check=True
    ).stdout  # another clock's word
    assert abs(int(microseconds) / 1e6 - float(now.split()[0])) < 3600
    notifier.alive()
    assert manager.hear() == ["WATCHDOG=1"]
    notifier.stopping("Stopping.")
    notifier.ready("Serving.")  # a SIGHUP that came too late
    notifier.reloading()
    notifier.alive()
    assert manager.hear() == ["STOPPING=1", "STATUS=Stopping."]
    assert manager.hear() == ["WATCHDOG=1"]


@pytest.mark.parametrize("address", [None, "", "@", "/no/such/socket", "@" + "x" * 300, "/" + "x" * 300])
def test_a_manager_that_is_not_there_is_no_error(address: str | None) -> None:
    Notifier(address).ready("Serving.")


def test_a_manager_that_does_not_listen_holds_up_nothing(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    for _ in range(10_000):  # far more than the socket takes
        notifier.alive()


@pytest.mark.parametrize(
    ("environment", "watchdog"),
    [
        ({}, None),
        ({"NOTIFY_SOCKET": "/x"}, None),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "30000000"}, 30.0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "0"}, None),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "30000000"}, None),
    ],
)
def test_what_the_environment_says(environment: dict[str, str], watchdog: float | None) -> None:
    environment |= {"PATH": "/bin"}
    assert Notifier.from_environment(environment).watchdog == watchdog
    assert environment == {"PATH": "/bin"}  # nobody whom we start hears of it


# --- the watchdog


async def test_no_word_without_an_answer(manager: Manager) -> None:
    log, asked = KeptLog(), 0

    async def answer() -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_alive, Notifier(manager.address, 0.1), answer, log)
            while asked < 4:  # noqa: ASYNC110  # nobody tells
                await trio.sleep(0.005)
            nursery.cancel_scope.cancel()
    heard = drain(manager)
    assert heard in (asked - 1, asked - 2)  # not for the second; perhaps not yet for the last
    assert log.messages == ["the spawner does not answer; the service manager is not told that we live"]


def test_a_server_tells_its_manager(manager: Manager, shared_certificates: Path) -> None:
    environment = os.environ | {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "400000"}
    with serve(shared_certificates, env=environment) as server:
        assert manager.hear()[0] == "READY=1"
        with server.connect() as client:  # it was told no sooner than the port was open
            job = client.start(["env"])
            with client.stream(job.id) as stream:
                printed = b"".join(piece.data for piece in stream)
        assert b"PATH=" in printed
        spawner = Path(f"/proc/{server.spawner_pid}/environ").read_bytes()
        for told in (printed, spawner):
            assert b"NOTIFY_SOCKET" not in told
            assert b"WATCHDOG" not in told
        assert manager.hear() == ["WATCHDOG=1"]
        server.process.send_signal(signal.SIGHUP)
        manager.hear_all("RELOADING=1")
        manager.hear_all("READY=1")
        silent = "the spawner does not answer; the service manager is not told that we live"
        with stopped(server.spawner_pid):
            server.logged(silent)
            drain(manager)
            server.logged(silent, 2)
            assert drain(manager) == 0
        assert manager.hear() == ["WATCHDOG=1"]
        os.kill(server.spawner_pid, signal.SIGKILL)  # the next one answers
        server.logged("the spawner died; its jobs are lost and a new one starts")
        drain(manager)
        assert manager.hear() == ["WATCHDOG=1"]
        assert server.end() == 0
        manager.hear_all("STOPPING=1")


def test_the_units_reload_outlives_the_news_of_it(
    manager: Manager, shared_certificates: Path, tmp_path: Path
) -> None:
    """systemd takes a reload for done once its command has ended, unless it has heard RELOADING=1 by then."""
    (command,) = re.findall("^ExecReload=(.*)$", UNIT.read_text(), re.MULTILINE)
    (tmp_path / "sleep").symlink_to(shutil.which("sleep") or "")  # and nothing else: no kill(1)
    with serve(shared_certificates, env=os.environ | {"NOTIFY_SOCKET": manager.address}) as server:
        manager.hear_all("READY=1")
        environment = {"MAINPID": str(server.process.pid), "PATH": str(tmp_path)}
        with subprocess.Popen(shlex.split(command), env=environment) as process:
            manager.hear_all("RELOADING=1")
            assert process.poll() is None
            manager.hear_all("READY=1")
        assert process.returncode == 0


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing until the block ends."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def drain(manager: Manager) -> int:
    """Take what has been said so far; how many messages it was."""
    manager.sock.setblocking(False)
    count = 0
    with suppress(BlockingIOError):
        while manager.hear():
            count += 1
    manager.sock.settimeout(PATIENCE)
    return count


# --- the unit file


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit file, for a program that is there."""
    program = Path(sys.executable).with_name("worker-service")
    text = UNIT.read_text()
    assert text.count("/opt/worker-service/bin/worker-service") == 1
    path = tmp_path / "worker-service.service"
    path.write_text(text.replace("/opt/worker-service/bin/worker-service", str(program)))
    return path


def analyze(*arguments: str) -> str:
    """What systemd-analyze says."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("NOT TESTED: there is no systemd-analyze; the Debian package systemd has it")
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_systemd_takes_the_unit(unit: Path) -> None:
    assert analyze("verify", "--man=no", str(unit)) == ""


def test_what_systemd_says_of_its_hardening(unit: Path) -> None:
    """Most of what it counts would hold for jobs too, so the score stays high; it must not get higher."""
    said = analyze("security", "--offline=yes", "--no-pager", str(unit))
    score = re.search(r"Overall exposure level for worker-service.service: ([0-9.]+)", said)
    assert score is not None, said
    assert float(score[1]) <= 8.9
    for name in (
        "CAP_SYS_MODULE",
        "CAP_SYS_RAWIO",
        "CAP_SYS_BOOT",
        "CAP_MAC_",
        "CAP_SYSLOG",
        "CAP_WAKE_ALARM",
    ):
        assert re.search(rf"✓ CapabilityBoundingSet=~.*{name}", said), name


def test_what_the_unit_must_say() -> None:
    said = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if re.match(r"\w+=", line))
    for name, value in (
        ("Type", "notify"),
        ("Delegate", "yes"),
        ("OOMPolicy", "continue"),
        ("KillMode", "mixed"),  # with control-group, TERM would go to every job past the server
    ):
        assert said[name] == value
    # These would hold for jobs too, and close /dev or their rights to them.
    broken = {"ProtectClock", "PrivateDevices", "DeviceAllow", "ProtectControlGroups", "NoNewPrivileges"}
    assert not broken & said.keys()


def test_the_unit_is_in_the_wheel(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("worker/systemd/worker-service.service") == UNIT.read_bytes()
