"""Owns the audit trail: what is recorded of each decision and each job event (README, "Audit").

A `Trail` knows who is meant: a connection's knows the peer, a client's the identity too, a request's its
number and method. What is recorded on a trail says all of that. A job keeps the trail of its start.
"""

import enum
import itertools
import time
from datetime import UTC, datetime
from typing import Final

import trio

from certs.roles import Identity
from wire.errors import ErrorCode, RequestError
from wire.jobs import Cause, CauseKind
from wire.messages import Request

from . import audit_line
from .audit_sink import AuditSink, Line
from .log import Log
from .refusals import Refusal, Refusals
from .state import Exit

#: How long a start waits for its line to be written, in seconds, where none may run without.
PATIENCE_SECONDS = 2.0


class Event(enum.StrEnum):
    """What a line is about."""

    SERVER_STARTED = "server_started"
    SERVER_ENDED = "server_ended"
    HANDSHAKE_FAILED = "handshake_failed"
    CONNECTION_ACCEPTED = "connection_accepted"
    CONNECTION_DENIED = "connection_denied"
    CONNECTION_ENDED = "connection_ended"
    REQUEST = "request"
    REQUEST_FAILED = "request_failed"
    JOB_STARTED = "job_started"
    JOB_REFUSED = "job_refused"
    START_REPEATED = "start_repeated"
    JOB_STOPPING = "job_stopping"
    JOB_ENDED = "job_ended"
    JOB_LOST = "job_lost"
    JOB_REMOVED = "job_removed"
    AUDIT_GAP = "audit_gap"


#: What an allowed request that changes something leads to, by its method: one line of what it did or, if it
#: came to nothing, the other.
_OUTCOMES: Final = {
    "start": (Event.JOB_STARTED, Event.JOB_REFUSED),
    "stop": (Event.JOB_STOPPING, Event.REQUEST_FAILED),
    "remove": (Event.JOB_REMOVED, Event.REQUEST_FAILED),
}
_CANCELLED: Final = RequestError(ErrorCode.CANCELLED, "it was cancelled before anything was done")


class Outcome(enum.StrEnum):
    """How it came out, but for a job's end, where this is the job's status."""

    ALLOWED = "allowed"
    DENIED = "denied"
    FAILED = "failed"
    DONE = "done"


class Audit:
    """One server's audit log.

    Args:
        name: a file's path, or ``stderr``.
        log: the server's log.
        required: whether a start must be on the sink before its job runs.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, name: str, log: Log, *, required: bool = False) -> None:
        self.required = required
        self._numbers = itertools.count(1)
        self._sink = AuditSink(name, log, _gap)

    def record(self, event: Event, outcome: str, fields: dict[str, object]) -> Line:
        """Queue a line; never waits."""
        number = next(self._numbers)
        line = Line(number, _line(number, event, outcome, fields))
        self._sink.put(line)
        return line

    async def written(self, line: Line) -> bool:
        """Wait until the sink has a line; False if it does not take it in time."""
        return await self._sink.wait_written(line, PATIENCE_SECONDS)

    def reopen(self) -> None:
        """Open the file by its name again."""
        self._sink.reopen()

    def close(self) -> None:
        """Write what is queued, within a deadline."""
        self._sink.close()


class Trail:
    """Records what happens to one server, connection, client or request, and says whose it is.

    Args:
        audit: the audit log; None records nothing.
        context: fields of every line.
        refusals: says which refusals are told; None for all of them.
    """

    def __init__(
        self,
        audit: Audit | None = None,
        context: dict[str, object] | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self._audit = audit
        self._context = context or {}
        self._refusals = refusals
        self._last: Line | None = None
        method = self._context.get("method")
        self._did: Event | None
        self._did, self._came_to_nothing = _OUTCOMES.get(str(method), (None, Event.REQUEST_FAILED))
        self._settled = False  # what became of the request is recorded, or somebody else will record it

    def about(self, **fields: object) -> "Trail":
        """A trail that says more."""
        return Trail(self._audit, self._context | fields, self._refusals)

    def counting(self, refusals: Refusals) -> "Trail":
        """A trail whose refusals are told one by one as far as `refusals` says."""
        return Trail(self._audit, self._context, refusals)

    def client(self, identity: Identity) -> "Trail":
        """The trail of a client whose certificate was accepted."""
        return self.about(identity=identity.name, serial=identity.serial, role=identity.role.value)

    def request(self, request: Request) -> "Trail":
        """The trail of a request."""
        return self.about(request=request.id, method=request.method)

    def record(self, event: Event, outcome: str, **fields: object) -> None:
        """Record an event; what is None is left out."""
        if event in (self._did, Event.START_REPEATED):
            self._settled = True
        if self._audit is not None:
            self._last = self._audit.record(event, outcome, self._context | fields)

    def allowed(self, request: Request) -> None:
        """Record that a request may go on, with what it asks for."""
        if self._audit is not None:
            self.record(Event.REQUEST, Outcome.ALLOWED, **audit_line.asked(request.params))

    def refused(self, request: Request, error: RequestError) -> bool:
        """Record that a request may not go on, with what it asked for; say whether it is told by itself."""
        outcome = Outcome.DENIED if error.code is ErrorCode.DENIED else Outcome.FAILED
        if not self._may_tell(Event.REQUEST, outcome):
            return False
        if self._audit is not None:
            asked = audit_line.asked(request.params)
            self.record(Event.REQUEST, outcome, **asked, code=error.code, cause=error.message)
        return True

    def denied(self, reason: str) -> bool:
        """Record that a connection may not come in; say whether it is told by itself."""
        told = self._may_tell(Event.CONNECTION_DENIED, Outcome.DENIED)
        if told:
            self.record(Event.CONNECTION_DENIED, Outcome.DENIED, cause=reason)
        return told

    def more(self, kind: Refusal, count: int) -> None:
        """Record how many refusals of a kind were not told one by one."""
        unit = "connections" if kind.event == Event.CONNECTION_DENIED else "requests"
        whose = {"identity": kind.identity, "role": kind.role}
        cause = "they were too many to be told one by one"
        self.record(Event(kind.event), kind.outcome, **whose, cause=cause, **{unit: count})

    def _may_tell(self, event: Event, outcome: Outcome) -> bool:
        if self._refusals is None:
            return True
        identity, role = self._context.get("identity"), self._context.get("role")
        kind = Refusal(event, outcome, str(identity) if identity else None, str(role) if role else None)
        return self._refusals.may_tell(kind)

    async def secure(self) -> None:
        """Wait until what was recorded last is written, if the operator wants no job without it.

        Raises:
            RequestError: the audit log does not take it.
        """
        await trio.lowlevel.checkpoint()
        if self._audit is None or not self._audit.required or self._last is None:
            return
        if not await self._audit.written(self._last):
            raise RequestError(
                ErrorCode.AUDIT_UNAVAILABLE,
                "The server starts no jobs while its audit log takes no lines: "
                "tell its operator, and try again.",
            )

    def failed(self, error: RequestError) -> None:
        """Record that a request which was allowed came to nothing, if nothing is recorded of it yet."""
        if self._settled:
            return
        self._settled = True
        # What becomes of a request that was to change something is always told.
        if self._did is not None or self._may_tell(self._came_to_nothing, Outcome.FAILED):
            self.record(self._came_to_nothing, Outcome.FAILED, code=error.code, cause=error.message)

    def cancelled(self) -> None:
        """Record that a request was cancelled before it did anything, if it was one to change something."""
        if self._did is not None:
            self.failed(_CANCELLED)

    def hand_over(self) -> "Trail":
        """The trail on which another task records what becomes of the request, also if it is cancelled."""
        self._settled = True
        return Trail(self._audit, self._context, self._refusals)

    def ended(self, job: str, end: Exit, cause: Cause) -> None:
        """Record the end of a job that this trail's request started."""
        self.record(
            Event.JOB_LOST if cause.kind is CauseKind.LOST else Event.JOB_ENDED,
            end.status,
            job=job,
            exit_code=end.code,
            signal=end.signal,
            cause=cause.kind,
            by=cause.by,
            detail=cause.detail,
        )

    def reopen(self) -> None:
        """Open the audit log's file by its name again, as after logrotate."""
        if self._audit is not None:
            self._audit.reopen()


#: Where nothing is recorded.
NO_TRAIL: Final = Trail()


def _line(number: int | None, event: Event, outcome: str, fields: dict[str, object]) -> bytes:
    stamp = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
    head = {"time": stamp.replace("+00:00", "Z"), "seq": number, "event": event, "outcome": outcome}
    return audit_line.encode(head | fields)


def _gap(first: int, count: int) -> bytes:
    """The line that stands for those which were given up."""
    return _line(None, Event.AUDIT_GAP, Outcome.FAILED, {"first_seq": first, "lines": count})
