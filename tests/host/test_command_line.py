"""The line that the design began with, on a host that can enforce its limits: it must start, and sort."""

import re
from pathlib import Path

import pytest

from tests.cli.program import Program
from tests.harness import serve

pytestmark = pytest.mark.host
LINES = 20_000


def test_the_first_line_of_the_design(shared_certificates: Path, tmp_path: Path) -> None:
    (tmp_path / "largefile.txt").write_text("".join(f"{number * 7919 % LINES}\n" for number in range(LINES)))
    words = ["start", "-command", "sort", "largefile.txt -o sortedfile.txt"]
    words += ["--cpu-limit", "512", "--memory-limit", "500M", "--disk-limit", "500"]
    with serve(shared_certificates, cwd=tmp_path) as running:
        cli = Program(running.environment())
        started = cli(*words)
        identifier = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
        assert re.fullmatch(rf"job with id {identifier} started with resource limits\.\n", started.text)
        assert (started.code, started.err) == (0, b"")
        assert cli("wait", started.text.split()[3]).code == 0
    lines = (tmp_path / "sortedfile.txt").read_text().splitlines()
    assert lines == sorted(str(number) for number in range(LINES))
