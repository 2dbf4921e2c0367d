"""Many jobs' output in a real server: all of it, in little memory and few files, and memory comes back."""

import time
from pathlib import Path

import pytest
import trio

from tests.e2e.test_budget import MIB, printer
from tests.harness import SLOW, eventually, serve
from tests.proc import memory_of, processor_seconds
from tests.store_load import Load, run, written

#: A server that may open no more files than this.
FEW_FILES = ("sh", "-c", 'ulimit -n 256; exec "$@"', "sh")


@pytest.mark.parametrize("budget", ["1M", "16M"])
def test_dozens_of_jobs_print_at_once_and_the_idle_server_uses_no_cpu(budget: str) -> None:
    """BEHAVIOURS 21."""
    load = Load(ended=15, small=10**6, at_once=20, large=2 * 10**6)
    with written(load.large) as (certs, files), serve(certs, "--output-memory", budget) as server:
        found = trio.run(run, server, load, files)
    assert (found.ended, found.exact) == (35, 35)
    assert found.idle < 0.3


def test_ended_jobs_with_output_on_the_disk_keep_no_job_from_starting(
    shared_certificates: Path, tmp_path: Path
) -> None:
    """BEHAVIOURS 22."""
    flags = ("--output-memory", "1M", "--spill-dir", str(tmp_path))
    with serve(shared_certificates, *flags, prefix=FEW_FILES) as server, server.connect() as client:
        for _ in range(300):
            job = client.start(["head", "-c", "20000", "/dev/zero"])
            assert client.wait(job.id).output == 20000
        assert client.wait(client.start(["true"]).id).exit_code == 0


def test_memory_of_removed_output_goes_back_to_the_system(shared_certificates: Path, tmp_path: Path) -> None:
    flags = ("--output-memory", "1G", "--job-memory", "1G", "--spill-dir", str(tmp_path))
    with serve(shared_certificates, *flags) as server, server.connect() as client:
        before = memory_of(server.process.pid)
        jobs = [client.start(printer(5 * MIB)).id for _ in range(60)]
        for job in jobs:
            assert client.wait(job).output == 5 * MIB
        assert memory_of(server.process.pid) > before + 300 * MIB
        # What is kept lies behind it in memory.
        assert client.wait(client.start(printer(MIB)).id).output == MIB
        for job in jobs:
            client.remove(job)
        eventually(lambda: memory_of(server.process.pid) < before + 64 * MIB, "memory goes back")
        used = processor_seconds(server.process.pid)
        time.sleep(0.5)
        assert processor_seconds(server.process.pid) - used < 0.2 * SLOW
