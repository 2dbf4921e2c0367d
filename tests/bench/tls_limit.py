"""Owns the limit of any Python server on Trio: a bare SSLStream that sends from memory, and its reader.

As a program, `python -m tests.bench.tls_limit CERTS SIZE`, it prints its port as JSON and sends SIZE
bytes to each client until it is killed.
"""

import json
import sys
from functools import partial
from pathlib import Path

import trio

from certs.contexts import client_context, server_context

CHUNK_BYTES = 256 * 1024


async def _serve(certs: Path, size: int) -> None:
    context = server_context(certs)
    chunk = bytes(CHUNK_BYTES)

    async def send(stream: trio.SSLStream[trio.SocketStream]) -> None:
        async with stream:
            left = size
            while left:
                piece = chunk[:left]
                await stream.send_all(piece)
                left -= len(piece)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    sys.stdout.write(f"{json.dumps(listener.socket.getsockname()[1])}\n")
    sys.stdout.flush()
    await trio.serve_listeners(send, [trio.SSLListener(listener, context)])


async def read(certs: Path, port: int) -> int:
    """Take all that such a server sends, and return how many bytes it was."""
    stream = await trio.open_ssl_over_tcp_stream(
        "127.0.0.1", port, ssl_context=client_context(certs, "admin")
    )
    count = 0
    async with stream:
        async for data in stream:
            count += len(data)
    return count


if __name__ == "__main__":
    trio.run(partial(_serve, Path(sys.argv[1]), int(sys.argv[2])))
