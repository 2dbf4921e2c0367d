"""Owns the probe: ``python -m tests.soak.probe ADDRESS CERTS`` prints the ms that its queries took."""

import contextlib
import sys
import time
from pathlib import Path

from client.blocking import connect
from client.errors import ClientError
from wire.errors import RequestError

#: Seconds between two queries.
PERIOD = 0.1
#: A job that there never is.
NOBODY = "ffffffff-0000-0000-0000-000000000000"


def main() -> None:
    """Ask until the server is gone."""
    address, certs = sys.argv[1:]
    with (
        contextlib.suppress(ClientError),
        connect(address, certs=Path(certs), identity="user", patience=0) as client,
    ):
        while True:
            began = time.monotonic()
            with contextlib.suppress(RequestError):
                client.query(NOBODY)
            sys.stdout.write(f"{(time.monotonic() - began) * 1000:.2f}\n")
            sys.stdout.flush()
            time.sleep(PERIOD)


if __name__ == "__main__":
    main()
