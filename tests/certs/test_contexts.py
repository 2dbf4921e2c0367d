"""Owns the proof that the two contexts accept each other, and that every bad file is named in a sentence."""

import os
import ssl
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from certs.authority import issue
from certs.contexts import ALPN_HTTP, ALPN_NATIVE, client_context, default_directory, server_context
from certs.errors import CertsError, ContextError
from certs.roles import Identity, Role, RoleError, identity_of, role_of
from tests.tlshelp import authority, doubled_role, handshake, key, make_directory, save


@pytest.mark.parametrize(("identity", "role"), [("admin", Role.ADMIN), ("user", Role.USER)])
@pytest.mark.parametrize("hostname", ["localhost", "127.0.0.1", "::1"])
def test_both_ends_accept_each_other(
    shared_certificates: Path, identity: str, role: Role, hostname: str
) -> None:
    client = client_context(shared_certificates, identity)
    here, there = handshake(server_context(shared_certificates), client, hostname=hostname)
    assert (here.error, there.error, here.done, there.done) == (None, None, True, True)
    assert here.tls.version() == there.tls.version() == "TLSv1.3"
    certificate = here.tls.getpeercert(binary_form=True)
    assert certificate is not None
    serial = here.tls.getpeercert()["serialNumber"]  # type: ignore[index]
    assert identity_of(certificate) == Identity(identity, str(serial), role)


@pytest.mark.parametrize("alpn", [ALPN_NATIVE, ALPN_HTTP])
def test_each_protocol_is_negotiated(shared_certificates: Path, alpn: str) -> None:
    client = client_context(shared_certificates, "user", alpn=alpn)
    here, there = handshake(server_context(shared_certificates), client)
    assert here.tls.selected_alpn_protocol() == there.tls.selected_alpn_protocol() == alpn


def test_an_unknown_protocol_is_left_to_the_listener(shared_certificates: Path) -> None:
    client = client_context(shared_certificates, "user", alpn="h2")
    here, _ = handshake(server_context(shared_certificates), client)
    assert here.done
    assert here.tls.selected_alpn_protocol() is None


def test_no_session_can_be_resumed(shared_certificates: Path) -> None:
    _, there = handshake(server_context(shared_certificates), client_context(shared_certificates, "user"))
    assert there.done
    assert there.tls.session is None or not there.tls.session.has_ticket


def test_both_ends_verify_strictly(shared_certificates: Path) -> None:
    server, client = server_context(shared_certificates), client_context(shared_certificates, "user")
    for context in (server, client):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.verify_flags & ssl.VERIFY_X509_STRICT
        assert context.minimum_version is context.maximum_version is ssl.TLSVersion.TLSv1_3
        assert len(context.get_ca_certs()) == 1
    assert client.check_hostname
    assert not client.hostname_checks_common_name


def old_client(directory: Path) -> ssl.SSLContext:
    context = client_context(directory, "admin")
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def bare_client(directory: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(directory / "ca.crt")
    return context


def test_tls_1_2_is_refused(shared_certificates: Path) -> None:
    here, there = handshake(server_context(shared_certificates), old_client(shared_certificates))
    assert here.error is not None
    assert here.error.reason == "UNSUPPORTED_PROTOCOL"
    assert there.error is not None
    assert there.error.reason == "TLSV1_ALERT_PROTOCOL_VERSION"


def test_no_certificate_is_refused(shared_certificates: Path) -> None:
    here, there = handshake(server_context(shared_certificates), bare_client(shared_certificates))
    assert here.error is not None
    assert here.error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
    assert there.error is not None
    assert there.error.reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED"


def test_roles_are_judged_after_the_handshake(certificates: Path) -> None:
    # TLS has no opinion on roles: the certificate reaches the code that does.
    save(certificates, none=issue(authority(), "none", key=key("none")), twice=doubled_role())
    for identity in ("none", "twice"):
        here, there = handshake(server_context(certificates), client_context(certificates, identity))
        assert (here.error, there.error) == (None, None)
        with pytest.raises(RoleError):
            role_of(here.tls.getpeercert(binary_form=True) or b"")


def test_loading_again_gives_new_contexts(certificates: Path) -> None:
    before = server_context(certificates)
    (certificates / "server.key").write_text("spoiled")
    with pytest.raises(ContextError):
        server_context(certificates)
    # The old one is as good as it was.
    here, _ = handshake(before, client_context(certificates, "admin"))
    assert here.done
    make_directory(certificates)
    assert server_context(certificates) is not before


LOADERS = [
    pytest.param(server_context, "server", id="server"),
    pytest.param(partial(client_context, identity="admin"), "admin", id="client"),
]
Loader = Callable[[Path], ssl.SSLContext]


@pytest.mark.parametrize(("load", "name"), LOADERS)
def test_an_empty_directory_says_how_to_fill_it(tmp_path: Path, load: Loader, name: str) -> None:
    with pytest.raises(ContextError) as caught:
        load(tmp_path / "none")
    assert str(caught.value) == (
        f"no certificate {tmp_path}/none/ca.crt: run `worker-service certs init --dir {tmp_path}/none`, "
        "or name another directory with --certs."
    )
    assert isinstance(caught.value, CertsError)


def encrypted(path: Path) -> None:
    path.write_bytes(
        key("admin").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )


def make_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(("load", "name"), LOADERS)
@pytest.mark.parametrize(
    ("spoilt", "spoil", "sentence"),
    [
        ("ca.crt", Path.unlink, r"no certificate {}: run `worker-service certs init"),
        ("NAME.crt", Path.unlink, r"no certificate {}: put the right file there"),
        ("NAME.key", Path.unlink, r"no key {}: put the right file there"),
        ("ca.crt", make_a_directory, r"cannot read {}: Is a directory\."),
        ("NAME.key", make_a_directory, r"cannot read {}: Is a directory\."),
        ("ca.crt", lambda path: path.write_text(""), r"{} holds no certificate in PEM: "),
        ("ca.crt", lambda path: path.write_text("garbage"), r"{} holds no certificate in PEM: "),
        ("ca.crt", cut, r"{} holds no certificate in PEM: "),
        ("NAME.crt", lambda path: path.write_text("garbage"), r"{} holds no certificate in PEM: "),
        ("NAME.crt", cut, r"{} holds no certificate in PEM: "),
        ("NAME.key", lambda path: path.write_text(""), r"{} holds no private key in PEM: "),
        ("NAME.key", lambda path: path.write_bytes(b"\0\xff"), r"{} holds no private key in PEM: "),
        ("NAME.key", cut, r"{} holds no private key in PEM: "),
        ("NAME.key", encrypted, r"{} is encrypted: "),
    ],
)
def test_a_spoilt_file_is_named(
    certificates: Path, load: Loader, name: str, spoilt: str, spoil: Callable[[Path], None], sentence: str
) -> None:
    path = certificates / spoilt.replace("NAME", name)
    spoil(path)
    with pytest.raises(ContextError, match=sentence.format(path)) as caught:
        load(certificates)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(("load", "name"), LOADERS)
def test_a_key_of_another_certificate_is_named(certificates: Path, load: Loader, name: str) -> None:
    (certificates / f"{name}.key").write_bytes((certificates / "user.key").read_bytes())
    with pytest.raises(ContextError, match=rf"{name}\.key is not the key of .*{name}\.crt: "):
        load(certificates)


def test_a_weak_key_is_no_mystery(certificates: Path) -> None:
    save(certificates, admin=issue(authority(), "admin", role=Role.ADMIN, key_bits=1024))
    with pytest.raises(
        ContextError, match=r"OpenSSL does not accept .*admin\.crt and its key \(ee key too small\)"
    ):
        client_context(certificates, "admin")


def test_an_identity_that_is_no_file_name(shared_certificates: Path) -> None:
    with pytest.raises(ContextError, match=r"cannot read .*null byte"):
        client_context(shared_certificates, "a\0b")


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can give up root's rights for a moment")
@pytest.mark.parametrize("closed", ["certs", "certs/admin.key"])
def test_no_permission_is_said(certificates: Path, monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
    monkeypatch.chdir(certificates.parent)  # nobody else may even pass through the directories above
    certificates.parent.chmod(0o755)
    certificates.chmod(0o755)
    Path(closed).chmod(0)
    os.seteuid(65534)
    try:
        with pytest.raises(ContextError, match=r"no permission to read certs/.*: run as its owner"):
            client_context(Path("certs"), "admin")
    finally:
        os.seteuid(0)


def test_the_default_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/etc/xdg-of-ada")
    assert default_directory() == Path("/etc/xdg-of-ada/worker-service/certs")
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CONFIG_HOME", ignored)
        assert default_directory() == Path("/home/ada/.config/worker-service/certs")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert default_directory() == Path("/home/ada/.config/worker-service/certs")


def test_no_home_directory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ContextError, match="no home directory"):
        default_directory()


def test_the_fast_path_imports_nothing_slow() -> None:
    code = "import sys, certs.contexts, certs.refusals; print(*sorted(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"cryptography", "trio", "cyclopts", "rich", "asyncio", "typing_extensions"} & set(
        output.split()
    )
