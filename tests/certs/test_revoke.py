"""Owns the proof that a list of revoked certificates keeps what it held, and that OpenSSL takes it."""

import datetime
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from certs.authority import issue as issue_credential
from certs.authority import make_ca
from certs.errors import ArgumentsError, CertsError
from certs.lifecycle import issue, renew, request, sign
from certs.revocation import read_lists
from certs.revoke import revoke
from certs.roles import Role
from tests.harness import join
from tests.tlshelp import authority, key, save

DAY = datetime.timedelta(days=1)


def serial(directory: Path, name: str) -> int:
    return x509.load_pem_x509_certificate((directory / f"{name}.crt").read_bytes()).serial_number


def crl(directory: Path) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl((directory / "ca.crl").read_bytes())


def revoked(directory: Path) -> set[int]:
    return {entry.serial_number for entry in crl(directory)}


def number(directory: Path) -> int:
    return crl(directory).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def verify(directory: Path, name: str) -> str:
    """What openssl makes of a certificate, with the list."""
    command = ["openssl", "verify", "-x509_strict", "-crl_check", "-CAfile", "ca.crt", "-CRLfile", "ca.crl"]
    done = subprocess.run(
        [*command, f"{name}.crt"], cwd=directory, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_each_list_is_numbered_and_keeps_what_was_revoked(certificates: Path) -> None:
    first = revoke(certificates, ["user"])
    assert (first.number, first.count, first.added) == (1, 1, (serial(certificates, "user"),))
    before = {entry.serial_number: entry.revocation_date_utc for entry in crl(certificates)}
    second = revoke(certificates, [str(certificates / "admin.crt")], serials=["0xAB:CD"])
    assert second.added == (0xABCD, serial(certificates, "admin"))
    assert (second.number, number(certificates), second.count) == (2, 2, 3)
    after = {entry.serial_number: entry.revocation_date_utc for entry in crl(certificates)}
    assert after.items() > before.items()
    again = revoke(certificates, ["user", "user"])
    assert (again.added, again.number, again.count) == ((), 3, 3)
    assert "user.crt: OK" not in verify(certificates, "user")
    assert "certificate revoked" in verify(certificates, "user")
    assert "server.crt: OK" in verify(certificates, "server")


def test_who_is_renewed_is_still_revoked_under_the_old_number(certificates: Path) -> None:
    old = serial(certificates, "user")
    renew(certificates, "user")
    revoke(certificates, serials=[f"{old:040X}"])
    assert revoked(certificates) == {old}
    assert "user.crt: OK" in verify(certificates, "user")


def test_who_is_revoked_is_so_with_every_certificate_that_is_good(certificates: Path, tmp_path: Path) -> None:
    """Renewed, it has a new number; the old ones are good until they end, and have the same key."""
    csr = request(tmp_path, "user", key_bits=2048)
    numbers = {serial(certificates, "user")}
    acts: list[Callable[[], object]] = [
        lambda: renew(certificates, "user"),
        lambda: renew(certificates, "user", new_key=True, key_bits=2048),
        lambda: sign(certificates, csr, "user", force=True),
        lambda: issue(certificates, "user", "user", force=True, key_bits=2048),
    ]
    for act in acts:
        act()
        numbers.add(serial(certificates, "user"))
    assert len(numbers) == 5
    renew(certificates, "admin")  # which concerns nobody else
    assert set(revoke(certificates, ["user"]).added) == numbers
    assert revoked(certificates) == numbers
    assert revoke(certificates, ["user"]).added == ()
    # A path is that certificate alone, and once all is revoked, a new one is good.
    issue(certificates, "user", "user", force=True, key_bits=2048)
    assert "user.crt: OK" in verify(certificates, "user")
    assert len(revoke(certificates, [str(certificates / "admin.crt")]).added) == 1


def test_a_revoked_key_is_not_signed_again(certificates: Path, tmp_path: Path) -> None:
    """As in an old request that is still about; the certificate may have been replaced meanwhile."""
    csr = request(tmp_path, "eve", key_bits=2048)
    sign(certificates, csr, "user")
    revoke(certificates, ["eve"])
    for _ in range(2):
        with pytest.raises(CertsError, match=r"eve\.csr is for a key whose certificate was revoked: have it"):
            sign(certificates, csr, "user", force=True)
        fresh = request(tmp_path / "fresh", "eve", force=True, key_bits=2048)
        sign(certificates, fresh, "user", force=True)
    assert "eve.crt: OK" in verify(certificates, "eve")
    assert len(revoked(certificates)) == 1


def test_what_was_replaced_is_forgotten_once_it_has_ended(certificates: Path) -> None:
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    ended = issue_credential(authority(), "user", role=Role.USER, key=key("user"), not_before=past)
    other = issue_credential(authority("other"), "user", role=Role.USER, key=key("user"))
    content = (certificates / "user.crt").read_bytes()
    old = ended.certificate_pem() + other.certificate_pem() + content
    (certificates / "user.old").write_bytes(old)
    renew(certificates, "user")
    good = other.certificate_pem() + content
    assert (certificates / "user.old").read_bytes() == good  # each once
    expected = {serial(certificates, "user"), x509.load_pem_x509_certificate(content).serial_number}
    assert (
        set(revoke(certificates, ["user"]).added) == expected
    )  # the other authority's is not ours to revoke


def test_what_was_replaced_and_cannot_be_read_stops_a_revocation(certificates: Path) -> None:
    (certificates / "user.old").write_bytes(b"garbage")
    acts: list[Callable[[], object]] = [
        lambda: renew(certificates, "user"),
        lambda: revoke(certificates, ["user"]),
        lambda: issue(certificates, "user", "user", force=True, key_bits=2048),
    ]
    for act in acts:
        with pytest.raises(CertsError, match=r"user\.old holds no certificate in PEM"):
            act()
    assert not (certificates / "ca.crl").exists()


def test_the_list_lasts_as_long_as_the_authority_unless_told_otherwise(certificates: Path) -> None:
    ca = x509.load_pem_x509_certificate((certificates / "ca.crt").read_bytes())
    revoke(certificates)
    assert crl(certificates).next_update_utc == ca.not_valid_after_utc
    assert revoked(certificates) == set()
    revoke(certificates, days=7)
    ends = crl(certificates).next_update_utc
    assert ends is not None
    assert ends - crl(certificates).last_update_utc <= 7 * DAY
    revoke(certificates, days=36500)
    assert crl(certificates).next_update_utc == ca.not_valid_after_utc


def test_a_clock_that_went_back_makes_no_older_list(certificates: Path) -> None:
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    ca = authority()
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.certificate.subject)
    builder = builder.last_update(now + DAY).next_update(now + 9 * DAY)
    builder = builder.add_extension(x509.CRLNumber(41), critical=False)
    future = builder.sign(ca.key, hashes.SHA256())
    (certificates / "ca.crl").write_bytes(future.public_bytes(Encoding.PEM))
    assert revoke(certificates, ["user"]).number == 42
    assert crl(certificates).last_update_utc == now + DAY


def test_concurrent_revocations_are_all_kept(certificates: Path) -> None:
    serials = [f"{n:X}" for n in range(1, 21)]
    threads = [
        threading.Thread(target=revoke, args=(certificates,), kwargs={"serials": [it]}) for it in serials
    ]
    for thread in threads:
        thread.start()
    join(*threads)
    assert revoked(certificates) == set(range(1, 21))
    assert number(certificates) == 20


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN X509 CRL-----\nMIIB\n"])
def test_a_list_that_cannot_be_read_is_not_replaced(certificates: Path, content: bytes) -> None:
    """Else what it held would be good again."""
    (certificates / "ca.crl").write_bytes(content)
    with pytest.raises(CertsError, match=r"ca\.crl"):
        revoke(certificates, ["user"])
    assert (certificates / "ca.crl").read_bytes() == content
    (certificates / "ca.crl").unlink()
    (certificates / "ca.crl").symlink_to("nowhere")
    with pytest.raises(CertsError, match=r"ca\.crl"):
        revoke(certificates, ["user"])


def test_what_cannot_be_revoked(certificates: Path) -> None:
    with pytest.raises(ArgumentsError, match=r"cannot revoke itself: take it out of every ca\.crt"):
        revoke(certificates, ["ca"])
    with pytest.raises(CertsError, match="there is no file"):
        revoke(certificates, ["nobody"])
    save(certificates, eve=authority("other"))
    with pytest.raises(CertsError, match="revoke it where it was issued"):
        revoke(certificates, ["eve"])
    for text in ("", "x", "0", "-1", "F" * 41):
        with pytest.raises(ArgumentsError, match="no serial number"):
            revoke(certificates, serials=[text])
    with pytest.raises(ArgumentsError, match="--days 0"):
        revoke(certificates, days=0)
    assert not (certificates / "ca.crl").exists()


def test_lists_of_other_authorities_in_the_file_are_kept(certificates: Path, tmp_path: Path) -> None:
    """Two authorities of one name, as in a rotation: each list belongs to the key that signed it."""
    twin = make_ca(key=key("twin"))
    other = tmp_path / "other"
    save(other, ca=twin)
    revoke(other, serials=["77"])
    theirs = (other / "ca.crl").read_bytes()
    revoke(certificates, ["user"])
    (certificates / "ca.crl").write_bytes(theirs + (certificates / "ca.crl").read_bytes())
    (certificates / "ca.crt").write_bytes(twin.certificate_pem() + authority().certificate_pem())
    assert revoke(certificates, ["admin"]).number == 2
    authorities = [twin.certificate, authority().certificate]
    path = certificates / "ca.crl"
    lists = {it.number: set(it.revoked) for it in read_lists(path.read_bytes(), path, authorities)}
    assert lists == {1: {0x77}, 2: {serial(certificates, "user"), serial(certificates, "admin")}}
    with pytest.raises(CertsError, match=r"no authority in ca\.crt signed"):
        read_lists(path.read_bytes(), path, [twin.certificate])
    with pytest.raises(CertsError, match="two lists of one authority"):
        read_lists(theirs * 2, path, authorities)


def test_a_list_of_another_kind_is_refused(certificates: Path) -> None:
    """A delta, say, holds only what has changed: taken for the whole, it would let the others in."""
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    ca = authority()
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.certificate.subject)
    builder = builder.last_update(now).next_update(now + DAY)
    builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
    content = builder.sign(ca.key, hashes.SHA256()).public_bytes(Encoding.PEM)
    with pytest.raises(CertsError, match=r"of a kind that is not supported \(extension 2\.5\.29\.27\)"):
        read_lists(content, certificates / "ca.crl", [ca.certificate])
