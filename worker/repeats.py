"""Owns starts that may be asked for again: whose a job's id is, from its first start to long after its end.

Theory of operation. A client that is cut off during a start cannot know whether its job runs. So it chooses
the job's id, and asks again with the same one. The first request with an id claims it in its first step,
before anything is waited for, and the claim goes with the start until that is settled. Whoever asks for the
same start meanwhile waits for it; whoever asks later finds the job. A start that fails, or is cancelled
before its job was begun, frees its id; if others wait for it then, one of them is the first. Once the job is
forgotten, the id is remembered as used up.

What "the same" is, a digest of identity and parameters says: the parameters themselves may be megabytes, and
the environment is secret.
"""

import copy
import dataclasses
import hmac
import os
import re
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from certs.roles import Identity
from wire import codec
from wire.errors import ErrorCode, RequestError
from wire.jobs import StartParams
from wire.payload import pack

from .audit import Event, Outcome, Trail
from .catalog import Catalog
from .job import Job
from .start_room import StartRoom, weight_of

#: How many ids of forgotten jobs are remembered, the newest ones.
MOST_FORGOTTEN: Final = 10_000
#: A UUID as text.
ID_LENGTH: Final = 36
_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(slots=True, eq=False)
class Claim:
    """A job's id, for the start under way that has it.

    Args:
        id: a UUID as text.
        digest: of what was asked for; None where the server chose the id.
        begun: the job's task has it, and settles it; before that, the request does.
        settled: the job runs, or the start has failed or was given up, and the id is free.
        failure: why it failed; None until then, where the job runs, and where the start was given up.
    """

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    digest: bytes | None = None
    begun: bool = False
    settled: trio.Event = field(default_factory=trio.Event)
    failure: RequestError | None = None


class Repeats:
    """Which ids are taken, and by what.

    Args:
        jobs: those that there are.
        room: what starts under way may hold; those that wait for another hold some of it.
    """

    def __init__(self, jobs: Catalog, room: StartRoom) -> None:
        self._jobs = jobs
        self._room = room
        self._key = os.urandom(32)
        self._claims: dict[str, Claim] = {}
        self._digests: dict[str, bytes] = {}  # of jobs that there are
        self._forgotten: dict[str, None] = {}  # the oldest first

    async def once(
        self, params: StartParams, identity: Identity, trail: Trail, start: Callable[[Claim], Awaitable[Job]]
    ) -> Job:
        """Start a job, or return the one that was started when the same was asked for before.

        Args:
            params: what is asked for.
            identity: by whom.
            trail: the request's audit trail.
            start: starts the job; called without a checkpoint before it if this request is the first.

        Raises:
            RequestError: `start` failed, or the one that this is a repeat of; or the id is another start's.
        """
        if params.id is None:
            return await start(Claim())
        digest = self._digest(params, identity)
        while (first := self._find(params.id, digest)) is not None:
            if isinstance(first, Claim):
                await self._wait_for(first, params, identity, trail)
            else:
                trail.record(Event.START_REPEATED, Outcome.DONE, job=first.id)
                return first  # noqa: ASYNC910  # no round of the loop for what is there: the reply waits
        claim = self._claims[params.id] = Claim(params.id, digest)
        try:
            return await start(claim)
        except RequestError as error:
            claim.failure = error
            raise
        finally:
            if not claim.begun:
                self.settle(claim)

    async def wait_settled(self, id_: str) -> None:
        """Wait until no start with this id is under way, if one is or was asked for before this is called.

        It is for those who find no job with this id.
        """
        while True:
            # A start that came just before has its first step by then; so has a repeat that was woken up.
            await trio.lowlevel.checkpoint()
            if (claim := self._claims.get(id_)) is None:
                return
            await claim.settled.wait()

    def settle(self, claim: Claim) -> None:
        """A start has come to its end: its job is in the catalog, or its id is free."""
        if self._claims.get(claim.id) is claim:
            del self._claims[claim.id]
            if claim.digest is not None and claim.id in self._jobs:
                self._digests[claim.id] = claim.digest
        claim.settled.set()

    def forget(self, id_: str) -> None:
        """A job was forgotten: its id is used up."""
        self._digests.pop(id_, None)
        self._forgotten[id_] = None
        if len(self._forgotten) > MOST_FORGOTTEN:
            del self._forgotten[next(iter(self._forgotten))]

    def _find(self, id_: str, digest: bytes) -> Job | Claim | None:
        """What a start with this id and digest is a repeat of; None if it is the first.

        Raises:
            RequestError: it cannot have this id.
        """
        if not _ID.fullmatch(id_):
            raise RequestError(
                ErrorCode.BAD_REQUEST,
                f"start: id must be a UUID in lower case with hyphens, which {id_!r:.60} is not.",
                field="id",
            )
        if id_ in self._forgotten:
            raise RequestError(
                ErrorCode.NOT_FOUND,
                f"The job {id_} was started before, and was removed; a start with its id does not run again.",
            )
        claim = self._claims.get(id_)
        taken = claim.digest if claim is not None else self._digests.get(id_)
        if taken != digest and (claim is not None or id_ in self._jobs):
            raise RequestError(
                ErrorCode.BAD_REQUEST,
                f"start: id {id_} is that of a job which was started with other parameters or by another "
                "identity: choose another id.",
                field="id",
            )
        if claim is not None or id_ not in self._jobs:
            return claim
        return self._jobs.find(id_)

    async def _wait_for(self, first: Claim, params: StartParams, identity: Identity, trail: Trail) -> None:
        """Wait until a start is settled that this request is a repeat of.

        Raises:
            RequestError: it has failed.
        """
        cancelled = RequestError(ErrorCode.CANCELLED, "it was cancelled before the first start was settled")
        with self._room.hold(identity.name, weight_of(params.argv, params.env or {})):
            try:
                await first.settled.wait()
            except trio.Cancelled:
                _record_failure(trail, first.id, cancelled)
                raise
        if first.failure is not None:
            _record_failure(trail, first.id, first.failure)
            raise copy.copy(first.failure)

    def _digest(self, params: StartParams, identity: Identity) -> bytes:
        # In few steps, as there may be 65,000 words. Those of a job that runs hold no NUL.
        words = [len(params.argv), b"\0".join(params.argv)]
        env = hash(frozenset((params.env or {}).items()))  # in any order: to sort them would take 100 ms
        rest = dataclasses.replace(params, argv=(), env=None, limits=params.limits or None)
        what = pack([identity.principal, words, str(env), codec.to_map(rest)])
        return hmac.digest(self._key, what, "sha256")


def _record_failure(trail: Trail, job: str, error: RequestError) -> None:
    trail.record(Event.START_REPEATED, Outcome.FAILED, job=job, code=error.code, cause=error.message)
