"""Owns the way to run many commands of one version at the price of one start; see zygote.py."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cli.program import Program, Result
from tests.harness import next_line


@contextmanager
def commands(program: Program) -> Iterator[Callable[..., Result]]:
    """Runs a program, one command after the other, at the price of one start."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "zygote.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=program.root,
        env=program.environment | {"PYTHONPATH": str(program.root)},
    )

    def run(*words: str) -> Result:
        assert process.stdin is not None
        process.stdin.write(json.dumps(words) + "\n")
        process.stdin.flush()
        code, out, err = json.loads(next_line(process))
        return Result(code, out.encode("latin-1"), err.encode("latin-1"))

    with process:
        try:
            yield run
        finally:
            process.kill()
