"""Measures short jobs: how many a second, and what those that have ended cost in time and memory."""

import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.bench.burst import AT_ONCE
from tests.bench.podman import Podman, open_podman
from tests.bench.rows import Findings, Promise, Row, Series, median
from tests.bench.setting import Setting, line_of, program, say, take_turns, tell
from tests.bench.ssh import Ssh
from tests.harness import Server, serve
from tests.proc import memory_of

KIB = 1024
FEW = 100
#: Jobs of one figure, and runs of a peer's that starts fewer a second.
BATCH, PEER_BATCH = 200, 32
FRESH, FULL, SSH, PODMAN = "fresh", "full", "ssh host true", "podman run, with runc"


def measure(setting: Setting) -> Findings:
    """The rows of short jobs; a server with few that have ended and one with many take turns."""
    many = 2_000 if setting.quick else 10_000
    say(f"jobs: {many} to begin with, then {setting.runs} runs")
    with (
        open_podman(setting.folder) as podman,
        serve(setting.certs) as fresh,
        serve(setting.certs) as full,
        program("burst", fresh.address, fresh.certs) as few,
        program("burst", full.address, full.certs) as crowd,
    ):

        def speed(server: object, count: int = BATCH) -> float:
            burst = few if server is fresh else crowd
            tell(burst, str(count))
            return count / float(line_of(burst))

        speed(fresh, FEW)
        growth, memory = _grow(full, many, lambda count: speed(full, count))
        calls: dict[str, Callable[[], float]] = {FRESH: lambda: speed(fresh), FULL: lambda: speed(full)}
        if isinstance(ssh := setting.ssh, Ssh):
            calls[SSH] = lambda: _peer(ssh.command("true"))
        if isinstance(podman, Podman):
            calls[PODMAN] = lambda: _peer(podman.command("true"))
        speeds = {name: median(each) for name, each in take_turns(setting.runs, calls).items()}
    ours, full_speed = speeds[FRESH], speeds[FULL]
    assert ours is not None
    assert full_speed is not None
    name = f"jobs of /bin/true, {AT_ONCE} at once"
    cost = f"time of one job, after {many:,} jobs"
    rows = [
        Row(name, ours, "/s", SSH, speeds.get(SSH), Promise("figure", ">=", 300), _missing(setting.ssh)),
        Row(name, ours, "/s", PODMAN, speeds.get(PODMAN), None, _missing(podman)),
        Row(cost, 1000 / full_speed, "ms", f"after {FEW}", 1000 / ours, Promise("ratio", "<=", 1.1)),
        Row(
            "memory for each job that has ended", memory / KIB, "KiB", "limit", 4, Promise("figure", "<=", 4)
        ),
    ]
    series = Series("Jobs a second and jobs that have ended", "ended jobs", "jobs/s", {"ours": growth})
    return Findings(rows, [series])


def _grow(
    server: Server, many: int, speed: Callable[[int], float]
) -> tuple[list[tuple[float, float]], float]:
    """Run many jobs; the speed on the way, and the bytes of memory that each left from a fifth on."""
    points = []
    marks: list[tuple[int, int]] = []
    step = many // 20
    for ended in range(step, many + 1, step):
        points.append((float(ended), speed(step)))
        time.sleep(0.05)
        marks.append((ended, memory_of(server.process.pid)))
    (first, before), (last, after) = marks[3], marks[-1]
    return points, (after - before) / (last - first)


def _peer(command: list[str]) -> float:
    """How many runs of a command end in a second, as many at once as ours."""

    def run(_: int) -> None:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(run, range(PEER_BATCH)))
    return PEER_BATCH / (time.perf_counter() - began)


def _missing(peer: object) -> str:
    return peer if isinstance(peer, str) else ""
