"""What the command line says of certificates that are not there, or of a name that the server's one lacks."""

import re
import shlex
from pathlib import Path

import pytest

from certs.authority import issue
from client.cli.exits import Exit
from tests.cli.program import Program, bare
from tests.harness import serve
from tests.tlshelp import authority, key, make_directory, save


@pytest.mark.parametrize("scheme", ["", "wss://"])
def test_a_name_that_the_servers_certificate_lacks(tmp_path: Path, scheme: str) -> None:
    """What is offered works, keeps the names that were there, and leaves everybody's certificates good."""
    certs = make_directory(tmp_path / "certs")
    names = ["build7", "*.example.org", "::1"]
    save(certs, server=issue(authority(), "server", purpose="server", san=names, key=key("server")))
    with serve(certs) as server:
        cli = Program(server.environment(scheme=scheme))
        refused = cli("list")
        assert refused.code == Exit.TLS
        assert refused.sentence == (
            f"The certificate of {server.address} is not good for 127.0.0.1, but for build7, *.example.org, "
            "::1: use a name that it holds, or have the server's operator add this one: `worker-service "
            "certs issue server --role server --san 'build7,*.example.org,::1,127.0.0.1' --force`."
        )
        if scheme:  # it is done once
            return
        found = re.search(r"`worker-service (.*)`", refused.sentence)
        assert found is not None
        before = (certs / "ca.crt").read_bytes()
        issued = cli(*shlex.split(found[1]))
        assert issued.code == 0
        assert all(name in issued.text for name in names)
        server.logged("certificates were reloaded")
        assert cli("list").code == 0
        assert (certs / "ca.crt").read_bytes() == before


def test_a_remote_client_is_not_told_to_make_an_authority(tmp_path: Path) -> None:
    cli = Program(bare())
    for address in ("build7.invalid:8443", "wss://192.0.2.7:8443", "[2001:db8::7]:8443"):
        result = cli("--server", address, "--certs", str(tmp_path), "--identity", "ada", "list")
        assert result.code == Exit.TLS
        assert result.sentence == (
            f"no certificate {tmp_path}/ca.crt: get ca.crt, ada.crt and ada.key from the server's operator, "
            "or name another directory with --certs."
        )
    for address in ("127.0.0.1:8443", "localhost:8443", "wss://[::1]:8443"):
        result = cli("--server", address, "--certs", str(tmp_path), "list")
        assert f"run `worker-service certs init --dir {tmp_path}`" in result.sentence


def test_a_second_authority_in_the_place_of_the_first_has_its_price_told(tmp_path: Path) -> None:
    certs = make_directory(tmp_path / "certs")
    refused = Program(bare())("certs", "init", "--dir", str(certs))
    assert refused.code == Exit.TLS
    assert refused.sentence.endswith(
        "or replace the files with --force; whatever the authority there has signed is then worth nothing."
    )


def test_variables_are_blamed_and_not_flags(tmp_path: Path) -> None:
    cli = Program(bare()).having(
        WORKER_SERVICE_SERVER="127.0.0.1:1", WORKER_SERVICE_CERTS=str(tmp_path), WORKER_SERVICE_IDENTITY="ada"
    )
    made = make_directory(tmp_path / "certs")
    assert cli("list").sentence.endswith("or name another directory with WORKER_SERVICE_CERTS.")
    certs, serve_ = ["certs", "issue", "ada", "--role", "user"], ["serve", "--listen", "127.0.0.1:0"]
    for words, end in ((certs, "or name its directory with"), (serve_, "or name another directory with")):
        flag = "--dir" if words is certs else "--certs"
        assert cli(*words).sentence.endswith(f"{end} WORKER_SERVICE_CERTS.")
        assert cli(*words, flag, "/nonexistent").sentence.endswith(f"{end} {flag}.")
    assert cli("list", "--certs", "/nonexistent").sentence.endswith("or name another directory with --certs.")
    missing = cli("list", "--certs", str(made))
    assert missing.sentence == (
        f"no certificate {made}/ada.crt: put the right file there, or name another directory with --certs, "
        "or another identity with WORKER_SERVICE_IDENTITY."
    )
    nobody = cli("list", "--certs", str(made), "--identity", "admin")
    assert nobody.sentence.endswith(" (Connection refused): check WORKER_SERVICE_SERVER, and that it runs.")
    for address in ("localhost", ":8443", "[::1"):
        result = cli.having(WORKER_SERVICE_SERVER=address)("list")
        assert result.code == Exit.USAGE
        assert result.sentence.startswith(f"WORKER_SERVICE_SERVER {address!r} is no server address: ")
    impatient = cli.having(WORKER_SERVICE_PATIENCE="long")("list")
    assert impatient.sentence.startswith("WORKER_SERVICE_PATIENCE 'long' is no length of time: ")
