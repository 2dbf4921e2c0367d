"""Measures small calls: a start beside a local fork and exec, a query, and the command line beside ssh."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from client.blocking import Client
from tests.bench.rows import Findings, Promise, Row
from tests.bench.setting import Setting, say
from tests.bench.ssh import Ssh
from tests.harness import Server, serve
from wire.errors import RequestError
from wire.limits import Limits, parse_limits

#: Calls of one figure, for each run.
CALLS, COMMANDS = 40, 8
HELD = 1_500_000_000
FOUR = parse_limits(cpu="512", memory="500M", disk="500", pids="50")
PROGRAM = Path(sys.executable).with_name("worker-service")

#: Pause before each call, in seconds: what a start leaves to do (a job's end) is not charged to the next.
SETTLE = 0.02


def measure(setting: Setting) -> Findings:
    """The rows of two servers side by side, one with HELD bytes of output in it."""
    held = HELD // 10 if setting.quick else HELD
    say(f"start: {setting.runs * CALLS} calls of each kind, {setting.runs * COMMANDS} commands")
    room = ("--output-memory", "4G", "--job-memory", "4G")
    with (
        serve(setting.certs) as empty,
        serve(setting.certs, *room) as full,
        empty.connect() as client,
        full.connect() as holder,
    ):
        holder.wait(holder.start(["head", "-c", str(held), "/dev/zero"]).id)
        job = client.start(["/bin/true"])
        calls: dict[str, Callable[[], object]] = {
            "local": lambda: subprocess.run(["/bin/true"], check=True),
            "plain": _start(client),
            "held": _start(holder),
            "query": lambda: client.query(job.id),
        }
        limited = _limited(client)
        if limited:
            calls["limited"] = limited
        took = _milliseconds(calls, setting.runs * CALLS)
        commands = _milliseconds(_commands(setting, empty, job.id), setting.runs * COMMANDS)
    fork = "subprocess.run"
    rows = [
        Row("start of /bin/true over an open connection", took["plain"], "ms", fork, took["local"]),
        Row(f"  with {held / 1e9:.2g} GB of output held in memory", took["held"], "ms", fork, took["local"]),
    ]
    if limited:
        rows.append(Row("  with all four limits", took["limited"], "ms", "without", took["plain"]))
    query, ssh = commands["query"], commands.get("ssh")
    note = setting.ssh if isinstance(setting.ssh, str) else ""
    return Findings([
        *rows,
        Row("query over an open connection", took["query"], "ms", fork, took["local"]),
        Row("`worker-service query`, a whole process", query, "ms", "ssh host true", ssh,
            Promise("ratio", "<=", 0.5), note),
    ])  # fmt: skip


def _commands(setting: Setting, server: Server, job_id: str) -> dict[str, Callable[[], object]]:
    commands = {"query": [str(PROGRAM), "query", job_id]}
    if isinstance(setting.ssh, Ssh):
        commands["ssh"] = setting.ssh.command("true")
    environment = server.environment()

    def run(command: list[str]) -> Callable[[], object]:
        return lambda: subprocess.run(
            command, check=True, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )

    return {name: run(command) for name, command in commands.items()}


def _start(client: Client, limits: Limits | None = None) -> Callable[[], object]:
    """A start of /bin/true, request to reply, after which the job's end is not waited for."""
    return lambda: client.start(["/bin/true"], limits=limits)


def _limited(client: Client) -> Callable[[], object] | None:
    """The same with limits, where the host can enforce them."""
    start = _start(client, FOUR)
    try:
        start()
    except RequestError:
        return None
    return start


def _milliseconds(calls: dict[str, Callable[[], object]], count: int) -> dict[str, float]:
    """The median of each call; the calls take turns, so that noise hits them alike."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(count):
        for name, call in calls.items():
            time.sleep(SETTLE)
            began = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - began) * 1000)
    return {name: median(taken) for name, taken in times.items()}
