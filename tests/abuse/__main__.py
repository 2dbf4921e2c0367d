"""Owns the table of what others feel of an attack: `python -m tests.abuse [SECONDS]`, with RSA-4096 keys."""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.abuse.figures import ALONE, FLOOD, INSIDERS, flood, frames, insider
from tests.abuse.frames import KINDS
from tests.harness import serve

#: Of one identity, each of which sends the same.
CONNECTIONS = 256


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
                    figures = frames(server, kind, identity, CONNECTIONS, seconds)
                    server.end()
                    told = server.logged("ended")
                    longest = "longest round {longest_round_ms} ms, {longest_round_cpu_ms} of CPU".format(
                        **told
                    )
                    longest += f" ({told['longest_round_cpu_ms']} of CPU)"
                    _say(f"{CONNECTIONS} connections of a {identity}, {kind}: {figures}, {longest}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10)
