"""Owns one subscriber as a program: `python -m tests.bench.witness ADDRESS CERTS JOB`.

It prints a line once output has begun to come, and one with the count of bytes and the time of the last.
"""

import json
import sys
import time
from pathlib import Path

from client.blocking import connect
from wire.messages import Output


def main(address: str, certs: Path, job_id: str) -> None:
    """Follow the job to its end."""
    came = 0
    with connect(address, certs=certs, identity="user") as client, client.stream(job_id) as stream:
        for piece in stream:
            assert isinstance(piece, Output), piece
            if not came:
                _print("begun")
            came += len(piece.data)
    _print({"came": came, "at": time.monotonic()})


def _print(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
