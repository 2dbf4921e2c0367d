"""What both clients' methods may not be given is refused in words, before the server is asked."""

from pathlib import Path
from typing import Any

import pytest

from client.errors import CertificatesError
from client.options import Gaps
from tests.client.either import KINDS, connected, redialling
from tests.client.fake import JOB, FakeServer
from tests.harness import Server
from wire.messages import Request

pytestmark = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"argv": "ls -la"}, TypeError, r"one string: write \['ls', '-la'\], or \['sh', '-c', 'ls -la'\]"),
        ({"argv": b"ls"}, TypeError, r"one string: write \[b'ls'\]"),
        ({"argv": None}, TypeError, "argv must be a list of words, not NoneType"),
        ({"argv": {"ls"}}, TypeError, "argv must be a list of words, not set"),
        ({"argv": []}, ValueError, "argv is empty"),
        ({"argv": ["head", "-n", 5]}, TypeError, r"argv\[2\] must be a str, not int 5"),
        ({"argv": ["echo", "a\0b"]}, ValueError, r"argv\[1\] holds a NUL byte"),
        ({"argv": ["echo", "\ud800"]}, ValueError, r"argv\[1\] is no text that can be encoded"),
        ({"env": ["A=1"]}, TypeError, "env must be a dict of variables, not list"),
        ({"env": {"A": 1}}, TypeError, r"env\['A'\] must be a str, not int 1"),
        ({"env": {1: "A"}}, TypeError, "a variable's name in env must be a str, not int 1"),
        ({"env": {"A": "\0"}}, ValueError, r"env\['A'\] holds a NUL byte"),
        ({"env": {"A\0": "x"}}, ValueError, "name in env holds a NUL byte"),
        ({"env": {"A=B": "x"}}, ValueError, "'A=B' in env cannot be a variable's name"),
        ({"env": {"": "x"}}, ValueError, "'' in env cannot be a variable's name"),
        ({"cwd": 5}, TypeError, "cwd must be a str, not int 5"),
        ({"cwd": "/tmp\0"}, ValueError, "cwd holds a NUL byte"),
        ({"limits": {"cpu": 3}}, TypeError, "limits must be Limits, not dict"),
        ({"seconds": "5"}, TypeError, "seconds must be int or float, not str '5'"),
        ({"seconds": True}, TypeError, "seconds must be int or float, not bool"),
        ({"merge": 1}, TypeError, "merge must be bool, not int 1"),
        ({"user": 0}, TypeError, "user must be str, not int 0"),
        ({"id": 7}, TypeError, "id must be str, not int 7"),
    ],
)
async def test_what_no_job_can_have(
    kind: str, arguments: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    server = FakeServer()
    async with redialling(kind, [server]) as client:
        with pytest.raises(error, match=sentence):
            await client.start(**{"argv": ["true"], **arguments})
    assert not [message for message in server.heard if isinstance(message, Request)]


async def test_a_job_is_named_by_its_id(kind: str) -> None:
    server = FakeServer()
    unknown: Any = JOB
    number: Any = 5
    async with redialling(kind, [server]) as client:
        for call in (client.stop, client.query, client.wait, client.remove):
            with pytest.raises(
                TypeError, match=r"named by its id, a str, and not by JobStatus.*: write job\.id"
            ):
                await call(unknown)
        with pytest.raises(TypeError, match="and not by int 5"):
            client.stream(number)
    assert not [message for message in server.heard if isinstance(message, Request)]


async def test_gaps_raise_or_are_yielded(kind: str) -> None:
    wrong: Any = "ignore"
    right: Gaps = "yield"
    async with redialling(kind, [FakeServer()]) as client:
        with pytest.raises(ValueError, match="'raise' or 'yield'"):
            client.stream("x", gaps=wrong)
        with pytest.raises(TypeError, match="tail"):
            client.stream("x", gaps=right, tail=5)


async def test_bytes_paths_and_tuples_are_words(kind: str, server: Server, tmp_path: Path) -> None:
    words: Any = ("echo", b"\xff", tmp_path)
    async with connected(kind, server.address, server.certs) as client:
        job = await client.start(words, cwd=tmp_path.as_posix())
        assert job.argv == (b"echo", b"\xff", bytes(tmp_path))


async def test_a_directory_of_certificates_as_text(kind: str, server: Server) -> None:
    certs: Any = server.certs.as_posix()
    async with connected(kind, server.address, certs) as client:
        assert client.hello.identity == "admin"


async def test_the_usual_directory_of_certificates(
    kind: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual: Any = None
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(CertificatesError, match=str(tmp_path / "worker-service" / "certs")):
        async with connected(kind, server.address, usual):
            pytest.fail("it connected")
    (tmp_path / "worker-service").mkdir()
    (tmp_path / "worker-service" / "certs").symlink_to(server.certs)
    async with connected(kind, server.address, usual) as client:
        assert client.hello.identity == "admin"
