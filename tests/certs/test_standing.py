"""Owns the proof that whom OpenSSL alone would serve is refused: by way of authorities, names, odd lists."""

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from certs.authority import Credential, issue
from certs.contexts import client_context
from certs.errors import CertsError
from certs.revocation import authority_id, read_lists
from certs.revoke import revoke
from certs.roles import Role
from certs.standing import standing
from certs.trusted import NotAcceptedError, Reason, TrustedSet
from tests.tlshelp import authority, der, handshake, key, save

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY = datetime.timedelta(days=1)


def made(
    name: str | x509.Name, by: Credential | None = None, days: int = 100, key_of: str | None = None
) -> Credential:
    """An authority, signed by itself or by another."""
    own = key(key_of or str(name))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) if isinstance(name, str) else name
    identifier = x509.SubjectKeyIdentifier.from_public_key(own.public_key())
    signing = by.key if by else own
    builder = x509.CertificateBuilder().subject_name(subject).public_key(own.public_key())
    builder = builder.issuer_name(by.certificate.subject if by else subject)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(NOW - DAY).not_valid_after(NOW + days * DAY)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    for extension, critical in (
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (usage, True),
        (identifier, False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), False),
    ):
        builder = builder.add_extension(extension, critical)
    return Credential(builder.sign(signing, hashes.SHA256()), own)


def trust(directory: Path, *authorities: Credential, lists: bytes = b"") -> TrustedSet:
    """What a server with these in its ca.crt trusts."""
    (directory / "ca.crt").write_bytes(b"".join(it.certificate_pem() for it in authorities))
    if lists:
        (directory / "ca.crl").write_bytes(lists)
    return TrustedSet.read(directory, NOW)


def list_of(ca: Credential, directory: Path, *serials: int) -> bytes:
    """The list in which an authority has revoked these."""
    save(directory, ca=ca)
    revoke(directory, serials=[f"{it:X}" for it in serials])
    return (directory / "ca.crl").read_bytes()


def judged(trusted: TrustedSet, client: Credential, now: datetime.datetime = NOW) -> str:
    """Why a client is not accepted, or nothing."""
    try:
        trusted.judge(trusted.bearer(der(client)), now)
    except NotAcceptedError as error:
        return str(error)
    return ""


def ada(ca: Credential) -> Credential:
    return issue(ca, "ada", role=Role.USER, key=key("ada"))


def accepted_by_openssl(trusted: TrustedSet, client: Credential, directory: Path) -> bool:
    """Whether a handshake succeeds, before anybody else is asked."""
    save(directory, ada=client, ca=authority())
    here, _ = handshake(trusted.context_at(NOW), client_context(directory, "ada"))
    return here.error is None


def test_a_revoked_intermediate_takes_its_clients_along(certificates: Path, tmp_path: Path) -> None:
    """Also those of one that it has signed in turn. OpenSSL looks for the clients' own numbers alone."""
    root = made("root")
    middle = made("middle", root)
    lower = made("lower", middle)
    serial = middle.certificate.serial_number
    everybody = (authority(), root, middle, lower)
    good = trust(certificates, *everybody)
    assert [judged(good, ada(it)) for it in everybody] == [""] * 4
    bad = trust(certificates, *everybody, lists=list_of(root, tmp_path / "root", serial))
    for ca in (middle, lower):
        assert accepted_by_openssl(bad, ada(ca), tmp_path / "client")
        assert "is signed by an authority that is not trusted any more" in judged(bad, ada(ca))
    assert judged(bad, ada(root)) == ""
    # With another certificate for its key, it stands again.
    again = trust(certificates, *everybody, made("middle", root))
    assert [judged(again, ada(it)) for it in (middle, lower)] == [""] * 2


def test_what_stands_and_until_when() -> None:
    root, twin = made("root"), made("root", days=50)
    middle = made("middle", root, days=200)
    lower = made("lower", middle, days=30)
    ends = [(root, 100), (twin, 100), (middle, 100), (lower, 30)]
    found = standing([it.certificate for it, _ in reversed(ends)], [])
    assert [found[authority_id(it.certificate)].until - NOW for it, _ in ends] == [
        days * DAY for _, days in ends
    ]
    # Without the root, nobody does, also where two sign each other.
    left, right = made("left", made("right")), made("right", made("left"))
    assert standing([it.certificate for it in (left, right, middle, lower)], []) == {}


def test_the_end_of_a_list_above_lets_nobody_in(certificates: Path, tmp_path: Path) -> None:
    """Nobody knows then whether the intermediate was revoked. One that stands without it is not concerned."""
    root, other = made("root"), made("other")
    middle = made("middle", root)
    save(tmp_path / "root", ca=root)
    revoke(tmp_path / "root", days=5)
    lists = (tmp_path / "root" / "ca.crl").read_bytes()
    for crossed, refused in ((made("other", root), [root, middle]), (made("middle", other), [root])):
        trusted = trust(certificates, authority(), root, other, middle, crossed, lists=lists)
        for ca in (authority(), root, other, middle):
            bearer = trusted.bearer(der(ada(ca)))
            trusted.judge(bearer, NOW + 6 * DAY)
            trusted.check_lists(bearer, NOW)
            if ca in refused:
                with pytest.raises(NotAcceptedError, match="its list of revoked certificates has ended"):
                    trusted.check_lists(bearer, NOW + 6 * DAY)
            else:
                trusted.check_lists(bearer, NOW + 6 * DAY)


def test_the_end_of_an_authority_above_ends_what_is_below(certificates: Path) -> None:
    root = made("root", days=9)
    middle = made("middle", root)
    trusted = trust(certificates, authority(), root, middle)
    assert judged(trusted, ada(middle), NOW + 8 * DAY) == ""
    assert "an authority that has expired" in judged(trusted, ada(middle), NOW + 9 * DAY)


def test_a_client_by_an_intermediate_that_it_brings_itself_is_refused(
    certificates: Path, tmp_path: Path
) -> None:
    root = made("root")
    middle = made("middle", root)
    trusted = trust(certificates, authority(), root)
    client = ada(middle)
    save(tmp_path / "client", ada=client, ca=authority())
    with (tmp_path / "client" / "ada.crt").open("ab") as file:
        file.write(middle.certificate_pem())
    here, _ = handshake(trusted.context_at(NOW), client_context(tmp_path / "client", "ada"))
    assert here.error is None  # OpenSSL has no objection
    assert "is not signed by an authority that this server trusts" in judged(trusted, client)


@pytest.mark.parametrize("named", ["Red", "Blue"])
def test_one_number_by_two_authorities_is_two_certificates(
    certificates: Path, tmp_path: Path, named: str
) -> None:
    """Of different names and of the same; with a list of both, OpenSSL looks too."""
    red, blue = made("Red"), made(named, key_of="blue")
    lists = list_of(red, tmp_path / "red", 7) + list_of(blue, tmp_path / "blue", 8)
    lists += list_of(authority(), tmp_path / "own")
    trusted = trust(certificates, authority(), red, blue, lists=lists)

    def numbered(ca: Credential, serial: int) -> Credential:
        client = ada(ca)
        builder = x509.CertificateBuilder(
            ca.certificate.subject,
            client.certificate.subject,
            client.key.public_key(),
            serial,
            client.certificate.not_valid_before_utc,
            client.certificate.not_valid_after_utc,
            list(client.certificate.extensions),
        )
        return Credential(builder.sign(ca.key, hashes.SHA256()), client.key)

    for ca, serial, good in ((red, 7, False), (red, 8, True), (blue, 7, True), (blue, 8, False)):
        client = numbered(ca, serial)
        assert (judged(trusted, client) == "") is good
        assert accepted_by_openssl(trusted, client, tmp_path / "client") is good


def test_an_authority_renewed_under_another_kind_of_string_is_the_same(
    certificates: Path, tmp_path: Path
) -> None:
    """To OpenSSL it is. Else its list would speak of the old one alone, and whom it revoked would come in."""

    def name(kind: _ASN1Type, text: str = "The  CA") -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text, kind)])

    old, new = (made(name(it), key_of="one") for it in (_ASN1Type.PrintableString, _ASN1Type.UTF8String))
    assert authority_id(made(name(_ASN1Type.UTF8String, "the ca"), key_of="one").certificate) == (
        authority_id(old.certificate)
    )
    assert authority_id(made("The CB", key_of="one").certificate) != authority_id(old.certificate)
    client = ada(new)
    lists = list_of(old, tmp_path / "old", client.certificate.serial_number)
    trusted = trust(certificates, authority(), old, new, lists=lists)
    assert accepted_by_openssl(trusted, client, tmp_path / "client")  # it has no list of `authority()`
    with pytest.raises(NotAcceptedError, match="has been revoked") as caught:
        trusted.judge(trusted.bearer(der(client)), NOW)
    assert caught.value.reason is Reason.REVOKED


@pytest.mark.parametrize(
    "odd",
    [
        lambda: x509.DeltaCRLIndicator(1),
        lambda: x509.IssuingDistributionPoint(None, None, True, False, None, False, False),
    ],
)
def test_a_partial_list_that_does_not_say_so_is_refused(odd: Callable[[], x509.ExtensionType]) -> None:
    """Critical, as it ought to be, or not: taken for the whole, it would let the others in."""
    ca = authority()
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.certificate.subject)
    builder = builder.last_update(NOW).next_update(NOW + DAY).add_extension(odd(), critical=False)
    content = builder.sign(ca.key, hashes.SHA256()).public_bytes(Encoding.PEM)
    with pytest.raises(CertsError, match="of a kind that is not supported"):
        read_lists(content, Path("ca.crl"), [ca.certificate])


def test_a_list_in_the_wrong_file_is_not_overlooked(certificates: Path) -> None:
    """Some servers want it there; this one would serve everybody who is in it."""
    revoke(certificates, ["user"])
    both = (certificates / "ca.crt").read_bytes() + (certificates / "ca.crl").read_bytes()
    (certificates / "ca.crl").unlink()
    (certificates / "ca.crt").write_bytes(both)
    with pytest.raises(CertsError, match=r"ca\.crt holds a list of revoked certificates: move it to ca\.crl"):
        TrustedSet.read(certificates, NOW)
