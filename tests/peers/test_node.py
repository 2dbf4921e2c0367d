"""A client in another language, written from the protocol's page alone, against a real server."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.harness import PATIENCE, Server
from tests.proxy import proxy

HERE = Path(__file__).parent / "node"
SIZE, CUTS = 20_000_000, 10


def node() -> str:
    """Where Node is, if its packages are there too."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("NOT TESTED: there is no `node`, for a client in another language; install nodejs")
    if not (HERE / "node_modules").is_dir():
        pytest.skip(f"NOT TESTED: Node has no packages for it; run `npm ci` in {HERE}")
    return found


@pytest.mark.parametrize("transport", ["native", "websocket"])
def test_a_client_in_another_language(server: Server, transport: str, tmp_path: Path) -> None:
    program, data = node(), os.urandom(SIZE)
    file = tmp_path / "random"
    file.write_bytes(data)
    with proxy(server.port, seed=12) as between:
        between.cut_later(CUTS, SIZE // CUTS)
        config = {
            "transport": transport,
            "host": "127.0.0.1",
            "port": server.port,
            "proxy": between.port,
            "certs": str(server.certs),
            "file": str(file),
        }
        command = [program, str(HERE / "check.mjs"), json.dumps(config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    shown = json.loads(done.stdout)
    assert shown == {"size": SIZE, "sha256": hashlib.sha256(data).hexdigest(), "cuts": CUTS}
