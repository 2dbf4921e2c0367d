"""Measures how long one line of an otherwise idle job takes to a subscriber, beside ssh and a pipe."""

import shlex
import sys
from collections.abc import Callable

from tests.bench.rows import Findings, Promise, Row, median
from tests.bench.setting import Setting, result, say, take_turns
from tests.bench.ssh import Ssh
from tests.bench.stamps import JOB
from tests.harness import serve

LINES = 250
OURS, SSH, PIPE = "ours", "ssh host", "pipe"


def measure(setting: Setting) -> Findings:
    """Median and 99th percentile, each the median of all runs."""
    lines = 100 if setting.quick else LINES
    say(f"latency: {setting.runs} times {lines} lines")
    job = [sys.executable, "-I", "-S", "-u", "-c", JOB, str(lines)]
    tails: dict[str, list[float]] = {}

    def ages(name: str, kind: str, *args: object) -> float:
        taken = sorted(result("stamps", kind, *args))
        assert len(taken) == lines, f"{name}: {len(taken)} lines came, not {lines}"
        tails.setdefault(name, []).append(taken[int(lines * 0.99)] / 1000)
        return float(taken[lines // 2]) / 1000

    with serve(setting.certs) as server:
        calls: dict[str, Callable[[], float]] = {
            OURS: lambda: ages(OURS, "ours", server.address, server.certs, *job),
            PIPE: lambda: ages(PIPE, "piped", *job),
        }
        if isinstance(ssh := setting.ssh, Ssh):
            calls[SSH] = lambda: ages(SSH, "piped", *ssh.command(shlex.join(job)))
        middles = take_turns(setting.runs, calls)
    rows = []
    for title, figures, bound in (("median", middles, 1.0), ("p99", tails, 5.0)):
        ours = median(figures[OURS])
        assert ours is not None
        for peer in (SSH, PIPE):
            promise = Promise("figure", "<=", bound) if peer is SSH else None
            theirs = median(figures.get(peer))
            note = str(setting.ssh) if theirs is None else ""
            rows.append(Row(f"one line to a subscriber, {title}", ours, "ms", peer, theirs, promise, note))
    return Findings(rows)
