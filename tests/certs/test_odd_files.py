"""Whatever stands in the place of a file, or in one, is refused in words: no wait, no traceback."""

import datetime
import os
import random
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from certs import pem, reading
from certs.authority import issue as issue_credential
from certs.bundle import export
from certs.contexts import client_context, server_context
from certs.errors import CertsError
from certs.exposure import exposures
from certs.lifecycle import renew, sign
from certs.revoke import revoke
from certs.roles import Role, RoleError, identity_of, serial_text
from certs.show import show, words
from certs.trusted import TrustedSet, read_terms
from tests.certs.test_lifecycle import write_request
from tests.forged import content, tlv, values
from tests.harness import join
from tests.tlshelp import authority, der, key, save

NOW = datetime.datetime.now(datetime.UTC)
PATIENCE = 20.0
#: Alterations of a certificate, each of which is tried in full; a seed that fails is printed.
ALTERED = 200
#: One in so many is used in every way: each of those opens the authority's key, which takes its time.
USED = 10


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.path.relpath(path))  # whose names may not be long


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 10**12)


ODD: dict[str, Callable[[Path], object]] = {
    "FIFO": fifo,
    "socket": unix_socket,
    "directory": Path.mkdir,
    "device": device,
    "large": huge,
}
USES: list[tuple[str, Callable[[Path], object]]] = [
    *((name, server_context) for name in ("ca.crt", "server.crt", "server.key")),
    *(
        (name, lambda folder: client_context(folder, "admin"))
        for name in ("ca.crt", "admin.crt", "admin.key")
    ),
    *((name, lambda folder: TrustedSet.read(folder, NOW)) for name in ("ca.crt", "ca.crl", "server.crt")),
    *((name, read_terms) for name in ("ca.crt", "ca.crl", "server.crt")),
    *(
        (name, lambda folder: renew(folder, "admin"))
        for name in ("ca.crt", "ca.key", "admin.crt", "admin.old")
    ),
    *((name, lambda folder: revoke(folder, ["admin"])) for name in ("ca.crl", "admin.crt")),
    *((name, lambda folder: list(show(folder / "admin.crt", NOW))) for name in ("admin.crt",)),
    *((name, lambda folder: sign(folder, folder / "a.csr", "user")) for name in ("a.csr", "ca.key")),
    *(
        (name, lambda folder: export(folder, "admin", folder / "a.p12", "x"))
        for name in ("ca.crt", "admin.crt", "admin.key")
    ),
]


@pytest.mark.parametrize("kind", ODD)
async def test_what_is_no_file(certificates: Path, kind: str) -> None:
    await trio.lowlevel.checkpoint()
    write_request(certificates / "a.csr", key("ada"))
    with trio.fail_after(PATIENCE):
        for name, use in USES:
            path, kept = certificates / name, certificates / "kept"
            if there := path.exists():
                path.rename(kept)
            ODD[kind](path)
            with pytest.raises(CertsError, match=r"\.$") as refused:
                await trio.to_thread.run_sync(use, certificates, abandon_on_cancel=True)
            assert str(path) in str(refused.value)
            assert kind in str(refused.value), refused.value
            path.rmdir() if kind == "directory" else path.unlink()
            if there:
                kept.rename(path)


def test_a_pipe_that_we_were_given_is_read(certificates: Path) -> None:
    """As in ``certs show <(command)``."""
    text = (certificates / "admin.crt").read_bytes()
    out, into = os.pipe()

    def write() -> None:
        os.write(into, text)
        os.close(into)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert reading.read(Path(f"/dev/fd/{out}")) == text
    finally:
        join(writer)
        os.close(out)


@pytest.mark.parametrize(
    ("number", "printed"), [(0, "00"), (-1, "-01"), (-255, "-FF"), (2**170, "04" + "00" * 21), (255, "FF")]
)
def test_a_serial_number_that_no_certificate_ought_to_have(number: int, printed: str) -> None:
    assert serial_text(number) == printed


def with_serial(certificate: bytes, number: bytes) -> bytes:
    """A certificate with another serial number, whose signature does not matter here."""
    signed, *rest = values(content(certificate))
    version, _, *fields = values(content(signed))
    return tlv(0x30, tlv(0x30, version + tlv(0x02, number) + b"".join(fields)) + b"".join(rest))


def as_pem(data: bytes, label: str = "CERTIFICATE") -> bytes:
    import base64

    text = base64.encodebytes(data)
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (label.encode(), text, label.encode())


@pytest.mark.filterwarnings("ignore")  # the parser warns of such numbers
@pytest.mark.parametrize("number", [b"\xff", b"\x80", b"\x00", b"\x7f" * 30])
def test_odd_serial_numbers_are_shown(certificates: Path, number: bytes) -> None:
    path = certificates / "odd.crt"
    path.write_bytes(as_pem(with_serial(der(issue_credential(authority(), "odd", key=key("ada"))), number)))
    try:
        (shown,) = show(path, NOW)
    except CertsError as error:
        assert str(path) in str(error)  # noqa: PT017  # either is right, and depends on the parser
    else:
        assert shown.serial in words(shown)


def altered(good: bytes, seed: int) -> bytes:
    """A certificate in which a few bytes, chosen at random, are others."""
    chosen = random.Random(seed)  # noqa: S311  # not to keep a secret
    data = bytearray(good)
    for _ in range(chosen.choice([1, 1, 1, 2, 5, 20])):
        place = chosen.randrange(len(data))
        match chosen.randrange(4):
            case 0:
                data[place] ^= 1 << chosen.randrange(8)
            case 1:
                data[place] = chosen.choice(
                    [0, 1, 2, 3, 4, 5, 6, 12, 0x13, 0x17, 0x18, 0x30, 0x31, 0x80, 0xA0, 0xFF]
                )
            case 2:
                del data[place : place + chosen.randrange(1, 4)]
            case _:
                data[place:place] = chosen.randbytes(chosen.randrange(1, 4))
    return bytes(data)


def originals(folder: Path) -> Iterator[tuple[bytes, str]]:
    """One of each kind that we read, in DER."""
    for options in ({"role": Role.ADMIN}, {"purpose": "server", "san": ["a.example", "::1"]}):
        yield der(issue_credential(authority(), "ada", key=key("ada"), **options)), pem.CERTIFICATE
    yield der(authority()), pem.CERTIFICATE
    (request,) = re.findall(
        rb"-----BEGIN.*?END[^\n]*\n", write_request(folder / "r", key("ada")).read_bytes(), 16
    )
    yield x509.load_pem_x509_csr(request).public_bytes(Encoding.DER), pem.REQUEST
    made = revoke(folder, ["user"]).path.read_bytes()
    yield x509.load_pem_x509_crl(made).public_bytes(Encoding.DER), pem.LIST


@pytest.mark.filterwarnings("ignore")
def test_whatever_a_file_holds_it_is_shown_or_refused_in_words(certificates: Path) -> None:
    """By every command that reads one that was made elsewhere: show, sign, renew, revoke, and by a server."""
    for good, label in originals(certificates):
        for seed in range(ALTERED):
            path = certificates / ("odd.crl" if label == pem.LIST else "odd.crt")
            data = altered(good, seed)
            path.write_bytes(as_pem(data, label))
            try:
                look(certificates, path, label, every=seed % USED == 0)
                if label == pem.CERTIFICATE:
                    identity_of(data)
            except RoleError:
                pass
            except BaseException as error:
                raise AssertionError(f"seed {seed} of a {label}") from error  # noqa: ASYNC104  # nothing waits


def look(certificates: Path, path: Path, label: str, *, every: bool) -> None:
    """Use a file in each way in which it may be; each is a result or a CertsError."""
    uses: list[Callable[[], object]] = [lambda: [words(shown) for shown in show(path, NOW)]]
    if label == pem.REQUEST and not every:
        uses = [lambda: pem.request(pem.read(path), path)]
    elif label == pem.REQUEST:
        uses = [lambda: sign(certificates, path, "user", name="odd-signed", force=True)]
        uses.append(lambda: sign(certificates, path, "server", force=True, name="odd-server"))
    elif label == pem.CERTIFICATE and every:
        uses.append(lambda: revoke(certificates, [str(path)]))
        uses.append(lambda: renew(certificates, "odd"))
    for use in uses:
        try:
            use()
        except CertsError as error:
            assert "\n" not in str(error)  # noqa: PT017  # any of both is right


def test_weak_keys_are_not_signed(certificates: Path, tmp_path: Path) -> None:
    small = rsa.generate_private_key(public_exponent=3, key_size=2048)
    weak = {
        "an RSA key with the public exponent 3": small,
        "a key that TLS 1.3 does not take": dsa.generate_private_key(2048),
    }
    for what, private in weak.items():
        path = write_request(tmp_path / "weak.csr", private)  # type: ignore[arg-type]
        with pytest.raises(CertsError, match=what):
            sign(certificates, path, "user")
    assert not (certificates / "bob.crt").exists()
    # One that an older version has signed: it is shown for what it is, and not renewed.
    builder = (
        x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(authority().certificate.subject)
    )
    builder = builder.public_key(small.public_key()).serial_number(7)
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + datetime.timedelta(days=9))
    old = builder.sign(authority().key, hashes.SHA256())
    (certificates / "old.crt").write_bytes(old.public_bytes(Encoding.PEM))
    (shown,) = show(certificates / "old.crt", NOW)
    assert any("public exponent 3" in note for note in shown.notes)
    with pytest.raises(CertsError, match=r"public exponent 3.*--new-key"):
        renew(certificates, "old")


def test_a_key_that_others_can_get_at_is_told(tmp_path: Path) -> None:
    place = tmp_path / "a" / "certs"
    save(place, ada=issue_credential(authority(), "ada", key=key("ada")))
    assert list(exposures(place, "ada.key", "none.key")) == []
    for mode, told in ((0o640, 0), (0o644, 1), (0o620, 1), (0o604, 1), (0o602, 1), (0o600, 0)):
        (place / "ada.key").chmod(mode)
        assert len(list(exposures(place, "ada.key"))) == told, oct(mode)
    for folder in (place, place.parent):
        folder.chmod(0o777)
        (sentence,) = exposures(place, "ada.key")
        assert f"`chmod go-w {folder}`" in sentence
        folder.chmod(0o1777)  # as /tmp: nobody can take away what is not theirs
        assert list(exposures(place, "ada.key")) == []
        folder.chmod(0o755)


@pytest.mark.parametrize("umask", [0o000, 0o777, 0o022])
def test_what_we_make_is_right_from_the_start(tmp_path: Path, umask: int) -> None:
    place = tmp_path / "a" / "b" / "certs"
    before = os.umask(umask)
    try:
        save(place, ada=issue_credential(authority(), "ada", key=key("ada")))
    finally:
        os.umask(before)
    for path in (place, place.parent, place.parent.parent):
        assert path.stat().st_mode & 0o777 == 0o700
    assert [(place / f"ada.{end}").stat().st_mode & 0o777 for end in ("key", "crt")] == [0o600, 0o644]
