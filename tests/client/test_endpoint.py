"""A server's address, as people write it."""

import pytest

from client.endpoint import Endpoint
from client.errors import AddressError


@pytest.mark.parametrize(
    ("text", "endpoint", "shown"),
    [
        ("127.0.0.1:8443", Endpoint("127.0.0.1", 8443), "127.0.0.1:8443"),
        ("build-7.example.org:1", Endpoint("build-7.example.org", 1), "build-7.example.org:1"),
        ("[::1]:65535", Endpoint("::1", 65535), "[::1]:65535"),
        ("wss://localhost:8443", Endpoint("localhost", 8443, websocket=True), "localhost:8443"),
        ("wss://localhost:8443/", Endpoint("localhost", 8443, websocket=True), "localhost:8443"),
        ("wss://[fe80::1%eth0]:443", Endpoint("fe80::1%eth0", 443, websocket=True), "[fe80::1%eth0]:443"),
    ],
)
def test_addresses(text: str, endpoint: Endpoint, shown: str) -> None:
    assert Endpoint.parse(text) == endpoint
    assert str(endpoint) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        ":8443",
        "localhost:",
        "localhost:http",
        "localhost:-1",
        "localhost:0",
        "localhost:65536",
        "localhost:٨",  # a digit to str.isdigit, and none to us
        "::1:8443",
        "[::1]",
        "[]:8443",
        "[localhost]:8443",
        "ws://localhost:8443",
        "https://localhost:8443",
        "wss://",
        "wss://localhost",
        "wss://localhost:8443/path",
        "user@:8443:",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        Endpoint.parse(text)
    assert repr(text) in str(caught.value)
    assert str(caught.value).endswith(".")
