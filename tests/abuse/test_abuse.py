"""Attacks on a real server over loopback: what others feel of them, and what is refused, and how."""

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.abuse.attack import client_hello
from tests.abuse.figures import INSIDERS, flood, insider, quick
from tests.harness import PATIENCE, Server, eventually, serve
from tests.proc import processor_seconds
from wire.errors import ErrorCode, RequestError

MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def attacked(shared_certificates: Path) -> Iterator[Server]:
    with serve(shared_certificates) as server:
        yield server


def test_five_thousand_that_stall_trickle_and_talk_nonsense(attacked: Server) -> None:
    figures = flood(attacked, 4)
    assert quick(figures.queries), figures
    assert quick(figures.connects), figures
    assert figures.told["made"] >= 5000
    assert figures.after - figures.before < 150 * MEBIBYTE, figures


def _stalled(kind: str) -> tuple[bytes, list[bytes]]:
    """What one of a flood says first, and then a byte at a time."""
    hello = client_hello()
    return {
        "silent": (b"", []),
        "hello": (hello, []),
        "trickle": (hello[:5], [hello[place : place + 1] for place in range(5, 60)]),
    }[kind]


@pytest.mark.parametrize("kind", ["silent", "hello", "trickle"])
def test_a_newcomer_gets_in_where_all_places_are_taken_by_its_own_address(
    shared_certificates: Path, kind: str
) -> None:
    flags = ("--max-waiting", "64", "--max-handshakes", "64", "--handshake-timeout", "3600")
    with serve(shared_certificates, *flags) as server, ExitStack() as stack:
        first, more = _stalled(kind)
        socks = []
        for _ in range(200):
            socks.append(stack.enter_context(socket.create_connection(("127.0.0.1", server.port))))
            with suppress(OSError):  # it may be cut already
                socks[-1].sendall(first)
        assert server.logged(
            "handshakes were dropped: there are more than --max-handshakes"
            if kind == "hello"
            else "connections were dropped: there are more than --max-waiting"
        )
        for byte in more or [b""]:
            for sock in socks:
                with suppress(OSError):
                    sock.sendall(byte)
            with server.connect() as client:
                assert list(client.list()) == []
        open_yet = [sock for sock in socks if _is_open(sock)]
        assert 50 <= len(open_yet) <= 128  # others lost their place, and as few as need be


def _is_open(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        while sock.recv(65536):
            pass
    except BlockingIOError:
        return True
    except ConnectionError:
        pass
    return False


@pytest.mark.parametrize("kind", INSIDERS)
def test_a_client_with_a_certificate_holds_nobody_up(attacked: Server, kind: str) -> None:
    figures = insider(attacked, kind, 1.5)
    assert figures.told["sent"] > 0
    assert quick(figures.queries), figures
    assert figures.after - figures.before < 30 * MEBIBYTE, figures


@pytest.mark.parametrize("scheme", ["", "wss://"])
def test_connections_of_one_identity_and_in_all(shared_certificates: Path, scheme: str) -> None:
    flags = ("--max-connections-per-identity", "2", "--max-connections", "4")
    with serve(shared_certificates, *flags) as server, ExitStack() as stack:
        first = stack.enter_context(server.connect("admin", scheme))
        stack.enter_context(server.connect("admin", scheme))
        with pytest.raises(RequestError, match="admin has 2 connections, and may have no more") as caught:
            server.connect("admin", scheme)
        assert caught.value.code is ErrorCode.BUSY
        stack.enter_context(server.connect("user", scheme))
        with pytest.raises(RequestError, match="has 3 connections, and keeps its last 1 for Admins"):
            server.connect("user", scheme)
        command = [sys.executable, "-m", "client.cli", "list"]
        refused = subprocess.run(
            command,
            env=server.environment("user", scheme),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert refused.returncode == 1
        assert refused.stderr.count("\n") == 1
        assert "--max-connections." in refused.stderr
        first.close()

        def again() -> bool:
            try:
                server.connect("user", scheme).close()
            except RequestError:
                return False
            return True

        eventually(again, "room for one more")


def test_an_admin_gets_in_where_users_have_taken_all_that_they_may(shared_certificates: Path) -> None:
    with serve(shared_certificates, "--max-connections", "16") as server, ExitStack() as stack:
        for _ in range(14):
            stack.enter_context(server.connect("user"))
        with pytest.raises(RequestError, match="has 14 connections, and keeps its last 2 for Admins"):
            server.connect("user")
        with server.connect("admin") as admin, server.connect("admin"):
            assert list(admin.list()) == []


def test_jobs_arguments_and_frames(shared_certificates: Path) -> None:
    flags = ("--max-jobs", "1", "--max-argument-bytes", "4K", "--max-frame", "8K")
    with serve(shared_certificates, *flags) as server, server.connect() as client:
        assert client.hello.max_frame == 8192
        with pytest.raises(RequestError, match=r"may weigh 4096 bytes together"):
            client.start(["echo", "x" * 4096])
        job = client.start(["sleep", "600"])
        with pytest.raises(RequestError, match=r"1 jobs run.*--max-jobs") as caught:
            client.start(["true"])
        assert caught.value.code is ErrorCode.BUSY
        client.stop(job.id, grace=0)
        client.wait(client.start(["true"]).id)


def test_a_bound_that_makes_no_sense_ends_serve(shared_certificates: Path) -> None:
    command = [sys.executable, "-m", "client.cli", "serve", "--certs", str(shared_certificates)]
    refused = subprocess.run(
        [*command, "--max-jobs", "0"], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert refused.returncode == 2
    assert refused.stderr == "worker-service: --max-jobs 0 must be from 1 to 1,000,000.\n"


def test_few_descriptors_leave_room_for_jobs(shared_certificates: Path) -> None:
    with serve(shared_certificates, prefix=("prlimit", "--nofile=128:128")) as server, ExitStack() as stack:
        assert server.logged(
            "fewer connections are taken: this process may not open more files (LimitNOFILE=, ulimit -n)"
        )
        for _ in range(300):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        with server.connect() as client:
            for _ in range(5):
                assert client.wait(client.start(["true"]).id).exit_code == 0


def test_accept_without_descriptors_neither_ends_nor_spins(shared_certificates: Path) -> None:
    with serve(shared_certificates) as server, server.connect() as client, ExitStack() as stack:
        pid = server.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, hard))
        for _ in range(20):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        assert server.logged("a connection could not be accepted")["reason"] == "Too many open files"
        before = processor_seconds(pid)
        began = time.monotonic()
        while time.monotonic() - began < 1:
            client.list()
            time.sleep(0.05)
        assert processor_seconds(pid) - before < 0.5
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
        with server.connect() as other:
            other.list()
        assert (
            len([line for line in server.log if line["message"] == "a connection could not be accepted"]) == 1
        )
