"""Owns the proof that what was seen revoked is remembered as long as the server runs, and nothing else is."""

import datetime
from pathlib import Path

import pytest

from certs.errors import CertsError
from certs.revoke import revoke
from certs.seen import SeenLists
from certs.trusted import TrustedSet
from tests.tlshelp import authority, save

NAMES = ("first", "second", "third")


@pytest.fixture
def lists(tmp_path: Path) -> dict[str, bytes]:
    """A list by each of three authorities; the third has revoked nobody."""
    found = {}
    for name in NAMES:
        save(tmp_path / name, ca=authority(name))
        revoke(tmp_path / name, serials=[] if name == "third" else ["77"])
        found[name] = (tmp_path / name / "ca.crl").read_bytes()
    return found


def used(directory: Path, lists: dict[str, bytes], *names: str, without: str = "") -> TrustedSet:
    """The set of a server that trusts these, beside its own authority, with the list of each but one."""
    certificates = b"".join(authority(name).certificate_pem() for name in names)
    (directory / "ca.crt").write_bytes(authority().certificate_pem() + certificates)
    content = b"".join(lists[name] for name in names if name != without)
    (directory / "ca.crl").unlink(missing_ok=True)
    if content:
        (directory / "ca.crl").write_bytes(content)
    return TrustedSet.read(directory, datetime.datetime.now(datetime.UTC))


def test_each_is_remembered_whatever_came_between(certificates: Path, lists: dict[str, bytes]) -> None:
    seen = SeenLists()
    for names in (["first"], ["second"], [], ["third"], []):
        new = used(certificates, lists, *names)
        seen.check(new)
        seen = seen.after(new)
    for name in ("first", "second"):
        with pytest.raises(CertsError, match=f"no longer holds list 1 of {name}, an authority in"):
            seen.check(used(certificates, lists, *NAMES, without=name))
    seen.check(used(certificates, lists, *NAMES))


def test_what_revokes_nobody_is_remembered_while_it_is_in_use(
    certificates: Path, lists: dict[str, bytes]
) -> None:
    """So a server whose authorities come and go by the hour holds what they have revoked, and no more."""
    new = used(certificates, lists, *NAMES)
    seen = SeenLists().after(new)
    assert len(seen.last) == 3
    with pytest.raises(CertsError, match="no longer holds list 1 of third"):
        seen.check(used(certificates, lists, *NAMES, without="third"))
    seen = seen.after(used(certificates, lists))
    assert len(seen.last) == 2
    seen.check(used(certificates, lists, "third", without="third"))


def test_a_check_changes_nothing(certificates: Path, lists: dict[str, bytes]) -> None:
    seen = SeenLists().after(used(certificates, lists, "first"))
    before = dict(seen.last)
    seen.check(used(certificates, lists, "second"))
    with pytest.raises(CertsError):
        seen.check(used(certificates, lists, "first", without="first"))
    assert seen.last == before
