"""Owns the proof that `certs init` passes on what it is given, and chooses well where it is given nothing."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from certs import authority
from certs.cli import app
from certs.errors import CertsError


class Recorder:
    """Stands in for `authority.init`, whose keys are slow."""

    def __init__(self) -> None:
        self.directory: Path | None = None
        self.options: dict[str, Any] = {}

    def __call__(self, directory: Path, **options: Any) -> list[Path]:
        self.directory, self.options = directory, options
        return [directory / "ca.crt", directory / "ca.key"]


@pytest.fixture
def init(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(authority, "init", recorder)
    monkeypatch.setattr(socket, "gethostname", lambda: "build7")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/config")
    monkeypatch.delenv("WORKER_SERVICE_CERTS", raising=False)
    return recorder


def run(*words: str) -> None:
    app(["init", *words], result_action="return_value", exit_on_error=False, print_error=False)


def test_defaults(init: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    assert init.directory == Path("/config/worker-service/certs")
    assert init.options == {
        "san": ["localhost", "127.0.0.1", "::1", "build7"],
        "force": False,
        "arc": "1.3.6.1.4.1.12345.1",
    }
    assert capsys.readouterr().out == (
        "/config/worker-service/certs/ca.crt\n/config/worker-service/certs/ca.key\n"
    )


def test_everything_given(init: Recorder) -> None:
    run("--dir", "/d", "--san", "a.example,192.0.2.7", "--san", "::7", "--force", "--arc", "1.2.840.9")
    assert init.directory == Path("/d")
    assert init.options == {"san": ["a.example", "192.0.2.7", "::7"], "force": True, "arc": "1.2.840.9"}


def test_the_environment_names_a_directory(init: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_SERVICE_CERTS", "/from/env")
    run()
    assert init.directory == Path("/from/env")
    monkeypatch.setenv("WORKER_SERVICE_CERTS", "")
    run()
    assert init.directory == Path("/config/worker-service/certs")
    run("--dir", "/d")
    assert init.directory == Path("/d")


def test_a_host_name_that_is_none_is_left_out(init: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "(none)")
    run()
    assert init.options["san"] == ["localhost", "127.0.0.1", "::1"]


@pytest.mark.parametrize(
    "words", [["--san", "host:1"], ["--san", "a,,b"], ["--san", ""], ["--arc", "x"], ["--arc", ""]]
)
def test_bad_input_is_a_sentence_for_who_mounts_the_app(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(CertsError) as caught:
        run("--dir", str(tmp_path / "certs"), *words)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "certs").exists()


def test_mounting_is_cheap() -> None:
    code = "import sys, certs.cli; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"cryptography", "certs.authority", "trio"} & set(output.split())
