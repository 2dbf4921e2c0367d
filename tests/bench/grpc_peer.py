"""Owns the peer of our own kind: a grpcio service over mutual TLS that runs `cat` and streams its output.

As a program, `python -m tests.bench.grpc_peer CERTS`, it prints its port as JSON and serves until it
is killed.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

CHUNK_BYTES = 256 * 1024
SERVICE, METHOD = "bench.Worker", "Cat"


def main() -> None:
    """Serve, with bytes for messages: neither side pays for protobuf."""
    key, certificate, ca = _credentials(Path(sys.argv[1]), "server")
    server = grpc.server(ThreadPoolExecutor(4))
    handler = grpc.unary_stream_rpc_method_handler(_cat)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    credentials = grpc.ssl_server_credentials([(key, certificate)], ca, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    sys.stdout.write(f"{json.dumps(port)}\n")
    sys.stdout.flush()
    server.wait_for_termination()


def cat(certs: Path, port: int, path: str) -> Iterator[bytes]:
    """Ask such a server for a file's bytes."""
    key, certificate, ca = _credentials(certs, "admin")
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    options = [("grpc.ssl_target_name_override", "localhost")]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        yield from channel.unary_stream(f"/{SERVICE}/{METHOD}")(path.encode())


def _cat(path: bytes, _context: object) -> Iterator[bytes]:
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        while chunk := process.stdout.read(CHUNK_BYTES):
            yield chunk


def _credentials(certs: Path, identity: str) -> tuple[bytes, bytes, bytes]:
    names = (f"{identity}.key", f"{identity}.crt", "ca.crt")
    key, certificate, ca = ((certs / name).read_bytes() for name in names)
    return key, certificate, ca


if __name__ == "__main__":
    main()
