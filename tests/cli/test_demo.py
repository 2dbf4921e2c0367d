"""The demonstration keeps its promises here, leaves nothing behind, and fails where a promise is broken."""

import re
import subprocess
import sys
from pathlib import Path

from tests.cli.program import ROOT, bare
from tests.harness import PATIENCE


def demonstrate(folder: Path, before: str = "pass") -> tuple[int, list[str]]:
    """Run the demonstration, changed by some Python before it begins; return its code and lines."""
    code = f"import sys, tests.demo as demo; {before}; sys.exit(demo.main())"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env=bare() | {"TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=5 * PATIENCE,
        check=False,
    )
    assert list(folder.iterdir()) == []
    assert "Traceback" not in done.stdout
    return done.returncode, done.stdout.splitlines()


def test_all_as_promised(tmp_path: Path) -> None:
    code, lines = demonstrate(tmp_path)
    assert code == 0, lines
    assert re.fullmatch(r"demo: all as promised in \d+\.\d s", lines[-1])


def test_a_broken_promise_is_told(tmp_path: Path) -> None:
    code, lines = demonstrate(tmp_path, "demo.SORT = 'start -command true'")
    assert code == 1
    assert lines[-1].startswith("demo: not as promised: ")
