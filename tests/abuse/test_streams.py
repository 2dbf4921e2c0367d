"""Who asks for many streams and reads none costs the server what its connections' buffers hold."""

from contextlib import ExitStack
from pathlib import Path

from tests.abuse.insider import Insider
from tests.harness import serve
from tests.proc import memory_of
from wire.messages import Request

MEBIBYTE = 2**20
CONNECTIONS, STREAMS = 4, 256


def test_a_thousand_streams_that_nobody_reads(shared_certificates: Path) -> None:
    with serve(shared_certificates) as server, server.connect() as client, ExitStack() as stack:
        job = client.start(["head", "-c", f"{150 * MEBIBYTE}", "/dev/zero"]).id
        assert client.wait(job).output == 150 * MEBIBYTE
        before = memory_of(server.process.pid)
        held = []
        for _ in range(CONNECTIONS):
            tls, connection = Insider(server.port, shared_certificates, job, 60).native()
            stack.enter_context(tls)
            held.append((tls, connection))
            # Half of them begin on the disk, and half in memory.
            for number in range(1, STREAMS + 1):
                params = {"id": job, "offset": (number % 2) * 149 * MEBIBYTE + number}
                tls.sendall(connection.send(Request(number, "stream", params, credit=2**31 - 1)))
        client.query(job)
        most = before
        for _ in range(200):
            client.query(job)
            most = max(most, memory_of(server.process.pid))
        # 256 KiB for each of them would be 256 MiB.
        assert most - before < 100 * MEBIBYTE
