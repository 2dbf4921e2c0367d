"""Certificates in force: what is taken, what is not, who is ended, and what is warned of (BEHAVIOURS 20)."""

import contextlib
import datetime
import os
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from certs.authority import Credential, issue, make_ca
from certs.errors import CertsError
from certs.revoke import revoke
from certs.roles import Role
from certs.trusted import FILES, TrustedSet
from tests.harness import PATIENCE, eventually
from tests.tlshelp import authority, der, key, make_directory, save
from tests.worker.common import KeptLog, without_threads
from wire.errors import ErrorCode, RequestError
from worker import trust as trust_module
from worker.trust import Trust

DAY = datetime.timedelta(days=1)
KEPT = "certificates were not reloaded; the old ones stay"
TAKEN = "certificates were reloaded"


class HeardLog(KeptLog):
    """A log that one can wait for."""

    def __init__(self) -> None:
        super().__init__()
        self._more = trio.lowlevel.ParkingLot()

    def _write(self, level: str, message: str, fields: dict[str, object]) -> None:
        super()._write(level, message, fields)
        self._more.unpark_all()

    async def wait(self, message: str, count: int = 1) -> dict[str, Any]:
        """Wait for the count-th line with this message."""
        await trio.lowlevel.checkpoint()
        with trio.fail_after(PATIENCE):
            while self.messages.count(message) < count:
                await self._more.park()
        return [line for line in self.lines if line["message"] == message][count - 1]


class Clock:
    """The wall clock as `trust` sees it."""

    def __init__(self) -> None:
        self.ahead = datetime.timedelta()

    def __call__(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC) + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(trust_module, "_now", clock)
    monkeypatch.setattr(trust_module, "POLL_SECONDS", 0.01)
    return clock


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    return make_directory(tmp_path / "certs")


@pytest.fixture
def heard() -> HeardLog:
    return HeardLog()


@pytest.fixture
async def trust(certs: Path, clock: Clock, heard: HeardLog) -> AsyncIterator[Trust]:
    """What a server trusts that was started with `certs`, watching."""
    trust = Trust(certs, heard)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trust.run)
        yield trust
        nursery.cancel_scope.cancel()


def client(name: str = "user", ca: Credential | None = None, **options: Any) -> bytes:
    return der(issue(ca or authority(), name, role=Role.USER, key=key(name), **options))


def stored(certs: Path, name: str) -> bytes:
    """The DER of a certificate in a directory."""
    return ssl.PEM_cert_to_DER_cert((certs / f"{name}.crt").read_text())


def replace(path: Path, content: bytes) -> None:
    """Put a file in place, whole, under another inode."""
    staged = path.with_name("staged")
    staged.write_bytes(content)
    staged.replace(path)


async def test_without_threads_it_says_so_once_and_tries_again(trust: Trust, heard: HeardLog) -> None:
    with without_threads():
        for _ in range(3):
            with trio.fail_after(PATIENCE):
                await trust.reload().wait()
        await heard.wait("certificates cannot be looked at; it is tried again")
    await heard.wait(TAKEN)  # as it was asked for
    assert [line["level"] for line in heard.lines] == ["error", "info"]


class End:
    """How a connection was ended, once it was."""

    def __init__(self) -> None:
        self.calls: list[tuple[ErrorCode, str]] = []
        self._called = trio.Event()

    def __call__(self, code: ErrorCode, reason: str) -> None:
        self.calls.append((code, reason))
        self._called.set()

    async def wait(self) -> tuple[ErrorCode, str]:
        with trio.fail_after(PATIENCE):
            await self._called.wait()
        return self.calls[0]


async def test_a_change_is_taken_without_a_signal_and_ends_who_was_revoked(
    certs: Path, trust: Trust, heard: HeardLog
) -> None:
    revoked, other = End(), End()
    user, admin = (trust.admit(stored(certs, name)) for name in ("user", "admin"))
    before = trust.context
    with trust.hold(user, revoked), trust.hold(admin, other):
        revoke(certs, ["user"])
        code, reason = await revoked.wait()
        assert code is ErrorCode.REVOKED
        assert reason.startswith("The certificate of user (serial ")
        assert reason.endswith(") has been revoked: have a new one issued.")
        assert (await heard.wait(TAKEN))["revoked"] == 1
        assert (await heard.wait("a connection was ended"))["identity"] == "user"
        revoke(certs)  # another reload ends nobody a second time
        await heard.wait(TAKEN, 2)
    assert (len(revoked.calls), other.calls) == (1, [])
    assert trust.context is not before
    with pytest.raises(RequestError, match="has been revoked") as caught:
        trust.admit(stored(certs, "user"))
    assert caught.value.code is ErrorCode.REVOKED
    trust.admit(stored(certs, "admin"))


async def test_who_left_is_not_ended(certs: Path, trust: Trust, heard: HeardLog) -> None:
    end = End()
    with trust.hold(trust.admit(stored(certs, "user")), end):
        pass
    revoke(certs, ["user"])
    await heard.wait(TAKEN)
    assert end.calls == []


def cut_short(certs: Path) -> None:
    replace(certs / "server.crt", (certs / "server.crt").read_bytes()[:-40])


def cut_between_authorities(certs: Path) -> None:
    both = authority().certificate_pem() + authority("other").certificate_pem()
    replace(certs / "ca.crt", both[:-200])


def another_key(certs: Path) -> None:
    replace(certs / "server.key", (certs / "admin.key").read_bytes())


def ended_server(certs: Path) -> None:
    long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    ended = issue(
        authority(), "server", purpose="server", san=["localhost"], key=key("server"), not_before=long_ago
    )
    save(certs, server=ended)


def garbage_list(certs: Path) -> None:
    (certs / "ca.crl").write_text("garbage")


def foreign_list(certs: Path) -> None:
    other = certs.with_name("other")
    save(other, ca=authority("other"))
    revoke(other)
    replace(certs / "ca.crl", (other / "ca.crl").read_bytes())


def dangling_list(certs: Path) -> None:
    (certs / "ca.crl").symlink_to("nowhere")


def no_directory(certs: Path) -> None:
    certs.rename(certs.with_name("away"))


def read_all(certs: Path) -> dict[str, bytes]:
    return {name: (certs / name).read_bytes() for name in FILES if (certs / name).exists()}


def put_back(certs: Path, good: dict[str, bytes]) -> None:
    certs.mkdir(exist_ok=True)
    for name in FILES:
        (certs / name).unlink(missing_ok=True)
    for name, content in good.items():
        (certs / name).write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (cut_short, "no certificate in PEM"),
        (cut_between_authorities, "ca.crt"),
        (another_key, "server.key is not the key of"),
        (ended_server, "server.crt ended on 20"),
        (garbage_list, "ca.crl holds no revocation list in PEM"),
        (foreign_list, "holds a list that no authority in ca.crt signed"),
        (dangling_list, "there is no file"),
        (no_directory, "no certificate"),
    ],
)
async def test_a_bad_file_changes_nothing_and_is_told_once(
    certs: Path, trust: Trust, heard: HeardLog, spoil: Callable[[Path], None], reason: str
) -> None:
    before, end = trust.context, End()
    good = read_all(certs)
    user = stored(certs, "user")
    with trust.hold(trust.admit(user), end):
        spoil(certs)
        line = await heard.wait(KEPT)
        assert reason in line["reason"]
        assert line["reason"].endswith(".")
        assert line["level"] == "error"
        assert trust.context is before
        trust.admit(user)
        await trio.sleep(0.1)  # ten more looks
        assert heard.messages.count(KEPT) == 1
        put_back(certs, good)
        await heard.wait(TAKEN)
        assert trust.context is not before
    assert end.calls == []


def test_a_bad_directory_keeps_a_server_from_starting(certs: Path, heard: HeardLog) -> None:
    ended_server(certs)
    with pytest.raises(CertsError, match=r"server\.crt ended on 20.*renew it with"):
        Trust(certs, heard)


async def test_a_list_that_is_gone_or_older_is_not_taken(certs: Path, trust: Trust, heard: HeardLog) -> None:
    revoke(certs, ["user"])
    await heard.wait(TAKEN)
    first = (certs / "ca.crl").read_bytes()
    revoke(certs, ["admin"])
    await heard.wait(TAKEN, 2)
    (certs / "ca.crl").unlink()
    assert "no longer holds list 2" in (await heard.wait(KEPT))["reason"]
    replace(certs / "ca.crl", first)
    assert "list 1, which is older than 2" in (await heard.wait(KEPT, 2))["reason"]
    with pytest.raises(RequestError, match="has been revoked"):
        trust.admit(stored(certs, "admin"))


async def test_an_authority_that_comes_back_has_not_forgotten(
    certs: Path, trust: Trust, heard: HeardLog
) -> None:
    """Taken out, it takes its list along; put back without it, or with an older one, the set is not taken."""
    alone, both = (certs / "ca.crt").read_bytes(), authority("next").certificate_pem()
    both += alone
    user = stored(certs, "user")
    revoke(certs, ["admin"])
    first = (certs / "ca.crl").read_bytes()
    revoke(certs, ["user"])
    second = (certs / "ca.crl").read_bytes()
    await heard.wait(TAKEN)

    replace(certs / "ca.crt", authority("next").certificate_pem())
    (certs / "ca.crl").unlink()
    await heard.wait(TAKEN, 2)
    with pytest.raises(RequestError, match="not signed by an authority"):
        trust.admit(user)

    replace(certs / "ca.crt", both)
    assert "no longer holds list 2 of worker-service CA" in (await heard.wait(KEPT))["reason"]
    replace(certs / "ca.crl", first)
    assert "list 1, which is older than 2" in (await heard.wait(KEPT, 2))["reason"]
    # What was refused has changed nothing: neither what is in use nor what is remembered.
    with pytest.raises(RequestError, match="not signed by an authority"):
        trust.admit(user)
    (certs / "ca.crl").unlink()
    assert "no longer holds list 2" in (await heard.wait(KEPT, 3))["reason"]

    replace(certs / "ca.crl", second)
    await heard.wait(TAKEN, 3)
    with pytest.raises(RequestError, match="has been revoked"):
        trust.admit(user)


async def test_a_panic_of_the_parser_changes_nothing(
    certs: Path, trust: Trust, heard: HeardLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parser's Rust part panics with what is no Exception; a bug there must not end the server."""

    class PanicException(BaseException):
        pass

    def panics(directory: Path, now: datetime.datetime) -> TrustedSet:
        raise PanicException("index out of bounds")

    before = trust.context
    with monkeypatch.context() as patch:
        patch.setattr(TrustedSet, "read", panics)
        trust.reload()
        assert "the files cannot be read (PanicException(" in (await heard.wait(KEPT))["reason"]
    assert trust.context is before
    trust.reload()
    await heard.wait(TAKEN)


async def test_a_connection_ends_with_its_authority(certs: Path, clock: Clock, heard: HeardLog) -> None:
    """Its own certificate may be good for longer; OpenSSL refuses new connections then, and so do we."""
    now = clock().replace(microsecond=0)
    short = make_ca("short", key=key("short"), not_after=now + 20 * DAY)
    replace(certs / "ca.crt", authority().certificate_pem() + short.certificate_pem())
    trust = Trust(certs, heard)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trust.run)
        ended, kept = End(), End()
        bearer = trust.admit(client("ada", short, not_after=now + 30 * DAY))
        with trust.hold(bearer, ended), trust.hold(trust.admit(client("bob")), kept):
            clock.ahead = 20 * DAY
            code, reason = await ended.wait()
            assert code is ErrorCode.EXPIRED
            assert "is signed by an authority that has expired" in reason
            with pytest.raises(RequestError, match="an authority that has expired"):
                trust.admit(client("ada", short, not_after=now + 30 * DAY))
            # Renewed, it is the same authority, and what it has signed is good again.
            renewed = make_ca("short", key=key("short"), not_after=now + 40 * DAY)
            replace(certs / "ca.crt", authority().certificate_pem() + renewed.certificate_pem())
            await heard.wait(TAKEN)
            trust.admit(client("ada", short, not_after=now + 30 * DAY))
        assert kept.calls == []
        nursery.cancel_scope.cancel()


async def test_files_that_go_on_changing_are_not_read(
    certs: Path, clock: Clock, heard: HeardLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is half written at each look is not looked into, so nobody is told of it."""
    look, looks, read, reads = trust_module.stamp, 0, TrustedSet.read, 0

    def counted(directory: Path, now: datetime.datetime) -> TrustedSet:
        nonlocal reads
        reads += 1
        return read(directory, now)

    def changing(directory: Path) -> trust_module.Stamp:
        nonlocal looks
        looks += 1
        try:
            return look(directory)
        finally:
            if looks < 10:
                (certs / "server.crt").write_bytes(b"-----BEGIN CERTIFICATE-----\n" + b"A" * looks)
            elif looks == 10:
                put_back(certs, good)

    good = read_all(certs)
    trust = Trust(certs, heard)
    monkeypatch.setattr(trust_module, "stamp", changing)
    monkeypatch.setattr(TrustedSet, "read", counted)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trust.run)
        await heard.wait(TAKEN)
        nursery.cancel_scope.cancel()
    assert looks > 10
    assert reads == 1
    assert KEPT not in heard.messages


def times_open(descriptor: int) -> int:
    """How many descriptors of ours are open on the same file as this one, itself included."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            count += link.stat().st_ino == os.fstat(descriptor).st_ino
    return count


async def test_a_disk_that_hangs_holds_up_nobodys_end(
    certs: Path, trust: Trust, heard: HeardLog, clock: Clock
) -> None:
    """A pipe of ours that nobody writes to is such a disk; one with a name would be refused."""
    end = End()
    reader, writer = os.pipe()
    with trust.hold(trust.admit(stored(certs, "user")), end):
        (certs / "ca.crl").symlink_to(f"/proc/{os.getpid()}/fd/{reader}")
        trust.reload()
        # The third is the one that reads it.
        await trio.to_thread.run_sync(eventually, lambda: times_open(reader) > 2, "the reading")
        clock.ahead = 46 * DAY
        assert (await end.wait())[0] is ErrorCode.EXPIRED
        assert KEPT not in heard.messages
        os.close(writer)
        assert "no revocation list in PEM" in (await heard.wait(KEPT))["reason"]
    os.close(reader)


async def test_what_changed_while_it_was_read_is_read_again(
    certs: Path, trust: Trust, heard: HeardLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, before, reads = read_all(certs), trust.context, 0
    read = TrustedSet.read

    def interrupted(directory: Path, now: datetime.datetime) -> TrustedSet:
        nonlocal reads
        reads += 1
        try:
            return read(directory, now)
        finally:
            if reads == 1:
                put_back(certs, good)

    monkeypatch.setattr(TrustedSet, "read", interrupted)
    cut_short(certs)
    await heard.wait(TAKEN)
    assert KEPT not in heard.messages
    assert reads == 2
    assert trust.context is not before


async def test_a_reload_that_is_asked_for_is_done_at_once(
    certs: Path, heard: HeardLog, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust_module, "POLL_SECONDS", 600)
    trust = Trust(certs, heard)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trust.run)
        await trio.testing.wait_all_tasks_blocked()
        for count in (1, 2):  # also where nothing has changed
            trust.reload()
            await heard.wait(TAKEN, count)
        garbage_list(certs)
        trust.reload()
        await heard.wait(KEPT)
        trust.reload()
        await heard.wait(KEPT, 2)  # asked again, told again
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("jump", [datetime.timedelta(days=46), datetime.timedelta(minutes=1)])
async def test_a_connection_ends_with_its_certificate(
    trust: Trust, clock: Clock, jump: datetime.timedelta
) -> None:
    """Also when the clock is set far ahead."""
    now = clock().replace(microsecond=0)
    soon, later = End(), End()
    short = trust.admit(client("short", not_after=now + datetime.timedelta(minutes=1)))
    long = trust.admit(client("long", not_after=now + 50 * DAY))
    with trust.hold(short, soon), trust.hold(long, later):
        clock.ahead = -DAY  # set back: nothing happens
        await trio.sleep(0.05)
        assert soon.calls == []
        clock.ahead = jump
        code, reason = await soon.wait()
        assert code is ErrorCode.EXPIRED
        assert reason.endswith(") has expired: have a new one issued.")
    assert later.calls == []
    with pytest.raises(RequestError, match="has expired") as caught:
        trust.admit(client("short", not_after=now + datetime.timedelta(seconds=2)))
    assert caught.value.code is ErrorCode.EXPIRED


async def test_two_authorities_and_then_one(certs: Path, trust: Trust, heard: HeardLog) -> None:
    """A rotation: both are trusted for a while, each with its own list; then the old one is not."""
    new = authority("new CA")
    old_client, new_client = client("old"), client("new", new)
    with pytest.raises(RequestError, match="not signed by an authority"):
        trust.admit(new_client)
    other = certs.with_name("other")
    save(other, ca=new)
    revoke(other, serials=["1234"])
    revoke(certs, ["user"])
    both = (certs / "ca.crl").read_bytes() + (other / "ca.crl").read_bytes()
    replace(certs / "ca.crt", authority().certificate_pem() + new.certificate_pem())
    replace(certs / "ca.crl", both)
    await heard.wait(TAKEN)
    ended, kept = End(), End()
    with trust.hold(trust.admit(old_client), ended), trust.hold(trust.admit(new_client), kept):
        with pytest.raises(RequestError, match="has been revoked"):
            trust.admit(stored(certs, "user"))
        replace(certs / "ca.crl", (other / "ca.crl").read_bytes())
        replace(certs / "ca.crt", new.certificate_pem())
        code, reason = await ended.wait()
        assert code is ErrorCode.REVOKED
        assert "is not signed by an authority that this server trusts" in reason
    assert kept.calls == []


async def test_a_list_that_ends_lets_nobody_in_and_nobody_out(
    certs: Path, trust: Trust, heard: HeardLog, clock: Clock
) -> None:
    revoke(certs, ["user"], days=20)
    await heard.wait(TAKEN)
    assert trust.context.verify_flags & ssl.VERIFY_CRL_CHECK_LEAF
    end = End()
    with trust.hold(trust.admit(stored(certs, "admin")), end):
        clock.ahead = 20 * DAY
        line = await heard.wait("a certificate has ended")
        assert (line["file"], line["what"]) == ("ca.crl", "list 1 of revoked certificates")
        # OpenSSL would say that the client's certificate had expired.
        assert not trust.context.verify_flags & ssl.VERIFY_CRL_CHECK_LEAF
        with pytest.raises(RequestError, match="accepts nobody, as its list") as caught:
            trust.admit(stored(certs, "admin"))
        assert caught.value.code is ErrorCode.INTERNAL
        with pytest.raises(RequestError, match="has been revoked"):
            trust.admit(stored(certs, "user"))
        trust.reload()
        assert "ca.crl ended on" in (await heard.wait(KEPT))["reason"]
        revoke(certs, days=40)
        await heard.wait(TAKEN, 2)
        trust.admit(stored(certs, "admin"))
    assert end.calls == []


async def test_ends_are_warned_of_at_the_start_daily_and_when_they_come(
    certs: Path, clock: Clock, heard: HeardLog
) -> None:
    start = clock().replace(microsecond=0)
    ends = start + 10 * DAY
    save(
        certs,
        server=issue(
            authority(), "server", purpose="server", san=["localhost"], key=key("server"), not_after=ends
        ),
    )
    trust = Trust(certs, heard)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trust.run)
        line = await heard.wait("a certificate ends soon")
        assert line["file"] == "server.crt"
        assert line["ends"] == f"{ends:%Y-%m-%dT%H:%M:%SZ}"
        assert line["days_left"] == 9
        assert "worker-service certs renew server" in line["remedy"]
        await trio.sleep(0.1)
        assert len(heard.messages) == 1  # not at every look
        clock.ahead = DAY
        assert (await heard.wait("a certificate ends soon", 2))["days_left"] == 8
        clock.ahead = 10 * DAY
        await heard.wait("a certificate has ended")
        nursery.cancel_scope.cancel()


async def test_nothing_is_warned_of_before_its_time(certs: Path, clock: Clock, heard: HeardLog) -> None:
    clock.ahead = (365 - 15) * DAY
    trust = Trust(certs, heard)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trust.run)
        await trio.sleep(0.05)
        assert heard.messages == []
        clock.ahead += 1.5 * DAY
        assert {(await heard.wait("a certificate ends soon", n))["file"] for n in (1, 2)} == {
            "ca.crt",
            "server.crt",
        }
        nursery.cancel_scope.cancel()


def test_stamps_see_what_keeps_size_and_time(certs: Path) -> None:
    before = trust_module.stamp(certs)
    times = (certs / "ca.crt").stat()
    (certs / "ca.crt").write_bytes((certs / "ca.crt").read_bytes()[::-1])
    os.utime(certs / "ca.crt", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert trust_module.stamp(certs) != before


@pytest.mark.parametrize("number", [None, 7])
@pytest.mark.parametrize("hours", [-4, 1])
async def test_a_list_of_the_same_number_that_holds_less_is_not_taken(
    certs: Path, trust: Trust, heard: HeardLog, number: int | None, hours: int
) -> None:
    ca = x509.load_pem_x509_certificate((certs / "ca.crt").read_bytes())
    signing = load_pem_private_key((certs / "ca.key").read_bytes(), None)
    now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=5)
    admin = x509.load_der_x509_certificate(stored(certs, "admin"))

    def write(serials: list[int], later: int) -> None:
        builder = x509.CertificateRevocationListBuilder().issuer_name(ca.subject)
        builder = builder.last_update(now + datetime.timedelta(hours=later))
        builder = builder.next_update(now + datetime.timedelta(days=9))
        key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key())  # type: ignore[arg-type]
        builder = builder.add_extension(key_id, critical=False)
        if number is not None:
            builder = builder.add_extension(x509.CRLNumber(number), critical=False)
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
            builder = builder.add_revoked_certificate(entry.build())
        crl = builder.sign(signing, hashes.SHA256())  # type: ignore[arg-type]
        replace(certs / "ca.crl", crl.public_bytes(Encoding.PEM))

    write([admin.serial_number], 0)
    await heard.wait(TAKEN)
    write([], hours)
    assert "which is older or holds less" in (await heard.wait(KEPT))["reason"]
    with pytest.raises(RequestError, match="has been revoked"):
        trust.admit(stored(certs, "admin"))


async def test_an_authority_of_an_odd_curve_is_not_taken(
    certs: Path, trust: Trust, heard: HeardLog, tmp_path: Path
) -> None:
    odd, odd_key = tmp_path / "odd.crt", tmp_path / "odd.key"
    for command in (
        f"openssl ecparam -name secp224k1 -genkey -noout -out {odd_key}",
        f"openssl req -x509 -new -key {odd_key} -subj /CN=odd -days 30 -out {odd}",
    ):
        await trio.run_process(command.split(), capture_stderr=True)
    replace(certs / "ca.crt", (certs / "ca.crt").read_bytes() + odd.read_bytes())
    assert "an authority that cannot be used" in (await heard.wait(KEPT))["reason"]
    assert trust.admit(stored(certs, "admin")).name == "admin"
    with pytest.raises(CertsError, match="an authority that cannot be used"):
        Trust(certs, heard)
