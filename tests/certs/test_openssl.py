"""Owns the proof that the recipe in OPENSSL.md gives what `certs init` gives."""

import datetime
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

import certs
from certs.authority import issue, make_ca
from certs.contexts import client_context, server_context
from certs.revoke import revoke
from certs.roles import Role, role_of
from certs.trusted import TrustedSet
from tests.tlshelp import handshake, key

NAMES = ("ca", "server", "admin", "user")


def recipe(label: str = "") -> str:
    """The shell block with this label, with keys that take less time."""
    (package,) = certs.__path__
    text = (Path(package) / "OPENSSL.md").read_text()
    (script,) = re.findall(rf"(?ms)^```{f'sh {label}'.strip()}\n(.*?)^```$", text)
    return str(script).replace("rsa:4096", "rsa:2048")


def run(script: str, directory: Path) -> None:
    environment = {"PATH": os.environ["PATH"]}
    result = subprocess.run(
        ["sh", "-euc", script], cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("openssl")
    assert recipe().count("rsa:2048") == 2
    run(recipe(), directory)
    return directory


def load(directory: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((directory / f"{name}.crt").read_bytes())


def test_files_and_modes(made: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made.iterdir()}
    assert modes.pop("worker-service.cnf") == 0o600
    assert modes == {
        f"{name}.{suffix}": 0o644 if suffix == "crt" else 0o600 for name in NAMES for suffix in ("crt", "key")
    }


@pytest.mark.parametrize(("identity", "role"), [("admin", Role.ADMIN), ("user", Role.USER)])
def test_both_ends_accept_each_other_and_the_role(made: Path, identity: str, role: Role) -> None:
    here, there = handshake(server_context(made), client_context(made, identity), hostname="127.0.0.1")
    assert (here.error, there.error) == (None, None)
    assert role_of(here.tls.getpeercert(binary_form=True) or b"") is role


@pytest.mark.parametrize("name", NAMES)
def test_the_properties_are_those_of_init(made: Path, name: str) -> None:
    ca = make_ca(key=key("ca"))
    ours = {
        "ca": ca,
        "server": issue(ca, name, purpose="server", san=["localhost", "127.0.0.1", "::1"], key=key(name)),
        "admin": issue(ca, name, role=Role.ADMIN, key=key(name)),
        "user": issue(ca, name, role=Role.USER, key=key(name)),
    }[name].certificate
    theirs = load(made, name)

    def shape(certificate: x509.Certificate) -> dict[str, tuple[bool, object]]:
        return {
            extension.oid.dotted_string: (
                extension.critical,
                # Key identifiers differ, of course; that they agree with each other, verification shows.
                None
                if isinstance(extension.value, (x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier))
                else extension.value.public_bytes(),
            )
            for extension in certificate.extensions
        }

    assert shape(theirs) == shape(ours)
    assert theirs.subject == ours.subject
    assert type(theirs.signature_hash_algorithm) is type(ours.signature_hash_algorithm)
    lifetimes = [it.not_valid_after_utc - it.not_valid_before_utc for it in (theirs, ours)]
    assert lifetimes[0] == lifetimes[1]
    command = ["openssl", "verify", "-x509_strict", "-CAfile", "ca.crt", f"{name}.crt"]
    assert subprocess.run(command, cwd=made, capture_output=True, check=False).returncode == 0


def copy(made: Path, directory: Path) -> Path:
    return Path(shutil.copytree(made, directory / "copy"))


def test_a_request_is_signed(made: Path, tmp_path: Path) -> None:
    directory = copy(made, tmp_path)
    run(recipe("request"), directory)
    here, there = handshake(server_context(directory), client_context(directory, "ada"))
    assert (here.error, there.error) == (None, None)
    assert role_of(here.tls.getpeercert(binary_form=True) or b"") is Role.USER


def test_what_openssl_revokes_is_revoked_here_and_stays_so(made: Path, tmp_path: Path) -> None:
    directory = copy(made, tmp_path)
    run(recipe("revoke"), directory)
    run(recipe("revoke").replace("user.crt", "server.crt"), directory)
    now = datetime.datetime.now(datetime.UTC)
    trusted = TrustedSet.read(directory, now)
    assert [it.number for it in trusted.lists] == [2]
    here, there = handshake(trusted.context_at(now), client_context(directory, "user"))
    assert here.error is not None
    assert there.error is not None
    assert there.error.reason == "SSLV3_ALERT_CERTIFICATE_REVOKED"
    here, _ = handshake(trusted.context_at(now), client_context(directory, "admin"))
    assert here.error is None
    revoked = revoke(directory, ["admin"])
    assert (revoked.number, revoked.count) == (3, 3)
