"""What the harness reads of the README, and what it says where it cannot run."""

from pathlib import Path

import pytest

from tests.systemd.__main__ import PROGRAMS, find_missing, main
from tests.systemd.root import ROOT, read_instructions
from tests.vm.machine import VirtualMachineError

README = (ROOT / "README.md").read_text()


def test_the_readmes_instructions_end_with_the_start() -> None:
    before, last = read_instructions(README)
    assert "pip install ." in before
    assert "/etc/systemd/system/" in before
    assert "systemctl" not in before
    assert last == "systemctl daemon-reload && systemctl enable --now worker-service"


@pytest.mark.parametrize("old", ["## As a systemd service", "systemctl ", "python3 -m venv /opt"])
def test_instructions_that_are_not_there(old: str) -> None:
    new = "systemctl status\n" if old.startswith("python3") else ""
    with pytest.raises(VirtualMachineError, match="As a systemd service"):
        read_instructions(README.replace(old, new))


def test_what_is_missing_is_named_and_nothing_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda program, path: None)
    monkeypatch.setattr("sys.argv", ["just test-systemd"])
    said = find_missing(tmp_path)
    for program, package in PROGRAMS.items():
        assert f"{program} is missing: install the Debian package {package}." in said
    assert any("linux-image-amd64" in sentence for sentence in said)
    assert main() == 0
    told = capsys.readouterr().err
    assert told.startswith("SKIPPED, NOTHING WAS TESTED")
    assert "debootstrap is missing" in told
