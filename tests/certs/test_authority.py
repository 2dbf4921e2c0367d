"""Owns the proof that certificates are what `certs init` promises, and that it harms no file."""

import datetime
import itertools
import os
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs import files
from certs.authority import init, issue, make_ca
from certs.errors import CertsError
from certs.names import alternative_names
from certs.roles import Role, role_of
from tests.tlshelp import authority, der, key

NAMES = ("ca", "server", "admin", "user")
FILES = tuple(f"{name}.{suffix}" for name in NAMES for suffix in ("crt", "key"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the real `init` makes with its defaults; the keys are slow, so once."""
    directory = tmp_path_factory.mktemp("init") / "below" / "certs"
    paths = init(directory, san=["Build7.example.com", "192.0.2.7", "2001:db8::7", "192.0.2.7"])
    assert paths == [directory / name for name in FILES]
    return directory


def load(directory: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((directory / f"{name}.crt").read_bytes())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("name", "days"), [("ca", 365), ("server", 365), ("admin", 45), ("user", 45)])
def test_sizes_hashes_and_lifetimes(made: Path, name: str, days: int) -> None:
    certificate = load(made, name)
    private = load_pem_private_key((made / f"{name}.key").read_bytes(), password=None)
    assert isinstance(private, rsa.RSAPrivateKey)
    assert private.key_size == 4096
    assert certificate.public_key() == private.public_key()
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
    assert certificate.version is x509.Version.v3
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    assert end - start == datetime.timedelta(days=days)
    age = datetime.datetime.now(datetime.UTC) - start
    assert datetime.timedelta(minutes=5) <= age < datetime.timedelta(minutes=10)


def test_extensions(made: Path) -> None:
    ca, server, admin, user = (load(made, name) for name in NAMES)
    ca_identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest

    for certificate in (ca, server, admin, user):
        found = certificate.extensions
        constraints = found.get_extension_for_class(x509.BasicConstraints)
        usage = found.get_extension_for_class(x509.KeyUsage)
        assert constraints.critical
        assert usage.critical
        assert (
            constraints.value.ca == usage.value.key_cert_sign == usage.value.crl_sign == (certificate is ca)
        )
        assert usage.value.digital_signature == (certificate is not ca)
        assert (
            found.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == ca_identifier
        )
        assert not found.get_extension_for_class(x509.SubjectKeyIdentifier).critical
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0

    for certificate, purpose in (
        (server, ExtendedKeyUsageOID.SERVER_AUTH),
        (admin, ExtendedKeyUsageOID.CLIENT_AUTH),
        (user, ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == alternative_names(["build7.example.com", "192.0.2.7", "2001:db8::7"])
    assert len({certificate.serial_number for certificate in (ca, server, admin, user)}) == 4


def test_roles(made: Path) -> None:
    for name, role in (("admin", Role.ADMIN), ("user", Role.USER)):
        assert role_of(load(made, name).public_bytes(Encoding.DER)) is role


@pytest.mark.parametrize(
    ("name", "purpose"),
    [("ca", "any"), ("server", "sslserver"), ("admin", "sslclient"), ("user", "sslclient")],
)
def test_openssl_accepts_them_strictly(made: Path, name: str, purpose: str) -> None:
    command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.crt", f"{name}.crt"]
    result = subprocess.run(command, cwd=made, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, f"{name}.crt: OK\n"), result.stderr


def test_modes(made: Path) -> None:
    assert mode(made) == 0o700
    assert sorted(path.name for path in made.iterdir()) == sorted(FILES)
    for path in made.iterdir():
        assert mode(path) == (0o600 if path.suffix == ".key" else 0o644)


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_no_umask_changes_the_modes(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        files.install(tmp_path, {"a.key": b"secret", "a.crt": b"public"})
    finally:
        os.umask(before)
    assert (mode(tmp_path / "a.key"), mode(tmp_path / "a.crt")) == (0o600, 0o644)


@pytest.mark.parametrize("force", [False, True])
def test_a_key_is_never_readable_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    seen = []
    real_open, real_fchmod = os.open, os.fchmod

    def watch_open(path: Path, flags: int, mode: int) -> int:
        descriptor = real_open(path, flags, mode)
        seen.append((flags & (os.O_CREAT | os.O_EXCL), stat.S_IMODE(os.fstat(descriptor).st_mode)))
        return descriptor

    def watch_fchmod(descriptor: int, mode: int) -> None:
        real_fchmod(descriptor, mode)
        seen.append((os.O_CREAT | os.O_EXCL, stat.S_IMODE(os.fstat(descriptor).st_mode)))

    monkeypatch.setattr(os, "open", watch_open)
    monkeypatch.setattr(os, "fchmod", watch_fchmod)
    before = os.umask(0)
    try:
        files.install(tmp_path, {"a.key": b"secret"}, force=force)
    finally:
        os.umask(before)
    assert set(seen) == {(os.O_CREAT | os.O_EXCL, 0o600)}


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_written_where_anything_exists(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(CertsError, match=rf"already holds {name}: .*--force"):
        init(tmp_path, san=["localhost"], key_bits=2048)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_a_dangling_link_exists_too(tmp_path: Path) -> None:
    directory = tmp_path / "certs"
    directory.mkdir()
    (directory / "user.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CertsError, match=r"user\.key"):
        init(directory, san=["localhost"], key_bits=2048)
    assert [path.name for path in tmp_path.iterdir()] == ["certs"]


def test_a_file_that_appears_meanwhile_is_kept_and_ours_are_removed(tmp_path: Path) -> None:
    (tmp_path / "b.key").write_text("precious")
    with pytest.raises(CertsError, match=r"b\.key already exists"):
        files.install(tmp_path, {"a.key": b"", "b.key": b"", "c.key": b""})
    assert [path.name for path in tmp_path.iterdir()] == ["b.key"]
    assert (tmp_path / "b.key").read_text() == "precious"


def test_force_replaces_everything(tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_text("old")
        (tmp_path / name).chmod(0o666)
    link = tmp_path / "open-elsewhere"
    link.hardlink_to(tmp_path / "admin.key")

    init(tmp_path, san=["localhost"], key_bits=2048, force=True)

    # Renamed over, not written into: who has the old file open keeps it whole.
    assert link.read_text() == "old"
    link.unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    for path in tmp_path.iterdir():
        assert path.read_text().startswith("-----BEGIN ")
        assert mode(path) == (0o600 if path.suffix == ".key" else 0o644)


@pytest.mark.parametrize("force", [False, True])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    if force:
        (tmp_path / "a.key").write_text("old")
    calls = itertools.count()

    def fsync(_descriptor: int) -> None:
        if next(calls) == 1:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(CertsError, match=r"cannot write .*: No space left on device\."):
        files.install(tmp_path, {"a.key": b"new", "b.key": b"new"}, force=force)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == ({"a.key": "old"} if force else {})


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CertsError, match=r"/file"):
            init(directory, san=["localhost"], key_bits=2048)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "host:8443",
        "[::1]",
        "https://host",
        "host/24",
        "192.0.2.0/24",
        "192.0.2.256",
        "192.0.2",
        "fe80::1%eth0",
        "-host",
        "host-",
        "a..b",
        "host.",
        "zoë.example",
        "a" * 64,
        ".".join(["a" * 63] * 4),
        "*",
        "a.*.b",
        "host\n",
        "host\0",
    ],
)
def test_a_name_that_is_none_is_refused_before_anything_is_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(CertsError, match="neither a host name nor an IP address"):
        init(tmp_path / "certs", san=["localhost", name], key_bits=2048)
    assert not (tmp_path / "certs").exists()


def test_a_server_needs_a_name(tmp_path: Path) -> None:
    with pytest.raises(CertsError, match="at least one"):
        init(tmp_path / "certs", san=[], key_bits=2048)


def test_a_malformed_arc_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(CertsError, match="no object identifier"):
        init(tmp_path / "certs", san=["localhost"], arc="1.2.x", key_bits=2048)
    assert not (tmp_path / "certs").exists()


def test_another_arc(tmp_path: Path) -> None:
    init(tmp_path, san=["localhost"], arc="1.2.840.9", key_bits=2048)
    user = load(tmp_path, "user").public_bytes(Encoding.DER)
    assert role_of(user, "1.2.840.9") is Role.USER


def test_names_of_every_kind() -> None:
    names = ["localhost", "a_b.c-d.example", "*.example.com", "xn--zo-jja.example", "127.0.0.1", "::1", "1a"]
    assert len(alternative_names(names)) == len(names)


def test_times_can_be_chosen() -> None:
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    ca = make_ca(key=key("ca"), not_before=start).certificate
    leaf = issue(
        authority(), "x", key=key("x"), not_before=start, not_after=start.replace(year=2021)
    ).certificate
    assert ca.not_valid_after_utc == start + datetime.timedelta(days=365)
    assert (leaf.not_valid_before_utc, leaf.not_valid_after_utc) == (start, start.replace(year=2021))


def test_key_bits_can_be_chosen() -> None:
    credential = issue(make_ca(key_bits=2048), "x", key_bits=1024)
    assert credential.key.key_size == 1024
    assert der(credential)
