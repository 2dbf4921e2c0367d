"""Owns the proof that certificates can be issued, signed and renewed, and nobody else's are."""

import base64
import datetime
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from certs.authority import issue as issue_credential
from certs.authority import make_ca
from certs.contexts import client_context, server_context
from certs.errors import ArgumentsError, CertsError
from certs.lifecycle import issue, renew, request, sign
from certs.revoke import revoke
from certs.roles import Role, RoleError, identity_of, role_of
from certs.wishes import RoleName
from tests.tlshelp import authority, handshake, key, save

QUICK = 2048
DAY = datetime.timedelta(days=1)


def load(directory: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((directory / f"{name}.crt").read_bytes())


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def lifetime(certificate: x509.Certificate) -> datetime.timedelta:
    return certificate.not_valid_after_utc - certificate.not_valid_before_utc


def write_request(
    path: Path, private: CertificateIssuerPrivateKeyTypes, name: str = "bob", san: str = ""
) -> Path:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    )
    if san:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(san)]), critical=False)
    # What a cunning client would like to be.
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.12345.1.1"), b"\x0c\x05Admin"),
        critical=False,
    )
    algorithm = None if isinstance(private, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    path.write_bytes(builder.sign(private, algorithm).public_bytes(Encoding.PEM))
    return path


@pytest.mark.parametrize(("role", "days"), [("admin", None), ("user", 7)])
def test_a_client_is_issued_and_accepted(certificates: Path, role: RoleName, days: int | None) -> None:
    made = issue(certificates, "ada", role, days=days, key_bits=QUICK)
    assert made.path == certificates / "ada.crt"
    assert lifetime(made.certificate) == (days or 45) * DAY
    assert stat.S_IMODE((certificates / "ada.key").stat().st_mode) == 0o600
    here, there = handshake(server_context(certificates), client_context(certificates, "ada"))
    assert (here.error, there.error) == (None, None)
    identity = identity_of(here.tls.getpeercert(binary_form=True) or b"")
    assert (identity.name, identity.role.value.lower()) == ("ada", role)


def test_a_server_is_issued_and_accepted(certificates: Path, tmp_path: Path) -> None:
    made = issue(certificates, "build7", "server", san=["build7.example"], key_bits=QUICK)
    assert lifetime(made.certificate) <= 365 * DAY
    with pytest.raises(RoleError):
        role_of(der(made.certificate))
    for suffix in ("crt", "key"):
        (certificates / f"build7.{suffix}").rename(certificates / f"server.{suffix}")
    contexts = server_context(certificates), client_context(certificates, "admin")
    assert handshake(*contexts, hostname="build7.example")[0].error is None


def test_nothing_is_overwritten_unasked(certificates: Path) -> None:
    before = {path.name: path.read_bytes() for path in certificates.iterdir()}
    with pytest.raises(CertsError, match=r"already holds admin\.crt, admin\.key: .*--force"):
        issue(certificates, "admin", "admin")
    csr = write_request(certificates.with_name("x.csr"), key("bob"), "admin")
    with pytest.raises(CertsError, match=r"already holds admin\.crt: .*--force"):
        sign(certificates, csr, "admin")
    with pytest.raises(CertsError, match=r"already holds user\.key"):
        request(certificates, "user")
    assert {path.name: path.read_bytes() for path in certificates.iterdir()} == before
    made = issue(certificates, "admin", "admin", force=True, key_bits=QUICK)
    assert made.certificate.serial_number != x509.load_pem_x509_certificate(before["admin.crt"]).serial_number


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "-x", ".hidden", "a b", "a\n", "a\0", "zoë", "x" * 65, "@x"]
)
def test_a_name_that_cannot_be_a_file_is_refused(certificates: Path, name: str) -> None:
    for act in (
        lambda: issue(certificates, name, "user"),
        lambda: request(certificates, name),
        lambda: renew(certificates, name),
    ):
        with pytest.raises(ArgumentsError, match="cannot be a name"):
            act()


@pytest.mark.parametrize(
    ("name", "role", "options", "reason"),
    [
        ("ca", "user", {}, "choose another"),
        ("server", "admin", {}, "choose another"),
        ("x", "user", {"days": 0}, "--days 0"),
        ("x", "user", {"days": 36501}, "--days 36501"),
        ("x", "user", {"san": ["localhost"]}, "--san is for servers"),
        ("x", "server", {}, "at least one with --san"),
        ("x", "server", {"san": ["a b"]}, "neither a host name"),
        ("x", "user", {"arc": "x"}, "no object identifier"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_made(
    certificates: Path, name: str, role: RoleName, options: dict[str, object], reason: str
) -> None:
    before = sorted(certificates.iterdir())
    with pytest.raises(CertsError, match=reason):
        issue(certificates, name, role, key_bits=QUICK, **options)  # type: ignore[arg-type]
    assert sorted(certificates.iterdir()) == before


def test_nothing_outlives_its_authority(certificates: Path) -> None:
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    save(certificates, ca=make_ca(key=key("ca"), not_after=now + 10 * DAY))
    made = issue(certificates, "ada", "user", key_bits=QUICK)
    assert made.certificate.not_valid_after_utc == now + 10 * DAY
    assert made.notes == (f"it ends with its authority, on {now + 10 * DAY:%Y-%m-%d}",)


def spoil_no_key(directory: Path) -> None:
    (directory / "ca.key").unlink()


def spoil_other_key(directory: Path) -> None:
    (directory / "ca.key").write_bytes((directory / "admin.key").read_bytes())


def spoil_ended(directory: Path) -> None:
    save(
        directory,
        ca=make_ca(key=authority().key, not_before=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)),
    )


def spoil_garbage(directory: Path) -> None:
    (directory / "ca.key").write_text("garbage")


def spoil_cut(directory: Path) -> None:
    (directory / "ca.crt").write_bytes((directory / "ca.crt").read_bytes()[:-30])


def spoil_encrypted(directory: Path) -> None:
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ED25519", "-aes256", "-pass", "pass:x", "-out", "ca.key"],
        cwd=directory,
        check=True,
        capture_output=True,
    )


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_no_key, r"there is no .*ca\.key: do this where the authority's key is"),
        (spoil_other_key, r"ca\.key is not the key of .*ca\.crt"),
        (spoil_ended, r"ended on 2020-12-31: renew it with `worker-service certs renew ca`"),
        (spoil_garbage, r"ca\.key holds no private key in PEM"),
        (spoil_cut, r"ca\.crt is incomplete: copy it again"),
        (spoil_encrypted, r"ca\.key is encrypted: store it without a passphrase"),
    ],
)
def test_an_authority_that_cannot_be_used(certificates: Path, spoil: object, reason: str) -> None:
    assert callable(spoil)
    spoil(certificates)
    for act in (
        lambda: issue(certificates, "ada", "user", key_bits=QUICK),
        lambda: renew(certificates, "user"),
        lambda: revoke(certificates, ["user"]),
    ):
        with pytest.raises(CertsError, match=reason) as caught:
            act()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["rsa", "p256", "ed25519"])
def test_a_request_is_signed_and_its_key_stays_where_it_is(
    certificates: Path, tmp_path: Path, kind: str
) -> None:
    keys: dict[str, CertificateIssuerPrivateKeyTypes] = {
        "rsa": key("bob"),
        "p256": ec.generate_private_key(ec.SECP256R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
    }
    private = keys[kind]
    made = sign(certificates, write_request(tmp_path / "bob.csr", private), "user", days=9)
    assert lifetime(made.certificate) == 9 * DAY
    assert not (certificates / "bob.key").exists()
    # Of what the request asks for, a role and an authority's powers, it got nothing.
    assert role_of(der(made.certificate)) is Role.USER
    assert not made.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    (certificates / "bob.key").write_bytes(
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    here, there = handshake(server_context(certificates), client_context(certificates, "bob"))
    assert (here.error, there.error) == (None, None)


def test_our_own_request(certificates: Path, tmp_path: Path) -> None:
    csr = request(tmp_path / "client", "bob", key_bits=QUICK)
    assert stat.S_IMODE((tmp_path / "client/bob.key").stat().st_mode) == 0o600
    made = sign(certificates, csr, "admin", name="robert")
    assert made.path == certificates / "robert.crt"
    assert identity_of(der(made.certificate)).name == "robert"


def test_a_server_gets_the_names_that_it_asks_for_unless_told_otherwise(
    certificates: Path, tmp_path: Path
) -> None:
    csr = write_request(tmp_path / "x.csr", key("bob"), "build7", san="asked.example")
    for given, names in (([], ["asked.example"]), (["given.example"], ["given.example"])):
        made = sign(certificates, csr, "server", san=given, force=True)
        found = made.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert found.get_values_for_type(x509.DNSName) == names
    with pytest.raises(ArgumentsError, match="at least one with --san"):
        sign(certificates, write_request(tmp_path / "x.csr", key("bob"), "build8"), "server")


def damaged(path: Path) -> None:
    csr = x509.load_pem_x509_csr(write_request(path, key("bob")).read_bytes())
    bad = csr.public_bytes(Encoding.DER).replace(b"bob", b"eve")
    path.write_bytes(
        b"-----BEGIN CERTIFICATE REQUEST-----\n"
        + base64.encodebytes(bad)
        + b"-----END CERTIFICATE REQUEST-----\n"
    )


def test_requests_that_are_refused(certificates: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.csr"
    with pytest.raises(CertsError, match="there is no file"):
        sign(certificates, path, "user")
    path.write_text("garbage")
    with pytest.raises(CertsError, match="holds no certificate request in PEM"):
        sign(certificates, path, "user")
    damaged(path)
    with pytest.raises(CertsError, match="is not signed with the key that it names"):
        sign(certificates, path, "user")
    with pytest.raises(ArgumentsError, match="cannot be a name"):
        sign(certificates, write_request(path, key("bob"), "../../etc/x"), "user")
    for weak in (
        rsa.generate_private_key(public_exponent=65537, key_size=1024),  # noqa: S505  # it is to be refused
        dsa.generate_private_key(2048),
        ec.generate_private_key(ec.SECP256K1()),
    ):
        with pytest.raises(CertsError, match=r"a key that TLS 1\.3 does not take"):
            sign(certificates, write_request(path, weak), "user")
    assert not (certificates / "bob.crt").exists()


@pytest.mark.parametrize("name", ["server", "admin", "user", "ca"])
def test_what_is_renewed_is_the_same_for_longer(certificates: Path, name: str) -> None:
    old = load(certificates, name)
    key_before = (certificates / f"{name}.key").read_bytes()
    made = renew(certificates, name, days=10)
    new = load(certificates, name)
    assert new == made.certificate
    assert new.serial_number != old.serial_number
    assert lifetime(new) == 10 * DAY
    assert (new.subject, new.issuer, new.public_key()) == (old.subject, old.issuer, old.public_key())
    assert list(new.extensions) == list(old.extensions)
    assert (certificates / f"{name}.key").read_bytes() == key_before
    assert f"{old.serial_number:X}"[-20:] in made.notes[0]
    here, there = handshake(server_context(certificates), client_context(certificates, "admin"))
    assert (here.error, there.error) == (None, None)


def test_the_lifetime_is_that_of_the_old_one(certificates: Path) -> None:
    issue(certificates, "ada", "user", days=3, key_bits=QUICK)
    assert lifetime(renew(certificates, "ada").certificate) == 3 * DAY


def test_a_new_key_on_request(certificates: Path) -> None:
    old = load(certificates, "user")
    made = renew(certificates, "user", new_key=True, key_bits=QUICK)
    assert made.certificate.public_key() != old.public_key()
    assert stat.S_IMODE((certificates / "user.key").stat().st_mode) == 0o600
    assert handshake(server_context(certificates), client_context(certificates, "user"))[0].error is None
    with pytest.raises(ArgumentsError, match="another authority"):
        renew(certificates, "ca", new_key=True)


def test_with_a_renewed_authority_old_and_new_go_together(certificates: Path, tmp_path: Path) -> None:
    """Also one that has ended: what it signed has its key, and is good again."""
    spoil_ended(certificates)
    renew(certificates, "ca")
    assert handshake(server_context(certificates), client_context(certificates, "user"))[0].error is None


def test_what_cannot_be_renewed(certificates: Path) -> None:
    with pytest.raises(CertsError, match="there is no file"):
        renew(certificates, "nobody")
    save(certificates, eve=issue_credential(authority("other"), "eve", role=Role.ADMIN, key=key("eve")))
    with pytest.raises(CertsError, match=r"eve\.crt is not signed by .*ca\.crt"):
        renew(certificates, "eve")
    namesake = make_ca(key=key("namesake"))
    save(certificates, eve=issue_credential(namesake, "eve", role=Role.ADMIN, key=key("eve")))
    with pytest.raises(CertsError, match="is not signed by"):
        renew(certificates, "eve")
    revoke(certificates, ["user"])
    with pytest.raises(CertsError, match=r"user\.crt was revoked: issue a new one"):
        renew(certificates, "user")
