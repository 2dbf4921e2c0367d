"""The worker.v1 protocol, sans-IO: bytes in, typed messages out (see PROTOCOL.md)."""
