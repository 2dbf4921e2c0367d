"""Owns the certificates in force while the server runs: watches their files, ends who has lost their trust.

Theory of operation. Every second the files' stamps are compared, four stat(2) in all: that sees renames,
links turned around and every kind of file system, which inotify does not. What has changed is read once
it has stayed the same for a second, and taken if it fits together and did not change meanwhile; otherwise
the old set stays. One task does all of it, so that no reload overtakes another, and in threads, as a disk
may hang. Another compares dates with the wall clock every second, so that a clock that is set is noticed,
and who has expired is ended, whatever the disk does.
"""

import datetime
import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import trio

from certs.errors import CertsError
from certs.seen import SeenLists
from certs.trusted import FILES, Bearer, NotAcceptedError, Reason, Term, TrustedSet
from wire.errors import ErrorCode, RequestError

from .lacks import lack_of
from .log import Log
from .threads import run_in_thread

#: Seconds between two looks at the files and the clock.
POLL_SECONDS = 1.0
#: From when on an end is warned of, and how often.
WARN_BEFORE = datetime.timedelta(days=14)
WARN_EVERY = datetime.timedelta(days=1)

_CODES = {
    Reason.REVOKED: ErrorCode.REVOKED,
    Reason.EXPIRED: ErrorCode.EXPIRED,
    Reason.UNDECIDED: ErrorCode.INTERNAL,
}

#: What tells one state of the files from another; None for one that is not there.
Stamp: TypeAlias = tuple[tuple[int, int, int, int] | None, ...]
#: Ends a connection with a code and a sentence.
End: TypeAlias = Callable[[ErrorCode, str], None]


@dataclass(eq=False, slots=True)
class _Held:
    """A connection that is open on the strength of a certificate."""

    bearer: Bearer
    end: End


class Trust:
    """The certificates in force.

    Args:
        directory: holds ca.crt, server.crt, server.key and, if anything was revoked, ca.crl.
        log: the server's log.

    Raises:
        CertsError: they cannot be used.
    """

    def __init__(self, directory: Path, log: Log) -> None:
        self._directory = directory
        self._log = log
        self._taken = stamp(directory)
        self._set = TrustedSet.read(directory, _now())
        self._seen = SeenLists().after(self._set)
        self._asked = trio.Event()
        self._done = trio.Event()
        self._held: set[_Held] = set()
        self._blind = False  # the last look failed
        self._warned = datetime.datetime.min.replace(tzinfo=datetime.UTC)
        self._ended: set[Term] = set()
        self._tell_exposed()

    @property
    def context(self) -> ssl.SSLContext:
        """The server's side of TLS for a connection that comes now."""
        return self._set.context_at(_now())

    def admit(self, certificate: bytes) -> Bearer:
        """Judge the certificate, in DER, of a client whose handshake has succeeded.

        Raises:
            RequestError: it is not served; the message says why.
        """
        bearer = self._set.bearer(certificate)
        now = _now()
        try:
            self._set.judge(bearer, now)
            self._set.check_lists(bearer, now)
        except NotAcceptedError as error:
            raise RequestError(_CODES[error.reason], str(error)) from error
        return bearer

    @contextmanager
    def hold(self, bearer: Bearer, end: End) -> Iterator[None]:
        """Call ``end``, once, if the certificate loses its worth within the block.

        Nothing may be awaited between `admit` and this.
        """
        held = _Held(bearer, end)
        self._held.add(held)
        try:
            yield
        finally:
            self._held.discard(held)

    def reload(self) -> trio.Event:
        """Read the files now, whether they have changed or not; return what is set once that is done."""
        self._asked.set()
        return self._done

    async def run(self) -> None:
        """Watch the files and the clock."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_files)
            nursery.start_soon(self._watch_clock)

    async def _watch_clock(self) -> None:
        while True:
            self._warn()
            self._end_bearers()
            await trio.sleep(POLL_SECONDS)

    async def _watch_files(self) -> None:
        tried: Stamp | None = self._taken
        before = self._taken
        while True:
            with trio.move_on_after(POLL_SECONDS):
                await self._asked.wait()
            try:
                found = await self._look()
                if self._asked.is_set() or (found != tried and found == before):
                    tried = await self._answer()
            except (OSError, MemoryError) as error:
                self._put_off(error)
                await trio.sleep(POLL_SECONDS)
            else:
                self._blind = False
                before = found

    async def _answer(self) -> Stamp | None:
        """Reload, and tell all who have asked for it; where that fails, it is asked for again."""
        asked, self._asked = self._asked, trio.Event()
        done, self._done = self._done, trio.Event()
        try:
            tried = await self._reload()
        except (OSError, MemoryError):
            if asked.is_set():
                self._asked.set()
            raise
        finally:
            done.set()
        self._end_bearers()
        return tried

    def _put_off(self, error: Exception) -> None:
        """Say, once until it goes well, that the files cannot be looked at; keep nobody waiting for it."""
        self._done.set()
        self._done = trio.Event()
        if not self._blind:
            self._blind = True
            reason = lack_of(error) or str(error)
            self._log.error("certificates cannot be looked at; it is tried again", reason=reason)

    async def _look(self) -> Stamp:
        return await run_in_thread(partial(stamp, self._directory), abandon_on_cancel=True)

    async def _reload(self) -> Stamp | None:
        """Take the files if they are good; return which were looked at, or None if they changed meanwhile."""
        found = await self._look()
        new = await run_in_thread(partial(_try_read, self._directory, self._seen), abandon_on_cancel=True)
        if await self._look() != found:
            return None
        if isinstance(new, CertsError):
            self._log.error("certificates were not reloaded; the old ones stay", reason=str(new))
            return found
        self._set = new
        self._seen = self._seen.after(new)
        self._warned = datetime.datetime.min.replace(tzinfo=datetime.UTC)
        self._log.info(
            "certificates were reloaded",
            directory=str(self._directory),
            lists=[it.number for it in new.lists],
            revoked=sum(len(it.revoked) for it in new.lists),
        )
        self._tell_exposed()
        return found

    def _tell_exposed(self) -> None:
        for sentence in self._set.exposed:
            self._log.warning("the private key is not private", reason=sentence)

    def _end_bearers(self) -> None:
        now = _now()
        for held in tuple(self._held):
            try:
                self._set.judge(held.bearer, now)
            except NotAcceptedError as error:
                self._held.discard(held)
                self._log.warning("a connection was ended", identity=held.bearer.name, reason=str(error))
                held.end(_CODES[error.reason], str(error))

    def _warn(self) -> None:
        """Say what ends soon or has ended: at the start, after a reload, daily, and when something ends."""
        now = _now()
        due = [term for term in self._set.terms if term.ends - now < WARN_BEFORE]
        ended = {term for term in due if term.ends <= now}
        # Either way: the clock may have been set back.
        if ended == self._ended and abs(now - self._warned) < WARN_EVERY:
            return
        self._warned, self._ended = now, ended
        for term in due:
            message = "a certificate has ended" if term in ended else "a certificate ends soon"
            self._log.warning(message, **notice(term, now))


def notice(term: Term, now: datetime.datetime) -> dict[str, object]:
    """The fields of a warning: which file, what of it, when, in how many days, and what to do."""
    return {
        "file": term.file,
        "what": term.what,
        "ends": f"{term.ends:%Y-%m-%dT%H:%M:%SZ}",
        "days_left": (term.ends - now).days,
        "remedy": term.remedy,
    }


def stamp(directory: Path) -> Stamp:
    """The state of a directory's files, as far as stat(2) tells."""
    return tuple(map(_stamp_of, (directory / name for name in FILES)))


def _stamp_of(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  # through links, and without the cost of a Path's own
    except OSError:
        return (0, 0, 0, 0) if os.path.lexists(path) else None  # there, but of no use
    return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns


def _try_read(directory: Path, seen: SeenLists) -> TrustedSet | CertsError:
    try:
        new = TrustedSet.read(directory, _now())
        seen.check(new)
    except CertsError as error:
        return error
    # Whatever a parser makes of a file, the server stays up. A panic of its Rust part
    # is not even an Exception. Nothing waits in here, so nothing is cancelled.
    except BaseException as error:  # noqa: BLE001, ASYNC103
        return CertsError(f"the files cannot be read ({error!r})")  # noqa: ASYNC104
    return new


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
