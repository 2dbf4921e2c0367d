"""Owns the conversation that PROTOCOL.md shows, message for message."""

from typing import Final

from wire import codec, jobs, messages
from wire.errors import ErrorCode
from wire.limits import Limits
from wire.messages import (
    Cancel,
    ClientHello,
    Credit,
    Failure,
    Gap,
    GapReason,
    Hello,
    Message,
    Output,
    Ping,
    Pong,
    Reply,
    Request,
)

ID: Final = "0d9b7e3a-6c1f-4f52-9a58-1be5a6d2c7f4"
ARGV: Final = (b"sort", b"largefile.txt")
#: The job of the page, when it has ended: of its 124 bytes, those from 12 to 112 were dropped.
JOB: Final = jobs.JobStatus(
    id=ID,
    status=jobs.Status.EXITED,
    pid=4242,
    argv=ARGV,
    owner="admin",
    started=1767225600.5,
    output=124,
    exit_code=0,
    cause=jobs.Cause(jobs.CauseKind.EXITED),
    ended=1767225601.0,
    limits=Limits(cpu=500),
    dropped=112,
)
STARTED: Final = jobs.JobStatus(
    ID, jobs.Status.RUNNING, 4242, ARGV, "admin", 1767225600.5, 0, limits=Limits(cpu=500)
)
OLDER: Final = jobs.JobStatus(
    "9f0c51f2-3c9e-4a3b-8f0e-2f7d5b1a6e90", jobs.Status.RUNNING, 4170, (b"yes",), "ci", 1767225500.0, 65536
)
#: What a server says in place of its hello.
REFUSED: Final = "refused"
#: Another answer to the query.
NOT_FOUND: Final = "query-error"


def _request(id_: int, method: str, params: object, credit: int = 0) -> Request:
    return Request(id_, method, codec.to_map(params), credit)


def _reply(id_: int, result: object) -> Reply:
    return Reply(id_, codec.to_map(result))


EXAMPLES: Final[dict[str, Message]] = {
    "hello": Hello(
        1,
        "worker-service 0.1.0",
        "admin",
        "Admin",
        4_194_304,
        256,
        1767225600.25,
        ("open_values",),
        ("start", "stop", "query", "wait", "list", "stream", "remove"),
        "6f1d1c0a-0f0e-4b62-8a53-3c1c5f8f2b77",
    ),
    "client-hello": ClientHello(("open_values",)),
    REFUSED: Failure(0, ErrorCode.DENIED, "The certificate holds no role."),
    "start": _request(1, "start", jobs.StartParams(ARGV, limits=Limits(cpu=500))),
    "start-reply": _reply(1, jobs.JobReply(STARTED)),
    "list": _request(2, "list", jobs.ListParams()),
    "list-reply": _reply(2, jobs.ListReply((OLDER,), "1")),
    "list-next": _request(3, "list", jobs.ListParams("1")),
    "list-next-reply": _reply(3, jobs.ListReply((STARTED,))),
    "query": _request(4, "query", jobs.JobParams("0d9b")),
    "query-reply": _reply(4, jobs.JobReply(JOB)),
    NOT_FOUND: Failure(4, ErrorCode.NOT_FOUND, "There is no job with id '0d9b'."),
    "stream": _request(5, "stream", jobs.StreamParams("0d9b"), credit=1024),
    "output": Output(5, 0, messages.STDOUT, b"pears\n\xff\xfe\n\0ab"),
    "credit": Credit(5, 12),
    "ping": Ping(7),
    "pong": Pong(7),
    "gap": Gap(5, 12, 100, GapReason.DROPPED),
    "cancel": Cancel(5),
    "cancelled": Failure(5, ErrorCode.CANCELLED, "The request was cancelled."),
    "tail": _request(6, "stream", jobs.StreamParams("0d9b", tail_bytes=8), credit=4),
    "tail-begins": Output(6, 116, messages.STDOUT, b""),
    "tail-output": Output(6, 116, messages.STDOUT, b"figs"),
    "stalled": Failure(6, ErrorCode.STALLED, "Nobody took this stream's output for 30 s.", 120),
    "shutting-down": Failure(0, ErrorCode.SHUTTING_DOWN, "The server is shutting down."),
}
