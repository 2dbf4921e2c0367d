"""Owns what clients may ask for: each method with its parameters and, beside it, the roles that may call it.

Every transport passes through `prepare`, and `prepare` through `authorise`; what is not in the table is
denied.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import trio

from certs.roles import Role
from wire import codec
from wire.errors import ErrorCode, RequestError
from wire.jobs import (
    Cause,
    CauseKind,
    JobParams,
    JobReply,
    JobStatus,
    ListParams,
    ListReply,
    StartParams,
    StopParams,
    StreamParams,
)
from wire.limits import LimitError
from wire.messages import STDOUT, Request
from wire.payload import FROM_LOOKER, FROM_STARTER, Caps

from .audit import Event, Outcome
from .blocks import BLOCK_BYTES, Chunk
from .bounds import SMALL_FRAME_BYTES, Bounds
from .call import Answer, Call, Handler, Prepared
from .job import Job, StuckError
from .output import Missing
from .process_spec import process_spec
from .reader import Reader
from .registry import Registry
from .repeats import Claim
from .tail import find_start

#: A page of `list` holds about this much, in bytes: 5 ms of work, for which all others wait.
PAGE_BYTES = 64 * 1024
#: A start of more words than these waits for a turn: 65,000 take 15 ms.
MANY_WORDS = 1000
#: The longest timeout or grace, in seconds.
MAX_SECONDS = 10 * 365 * 86400.0


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the table."""

    roles: frozenset[Role]
    params: type
    run: Handler


METHODS: dict[str, Method] = {}


def method(name: str, params: type, *roles: Role) -> Callable[[Handler], Handler]:
    """Put a handler into the table, with the roles that may call it."""

    def register(run: Handler) -> Handler:
        METHODS[name] = Method(frozenset(roles), params, run)
        return run

    return register


def authorise(role: Role, name: str) -> Method:
    """Return the method if this role may call it.

    Raises:
        RequestError: there is no such method, or the role may not.
    """
    found = METHODS.get(name)
    if found is None:
        raise RequestError(ErrorCode.UNKNOWN_METHOD, f"There is no method {name!r:.60}.")
    if role not in found.roles:
        allowed = " or ".join(sorted(allowed.value for allowed in found.roles))
        raise RequestError(
            ErrorCode.DENIED,
            f"The role {role.value} may not {name} jobs: use a certificate with the role {allowed}.",
        )
    return found


def prepare(role: Role, request: Request) -> Prepared:
    """Authorise a request and read its parameters; return what runs it, without what it does not need.

    Raises:
        RequestError: it is refused.
    """
    found = authorise(role, request.method)
    try:
        if request.unknown is not None:
            raise codec.InvalidValueError(f"a request has no field {request.unknown!r}", request.unknown)
        params: object = codec.from_map(found.params, request.params, strict=True)
    except codec.InvalidValueError as error:
        reason = f"{request.method}: {error}."
        raise RequestError(ErrorCode.BAD_REQUEST, reason, field=error.field or None) from None
    return partial(_run, found, params)


def methods_of(role: Role) -> tuple[str, ...]:
    """The names of the methods that this role may call."""
    return tuple(name for name, found in METHODS.items() if role in found.roles)


def frame_bytes(role: Role, bounds: Bounds) -> int:
    """The largest frame that a client may send: only a start needs a large one."""
    return bounds.max_frame if role in METHODS["start"].roles else min(bounds.max_frame, SMALL_FRAME_BYTES)


def frame_caps(role: Role) -> Caps:
    """What a client's frames may hold: only a start needs large arrays and maps."""
    return FROM_STARTER if role in METHODS["start"].roles else FROM_LOOKER


async def _run(found: Method, params: object, call: Call) -> Answer:
    return await found.run(call, params)


@method("start", StartParams, Role.ADMIN)
async def start(call: Call, params: StartParams) -> Answer:
    begin = partial(_start, call, params)
    return partial(_tell, await call.registry.repeats.once(params, call.identity, call.trail, begin))


async def _start(call: Call, params: StartParams, claim: Claim) -> Job:
    user = await call.registry.users.find(params.user)
    registry = call.registry
    if len(params.argv) + len(params.env or ()) > MANY_WORDS:
        await call.turn()
    spec = process_spec(params, registry.bounds.max_argument_bytes, user, registry.directory)
    timeout = None if params.timeout is None else _seconds("timeout", params.timeout)
    try:
        if params.limits is not None:
            params.limits.check()
    except LimitError as error:
        raise RequestError(ErrorCode.BAD_REQUEST, str(error), field=f"limits.{error.limit}") from error
    await call.trail.secure()
    owner, limits = call.identity.name, params.limits or None
    return await registry.start(
        spec, owner=owner, limits=limits, seconds=timeout, trail=call.trail, claim=claim
    )


@method("stop", StopParams, Role.ADMIN)
async def stop(call: Call, params: StopParams) -> Answer:
    job = await call.registry.find(params.id)
    grace = call.registry.grace if params.grace is None else _seconds("grace", params.grace)
    how = {"cause": "it had ended already"} if job.ended.is_set() else {"grace": grace}
    call.trail.record(Event.JOB_STOPPING, Outcome.DONE, job=job.id, **how)
    try:
        await job.stop(Cause(CauseKind.STOPPED, by=call.identity.name), grace)
    except StuckError as error:
        raise RequestError(ErrorCode.RUNNING, str(error)) from error
    return partial(_tell, job)


@method("query", JobParams, Role.ADMIN, Role.USER)
async def query(call: Call, params: JobParams) -> Answer:
    # No checkpoint, which would cost a round of the loop: the reply that follows waits for its room.
    return partial(_measure, await call.registry.find(params.id))  # noqa: ASYNC910


@method("wait", JobParams, Role.ADMIN, Role.USER)
async def wait(call: Call, params: JobParams) -> Answer:
    job = await call.registry.find(params.id)
    await job.ended.wait()
    return partial(_tell, job)


@method("list", ListParams, Role.ADMIN, Role.USER)
async def list_jobs(call: Call, params: ListParams) -> Answer:
    await trio.lowlevel.checkpoint()
    return partial(_page, call.registry, params.after)


def _page(registry: Registry, after: str | None) -> ListReply:
    page: list[JobStatus] = []
    room = PAGE_BYTES
    for job in registry.jobs.after(after):
        status = job.status()
        # A short word costs as much work as some 32 bytes do.
        room -= 512 + sum(32 + len(word) for word in status.argv) + len(status.cwd or b"")
        if page and room < 0:
            return ListReply(tuple(page), next=after)
        page.append(status)
        after = registry.jobs.cursor(job)
    return ListReply(tuple(page))


@method("stream", StreamParams, Role.ADMIN, Role.USER)
async def stream(call: Call, params: StreamParams) -> Answer:
    if problem := params.problem():
        field, reason = problem
        raise RequestError(ErrorCode.BAD_REQUEST, f"stream: {reason}.", field=field)
    job = await call.registry.find(params.id)
    log = job.output
    with ExitStack() as stack:
        # First of all: what is removed stays for those who have subscribed.
        doorbell = stack.enter_context(log.subscribe())
        start = await find_start(log, params, call.turn)
        end = None if params.follow else log.size
        reader = Reader(log, start, params.stream, end, room=call.room, alone=call.alone)
        stack.callback(reader.close)
        if params.relative:
            # If it is cut before there is anything to send, it must yet go on from here.
            await call.room()
            call.output(Chunk(params.stream or STDOUT, start, b""))
        while not (reader.at_end and (log.closed or end is not None)):
            if reader.at_end:
                reader.close()
                await doorbell.receive()
            else:
                await _send_next(call, reader, params.stream)
    if reader.offset > log.size:
        raise RequestError(
            ErrorCode.BAD_REQUEST,
            f"The job has printed {log.size} bytes, and {reader.offset} is beyond them: give a lower offset.",
            field="offset",
        )
    if params.follow:
        await job.ended.wait()
    return partial(_tell, job)


async def _send_next(call: Call, reader: Reader, only: int | None) -> None:
    """Send a piece of output, or wait for the credit for it."""
    credit = call.credit()
    # Without credit, what comes next is looked for yet if it may be of the other stream.
    piece = await reader.next(min(credit, BLOCK_BYTES)) if credit or only is not None else None
    if piece is None and reader.at_end:
        return  # noqa: ASYNC910  # the reader checkpoints where there is something to read
    if piece is not None and (credit or isinstance(piece, Missing)):
        call.output(piece)
        return  # noqa: ASYNC910  # likewise
    with trio.move_on_after(call.stall) as scope:
        await reader.pause(call.wait_credit)
    if scope.cancelled_caught:
        raise RequestError(
            ErrorCode.STALLED,
            f"Nobody took this stream's output for {call.stall:g} s; it goes on at byte {reader.offset}.",
            reader.offset,
        )


@method("remove", JobParams, Role.ADMIN)
async def remove(call: Call, params: JobParams) -> Answer:
    await call.registry.find(params.id)
    job = call.registry.remove(params.id)
    call.trail.record(Event.JOB_REMOVED, Outcome.DONE, job=job.id)
    return partial(_tell, job)


def _tell(job: Job) -> JobReply:
    return JobReply(job.status())


def _measure(job: Job) -> JobReply:
    return JobReply(job.measured())


def _seconds(name: str, value: float) -> float:
    if not (math.isfinite(value) and 0 <= value <= MAX_SECONDS):
        reason = f"{name} must be a number of seconds from 0 to {MAX_SECONDS:.0f}, which are ten years."
        raise RequestError(ErrorCode.BAD_REQUEST, reason, field=name)
    return value
