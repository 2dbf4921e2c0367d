"""A private key that others on the host can get at is told: by the server, by doctor, by the commands."""

import json
import os
import shutil
import signal
from pathlib import Path

from tests.cli.program import Program, bare
from tests.harness import serve


def test_a_key_that_is_not_private(shared_certificates: Path, tmp_path: Path) -> None:
    place = tmp_path / "certs"
    shutil.copytree(shared_certificates, place)
    (place / "server.key").chmod(0o644)
    (place / "admin.key").chmod(0o604)
    with serve(place) as server:
        told = server.logged("the private key is not private")
        assert told["level"] == "warning"
        assert told["reason"] == (
            f"{place}/server.key can be read by other users of this host: run `chmod 600 {place}/server.key`."
        )
        cli = Program(server.environment())
        listed = cli("list")
        assert (listed.code, listed.sentence) == (
            0,
            f"note: {place}/admin.key can be read by other users of this host: "
            f"run `chmod 600 {place}/admin.key`.",
        )
        (place / "server.key").chmod(0o600)
        (place / "admin.key").chmod(0o600)
        place.chmod(0o777)
        server.process.send_signal(signal.SIGHUP)
        told = server.logged("the private key is not private", 2)
        assert told["reason"].endswith(f"run `chmod go-w {place}`.")
        assert f"`chmod go-w {place}`" in cli("list").sentence
        place.chmod(0o700)
        assert cli("list").err == b""


def test_doctor_finds_it(shared_certificates: Path, tmp_path: Path) -> None:
    place = tmp_path / "certs"
    shutil.copytree(shared_certificates, place)
    doctor = Program(bare() | {"WORKER_SERVICE_CERTS": str(place)})

    def found() -> list[tuple[bool, str]]:
        lines = map(json.loads, doctor("doctor", "--json").text.splitlines())
        return [(line["ok"], line["detail"]) for line in lines if line["name"] == "private key"]

    assert found() == [(True, f"No other user of this host can read or replace {place}/server.key.")]
    (place / "server.key").chmod(0o666)
    place.chmod(0o777)
    (key_ok, key), (place_ok, folder) = found()
    assert not key_ok
    assert not place_ok
    assert f"`chmod 600 {place}/server.key`" in key
    assert f"`chmod go-w {place}`" in folder
    assert doctor("doctor").code == 1


def test_a_key_that_is_a_fifo_is_no_wait(shared_certificates: Path, tmp_path: Path) -> None:
    place = tmp_path / "certs"
    shutil.copytree(shared_certificates, place)
    (place / "admin.key").unlink()
    os.mkfifo(place / "admin.key")
    result = Program(bare() | {"WORKER_SERVICE_CERTS": str(place)})("list")
    assert (result.code, result.sentence) == (6, f"cannot read {place}/admin.key: it is a FIFO, and no file.")
