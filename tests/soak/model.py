"""Owns what the soak knows of one server's jobs, and holds every answer against it.

What was asked for may have happened; what was answered has. A start whose answer never came may run or not:
its job is taken into the model as soon as a list shows it, by the token that each command line ends with.
"""

import itertools
import os
from dataclasses import dataclass, field, replace

from tests.soak.follow import expect
from tests.soak.plans import Plan
from tests.soak.talk import LAST_WORDS
from wire.errors import ErrorCode, RequestError
from wire.jobs import CauseKind, JobStatus, Status

#: What begins the last word of each of this soak's command lines; a number follows.
TOKEN = f"soak-{os.getpid()}-"


@dataclass(eq=False)
class Known:
    """What is known of a job."""

    plan: Plan
    token: str
    id: str
    owner: str
    #: When it began, by the server's clock.
    started: float
    stoppers: set[str] = field(default_factory=set)
    stopped: bool = False
    remove_asked: bool = False
    #: The number of its removal among all; None if it is not known to be removed.
    removal: int | None = None
    final: JobStatus | None = None
    #: The most that its output was said to be.
    seen: int = 0

    @property
    def ends(self) -> bool:
        """Whether it ends, or has ended."""
        return self.plan.end is not None or self.stopped or self.final is not None

    def before(self) -> "Known":
        """What is known now, to hold an answer against that is asked for now."""
        return replace(self, stoppers=set(self.stoppers))


class Model:
    """Every job of one server.

    Args:
        drops: whether the server drops output past its budgets.
    """

    def __init__(self, *, drops: bool) -> None:
        self.drops = drops
        #: Every job, and those that are not known to be removed.
        self.jobs: dict[str, Known] = {}
        self.there: dict[str, Known] = {}
        #: Starts without an answer, by their token: the plan, and who asked.
        self.open: dict[str, tuple[Plan, str]] = {}
        #: How often the spawner was killed, and whether the server is killed, or told to end, now.
        self.spawner_kills = 0
        self.ending = False
        self.denied = self.refused = self.removals = 0
        self._tokens = itertools.count(1)

    def token(self, plan: Plan, owner: str) -> str:
        """Take note of a start that is about to be asked for."""
        token = f"{TOKEN}{next(self._tokens)}"
        self.open[token] = (plan, owner)
        return token

    def started(self, status: JobStatus) -> Known:
        """Take note of a job that runs, as a start's answer or a list says."""
        token = status.argv[-1].decode()
        known = self.jobs.get(status.id)
        if known is None:
            expect(token in self.open, f"a job runs that nobody has started: {status}")
            plan, owner = self.open.pop(token)
            expect(plan.refusal is None or not plan.sure, f"a start had to be refused, and was not: {status}")
            words = tuple(word.encode() for word in (*plan.argv, token))
            expect(status.argv == words, f"another program was started: {status}")
            expect(status.owner == owner, f"{owner} has started it, not {status.owner}")
            expect(status.limits == plan.limits, f"other limits than {plan.limits}: {status.limits}")
            known = self.jobs[status.id] = self.there[status.id] = Known(
                plan, token, status.id, owner, status.started
            )
        return known

    def saw(self, known: Known, before: Known, status: JobStatus) -> None:
        """Take a status that was asked for when `before` was known."""
        expect(status.id == known.id, f"the status of another job than {known.id}: {status}")
        expect(before.removal is None, f"a removed job is there: {status}")
        expect(status.output >= before.seen, f"{status.output} bytes of output were {before.seen} before")
        expect(self.drops or not status.dropped, f"output was dropped: {status}")
        most = known.plan.total + known.plan.spec.last
        expect(status.output <= most, f"{status.output} bytes of output, at most {most} were printed")
        known.seen = max(known.seen, status.output)
        if status.status is Status.RUNNING:
            expect(before.final is None and not before.stopped, f"an ended job runs again: {status}")
            expect(status.cause is None and status.ended is None, f"it runs, and has ended: {status}")
            return
        if known.final is not None:
            changed = replace(known.final, dropped=status.dropped, notes=status.notes)
            expect(status == changed, f"two ends of one job: {status} and {known.final}")
        else:
            self._check_end(known, status)
        known.final = status

    def _check_end(self, known: Known, status: JobStatus) -> None:
        """Check that a job may have ended so."""
        cause, end = status.cause, known.plan.end
        assert cause is not None
        expect(status.ended is not None and status.ended >= status.started, f"an odd time: {status}")
        expect((status.exit_code is None) == (status.status is Status.SIGNALED), f"no code: {status}")
        expect((status.signal is None) == (status.status is Status.EXITED), f"no signal: {status}")
        if cause.kind is CauseKind.STOPPED:
            by = known.stoppers | ({"server"} if self.ending else set())
            expect(cause.by in by, f"{cause.by} had not stopped it, {by} had: {status}")
        elif cause.kind is CauseKind.LOST:
            expect(self.spawner_kills, f"lost, and no spawner was killed: {status}")
        else:
            expect(end is not None and end.kind is cause.kind, f"an end that cannot be: {status}")
            assert end is not None
            expect(end.code is None or status.exit_code == end.code, f"not exit code {end.code}: {status}")
            expect(end.signal is None or status.signal == end.signal, f"not signal {end.signal}: {status}")
            if cause.kind is not CauseKind.TIMEOUT:
                expect(status.output == known.plan.total, f"not {known.plan.total} bytes: {status}")
        if known.plan.spec.ending == "stay" and status.exit_code == LAST_WORDS:
            whole = known.plan.total + known.plan.spec.last
            expect(status.output == whole, f"its last words, {whole} bytes in all, were lost: {status}")

    def listed(self, jobs: list[JobStatus], before: dict[str, Known], removals: int) -> None:
        """Take a whole list that was asked for when `before` was known, and so many removals."""
        ids = [status.id for status in jobs]
        expect(len(set(ids)) == len(ids), f"a job is listed twice: {ids}")
        for status in jobs:
            known = self.started(status)
            gone = known.removal is not None and known.removal <= removals
            expect(not gone, f"a removed job is listed: {status}")
            new = Known(known.plan, known.token, known.id, known.owner, known.started)
            self.saw(known, before.get(status.id, new), status)
        for id_, known in before.items():
            expect(id_ in ids or self.jobs[id_].remove_asked, f"a job is missing from the list: {known}")

    def known(self) -> list[Known]:
        """The jobs that nobody has asked to remove."""
        return [known for known in self.there.values() if not known.remove_asked]

    def refuses(self, error: RequestError) -> bool:
        """Whether a request may be refused so because the server is ending."""
        gone = (
            ErrorCode.SHUTTING_DOWN,
            ErrorCode.CANCELLED,
            ErrorCode.NOT_FOUND,
        )  # the last by its successor
        return self.ending and error.code in gone

    def before(self) -> dict[str, Known]:
        """What is known of every job now."""
        return {id_: known.before() for id_, known in self.there.items()}

    def removed(self, known: Known) -> None:
        """Take note of a job that was removed."""
        self.removals += 1
        known.removal = self.removals
        del self.there[known.id]
