"""A client whose certificate loses its worth is told so, over every transport, and does not come back."""

import signal
from pathlib import Path

import pytest

from certs.revoke import revoke
from tests.client.either import KINDS, connected
from tests.harness import serve
from tests.tlshelp import make_directory
from wire.errors import ErrorCode, RequestError


@pytest.mark.parametrize("kind", KINDS)
async def test_every_call_says_that_it_was_revoked(kind: str, tmp_path: Path) -> None:
    certs = make_directory(tmp_path / "certs")
    with serve(certs) as server, server.connect() as admin:
        job = admin.start(["sleep", "600"])
        async with (
            connected(kind, server.address, certs, identity="user") as native,
            connected(kind, f"wss://{server.address}", certs, identity="user") as websocket,
        ):
            revoke(certs, ["user"])
            server.process.send_signal(signal.SIGHUP)
            for client in (native, websocket):
                for call in (client.wait, client.query):
                    with pytest.raises(RequestError, match="has been revoked") as caught:
                        await call(job.id)
                    assert caught.value.code is ErrorCode.REVOKED
        assert not [line for line in server.log if line["message"] == "a TLS handshake was refused"]
        admin.stop(job.id)
