"""Owns the proof that `certs show` and `export` say what is so, to people, programs and browsers."""

import datetime
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs12

from certs.authority import issue, make_ca
from certs.bundle import export
from certs.cli import app
from certs.errors import ArgumentsError, CertsError
from certs.revoke import revoke
from certs.roles import Role
from certs.show import Shown, files, show, words
from tests.tlshelp import authority, doubled_role, key, save

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY = datetime.timedelta(days=1)


def one(path: Path, now: datetime.datetime = NOW) -> Shown:
    (shown,) = show(path, now)
    return shown


def client(directory: Path, **options: Any) -> Path:
    save(directory, ada=issue(authority(), "ada", key=key("ada"), **options))
    return directory / "ada.crt"


def test_every_certificate_of_a_directory_has_its_paragraph(certificates: Path) -> None:
    assert [path.name for path in files(certificates)] == ["ca.crt", "admin.crt", "server.crt", "user.crt"]
    revoke(certificates)
    assert [path.name for path in files(certificates)][:2] == ["ca.crt", "ca.crl"]
    roles = [one(path).role for path in files(certificates)]
    assert roles == ["authority", "list", "Admin", "server", "User"]
    admin = words(one(certificates / "admin.crt"))
    serial = f"{x509.load_pem_x509_certificate((certificates / 'admin.crt').read_bytes()).serial_number:040X}"
    assert admin.splitlines() == [
        f"{certificates}/admin.crt",
        "  subject:  CN=admin",
        f"  serial:   {serial}",
        "  role:     Admin",
        f"  valid:    from {NOW - datetime.timedelta(minutes=5):%Y-%m-%d} to "
        f"{NOW - datetime.timedelta(minutes=5) + 45 * DAY:%Y-%m-%d}, 44 days left",
    ]
    assert "hosts:    localhost, 127.0.0.1, ::1" in words(one(certificates / "server.crt"))


@pytest.mark.parametrize(
    ("left", "text", "state"),
    [
        (2 * DAY, ", 2 days left", "good"),
        (DAY, ", 1 day left", "good"),
        (DAY - datetime.timedelta(seconds=1), ", less than a day left", "good"),
        (datetime.timedelta(), ": ENDED", "ended"),
        (-DAY, ": ENDED", "ended"),
    ],
)
def test_days_left_in_words(certificates: Path, left: datetime.timedelta, text: str, state: str) -> None:
    path = client(certificates, role=Role.USER, not_after=NOW + 9 * DAY)
    shown = one(path, NOW + 9 * DAY - left)
    assert f"{NOW + 9 * DAY:%Y-%m-%d}{text}\n" in words(shown)
    assert (shown.state, shown.days_left) == (state, left.days)


def test_what_is_odd_is_said(certificates: Path, tmp_path: Path) -> None:
    early = one(client(certificates, role=Role.USER, not_before=NOW + DAY))
    assert early.state == "early"
    assert ": not yet" in words(early)
    nobody = words(one(client(certificates)))
    assert "role:     none, so its bearer may do nothing" in nobody
    assert "note:     the certificate holds no role: ask for one with" in nobody
    save(certificates, ada=doubled_role())
    assert "more than once" in words(one(certificates / "ada.crt"))
    stranger = issue(authority("other"), "eve", role=Role.ADMIN, key=key("eve"))
    save(certificates, eve=stranger)
    assert "no authority in the ca.crt beside it has signed it" in words(one(certificates / "eve.crt"))
    save(tmp_path / "alone", eve=stranger)
    assert "note:" not in words(one(tmp_path / "alone/eve.crt"))


def test_what_was_revoked_and_by_which_list(certificates: Path) -> None:
    revoke(certificates, ["user"], days=20)
    user, listed = one(certificates / "user.crt"), one(certificates / "ca.crl")
    assert user.state == "revoked"
    assert "revoked:  yes" in words(user)
    assert listed.revoked == (user.serial,)
    text = words(listed)
    assert "list:     number 1 of the certificates that worker-service CA has revoked\n" in text
    assert f"revoked:  {user.serial}\n" in text
    assert ", 19 days left" in text
    assert ": ENDED" in words(one(certificates / "ca.crl", NOW + 21 * DAY))


def test_a_name_cannot_forge_a_line(certificates: Path) -> None:
    save(certificates, ada=issue(authority(), "ada\n  role:     Admin\x1b[2J", key=key("ada")))
    text = words(one(certificates / "ada.crt"))
    assert "\x1b" not in text
    assert sum(line.startswith("  role:") for line in text.splitlines()) == 1


def test_several_in_one_file(certificates: Path) -> None:
    both = authority().certificate_pem() + make_ca("next CA", key=key("next")).certificate_pem()
    (certificates / "ca.crt").write_bytes(both)
    assert [shown.subject for shown in show(certificates / "ca.crt", NOW)] == [
        "CN=worker-service CA",
        "CN=next CA",
    ]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int | None, str, str]:
    code = app(list(words), result_action="return_value", exit_on_error=False, print_error=False)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command(certificates: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (certificates / "bad.crt").write_text("garbage")
    code, out, err = run(capsys, "show", "--dir", str(certificates))
    assert code == 6
    assert out.count("  subject:  ") == 4
    assert err == f"worker-service: {certificates}/bad.crt holds no certificate in PEM.\n"
    code, out, err = run(capsys, "show", str(certificates / "user.crt"), "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert (told["role"], told["subject"], told["state"], told["days_left"]) == (
        "User",
        "CN=user",
        "good",
        44,
    )
    assert datetime.datetime.fromisoformat(told["ends"]).tzinfo is not None
    with pytest.raises(CertsError, match="there is no file"):
        run(capsys, "show", str(certificates / "nobody.crt"))
    with pytest.raises(CertsError, match="cannot read"):
        run(capsys, "show", "--dir", str(certificates / "nowhere"))
    (certificates / "empty").mkdir()
    with pytest.raises(CertsError, match="holds no certificates"):
        run(capsys, "show", "--dir", str(certificates / "empty"))


def test_the_commands_say_what_they_made(certificates: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "renew", "user", "--dir", str(certificates))
    assert not code
    assert out.startswith(f"{certificates}/user.crt\n  subject:  CN=user\n")
    assert "  note:     it replaces " in out
    code, out, _ = run(capsys, "revoke", "user", "admin", "--dir", str(certificates))
    assert not code
    assert out.count("revoked ") == 3  # the user's old one too
    assert out.splitlines()[3] == f"{certificates}/ca.crl"
    assert out.splitlines()[4].startswith("  list 1 of 3 certificates, good until ")


def test_a_browser_gets_it_all_in_one_file(certificates: Path, tmp_path: Path) -> None:
    path = tmp_path / "admin.p12"
    export(certificates, "admin", path, "correct horse")
    assert path.stat().st_mode & 0o777 == 0o600
    private, certificate, others = pkcs12.load_key_and_certificates(path.read_bytes(), b"correct horse")
    assert private is not None
    assert certificate == x509.load_pem_x509_certificate((certificates / "admin.crt").read_bytes())
    assert others == [authority().certificate]
    command = ["openssl", "pkcs12", "-in", str(path), "-noout", "-passin"]
    for password, code in (("correct horse", 0), ("wrong", 1)):
        done = subprocess.run([*command, f"pass:{password}"], capture_output=True, check=False)
        assert bool(done.returncode) is bool(code)


def test_what_is_not_exported(certificates: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.p12"
    with pytest.raises(ArgumentsError, match="a password is needed"):
        export(certificates, "admin", path, "")
    with pytest.raises(CertsError, match="there is no file"):
        export(certificates, "nobody", path, "x")
    (certificates / "user.key").write_bytes((certificates / "admin.key").read_bytes())
    with pytest.raises(CertsError, match=r"user\.key is not the key of"):
        export(certificates, "user", path, "x")
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(CertsError, match=r"already holds x\.p12"):
        export(certificates, "admin", path, "x")
    assert path.read_text() == "precious"
    export(certificates, "admin", path, "x", force=True)
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_password_comes_from_the_environment_or_standard_input(
    certificates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io
    import sys

    def export_to(name: str) -> bytes:
        path = tmp_path / name
        run(capsys, "export", "admin", "--p12", str(path), "--dir", str(certificates))
        return path.read_bytes()

    monkeypatch.setenv("WORKER_SERVICE_P12_PASSWORD", "from env")
    assert pkcs12.load_key_and_certificates(export_to("env.p12"), b"from env")
    monkeypatch.delenv("WORKER_SERVICE_P12_PASSWORD")
    monkeypatch.setattr(sys, "stdin", io.StringIO("from stdin \nrest\n"))
    assert pkcs12.load_key_and_certificates(export_to("stdin.p12"), b"from stdin ")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(ArgumentsError, match="a password is needed"):
        export_to("none.p12")
