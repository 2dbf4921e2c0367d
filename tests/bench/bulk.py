"""Measures one large output to one subscriber, live and replayed, beside ssh, grpcio and the bare limits."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from client.blocking import Client
from tests.bench.rows import Findings, Promise, Row, Series, median
from tests.bench.setting import MB, Setting, line_of, program, result, say, take_turns
from tests.bench.ssh import Ssh
from tests.harness import Server, serve

#: The cipher that TLS 1.3 chooses here, for whoever thinks that ssh's default is the difference.
SAME_CIPHER = ("-c", "aes256-gcm@openssh.com")
OURS, SSH, GCM, GRPC, TLS, PIPE = (
    "live",
    "ssh host cat",
    "ssh with AES-GCM",
    "grpcio",
    "SSLStream loop",
    "pipe",
)
REPLAY, MEMORY = "replay", "replay from memory"


@dataclass(frozen=True, slots=True)
class _Servers:
    """Ours: one whose jobs come and go, one with a job that has ended, one that holds it all in memory."""

    live: Server
    client: Client
    ended: Server
    held: Server
    ids: dict[str, str]


def measure(setting: Setting) -> Findings:
    """The rows of a large output, and how throughput goes with its size."""
    found = Findings()
    series: dict[str, list[tuple[float, float]]] = {}
    sizes = [setting.size // 100, setting.size // 10, setting.size]
    for size in sizes:
        say(f"bulk: {size // MB} MB, {setting.runs} runs")
        speeds = {name: median(each) for name, each in _speeds(setting, size).items()}
        for name in (OURS, REPLAY, SSH, GRPC):
            if (speed := speeds.get(name)) is not None:
                series.setdefault(name, []).append((size / MB, speed))
        if size == setting.size:
            found.rows = _rows(setting, size, speeds)
    found.series = [Series("Throughput and size of the output", "output (MB)", "throughput (MB/s)", series)]
    return found


def _speeds(setting: Setting, size: int) -> dict[str, list[float]]:
    """MB/s of everybody who is there, in turns."""
    path = setting.file(size)
    expected = _digest(path)
    with ExitStack() as stack:
        servers = stack.enter_context(_servers(setting, path))
        ours = {
            OURS: lambda: _forgotten(servers, _speed(size, "live", *_at(servers.live), path)),
            REPLAY: lambda: _speed(size, "replay", *_at(servers.ended), servers.ids["ended"]),
            MEMORY: lambda: _speed(size, "replay", *_at(servers.held), servers.ids["held"]),
        }
        calls: dict[str, Callable[[], float]] = ours | _peers(setting, size, path, stack)
        for server, name in ((servers.ended, "ended"), (servers.held, "held")):
            came = result("readers", "digest", *_at(server), servers.ids[name])["came"]
            assert came == expected, "the output is not the file"
        for call in calls.values():
            call()  # to warm it up: page cache, first imports
        return take_turns(setting.runs, calls)


@contextmanager
def _servers(setting: Setting, path: Path) -> Iterator[_Servers]:
    room = ("--output-memory", "4G", "--job-memory", "4G")
    with serve(setting.certs) as live, serve(setting.certs) as ended, serve(setting.certs, *room) as held:
        ids = {}
        for name, server in (("ended", ended), ("held", held)):
            with server.connect() as client:
                ids[name] = client.wait(client.start(["cat", str(path)]).id).id
        with live.connect() as client:
            yield _Servers(live, client, ended, held, ids)


def _peers(setting: Setting, size: int, path: Path, stack: ExitStack) -> dict[str, Callable[[], float]]:
    calls: dict[str, Callable[[], float]] = {PIPE: lambda: _speed(size, "piped", "cat", path)}
    if isinstance(ssh := setting.ssh, Ssh):
        calls[SSH] = lambda: _speed(size, "piped", *ssh.command(f"cat {path}"))
        calls[GCM] = lambda: _speed(size, "piped", *ssh.command(f"cat {path}", *SAME_CIPHER))
    tls = line_of(stack.enter_context(program("tls_limit", setting.certs, size)))
    calls[TLS] = lambda: _speed(size, "tls", setting.certs, tls)
    if find_spec("grpc") is not None:
        port = line_of(stack.enter_context(program("grpc_peer", setting.certs)))
        calls[GRPC] = lambda: _speed(size, "grpc", setting.certs, port, path)
    return calls


def _at(server: Server) -> tuple[str, Path]:
    return server.address, server.certs


def _speed(size: int, kind: str, *args: object) -> float:
    told = result("readers", kind, *args)
    assert told["came"] == size, f"{kind}: {told['came']} bytes came, not {size}"
    return size / MB / float(told["seconds"])


def _forgotten(servers: _Servers, speed: float) -> float:
    for job in servers.client.list():
        servers.client.remove(job.id)
    return speed


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rows(setting: Setting, size: int, speeds: dict[str, float | None]) -> list[Row]:
    peers: list[tuple[str, str, Promise | None]] = [
        (OURS, SSH, Promise("ratio", ">=", 1.5)),
        (OURS, SSH, Promise("ratio", ">=", 2, goal=True)),
        (OURS, GCM, None),
        (OURS, GRPC, None),
        (OURS, TLS, None),
        (OURS, PIPE, None),
        (REPLAY, SSH, Promise("ratio", ">=", 2)),
        (REPLAY, TLS, Promise("ratio", ">=", 0.8, goal=True)),
        (MEMORY, TLS, Promise("ratio", ">=", 0.8, goal=True)),
    ]
    missing = {SSH: setting.ssh, GCM: setting.ssh, GRPC: "grpcio is missing"}
    rows = []
    for name, peer, promise in peers:
        ours, theirs = speeds[name], speeds.get(peer)
        assert ours is not None
        note = str(missing.get(peer, "")) if theirs is None else ""
        title = f"{size // MB} MB to one subscriber, {name}"
        rows.append(Row(title, ours, "MB/s", peer, theirs, promise, note))
    return rows
