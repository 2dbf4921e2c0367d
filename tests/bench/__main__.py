"""Owns `just bench`: measures what is asked for, prints one table, and keeps the run as JSON.

Figures are medians; ours and a peer's or a limit's are taken in the same run, in turns.
"""

import argparse
import dataclasses
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench import budget, bulk, jobs, latency, start, stopped, subscribers
from tests.bench.rows import Findings, render
from tests.bench.setting import ROOT, Setting
from tests.bench.ssh import open_ssh
from tests.tlshelp import make_directory

RESULTS = ROOT / "bench-results"
BENCHMARKS: dict[str, Callable[[Setting], Findings]] = {
    "bulk": bulk.measure,
    "budget": budget.measure,
    "subscribers": subscribers.measure,
    "latency": latency.measure,
    "stopped": stopped.measure,
    "jobs": jobs.measure,
    "start": start.measure,
}


def main() -> None:
    """Measure, and tell where it was kept."""
    parser = argparse.ArgumentParser(prog="just bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="how often each figure is taken (default: 5)")
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="may be given more than once")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, to see that it works")
    parser.add_argument("--full", action="store_true", help="10 GB where it is 2 otherwise")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder for the run's JSON")
    asked = parser.parse_args()
    began = time.strftime("%Y%m%dT%H%M%S")
    found = Findings()
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with open_ssh(folder / "ssh") as ssh:
            certs = make_directory(folder / "certs")
            setting = Setting(max(1, asked.runs), asked.quick, asked.full, folder, certs, ssh)
            for benchmark in asked.only or BENCHMARKS:
                each = BENCHMARKS[benchmark](setting)
                found.rows += each.rows
                found.series += each.series
    sys.stdout.write(render(found.rows))
    asked.results.mkdir(parents=True, exist_ok=True)
    path = asked.results / f"{began}.json"
    record = {
        "began": began,
        "runs": setting.runs,
        "quick": asked.quick,
        "full": asked.full,
        "machine": {
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "rows": [row.record() for row in found.rows],
        "series": [dataclasses.asdict(series) for series in found.series],
    }
    path.write_text(json.dumps(record, indent=1) + "\n")
    sys.stdout.write(f"\n{setting.runs} runs on {os.cpu_count()} CPUs; kept in {os.path.relpath(path)}\n")


if __name__ == "__main__":
    main()
