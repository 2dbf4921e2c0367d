"""A server whose own cgroup, or one above, was killed before: Linux kills what is born into another one."""

import os
from pathlib import Path

import pytest

from tests.harness import serve
from worker import cgroupfs

pytestmark = pytest.mark.host
UNIFIED = next(
    (
        path
        for path in map(Path, ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"))
        if (path / "cgroup.procs").exists()
    ),
    None,
)


@pytest.mark.parametrize("place", [".", "inner"])
def test_jobs_start_where_a_cgroup_above_the_server_was_killed(shared_certificates: Path, place: str) -> None:
    if UNIFIED is None or not (UNIFIED / "cgroup.controllers").exists():
        pytest.skip("NOT TESTED: this host has no cgroup v2")
    killed = UNIFIED / f"test-killed-{os.getpid()}"
    (killed / "inner").mkdir(parents=True)
    try:
        try:
            (killed / "cgroup.kill").write_text("1")
        except FileNotFoundError:
            pytest.skip("NOT TESTED: this kernel has no cgroup.kill")
        procs = killed / place / "cgroup.procs"
        prefix = ("sh", "-c", f'echo $$ > {procs} && exec "$@"', "sh")
        parent = ("--cgroup-parent", "/") if os.geteuid() == 0 else ()
        with serve(shared_certificates, *parent, prefix=prefix) as server, server.connect() as client:
            for _ in range(3):
                assert client.wait(client.start(["true"]).id).exit_code == 0
    finally:
        assert cgroupfs.remove_tree(str(killed))
