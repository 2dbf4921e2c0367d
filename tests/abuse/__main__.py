"""Owns the table of what others feel of an attack: `python -m tests.abuse [SECONDS]`, with RSA-4096 keys."""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.abuse.asking import METHODS
from tests.abuse.figures import ALONE, FLOOD, INSIDERS, asking, flood, frames, insider
from tests.abuse.frames import KINDS
from tests.harness import Server, serve

#: Of one identity, each of which sends the same: as many as it may have, but for one that starts a job.
CONNECTIONS = 255
#: A job that is long to tell of, and of which many short lines were printed.
LARGE = ["sh", "-c", "yes | head -c 40000000; exec sleep 600", *map(str, range(65_000))]


def main(seconds: float) -> None:
    """Measure each attack on a server of its own, and print a line for it."""
    with tempfile.TemporaryDirectory() as folder:
        certs = Path(folder) / "certs"
        command = [sys.executable, "-m", "client.cli", "certs", "init", "--dir", str(certs)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with serve(certs) as server:
            _say(f"one connection that says nothing: {flood(server, seconds, 'silent=1')}")
        for kinds in (FLOOD, *ALONE):
            with serve(certs) as server:
                _say(f"5,000 connections ({', '.join(kinds)}): {flood(server, seconds, *kinds)}")
        with serve(certs, "--max-waiting", "512") as server:
            _say(f"5,000, opened again whenever they are cut (--max-waiting 512): {flood(server, seconds)}")
        for kind in INSIDERS:
            with serve(certs) as server:
                _say(f"a client with a certificate, {kind}: {insider(server, kind, seconds)}")
        for identity in ("user", "admin"):
            for kind in (*KINDS, "ws-cancels", "ws-partial"):
                with serve(certs) as server:
                    told = frames(server, kind, identity, CONNECTIONS, seconds)
                    _say(f"{CONNECTIONS} connections of a {identity}, {kind}: {told}, {_longest(server)}")
            for what in (*METHODS, *(f"{method}-unread" for method in ("query", "list", "stream"))):
                with serve(certs) as server:
                    told = asking(server, what, identity, CONNECTIONS, seconds, argv=LARGE)
                    _say(f"{CONNECTIONS} connections of a {identity}, {what}: {told}, {_longest(server)}")


def _longest(server: Server) -> str:
    """End a server, and return what it says of its event loop."""
    server.end()
    told = server.logged("ended")
    return f"longest round {told['longest_round_ms']} ms, {told['longest_round_cpu_ms']} of CPU"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10)
