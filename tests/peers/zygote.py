"""Runs commands of the version that PYTHONPATH leads to, each in a fork of a process that has imported it.

It reads the words of a command from each line of stdin, as JSON, and prints its exit code, stdout and stderr.
"""

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NoReturn

from client.cli import main


def become(words: list[str], folder: Path) -> NoReturn:
    """Run a command as this process's last deed."""
    code = 1
    try:
        for number, path in enumerate((Path(os.devnull), folder / "out", folder / "err")):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(descriptor, number)
            os.close(descriptor)
        main(words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except Exception:  # noqa: BLE001  # nothing of ours may run in it any more
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


with tempfile.TemporaryDirectory() as name:
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            become(json.loads(line), Path(name))
        _, status = os.waitpid(pid, 0)
        told = [(Path(name) / stream).read_bytes().decode("latin-1") for stream in ("out", "err")]
        sys.stdout.write(json.dumps([os.waitstatus_to_exitcode(status), *told]) + "\n")
        sys.stdout.flush()
